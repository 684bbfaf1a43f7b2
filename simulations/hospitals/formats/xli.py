"""XLI, the compression of Philips waveforms: second differences, high bytes before low, then LZW of 10 bits.

A channel is eight bytes (length of what follows, 1, the first difference; little-endian) and the LZW codes, the
most significant bit first, closed by the code 1023 and zeros. The table grows to code 1022 and then stays.
Re-encoding channels of PageWriter files gives the machine's own bytes.

Source: https://github.com/sixlettervariables/sierra-ecg-tools/wiki (the format, from the decoder's side);
Welch, A technique for high-performance data compression, Computer 17(6), 1984.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import EcgReadError

BITS, END = 10, 1023
LAST_CODE = END - 1
_BIAS = 64


def encode_channel(samples: NDArray[np.int16]) -> bytes:
    """Compress one channel.

    Parameters
    ----------
    samples : array, shape = (T,), T >= 3, int16.

    Raises
    ------
    EcgReadError : too short, or jumps whose second difference does not fit 16 bits.
    """
    if len(samples) < 3:
        raise EcgReadError("is too short for XLI", value=len(samples), allowed="at least 3 samples")
    x = samples.astype(np.int32)
    bend = 2 * x[1:-1] - x[:-2] - x[2:]
    deltas = np.zeros(len(x), dtype=np.int32)
    # The first two samples are stored as they are, the first bend in the header, the last sample by its bend.
    deltas[:2] = x[:2]
    deltas[2:-1] = bend[1:] + _BIAS
    if np.abs(bend).max() > np.iinfo(np.int16).max - _BIAS:
        raise EcgReadError(
            "holds jumps that XLI cannot store",
            value=int(np.abs(bend).max()),
            allowed=f"second differences within {np.iinfo(np.int16).max - _BIAS} units",
            remedy="record at a lower resolution",
        )
    words = deltas.astype("<i2").view(np.uint8).reshape(-1, 2)
    codes = _lzw(words[:, 1].tobytes() + words[:, 0].tobytes())
    packed = _pack(codes)
    return struct.pack("<ihh", len(packed), 1, int(bend[0])) + packed


def _lzw(data: bytes) -> list[int]:
    codes: list[int] = []
    # The table as a tree: a phrase's node holds its longer phrases by next byte, and its own code under `own`.
    own, new = 256, 256
    single: list[dict[int, Any]] = [{own: code} for code in range(256)]
    rest = iter(data)
    phrase = single[next(rest)]
    for byte in rest:
        if byte in phrase:
            phrase = phrase[byte]
            continue
        codes.append(phrase[own])
        if new <= LAST_CODE:
            phrase[byte] = {own: new}
            new += 1
        phrase = single[byte]
    codes += (phrase[own], END)
    return codes


def _pack(codes: list[int]) -> bytes:
    """Pack codes of ten bits, four to five bytes; the machine's padding is a byte, or two where two bits are left."""
    fours = np.zeros((-(-len(codes) // 4), 4), dtype=np.uint64)
    fours.reshape(-1)[: len(codes)] = codes
    shifts = np.array([54, 44, 34, 24], dtype=np.uint64)
    words = np.bitwise_or.reduce(fours << shifts, axis=1)
    packed: bytes = words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, :5].tobytes()
    return (packed + b"\0\0")[: (BITS * len(codes) + 2) // 8 + 1]
