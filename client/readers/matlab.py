"""MATLAB v5 as the China Physiological Signal Challenge 2018 is published: a struct ECG of sex, age and data.

``ECG.data`` is (12, samples) in mV at 500 Hz, leads in standard order. Any other .mat says too little of itself: the
site describes it.

Source: F. Liu et al., J. Med. Imaging Health Inform. 8 (2018) 1368, and the files of the challenge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.readers import _matlab, wfdb
from client.readers._assemble import assemble
from ecgshared.ecg import person
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

FS_HZ = 500.0


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the file is MATLAB v5 and no WFDB header beside it names it."""
    return head.startswith(_matlab.MAGIC) and not wfdb.sniff(head, path)


def read(path: Path) -> EcgRecord:
    """Read ``ECG.data``.

    Raises
    ------
    EcgReadError : damaged, or without that struct.
    """
    arrays = _matlab.arrays(path)
    data = arrays.get("ECG.data")
    if data is None or data.ndim != 2 or data.shape[0] != len(LEADS) or data.dtype.kind != "f":
        raise EcgReadError(
            "is a MATLAB file that does not say what its numbers mean",
            where=path,
            value={name[:40]: tuple(array.shape) for name, array in list(arrays.items())[:10]},
            allowed="a struct ECG with data (12, samples), as CPSC 2018 has it; or a WFDB header beside it",
            remedy="say under `described:` in the site file what rate, unit and leads it has",
        )
    sex, findings = (
        _text(arrays.get("ECG.sex")),
        [Finding("fs-assumed", f"the file gives no rate; {FS_HZ:g} Hz, that of CPSC 2018, is used")],
    )
    stated = person.years(_text(arrays.get("ECG.age")))
    age, about_age = person.age_at(stated, None, None)
    return assemble(
        LEADS,
        list(data.astype(np.float64)),
        path,
        fs=FS_HZ,
        source_format="matlab",
        mv_per_step=None,
        age_years=age,
        sex=person.sex_of(sex),
        findings=(*findings, *about_age),
    )


def _text(value: np.ndarray | None) -> str | None:
    """Return what a one-valued array says."""
    return str(value.ravel()[0]).removesuffix(".0") if value is not None and value.size == 1 else None
