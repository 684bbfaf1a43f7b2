"""Arrays out of files that hold little else: NumPy, text, HDF5, Parquet, MATLAB, raw numbers.

Each loader gives an array that may still lie on disk, and the ids of its exams where they are named. It knows how
large the array is before it takes memory.

Sources: numpy.lib.format; the HDF5 and Parquet libraries; MathWorks, "MAT-File Format".
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.readers import _matlab, hdf5
from client.readers._assemble import MAX_SAMPLES
from client.readers._source import MAX_FILE_BYTES, read_bytes
from client.site.described import DescribedConfig
from ecgshared.errors import EcgReadError

MAX_EXAM_VALUES = 32_000_000
MAX_UNPACKED_BYTES = 1 << 29
"""Of an .npz: an array in it cannot be taken in parts."""

REMEDY = "compare the file with `described:` in the site file"


@dataclass(frozen=True)
class Loaded:
    """An array of a file, to be taken in parts; ``ids`` names its exams where the file does."""

    array: Any
    ids: list[str] | None = None


@contextmanager
def loaded(path: Path, described: DescribedConfig) -> Iterator[Loaded]:
    """Give the described array of a file.

    Raises
    ------
    EcgReadError : no such array, damaged, or larger than a recording can be.
    """
    with ExitStack() as open_files:
        try:
            found = _load(path, described, open_files)
            shape, dtype = tuple(found.array.shape), np.dtype(found.array.dtype)
        except EcgReadError:
            raise
        except (Exception, MemoryError) as error:  # each library raises whatever it trips over
            raise EcgReadError(
                f"cannot be read as {path.suffix or 'numbers'} ({type(error).__name__})",
                where=path,
                remedy="copy the file again; it is cut or damaged, or of another kind than its ending says",
            ) from None
        exam = int(np.prod([float(n) for n in shape[-2:]]))
        if len(shape) != len(described.axes) or dtype.kind not in "iuf" or exam > MAX_EXAM_VALUES:
            raise EcgReadError(
                "is no array of the axes that are described",
                where=path,
                value=f"shape {shape}, type {dtype}"[:100],
                allowed=f"numbers, {' x '.join(described.axes)}, at most {MAX_EXAM_VALUES} of one exam",
                remedy=REMEDY,
            )
        yield found


def _load(path: Path, described: DescribedConfig, open_files: ExitStack) -> Loaded:
    if described.raw.type is not None:
        return Loaded(_raw(path, described))
    ending = path.suffix.lower()
    if ending in (".h5", ".hdf5"):
        return _hdf5(path, described, open_files)
    loader = {".npz": _npz, ".mat": _mat}.get(ending)
    if loader is not None:
        return loader(path, described)
    plain = {".npy": _npy, ".csv": _text, ".tsv": _text, ".txt": _text, ".parquet": _parquet, ".pq": _parquet}
    if ending not in plain:
        raise EcgReadError(
            "has an ending that a description cannot be about",
            where=path,
            value=path.suffix,
            allowed=", ".join((*plain, ".npz", ".h5", ".hdf5", ".mat")),
            remedy="for files that are nothing but numbers give described.raw",
        )
    return Loaded(plain[ending](path, described))


def _raw(path: Path, described: DescribedConfig) -> NDArray[Any]:
    raw = described.raw
    kind = np.dtype(raw.type or "int16").newbyteorder(">" if raw.big_endian else "<")
    content = memoryview(read_bytes(path))[raw.offset_bytes :]
    numbers = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], dtype=kind)
    leads = len(described.leads)
    samples = len(numbers) // leads if raw.samples is None else raw.samples
    if samples < 1 or len(numbers) < samples * leads:
        raise EcgReadError(
            "holds fewer numbers than are described",
            where=path,
            value=len(numbers),
            allowed=f"{leads} leads of {raw.samples or 'some'} samples after {raw.offset_bytes} bytes",
            remedy=REMEDY,
        )
    order = (leads, samples) if described.axes[0] == "leads" else (samples, leads)
    return numbers[: samples * leads].reshape(order)


def _npy(path: Path, described: DescribedConfig) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npz(path: Path, described: DescribedConfig) -> Loaded:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_UNPACKED_BYTES:
        raise EcgReadError(
            "is larger unpacked than can be held in memory",
            where=path,
            value=size,
            allowed=f"at most {MAX_UNPACKED_BYTES} bytes",
            remedy="write HDF5, or one file an exam",
        )
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files[:64]}
    return Loaded(_chosen(arrays, path, described), _ids(arrays, path, described))


def _mat(path: Path, described: DescribedConfig) -> Loaded:
    arrays = _matlab.arrays(path)
    return Loaded(_chosen(arrays, path, described), _ids(arrays, path, described))


def _hdf5(path: Path, described: DescribedConfig, open_files: ExitStack) -> Loaded:
    file = open_files.enter_context(hdf5.open_file(path))
    wanted = [described.dataset, described.ids] if described.dataset else [*list(file)[:64], described.ids]
    found = {name: hdf5.dataset(file, (name,), path) for name in wanted if name is not None}
    named = found.pop(described.ids, None) if described.ids else None
    if named is not None and (len(named.shape) != 1 or named.shape[0] > hdf5.MAX_EXAMS or named.dtype.itemsize > 256):
        named = None
    ids = {} if named is None else {str(described.ids): named[()]}
    return Loaded(_chosen(found, path, described), _ids(ids, path, described))


def _parquet(path: Path, described: DescribedConfig) -> NDArray[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        rows, names = file.metadata.num_rows, list(file.schema_arrow.names)
        columns = list(described.leads) if set(described.leads) <= set(names) else names
        if not 0 < rows <= MAX_SAMPLES or len(columns) != len(described.leads):
            raise EcgReadError(
                "does not have the columns that are described",
                where=path,
                value=f"{len(names)} columns of {rows} rows",
                allowed=f"the columns {', '.join(described.leads)}, or as many in this order",
                remedy=REMEDY,
            )
        table = file.read(columns=columns)
    stacked = np.stack([table.column(name).to_numpy() for name in columns], axis=1)
    return _columns_are_leads(stacked, described)


def _text(path: Path, described: DescribedConfig) -> NDArray[Any]:
    """Read numbers in lines; the first line may name the columns."""
    import pandas as pd

    if path.stat().st_size > MAX_FILE_BYTES:
        raise EcgReadError("is too large for one ECG", where=path, remedy=REMEDY)
    with path.open("rb") as file:
        first = file.readline(1 << 20).decode("utf-8-sig", errors="replace")
    mark = described.separator or next((m for m in "\t;," if m in first), r"\s+")
    cells = [cell.strip().strip('"') for cell in (first.split() if mark == r"\s+" else first.split(mark))]
    named = not all(_is_number(cell) for cell in cells if cell)
    if len(cells) > MAX_SAMPLES:
        raise EcgReadError("holds more columns than an ECG has samples", where=path, remedy=REMEDY)
    frame = pd.read_csv(
        path,
        sep=mark,
        header=0 if named else None,
        dtype=np.float64,
        nrows=MAX_SAMPLES + 1,
        encoding="utf-8-sig",
        skipinitialspace=True,
        engine="c",
    )
    names = [str(name).strip() for name in frame.columns] if named else []
    if set(described.leads) <= set(names):
        frame.columns = pd.Index(names)
        return _columns_are_leads(frame[list(described.leads)].to_numpy(), described)
    return frame.to_numpy()


def _columns_are_leads(stacked: NDArray[Any], described: DescribedConfig) -> NDArray[Any]:
    """Columns that are leads are so whatever order of axes is described."""
    return stacked if described.axes[-1] == "leads" else stacked.T


def _chosen(found: dict[str, Any], path: Path, described: DescribedConfig) -> Any:
    """Return the described dataset, or the only one that has the described axes."""
    arrays = {key: value for key, value in found.items() if hasattr(value, "shape")}
    place = described.axes.index("leads")
    fitting = [
        key
        for key, value in arrays.items()
        if (key == described.dataset)
        or (
            described.dataset is None
            and len(value.shape) == len(described.axes)
            and value.shape[place] == len(described.leads)
        )
    ]
    if len(fitting) != 1:
        raise EcgReadError(
            "holds several datasets of the described axes" if fitting else "holds no such dataset",
            where=path,
            value={key[:40]: tuple(value.shape) for key, value in list(arrays.items())[:10]},
            allowed=described.dataset or f"{' x '.join(described.axes)} with {len(described.leads)} leads",
            remedy="name it as described.dataset",
        )
    return arrays[fitting[0]]


def _ids(found: dict[str, Any], path: Path, described: DescribedConfig) -> list[str] | None:
    if described.ids is None:
        return None
    if described.ids not in found:
        raise EcgReadError("holds no such dataset of ids", where=path, value=described.ids, remedy=REMEDY)
    values = np.asarray(found[described.ids]).ravel().tolist()
    return [(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v))[:64] for v in values]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
