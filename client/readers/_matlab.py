"""MATLAB v5 files, as scipy reads them, with what they unpack to bounded before.

Each variable of a v5 file may be deflated: a few kilobytes can stand for gigabytes. They are inflated here, within
limits, and handed to scipy plain.

Source: MathWorks, "MAT-File Format" (R2024), level 5.
"""

from __future__ import annotations

import io
import math
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

_COMPRESSED, _MATRIX, _HEADER_BYTES = 15, 14, 128
_KINDS = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 12, 13, _MATRIX, 16, 17, 18))
"""Of elements, as the format numbers them: integers, floats, matrices, texts."""
_MOST_DEEP = 16
_REMEDY = "save it again with version 5 or 7 (MATLAB: save -v7; Python: scipy.io.savemat)"


def variables(path: Path) -> dict[str, Any]:
    """Return the variables of a file by name; a struct is an array of :mod:`numpy` records.

    Raises
    ------
    EcgReadError : cut, damaged, or larger unpacked than a recording can be.
    """
    from scipy.io import loadmat

    plain = _inflated(read_bytes(path), path)
    order = "<" if plain[126:128] == b"IM" else ">"
    if not _is_sound(memoryview(plain)[_HEADER_BYTES:], order, 0):
        raise EcgReadError(
            "holds an element of a kind or size that MATLAB v5 does not have", where=path, remedy=_REMEDY
        )
    try:
        found: dict[str, Any] = loadmat(io.BytesIO(plain), squeeze_me=False, struct_as_record=True)
    except Exception as error:  # scipy raises whatever it trips over
        raise EcgReadError(
            f"is no MATLAB v5 file that can be read ({type(error).__name__})", where=path, remedy=_REMEDY
        ) from None
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _is_sound(body: memoryview, order: str, depth: int) -> bool:
    """Tell whether what a file or a matrix holds are whole elements of known kinds, also within matrices.

    The second element of a matrix are its dimensions: each of its members takes a byte at least.
    """
    at = number = 0
    while at + 8 <= len(body):
        kind, size = struct.unpack_from(f"{order}II", body, at)
        start = at + 8
        if kind >> 16:  # a small element: its size in the upper half, its bytes in place of a size
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                return False
        if kind not in _KINDS or start + size > len(body):
            return False
        inner = body[start : start + size]
        if kind == _MATRIX and (depth >= _MOST_DEEP or not _is_sound(inner, order, depth + 1)):
            return False
        if depth and number == 1 and not 0 <= _members(inner, order) <= len(body):
            return False
        at = at + 8 if start == at + 4 else start + -(-size // 8) * 8
        number += 1
    return True


def _members(dimensions: memoryview, order: str) -> int:
    """Return how many members a matrix of these dimensions has; -1 where one is negative."""
    sizes = struct.unpack_from(f"{order}{len(dimensions) // 4}i", dimensions)
    return -1 if min(sizes, default=-1) < 0 else math.prod(sizes)


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
