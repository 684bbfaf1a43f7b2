"""HDF5 as CODE-15% (many exams a file) and SPH (one exam a file) are published, in mV, leads in standard order.

CODE-15% is 12 leads at 400 Hz, each exam padded with zeros to one length; SPH is ``ecg``, (12, samples) at 500 Hz.
``tracings`` is (exams, samples, 12) in mV (or (exams, 12, samples)), leads in standard order, and ``exam_id`` names
the rows. One exam is addressed as ``file.hdf5#<exam_id>``, or by row, from 0, where the file holds no ids;
:func:`exams` lists the addresses. Age and sex lie in a table beside the file.

A declared size costs nothing in HDF5, so everything is checked before a row is read: chunks are decompressed whole.

Source: A. H. Ribeiro et al., "CODE-15%", Zenodo 10.5281/zenodo.4916206; H. Liu et al., "A large-scale multi-label
12-lead electrocardiogram database", Sci. Data 9 (2022) 272.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MAX_SAMPLES, assemble, check_length, check_rate, mv_per_unit
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

MAGIC = b"\x89HDF\r\n\x1a\n"
FS_HZ, PADDED_SAMPLES = 400.0, 4096
"""Rate and length of CODE-15%: a file of another length has to state its rate."""

ONE_EXAM_FS_HZ = 500.0
"""Rate of SPH, whose files do not state it."""

MAX_ID_BYTES = 64
MAX_EXAMS, MAX_CHUNK_BYTES, MAX_EXAM_BYTES = 3_000_000, 64 << 20, 128 << 20

_TRACINGS = ("tracings", "tracing", "ecg", "signal", "signals")
_IDS = ("exam_id", "id_exam", "exam_ids", "id")
_RATES = ("fs", "sampling_rate", "sampling_frequency", "sample_rate", "frequency")
_USER_BLOCKS = (0, 512, 1024, 2048)
_REMEDY = "write it as CODE-15% is written: tracings (exams, samples, 12) in mV, exam_id (exams,)"


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether ``path`` is an HDF5 file, or ``file#exam`` of one."""
    if head:
        return any(head.startswith(MAGIC, at) for at in _USER_BLOCKS)
    file, exam = _split(path)
    if exam is None or not file.is_file():
        return False
    with file.open("rb") as opened:
        return sniff(opened.read(_USER_BLOCKS[-1] + len(MAGIC)), file)


def read(path: Path) -> EcgRecord:
    """Read one exam, without the zeros it is padded with.

    Parameters
    ----------
    path : ``file.hdf5#<exam_id>``; the bare file where it holds one exam.

    Raises
    ------
    EcgReadError : no such exam, another layout, or sizes no ECG has.
    """
    file_path, exam = _split(path)
    with open_file(file_path) as file:
        tracings = _tracings(file, file_path)
        alone = len(tracings.shape) == 2
        row = _row(file, tracings, exam, file_path)
        try:
            stored = np.asarray(tracings[()] if alone else tracings[row], dtype=np.float64)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise EcgReadError(
                "the exam cannot be read", where=path, remedy="copy the file again; it is damaged"
            ) from error
        lead_rows = stored if _leads_first(tracings.shape) else stored.T
        fs, unit, findings = _rate(file, tracings, lead_rows.shape[1], file_path)
    factor = 1.0 if unit is None else mv_per_unit(unit, file_path)
    used = np.flatnonzero((lead_rows != 0).any(axis=0))
    if len(used) and not alone:
        lead_rows = lead_rows[:, used[0] : used[-1] + 1]
    return assemble(
        LEADS,
        list(lead_rows * factor),
        path,
        fs=fs,
        source_format="hdf5",
        mv_per_step=None,
        findings=findings,
    )


def exams(path: Path) -> Iterator[Path]:
    """Yield the address of every exam of a file, in the file's order, a few thousand ids in memory at a time."""
    with open_file(path) as file:
        tracings = _tracings(file, path)
        if len(tracings.shape) == 2:
            yield path
            return
        ids, count = _ids(file, tracings, path), tracings.shape[0]
        for start in range(0, count, 4096):
            names = range(start, min(start + 4096, count)) if ids is None else ids[start : start + 4096]
            for name in names:
                yield path.with_name(f"{path.name}#{_name(name)}")


def _split(path: Path) -> tuple[Path, str | None]:
    """Return file and exam; a file whose own name holds a # is itself."""
    if "#" not in path.name or path.exists():
        return path, None
    name, _, exam = path.name.rpartition("#")
    return path.with_name(name) if name else path, exam


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Give an HDF5 file, open; raise :class:`EcgReadError` where it is none."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EcgReadError(
            "is no HDF5 file that can be opened", where=path, remedy="copy the file again; it is cut or damaged"
        ) from error
    with file:
        yield file


def dataset(file: Any, names: tuple[str, ...], path: Path) -> Any | None:
    """Return the first dataset of these names that lies in this very file."""
    import h5py

    for name in names:
        try:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                continue
            found = file[name]
            if not isinstance(found, h5py.Dataset):
                continue
            elsewhere = found.is_virtual or bool(found.external)
            shape, chunks, itemsize = found.shape, found.chunks, found.dtype.itemsize
            chunk = 0 if chunks is None else math.prod(chunks) * itemsize
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise EcgReadError(
                f"dataset {name} cannot be read", where=path, remedy="copy the file again; it is damaged"
            ) from error
        if elsewhere:
            raise EcgReadError(
                f"dataset {name} refers to other files", where=path, allowed="data within the file", remedy=_REMEDY
            )
        if chunk > MAX_CHUNK_BYTES:
            raise EcgReadError(
                f"dataset {name} has chunks too large to be unpacked",
                where=path,
                value=chunk,
                allowed=f"at most {MAX_CHUNK_BYTES} bytes; one exam a chunk is usual",
                remedy=_REMEDY,
            )
        return found if shape is not None else None
    return None


def _tracings(file: Any, path: Path) -> Any:
    tracings = dataset(file, _TRACINGS, path)
    if tracings is None:
        raise EcgReadError(
            "holds no dataset of tracings",
            where=path,
            allowed=" or ".join(_TRACINGS),
            remedy=_REMEDY,
        )
    shape, kind = tracings.shape, tracings.dtype.kind
    if len(shape) not in (2, 3) or 12 not in shape[-2:] or kind not in "fiu" or tracings.dtype.itemsize > 8:
        raise EcgReadError(
            "the tracings have another layout",
            where=path,
            value=f"shape {shape}, type {tracings.dtype}"[:100],
            allowed="(exams, samples, 12) or (exams, 12, samples), or one exam as (12, samples), numbers",
            remedy=_REMEDY,
        )
    check_length(shape[-1] if _leads_first(shape) else shape[-2], path)
    count = shape[0] if len(shape) == 3 else 1
    if math.prod(shape[-2:]) * tracings.dtype.itemsize > MAX_EXAM_BYTES or not 0 < count <= MAX_EXAMS:
        raise EcgReadError(
            "declares a size no file of ECGs has",
            where=path,
            value=f"shape {shape}"[:100],
            allowed=f"1 to {MAX_EXAMS} exams of at most {MAX_SAMPLES} samples",
            remedy=_REMEDY,
        )
    return tracings


def _leads_first(shape: tuple[int, ...]) -> bool:
    return shape[-2] == 12 and shape[-1] != 12


def _ids(file: Any, tracings: Any, path: Path) -> Any | None:
    ids = dataset(file, _IDS, path)
    if ids is None:
        return None
    if ids.shape != tracings.shape[:1] or ids.dtype.kind not in "iuSO" or ids.dtype.itemsize > 256:
        raise EcgReadError(
            "the exam ids do not fit the tracings",
            where=path,
            value=f"shape {ids.shape}, type {ids.dtype}"[:100],
            allowed=f"shape {tracings.shape[:1]}, whole numbers or strings",
            remedy=_REMEDY,
        )
    return ids


def _name(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _row(file: Any, tracings: Any, exam: str | None, path: Path) -> int:
    count = tracings.shape[0] if len(tracings.shape) == 3 else 1
    if exam is None:
        if count == 1:
            return 0
        raise EcgReadError(
            "holds many exams",
            where=path,
            value=count,
            allowed=f"{path.name}#<exam_id>",
            remedy="name one exam after a #",
        )
    if len(tracings.shape) == 2 or _ids(file, tracings, path) is None:
        row = int(exam) if exam.isdecimal() and len(exam) < 12 else -1
    else:
        stat = path.stat()
        ids = _id_array(path, stat.st_size, stat.st_mtime_ns)
        rows = np.flatnonzero(ids == exam.encode()) if ids.dtype.kind == "S" else _equal(ids, exam)
        row = int(rows[0]) if len(rows) else -1
    if not 0 <= row < count:
        raise EcgReadError(
            "holds no such exam",
            where=path,
            value=exam[:40],
            allowed="an exam_id of the file, or a row from 0 where it has none",
            remedy="compare the table with the file",
        )
    return row


def _equal(ids: NDArray[np.generic], exam: str) -> NDArray[np.intp]:
    number = int(exam) if exam.removeprefix("-").isdecimal() and len(exam) < 19 else None
    return np.flatnonzero(np.zeros(len(ids)) if number is None else ids == number)


@lru_cache(maxsize=2)
def _id_array(path: Path, size: int, changed_ns: int) -> NDArray[np.generic]:
    """Return the exam ids, whole numbers or bytes; kept for the files read last, as long as they do not change."""
    with open_file(path) as file:
        ids = _ids(file, _tracings(file, path), path)
        try:
            stored = np.zeros(0, dtype=np.int64) if ids is None else np.asarray(ids[()])
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise EcgReadError(
                "the exam ids cannot be read", where=path, remedy="copy the file again; it is damaged"
            ) from error
    if stored.dtype.kind in "iu":
        return stored
    return np.array([_name(value).encode()[:MAX_ID_BYTES] for value in stored], dtype=f"S{MAX_ID_BYTES}")


def _rate(file: Any, tracings: Any, samples: int, path: Path) -> tuple[float, str | None, list[Finding]]:
    """Return rate, unit (None: mV, as CODE-15% has it) and findings; the file's own statement wins."""
    fs: float | None = None
    unit: str | None = None
    for holder in (tracings, file):
        try:
            attributes = {key.lower(): holder.attrs[key] for key in list(holder.attrs)[:64] if _small(holder, key)}
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise EcgReadError(
                "the attributes cannot be read", where=path, remedy="copy the file again; it is damaged"
            ) from error
        for key in _RATES:
            if fs is None and isinstance(attributes.get(key), int | float | np.number):
                fs = check_rate(float(attributes[key]), path)
        stated = attributes.get("units", attributes.get("unit"))
        if unit is None and isinstance(stated, str | bytes):
            unit = _name(stated)
    if fs is not None:
        return fs, unit, []
    if samples == PADDED_SAMPLES and len(tracings.shape) == 3:
        return FS_HZ, unit, []
    like, fs = ("SPH", ONE_EXAM_FS_HZ) if len(tracings.shape) == 2 else ("CODE-15%", FS_HZ)
    return fs, unit, [Finding("fs-assumed", f"the file gives no rate; {fs:g} Hz, that of {like}, is used")]


def _small(holder: Any, key: str) -> bool:
    """Tell whether an attribute is one value, so that it can be looked at."""
    attribute = holder.attrs.get_id(key)
    return attribute.shape in ((), (1,)) and attribute.dtype.itemsize <= 256
