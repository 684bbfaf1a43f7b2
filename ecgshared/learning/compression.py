"""The way that weights went in a round, written in fewer bytes for slow lines: as bfloat16, or as int8 by blocks.

What is lost by rounding is not lost for good: a site keeps it, and adds it to what it sends in the next round, so that
over the rounds everything arrives (error feedback; Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Compression = Literal["bf16", "int8"]
BLOCK = 1024
"""Numbers that share a scale in int8."""

_SCALE = np.dtype("<f4")


def compressed(delta: NDArray[np.float32], kind: Compression) -> NDArray[Any]:
    """Return what travels of ``delta``, shape = (n,): n uint16, or n bytes and four more for each block.

    Raises
    ------
    ValueError : a number is not finite, or too large for what travels.
    """
    values = np.ascontiguousarray(delta, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a number that is not finite")
    if kind == "bf16":
        bits = values.view(np.uint32).astype(np.uint64)
        # To the nearest, ties to even: half of the last place that stays, less one where that place is even.
        written = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        if not np.isfinite(restored(written, kind, len(values))).all():
            raise ValueError("a number that bfloat16 cannot hold")
        return written
    blocks = np.pad(values, (0, -len(values) % BLOCK)).reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1) / np.float32(127)).astype(_SCALE)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(scales[:, None] > 0, np.rint(blocks / scales[:, None]), 0.0)
    whole = np.clip(steps, -127, 127).astype(np.int8).ravel()[: len(values)]
    return np.concatenate([scales.view(np.uint8), whole.view(np.uint8)])


def restored(written: NDArray[Any], kind: Compression, size: int) -> NDArray[np.float32]:
    """Return the numbers, shape = (size,), that :func:`compressed` wrote, as they arrive.

    Raises
    ------
    ValueError : it is not what stands for so many numbers.
    """
    if written.dtype != written_as(kind) or written.shape != (written_size(kind, size),):
        raise ValueError(f"not {size} numbers written as {kind}")
    if kind == "bf16":
        return (written.astype(np.uint32) << 16).view(np.float32)
    n_blocks = -(-size // BLOCK)
    scales = written[: 4 * n_blocks].copy().view(_SCALE)
    whole = written[4 * n_blocks :].copy().view(np.int8).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # whoever asked looks whether they are finite
        return (whole * np.repeat(scales, BLOCK)[:size]).astype(np.float32)


def written_as(kind: Compression) -> np.dtype[Any]:
    """Return the type of what travels."""
    return np.dtype(np.uint16 if kind == "bf16" else np.uint8)


def written_size(kind: Compression, size: int) -> int:
    """Return the length of what travels of ``size`` numbers."""
    return size if kind == "bf16" else size + 4 * -(-size // BLOCK)


def with_feedback(
    moved: NDArray[np.float32], kept: NDArray[np.float32] | None, kind: Compression
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return (what travels of the way the weights went and what was kept of before, what is kept of it)."""
    whole = moved if kept is None else moved + kept
    written = compressed(whole, kind)
    return written, whole - restored(written, kind, len(whole))
