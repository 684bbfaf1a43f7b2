"""MATLAB v5 files, as scipy reads them, with what they unpack to bounded before.

Each variable of a v5 file may be deflated: a few kilobytes can stand for gigabytes. They are inflated here, within
limits, and handed to scipy plain.

Source: MathWorks, "MAT-File Format" (R2024), level 5.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.readers._source import read_bytes
from ecgshared.errors import EcgReadError

MAGIC = b"MATLAB 5.0"
MAX_UNPACKED_BYTES = 128 << 20

_COMPRESSED, _HEADER_BYTES = 15, 128
_REMEDY = "save it again with version 5 or 7 (MATLAB: save -v7; Python: scipy.io.savemat)"


def variables(path: Path) -> dict[str, Any]:
    """Return the variables of a file by name; a struct is an array of :mod:`numpy` records.

    Raises
    ------
    EcgReadError : cut, damaged, or larger unpacked than a recording can be.
    """
    from scipy.io import loadmat

    plain = _inflated(read_bytes(path), path)
    try:
        found: dict[str, Any] = loadmat(io.BytesIO(plain), squeeze_me=False, struct_as_record=True)
    except Exception as error:  # scipy raises whatever it trips over
        raise EcgReadError(
            f"is no MATLAB v5 file that can be read ({type(error).__name__})", where=path, remedy=_REMEDY
        ) from None
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _inflated(raw: bytes, path: Path) -> bytes:
    """Return the file with its deflated variables plain; what follows a damaged one is left out."""
    if len(raw) < _HEADER_BYTES or raw[126:128] not in (b"IM", b"MI"):
        raise EcgReadError(
            "is neither a MATLAB v4 nor a v5 file: its header is cut or damaged",
            where=path,
            value=len(raw),
            remedy=_REMEDY,
        )
    order = "<" if raw[126:128] == b"IM" else ">"
    out = bytearray(raw[:_HEADER_BYTES])
    at = _HEADER_BYTES
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from(f"{order}II", raw, at)
        body = raw[at + 8 : at + 8 + size]
        if len(body) < size:
            raise EcgReadError("ends within a variable", where=path, value=len(body), remedy=_REMEDY)
        if kind == _COMPRESSED:
            unpack = zlib.decompressobj()
            try:
                body = unpack.decompress(body, MAX_UNPACKED_BYTES - len(out) + 1)
            except zlib.error:
                raise EcgReadError("a variable cannot be unpacked", where=path, remedy=_REMEDY) from None
            out += body
        else:
            out += raw[at : at + 8] + body
        if len(out) > MAX_UNPACKED_BYTES:
            raise EcgReadError(
                "is larger unpacked than an ECG can be",
                where=path,
                allowed=f"at most {MAX_UNPACKED_BYTES} bytes",
                remedy="export the resting ECG alone",
            )
        at += 8 + size
    return bytes(out)


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name, those within a struct as ``struct.field``.

    Raises
    ------
    EcgReadError : as :func:`variables`.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, value in variables(path).items():
        fields = getattr(getattr(value, "dtype", None), "names", None)
        if fields and value.size == 1:
            found |= {f"{name}.{field}": np.asarray(value[field].flat[0]) for field in fields}
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found
