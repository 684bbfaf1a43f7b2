"""What SCP-ECG does to a lead before coding it, undone: differences, and decimation outside protected spans.

Spans are half-open ranges counted from the lead's first sample.

Source: EN 1064:2005, clause 5.9 and annex C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _segments(samples: int, spans: list[tuple[int, int]]) -> list[tuple[int, int, bool]]:
    """Return (start, end, protected) that cover a lead."""
    segments, at = [], 0
    for low, high in spans:
        if at < low:
            segments.append((at, low, False))
        segments.append((low, high, True))
        at = high
    if at < samples:
        segments.append((at, samples, False))
    return segments


def stored_samples(samples: int, spans: list[tuple[int, int]], ratio: int) -> int:
    """Return how many numbers are stored of a lead decimated by ``ratio`` outside ``spans``."""
    if ratio == 1:
        return samples
    return sum(
        high - low if protected else -(-(high - low) // ratio) for low, high, protected in _segments(samples, spans)
    )


def interpolate(
    stored: NDArray[np.int64], samples: int, spans: list[tuple[int, int]], ratio: int
) -> NDArray[np.float64]:
    """Undo the decimation: each stored number stands at the middle of its block, lines join them."""
    out = np.full(samples, np.nan)
    at = 0
    for low, high, protected in _segments(samples, spans):
        count = high - low if protected else -(-(high - low) // ratio)
        block = stored[at : at + count].astype(np.float64)
        at += count
        if not len(block):
            break
        if protected:
            out[low : low + len(block)] = block
        else:
            middles = np.arange(len(block)) * ratio + (ratio - 1) / 2
            end = min(high, low + len(block) * ratio)
            out[low:end] = np.interp(np.arange(end - low), middles, block)
    return out


def undo_differences(numbers: NDArray[np.int64], differences: int) -> NDArray[np.int64]:
    """Sum once or twice: the first number, or two numbers, are samples. Sums wrap at 16 bits."""
    if differences == 0 or len(numbers) < 2:
        return numbers
    if differences == 1:
        samples = np.cumsum(numbers)
    else:
        slope = np.cumsum(np.concatenate([[numbers[1] - numbers[0]], numbers[2:]]))
        samples = np.concatenate([numbers[:1], numbers[0] + np.cumsum(slope)])
    return samples.astype(np.int16).astype(np.int64)
