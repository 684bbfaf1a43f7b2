"""Recordings as electrocardiographs export them, beside WFDB: Philips XML, GE MUSE XML, HL7 aECG, DICOM.

A format is a module of this package with one pure function::

    encode(header: Header, units: int16 (12, T)) -> bytes

The same header and samples give the same bytes: identifiers come from the content, no clock and no chance is
asked. Samples are stored as they are, at the device's own resolution, which the file states; nothing is scaled
or rounded again. Carts record at 200 units per mV (Philips), 1000 / 4.88 (GE), 400 (Mortara's aECG). No file
holds a name or a birth date.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ConfigError, EcgReadError
from simulations.hospitals.formats.header import Header
from simulations.patients.scenario import SUFFIXES, FileFormat

VENDOR_FORMATS = tuple(name for name in SUFFIXES if name != "wfdb")


class _Writer(Protocol):
    def encode(self, header: Header, units: NDArray[np.int16]) -> bytes: ...


def write(format: FileFormat, folder: Path, header: Header, units: NDArray[np.int16]) -> Path:
    """Write one record as ``folder / header.record`` with the format's ending, and return that path.

    Parameters
    ----------
    format : one of :data:`VENDOR_FORMATS`.
    units : array, shape = (12, T), int16, in standard lead order; ``header.device.adc_units_per_mv`` make a mV.

    Raises
    ------
    ConfigError : no such format, or one that cannot hold a record of this length, rate or resolution.
    EcgReadError : the array is not twelve leads of int16, or no format can hold such jumps.
    """
    if format not in VENDOR_FORMATS:
        raise ConfigError("there is no writer of this format", value=format, allowed=", ".join(VENDOR_FORMATS))
    if units.dtype != np.int16 or units.ndim != 2 or units.shape[0] != len(LEADS):
        raise EcgReadError(
            "a record must be twelve leads of int16", value=(units.shape, str(units.dtype)), allowed="(12, T), int16"
        )
    writer = cast("_Writer", import_module(f"{__name__}.{format}"))
    path = folder / header.record
    path = path.with_name(path.name + SUFFIXES[format])
    path.write_bytes(writer.encode(header, units))
    return path
