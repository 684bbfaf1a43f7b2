"""Readers of recordings. :func:`read` picks one by what the file holds, not by what it is called.

A reader is a module of this package with two functions::

    sniff(head: bytes, path: Path) -> bool    is this file mine? `head` is its first bytes
    read(path: Path) -> EcgRecord             raise only EcgReadError

It is found by being there: a further format is a further file. Modules whose name starts with an underscore
are parts of readers. `sniff` must rest on content (a magic number, a root element, a header that names the
file), so that no two readers claim one file and their order does not matter. Files that are nothing but numbers no
reader can tell: they are read as the site describes them.
"""

from __future__ import annotations

import pkgutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from client.site.described import ENDINGS, DescribedConfig
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

CONTAINERS = (".hdf5", ".h5")
"""Endings of files that may hold many exams; one is addressed as ``exams.hdf5#1234``. A site may describe others."""

HEAD_BYTES = 4096
"""How much of a file :func:`read` shows to every ``sniff``."""


_LAST: list[str] = []


class Reader(Protocol):
    """What a reader module offers."""

    def sniff(self, head: bytes, path: Path) -> bool:
        """Tell whether ``path`` is of this format; ``head`` is empty where ``path`` itself is no file."""

    def read(self, path: Path) -> EcgRecord:
        """Read one recording."""


@cache
def readers() -> dict[str, Reader]:
    """Return the reader modules by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: cast("Reader", import_module(f"{__name__}.{name}")) for name in names}


def read(path: Path, described: DescribedConfig | None = None, fs_hz: float | None = None) -> EcgRecord:
    """Read one recording of any known format.

    A path that names no file is offered to the readers too: a WFDB record may be given by its bare name, and
    one of many exams in a file by file and exam.

    Parameters
    ----------
    described : what the site says of its plain arrays; the files it covers are read as it says.
    fs_hz : the rate by the site's table, for a file that does not state its own. A file that does keeps it, and a
        table that says otherwise is a finding.

    Raises
    ------
    EcgReadError : whatever is wrong with the path or the bytes; nothing else comes out.
    """
    if described is not None and described.covers(path):
        from client.readers import _described

        return _described.read(path, described, fs_hz)
    return _at_rate(_read_by_content(path), fs_hz)


def exams(path: Path, described: DescribedConfig | None = None) -> Iterator[Path]:
    """Yield the address of every exam of a file of many; of any other, the file itself."""
    from client.readers import _described, hdf5

    if described is not None and described.covers(path):
        yield from _described.exams(path, described)
    elif path.suffix in CONTAINERS:
        yield from hdf5.exams(path)
    else:
        yield path


def formats() -> list[dict[str, str]]:
    """Return every format that can be read, as ``ecgfed site formats`` lists them: name and what it is."""
    rows = [
        {"format": name, "what": (module.__doc__ or "").strip().splitlines()[0]} for name, module in readers().items()
    ]
    what = (DescribedConfig.__doc__ or "").strip().splitlines()[0]
    return [*rows, {"format": "described", "what": what}]


def _at_rate(record: EcgRecord, fs_hz: float | None) -> EcgRecord:
    """Put the table's rate where the file states none; name a table that contradicts the file."""
    if fs_hz is None:
        return record
    if any(finding.code == "fs-assumed" for finding in record.findings):
        return replace(record, fs=fs_hz, findings=tuple(f for f in record.findings if f.code != "fs-assumed"))
    if abs(fs_hz / record.fs - 1) > 1e-3:
        said = Finding("fs-contradicts-table", f"the file says {record.fs:g} Hz, the table {fs_hz:g}", value=fs_hz)
        return replace(record, findings=(*record.findings, said))
    return record


def _read_by_content(path: Path) -> EcgRecord:
    path = Path(path)
    head = _head(path)
    known = readers()
    # The reader of the recording before is asked first: a folder is mostly of one format.
    for name in (*_LAST, *known):
        reader = known[name]
        try:
            if reader.sniff(head, path):
                _LAST[:] = [name]
                return reader.read(path)
        except EcgReadError:
            raise
        except (Exception, RecursionError) as error:
            # Decoders raise whatever they trip over on damaged bytes; here it gets file and remedy.
            raise EcgReadError(
                f"the {name} reader cannot decode it ({type(error).__name__}: {str(error)[:200]})",
                where=path,
                remedy="export it again; if other programs read it, report a fault of this reader",
            ) from error
    if not head and not path.exists():
        raise EcgReadError("there is no such file", where=path, remedy="check the path")
    raise EcgReadError(
        "is empty" if not head else "is no recording of a known format",
        where=path,
        value=head[:16] or None,
        allowed=", ".join(readers()),
        remedy="say under `described:` in the site file what its numbers mean"
        if head and path.suffix.lower() in ENDINGS
        else "give the recording itself (for WFDB its .hea); the format is told by content, not by name",
    )


def _head(path: Path) -> bytes:
    try:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return b""
        if stat.S_ISDIR(mode):
            raise EcgReadError("is a folder, not a recording", where=path, remedy="give one file, such as a WFDB .hea")
        if not stat.S_ISREG(mode):
            raise EcgReadError("is no regular file", where=path, remedy="give a file on disk")
        with path.open("rb", buffering=0) as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise EcgReadError(
            f"cannot be opened ({type(error).__name__})", where=path, remedy="check path and permissions"
        ) from error
