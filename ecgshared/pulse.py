"""A rough heart rate, good enough to tell a possible one from an impossible one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

PLAUSIBLE_BPM = (22.0, 280.0)
"""Beats per minute outside which no resting ECG lies."""

MAX_SCATTER, MIN_QUIET = 0.2, 0.1


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
    reach = max(1, round(0.02 * fs))
    if x.shape[1] <= reach:
        return None
    slope = np.minimum(np.abs(x[:, reach:] - x[:, :-reach]), 1).mean(axis=0)
    envelope = ndimage.uniform_filter1d(slope, max(1, round(0.06 * fs)), mode="nearest")
    width = min(len(envelope), round(2 * fs))
    level = float(np.median(envelope[: len(envelope) // width * width].reshape(-1, width).max(axis=1)))
    fast = _beats(envelope, level, fs, refractory_s=0.1)
    if fast is not None and fast.bpm > PLAUSIBLE_BPM[1] and fast.rhythmic:
        return fast
    return _beats(envelope, level, fs, refractory_s=0.25)


def _beats(envelope: NDArray[np.float32], level: float, fs: float, *, refractory_s: float) -> Pulse | None:
    peaks, _ = signal.find_peaks(envelope, height=0.5 * level, distance=max(1, round(refractory_s * fs)))
    if len(peaks) < 4:
        return None
    low, middle, high = np.percentile(np.diff(peaks), (20, 50, 80))
    return Pulse(
        bpm=float(60 * fs / middle),
        scatter=float((high - low) / middle),
        quiet=float(np.mean(envelope < 0.25 * level)),
    )
