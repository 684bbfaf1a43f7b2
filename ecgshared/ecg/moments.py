"""First and second moments of the median beat's P, QRS and T: what the scores of lead arrangements are linear in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.dipole import INDEPENDENT
from ecgshared.ecg.rows import means, median_of

F64 = NDArray[np.float64]

_UPPER = np.triu_indices(8)

_SMALLEST_MV2: F64 = np.array([0.00025, 0.00004, 0.00025])
"""Added to the mean square of QRS, P and T: a window without a wave must not become a loud one."""


def moments(beat: MedianBeat) -> F64:
    """Return first and second moments of QRS, P and T windows, shape = (132,); scale-free, the same at any rate.

    Limb leads are scaled by their own mean power (of I, II, III: no exchange changes it), chest leads by theirs.
    """
    eight = beat.signal[list(INDEPENDENT)].astype(np.float64)
    rr_s = median_of(beat.rr_s) if len(beat.rr_s) else 0.8
    spans = ((-0.06, 0.08), (-min(0.26, 0.5 * rr_s), -0.07), (0.12, min(0.42, 0.62 * rr_s)))
    second, mean = np.empty((3, 8, 8)), np.empty((3, 8))
    for number, (start, stop) in enumerate(spans):
        first = max(0, beat.centre + round(start * beat.fs))
        last = max(first + 2, beat.centre + round(stop * beat.fs))
        x = eight[:, first:last]
        if number == 1:
            x = _levelled(x)
        np.matmul(x, x.T, out=second[number])
        second[number] /= x.shape[1]
        mean[number] = means(x)
    power = second.diagonal(axis1=1, axis2=2)
    both = power[:, 0] + power[:, 1]
    scale = np.empty((3, 8))
    scale[:, :2] = ((both + (both - 2 * second[:, 0, 1])) / 3 + _SMALLEST_MV2)[:, None]
    scale[:, 2:] = (power[:, 2:].sum(axis=1) / 6 + _SMALLEST_MV2)[:, None]
    scale = 1 / np.sqrt(scale)
    out = np.empty((3, 44))
    out[:, :36] = (second * (scale[:, :, None] * scale[:, None, :]))[:, *_UPPER]
    out[:, 36:] = 2 * mean * scale
    return out.reshape(132)


def moved(moments: F64, matrix: F64) -> F64:
    """Return the moments of the record that ``matrix`` makes of the one with ``moments``, shape = (..., 132)."""
    out = np.empty_like(moments)
    for start in range(0, 132, 44):
        second = np.zeros((*moments.shape[:-1], 8, 8))
        second[..., _UPPER[0], _UPPER[1]] = moments[..., start : start + 36]
        second[..., _UPPER[1], _UPPER[0]] = moments[..., start : start + 36]
        out[..., start : start + 36] = (matrix @ second @ matrix.T)[..., _UPPER[0], _UPPER[1]]
        out[..., start + 36 : start + 44] = moments[..., start + 36 : start + 44] @ matrix.T
    return out


def _levelled(x: F64) -> F64:
    """Take out the line between the window's ends, so that wander beneath a P wave is no P wave."""
    n = max(1, x.shape[1] // 10)
    start, stop = means(x[:, :n])[:, None], means(x[:, -n:])[:, None]
    return np.asarray(x - (start + (stop - start) * (np.arange(x.shape[1]) / (x.shape[1] - 1))))
