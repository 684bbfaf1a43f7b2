"""Readers of recordings. :func:`read` picks one by what the file holds, not by what it is called.

A reader is a module of this package with two functions::

    sniff(head: bytes, path: Path) -> bool    is this file mine? `head` is its first bytes
    read(path: Path) -> EcgRecord             raise only EcgReadError

It is found by being there: a further format is a further file. Modules whose name starts with an underscore
are parts of readers. `sniff` must rest on content (a magic number, a root element, a header that names the
file), so that no two readers claim one file and their order does not matter.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError

HEAD_BYTES = 4096
"""How much of a file :func:`read` shows to every ``sniff``."""


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


def read(path: Path) -> EcgRecord:
    """Read one recording of any known format.

    A path that names no file is offered to the readers too: a WFDB record may be given by its bare name, and
    one of many exams in a file by file and exam.

    Raises
    ------
    EcgReadError : whatever is wrong with the path or the bytes; nothing else comes out.
    """
    path = Path(path)
    head = _head(path)
    for name, reader in readers().items():
        try:
            if reader.sniff(head, path):
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
        remedy="give the recording itself (for WFDB its .hea); the format is told by content, not by name",
    )


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise EcgReadError("is a folder, not a recording", where=path, remedy="give one file, such as a WFDB .hea")
        if not path.exists():
            return b""
        if not path.is_file():
            raise EcgReadError("is no regular file", where=path, remedy="give a file on disk")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise EcgReadError(
            f"cannot be opened ({type(error).__name__})", where=path, remedy="check path and permissions"
        ) from error
