"""The envelope a coordinator ships with a run: checked against what was approved, never unpacked, never imported."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import PurePosixPath

from ecgshared.errors import RefusalCode, Refused

_TEXT = (".toml", ".md", ".yaml", ".yml", ".json")
_WITHOUT_ENDING = (".info/CONTENT", "LICENSE")
"""Flower's list of the files and their hashes; a licence."""


def check_envelope(content: bytes, fab_hash: str) -> None:
    """Raise :class:`Refused` unless the bytes are those of ``fab_hash`` and hold text alone, no code."""
    if hashlib.sha256(content).hexdigest() != fab_hash:
        raise _refused("the envelope's bytes are not those of its hash")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as envelope:
            names = [PurePosixPath(name) for name in envelope.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError):
        raise _refused("the envelope is no archive") from None
    for name in names:
        if name.suffix not in _TEXT and str(name) not in _WITHOUT_ENDING:
            raise _refused(f"the envelope holds a file that is no text: {name.suffix or 'without an ending'}")


def _refused(what: str) -> Refused:
    return Refused(RefusalCode.ENVELOPE_NOT_APPROVED, what)
