"""Recordings that are plain arrays, read as the site describes them.

What the numbers mean is the description's word alone: a wrong one shows in the quality rules, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.readers._arrays import REMEDY, Loaded, loaded
from client.readers._assemble import MV_PER_UNIT, assemble, check_length
from client.site.described import DescribedConfig
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError


def read(path: Path, described: DescribedConfig, fs_hz: float | None = None) -> EcgRecord:
    """Read one recording.

    Parameters
    ----------
    path : the file, or ``file#exam`` where it holds many.
    fs_hz : the rate by the table, where the description leaves it to that.

    Raises
    ------
    EcgReadError : the file is not what the description says, or nobody gives a rate.
    """
    fs = described.fs_hz or fs_hz
    if fs is None:
        raise EcgReadError(
            "nobody says how many samples a second it has",
            where=path,
            allowed="described.fs_hz in the site file, or a column of the table mapped to fs_hz",
            remedy="state the rate in the site file",
        )
    stored = _exam(path, described)
    if described.axes[-1] == "leads":
        stored = stored.T
    if stored.shape[0] != len(described.leads):
        raise EcgReadError(
            "does not have the leads that are described",
            where=path,
            value=f"{stored.shape[0]} leads of {stored.shape[1]} samples",
            allowed=f"{len(described.leads)} leads; axes {list(described.axes)}",
            remedy=REMEDY,
        )
    check_length(stored.shape[1], path)
    values = stored.astype(np.float64)
    if described.missing is not None:
        values[values == described.missing] = np.nan
    if described.padded:
        used = np.flatnonzero((values != 0).any(axis=0))
        values = values[:, used[0] : used[-1] + 1] if len(used) else values
    step = MV_PER_UNIT[described.unit.lower()] / described.numbers_per_unit
    return assemble(
        described.leads,
        list((values - described.zero) * step),
        path,
        fs=fs,
        source_format="described",
        mv_per_step=step if stored.dtype.kind in "iu" else None,
    )


def exams(path: Path, described: DescribedConfig) -> Iterator[Path]:
    """Yield the address of every exam of a file; the file itself where it is one recording.

    Raises
    ------
    EcgReadError : the file is not what the description says.
    """
    if not described.exams:
        yield path
        return
    with loaded(path, described) as found:
        for row in range(found.array.shape[0]):
            yield path.with_name(f"{path.name}#{row if found.ids is None else found.ids[row]}")


def _exam(path: Path, described: DescribedConfig) -> NDArray[np.generic]:
    """Return one exam as stored, two axes."""
    file, exam = path, ""
    if "#" in path.name and not path.exists():
        name, _, exam = path.name.rpartition("#")
        file = path.with_name(name) if name else path
    if not file.is_file():
        raise EcgReadError("there is no such file", where=path, remedy="check the path")
    with loaded(file, described) as found:
        try:
            return np.array(found.array[_row(found, exam, path)] if described.exams else found.array[...])
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise EcgReadError(
                f"the exam cannot be read ({type(error).__name__})", where=path, remedy="copy the file again"
            ) from None


def _row(found: Loaded, exam: str, path: Path) -> int:
    count = int(found.array.shape[0])
    if found.ids is None:
        row = int(exam) if exam.isdecimal() and len(exam) < 12 else -1
    else:
        row = found.ids.index(exam) if exam in found.ids else -1
    if not exam and count == 1:
        row = 0
    if not 0 <= row < count:
        raise EcgReadError(
            "holds no such exam",
            where=path,
            value=exam[:40] or None,
            allowed=f"file#exam: {'a row from 0' if found.ids is None else 'an id of the file'}, of {count}",
            remedy="compare the table with the file",
        )
    return row
