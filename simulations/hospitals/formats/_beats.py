"""R peaks and the median beat, as a cart computes them from the recording it exports."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

MEDIAN_S, BEFORE_PEAK_S = 1.2, 0.46
"""Length of the median beat, and how much of it precedes the R peak."""

REFRACTORY_S, HALF_QRS_S = 0.25, 0.06


def r_peaks(x: NDArray[np.float32], fs: float) -> NDArray[np.intp]:
    """Return the samples of the R peaks.

    A beat is where the leads together are steep; its peak is the largest excursion, within a QRS, of the lead
    that is steepest there over all beats.

    Parameters
    ----------
    x : array, shape = (leads, T).
    """
    reach = max(1, round(0.012 * fs))
    width = round(2 * fs)
    if x.shape[1] < width + reach:
        return np.zeros(0, dtype=np.intp)
    slope = np.abs(x[:, reach:] - x[:, :-reach])
    envelope = ndimage.uniform_filter1d(slope.sum(axis=0), max(1, round(0.06 * fs)), mode="nearest")
    level = np.median(envelope[: len(envelope) // width * width].reshape(-1, width).max(axis=1))
    if level <= 0:
        return np.zeros(0, dtype=np.intp)
    beats, _ = signal.find_peaks(envelope, height=0.4 * level, distance=max(1, round(REFRACTORY_S * fs)))
    half = round(HALF_QRS_S * fs)
    beats = np.asarray(beats[(beats >= half) & (beats < x.shape[1] - half)])
    if not len(beats):
        return beats
    around = beats[:, None] + np.arange(-half, half + 1)
    lead = x[int(np.argmax(slope[:, beats].sum(axis=1)))]
    qrs = lead[around]
    return np.asarray(beats - half + np.abs(qrs - np.median(lead)).argmax(axis=1))


def median_beat(x: NDArray[np.float32], peaks: NDArray[np.intp], fs: float) -> NDArray[np.float32] | None:
    """Return the median over all complete beats aligned at their peaks, shape = (leads, MEDIAN_S * fs); None if none.

    Parameters
    ----------
    x : array, shape = (leads, T).
    peaks : array, shape = (n_beats,), from :func:`r_peaks`.
    """
    before, samples = round(BEFORE_PEAK_S * fs), round(MEDIAN_S * fs)
    starts = peaks - before
    starts = starts[(starts >= 0) & (starts + samples <= x.shape[1])]
    if not len(starts):
        return None
    return np.median(x[:, starts[:, None] + np.arange(samples)], axis=1).astype(np.float32)
