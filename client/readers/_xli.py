"""The XLI compression of Philips carts: per lead LZW of fixed 10-bit codes, high bytes before low ones, differences.

The code words of a lead are cut out by numpy and looked up in one table, which stops growing at 1,023 strings: a
lead takes a few hundred steps of Python, whatever its length. The ``sierraecg`` library, which reads byte by byte,
is the oracle in the tests.

Source: sierra-ecg-tools by C. A. Watford, its description of the XLI compression.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Ints

CODE_BITS = 10
LAST_CODE = (1 << CODE_BITS) - 2
"""The highest code that stands for a string; the one above ends the lead."""

DELTA_BIAS = 64

_SINGLES = tuple(bytes([value]) for value in range(256))


def inflate(chunk: bytes, limit: int) -> NDArray[np.uint8]:
    """Undo the LZW coding of one lead, at most ``limit`` bytes; damaged codes can stand for very many.

    Raises
    ------
    ValueError : a code that stands for nothing yet.
    """
    codes = _codes(chunk)
    end = np.flatnonzero(codes > LAST_CODE)
    listed = codes[: end[0] if len(end) else None].tolist()
    if not listed:
        return np.zeros(0, dtype=np.uint8)
    if listed[0] > 255:
        raise ValueError("the first code stands for no byte")
    table = list(_SINGLES)
    grown = LAST_CODE + 1 - len(table) + 1
    previous = table[listed[0]]
    for free, code in enumerate(listed[1:grown], start=len(table)):
        if code < free:
            string = table[code]
            table.append(previous + string[:1])
            previous = string
        elif code == free:  # a code may name the very string that it completes
            previous += previous[:1]
            table.append(previous)
        else:
            raise ValueError("a code stands for no string yet")
    if max(listed[grown:], default=0) >= len(table):
        raise ValueError("a code stands for no string")
    sizes = np.fromiter(map(len, table), dtype=np.int64, count=len(table))
    total = np.cumsum(sizes[listed])
    needed = int(np.searchsorted(total, limit)) + 1
    return np.frombuffer(b"".join(map(table.__getitem__, listed[:needed]))[:limit], dtype=np.uint8)


def _codes(chunk: bytes) -> Ints:
    """Return the whole 10-bit numbers of a chunk, first bit highest: four in five bytes."""
    groups = -(-len(chunk) // 5)
    octets = np.zeros(5 * groups, dtype=np.int64)
    octets[: len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
    a, b, c, d, e = octets.reshape(groups, 5).T
    four = [a << 2 | b >> 6, (b & 63) << 4 | c >> 4, (c & 15) << 6 | d >> 2, (d & 3) << 8 | e]
    return np.stack(four, axis=1).ravel()[: 8 * len(chunk) // CODE_BITS]


def undo_differences(packed: NDArray[np.uint8], first: int) -> Ints:
    """Turn high bytes, then low bytes, into words, and second differences (biased by 64) into samples.

    x[0] and x[1] are stored; x[i] = 2 x[i-1] - x[i-2] - r[i-1], where r[1] is the chunk's own number and
    r[i] the word i less 64. Sums wrap at 16 bits as the recorder's do.
    """
    half = (len(packed) + 1) // 2
    padded = np.zeros(2 * half, dtype=np.uint8)
    padded[: len(packed)] = packed
    words = ((padded[:half].astype(np.uint16) << 8) | padded[half:]).view(np.int16).astype(np.int64)
    if half < 3:
        return words
    curvature = np.empty(half - 2, dtype=np.int64)
    curvature[0] = -first
    curvature[1:] = DELTA_BIAS - words[2:-1]
    slope = words[1] - words[0] + np.cumsum(curvature)
    samples = np.concatenate([words[:2], words[1] + np.cumsum(slope)])
    return samples.astype(np.int16).astype(np.int64)
