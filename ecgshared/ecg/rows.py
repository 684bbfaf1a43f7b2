"""What is done to rows of samples over and over: medians and percentiles, and windows cut out of them.

The numbers are NumPy's, to the last bit. ``np.median`` and ``np.percentile`` take 20 to 60 us however little there is
to do, and a recording is judged by dozens of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats

LONG_ROW, EVERY, WIDTH = 2000, 16, 0.08
"""Of so long a row, the median is sought among the values between two of every so many, this share to either side."""


def cut(x: NDArray[np.float32], starts: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Return a copy of the windows of each row that begin at ``starts``, shape = (rows, windows, width).

    Every window lies within the rows.
    """
    x = np.ascontiguousarray(x)
    by_row, by_sample = x.strides
    # By hand: sliding_window_view costs ten times as much.
    every = np.ndarray((len(x), x.shape[1] - width + 1, width), x.dtype, x, 0, (by_row, by_sample, by_sample))
    return np.asarray(every[:, starts])


def means(x: NDArray[Any]) -> NDArray[Any]:
    """Return the mean along the last axis, shape = x.shape[:-1]."""
    return np.asarray(np.add.reduce(x, axis=-1) / x.dtype.type(x.shape[-1]))


def medians(x: NDArray[Any]) -> NDArray[Any]:
    """Return the median along the last axis, shape = x.shape[:-1]; ``x`` is finite and not empty."""
    middle = x.shape[-1] // 2
    if x.shape[-1] >= LONG_ROW:
        return _medians_of_long(x)
    # Two places, always: for a single one NumPy takes another way, which is three times slower where AVX-512 is.
    parted = np.partition(x, (middle - 1, middle), axis=-1) if middle else x
    if x.shape[-1] % 2:
        return np.asarray(parted[..., middle])
    return np.asarray((parted[..., middle - 1] + parted[..., middle]) / x.dtype.type(2))


def _medians_of_long(x: NDArray[Any]) -> NDArray[Any]:
    """Return :func:`medians`: a sample of each row tells between which values to look, and the others are counted."""
    rows = x.reshape(-1, x.shape[-1])
    length = rows.shape[1]
    sample = rows[:, ::EVERY]
    first, last = int((0.5 - WIDTH) * sample.shape[1]), int((0.5 + WIDTH) * sample.shape[1])
    ends = np.partition(sample, (first, last), axis=1)
    below = rows < ends[:, first, None]
    inside = rows <= ends[:, last, None]
    inside ^= below
    near, at = rows[inside], 0
    out = np.empty(len(rows), dtype=x.dtype)
    for row in range(len(rows)):
        place = length // 2 - int(np.count_nonzero(below[row]))
        some = near[at : (at := at + int(np.count_nonzero(inside[row])))]
        if not 1 <= place < len(some):  # the sample misled
            some, place = rows[row].copy(), length // 2
        some.partition((place - 1, place))
        out[row] = some[place] if length % 2 else (some[place - 1] + some[place]) / x.dtype.type(2)
    return out.reshape(x.shape[:-1])


def percentiles(values: Floats | NDArray[np.int64], places: Sequence[float]) -> list[float]:
    """Return percentiles of a short row of numbers, interpolated linearly; ``values`` is finite and not empty."""
    ordered = np.sort(values, axis=None).tolist()
    found = []
    for place in places:
        at = (len(ordered) - 1) * (place / 100)
        below = min(int(at), len(ordered) - 2) if len(ordered) > 1 else 0
        low, high, share = ordered[below], ordered[min(below + 1, len(ordered) - 1)], at - below
        step = high - low
        found.append(float(low + step * share if share < 0.5 else high - step * (1 - share)))
    return found


def median_of(values: Floats | NDArray[np.float32] | NDArray[np.int64]) -> float:
    """Return the median of a short row of numbers; ``values`` is finite and not empty."""
    ordered = np.sort(values, axis=None)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return float((ordered[middle - 1] + ordered[middle]) / 2)
