"""The end of QRS: how steeply a lead falls from its R peak to the end of the QRS complex, and how that changes.

After Nature 2026 (doi 10.1038/s41586-026-10674-6), where a slurred end of R in aVL goes with sudden death: on a
median beat scaled to [0, 1], the means of the absolute first and second differences from the R peak to the end of QRS.
They hang on rate and band, so both are fixed here: 500 samples a second, nothing above 40 Hz, units per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfiltfilt

from ecgshared.arrays import Floats
from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.features import FEATURE_FS_HZ, qrs_limits
from ecgshared.ecg.preprocess import resample
from ecgshared.ecg.windows import BEAT_S, samples_of

HIGHEST_HZ = 40.0
"""Corner of the low-pass, Butterworth of order 4, forwards and backwards."""
FEWEST_SAMPLES = 3
"""Between R peak and QRS end: fewer have no slope that means anything."""
FLAT_MV = 0.02

NO_END = "no end of QRS"
FLAT = "a flat lead"
AT_END = "R peak at the end of QRS"


@dataclass(frozen=True)
class TerminalSlopes:
    """Of the twelve leads.

    Attributes
    ----------
    d1, d2 : float arrays, shape = (12,): mean absolute first and second differences; NaN where there is none.
    peak, end : int arrays, shape = (12,) and (): samples of ``scaled``; -1 where unknown.
    scaled : float array, shape = (12, W): the beat at 500 Hz, each lead from 0 to 1 within the window about its middle.
    reason : by lead, why there is no value; "" where there is.
    """

    d1: Floats
    d2: Floats
    peak: np.ndarray
    end: int
    scaled: Floats
    reason: tuple[str, ...]


def terminal_slopes(beat: MedianBeat) -> TerminalSlopes:
    """Measure a median beat at any rate.

    The R peak is the highest sample of QRS; in a lead whose QRS has none within (all of it negative, say), the one
    farthest from the level before it.
    """
    fs = FEATURE_FS_HZ
    raw = resample(beat.signal[np.newaxis], beat.fs, fs)[0].astype(np.float64)
    centre = round(beat.centre * fs / beat.fs)
    limits = qrs_limits(raw, centre, fs)
    x = smoothed(raw, fs)
    before, after = samples_of(BEAT_S, fs)
    window = slice(max(0, centre - before), centre + after)
    low, high = x[:, window].min(axis=1), x[:, window].max(axis=1)
    scaled = (x - low[:, None]) / np.maximum(high - low, 1e-9)[:, None]
    d1, d2 = np.full(12, np.nan), np.full(12, np.nan)
    peak, reason = np.full(12, -1, dtype=np.int64), [NO_END] * 12
    if limits is None:
        return TerminalSlopes(d1, d2, peak, -1, scaled, tuple(reason))
    onset, end = limits
    for lead in range(12):
        if high[lead] - low[lead] < FLAT_MV:
            reason[lead] = FLAT
            continue
        at = _r_peak(x[lead], onset, end)
        if end - at < FEWEST_SAMPLES:
            reason[lead] = AT_END
            continue
        peak[lead], reason[lead] = at, ""
        d1[lead], d2[lead] = slopes(scaled[lead], at, end)
    return TerminalSlopes(d1, d2, peak, end, scaled, tuple(reason))


def slopes(scaled: Floats, peak: int, end: int) -> tuple[float, float]:
    """Return mean absolute first and second differences of one lead from its R peak to the end of QRS, both in."""
    piece = scaled[peak : end + 1]
    return float(np.abs(np.diff(piece)).mean()), float(np.abs(np.diff(piece, 2)).mean())


def smoothed(x: Floats, fs: float) -> Floats:
    """Return leads without what lies above :data:`HIGHEST_HZ`, shape kept."""
    sections = butter(4, HIGHEST_HZ, fs=fs, output="sos")
    return np.asarray(sosfiltfilt(sections, x, axis=-1), dtype=np.float64)


def _r_peak(lead: Floats, onset: int, end: int) -> int:
    qrs = lead[onset : end + 1]
    top = int(qrs.argmax())
    if 0 < top <= len(qrs) - 1 - FEWEST_SAMPLES:
        return onset + top
    return onset + int(np.abs(qrs - qrs[0]).argmax())
