"""A rough heart rate, good enough to tell a possible one from an impossible one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from ecgshared.ecg.rows import median_of, percentiles

PLAUSIBLE_BPM = (22.0, 280.0)
"""Beats per minute outside which no resting ECG lies."""

MAX_SCATTER, MIN_QUIET = 0.2, 0.1
REFRACTORY_S = 0.25


@dataclass(frozen=True)
class Pulse:
    """A rough heart rate.

    ``bpm`` per minute; ``scatter`` the 20-80% range of the intervals over their median; ``quiet`` the share
    of the time far from any steep moment, small in noise.
    """

    bpm: float
    scatter: float
    quiet: float

    @property
    def rhythmic(self) -> bool:
        """Whether these are beats: noise has no rhythm, and would be "too fast" at any rate."""
        return self.scatter <= MAX_SCATTER and self.quiet >= MIN_QUIET


def pulse(x: NDArray[np.float32], fs: float) -> Pulse | None:
    """Return a rough heart rate from the steepest moments of all leads; None where under four beats show.

    Parameters
    ----------
    x : array, shape = (leads, T), each lead scaled to a swing of about 1.

    Rates far beyond a heart's can come out: an impossible one betrays a wrong ``fs``.
    """
    return pulse_and_centres(x, fs)[0]


def qrs_centres(x: NDArray[np.float32], fs: float) -> NDArray[np.int64]:
    """Return the sample in the middle of each QRS complex, shape = (beats,); none where none shows.

    Parameters
    ----------
    x : array, shape = (leads, T), each lead scaled to a swing of about 1.

    All leads vote, so that a lead that is flat or noisy misleads nobody, and neither does an exchange of leads.
    """
    return pulse_and_centres(x, fs)[1]


def pulse_and_centres(x: NDArray[np.float32], fs: float) -> tuple[Pulse | None, NDArray[np.int64]]:
    """Return :func:`pulse` and :func:`qrs_centres` of one recording at the cost of one."""
    found = _envelope(x, fs)
    if found is None:
        return None, np.empty(0, dtype=np.int64)
    envelope, level = found
    peaks = _peaks(envelope, level, fs, refractory_s=REFRACTORY_S)
    # The slope over `reach` samples belongs to the middle of its span.
    centres = np.asarray(peaks + _reach(fs) // 2, dtype=np.int64)
    quick = _peaks(envelope, level, fs, refractory_s=0.1)
    if len(quick) >= 4 and 60 * fs * (len(quick) - 1) > PLAUSIBLE_BPM[1] * (quick[-1] - quick[0]):
        fast = _regular(quick, envelope, level, fs)
        if fast.bpm > PLAUSIBLE_BPM[1] and fast.rhythmic:
            return fast, centres
    return _regular(peaks, envelope, level, fs) if len(peaks) >= 4 else None, centres


def _reach(fs: float) -> int:
    return max(1, round(0.02 * fs))


def _envelope(x: NDArray[np.float32], fs: float) -> tuple[NDArray[np.float32], float] | None:
    """Return the mean steepness of all leads, and its usual height at a beat."""
    reach = _reach(fs)
    if x.shape[1] <= reach:
        return None
    slopes = x[:, reach:] - x[:, :-reach]
    np.minimum(np.abs(slopes, out=slopes), np.float32(1), out=slopes)
    slope = np.add.reduce(slopes, axis=0) / np.float32(len(slopes))
    envelope = ndimage.uniform_filter1d(slope, max(1, round(0.06 * fs)), mode="nearest")
    width = min(len(envelope), round(2 * fs))
    level = median_of(envelope[: len(envelope) // width * width].reshape(-1, width).max(axis=1))
    return envelope, level


def _peaks(envelope: NDArray[np.float32], level: float, fs: float, *, refractory_s: float) -> NDArray[np.int64]:
    peaks, _ = signal.find_peaks(envelope, height=0.5 * level, distance=max(1, round(refractory_s * fs)))
    return np.asarray(peaks, dtype=np.int64)


def _regular(peaks: NDArray[np.int64], envelope: NDArray[np.float32], level: float, fs: float) -> Pulse:
    low, middle, high = percentiles(np.diff(peaks), (20, 50, 80))
    return Pulse(
        bpm=float(60 * fs / middle),
        scatter=float((high - low) / middle),
        quiet=np.count_nonzero(envelope < 0.25 * level) / len(envelope),
    )
