"""What the formats say in common: identifiers from content, the resolution, the passband."""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from simulations.hospitals.formats.header import Header
from simulations.patients.scenario import DeviceConfig

_NAMESPACE = UUID("6f1c1c5e-3f0b-5d0c-9c55-9f4f3f6b8a10")
"""Of in-silico recordings: identifiers must not collide with those of real ones."""

MANUFACTURER = "ecgfed in silico"
HIGH_PASS_HZ = 0.05
"""The devices' lower cut-off: what :mod:`simulations.patients.recording` makes holds no noise below 0.06 Hz."""


def identity(header: Header, units: NDArray[np.int16], *what: str) -> UUID:
    """Return a UUID made from the recording's content; ``what`` tells a recording's several ones apart."""
    digest = hashlib.sha256(np.ascontiguousarray(units, dtype="<i2").tobytes()).hexdigest()
    parts = (header.record, header.patient, header.recorded_at.isoformat(), header.device.name, digest, *what)
    return uuid5(_NAMESPACE, "\0".join(parts))


def uv_per_unit(device: DeviceConfig) -> str:
    """Return microvolts in one quantisation step to six digits: a cart's 4.88, and no full swing is off by a step."""
    return f"{1000 / device.adc_units_per_mv:.6g}"


def low_pass_hz(device: DeviceConfig) -> str:
    """Return the upper cut-off; where that is above half the sampling rate, half the rate is."""
    return f"{min(device.lowpass_hz, device.fs_hz / 2):.0f}"
