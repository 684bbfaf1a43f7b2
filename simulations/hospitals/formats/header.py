"""What a made recording's file says beside its signals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from simulations.patients.scenario import DeviceConfig


@dataclass(frozen=True)
class Header:
    """What a recording's header says beside its signals."""

    record: str
    recorded_at: datetime
    age: int
    sex: str
    device: DeviceConfig
    patient: str = ""
    """The hospital's number of the patient; WFDB files do not hold it."""
