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
REFRACTORY_S, QUICK_S = 0.25, 0.1


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
    tops = _tops(envelope, level)
    peaks = _apart(tops, envelope[tops], fs, refractory_s=REFRACTORY_S)
    # The slope over `reach` samples belongs to the middle of its span.
    centres = np.asarray(peaks + _reach(fs) // 2, dtype=np.int64)
    quick = _apart(tops, envelope[tops], fs, refractory_s=QUICK_S)
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


def _tops(envelope: NDArray[np.float32], level: float) -> NDArray[np.int64]:
    """Return where the envelope is highest among its neighbours and at least half as high as usual, shape = (tops,)."""
    high = np.flatnonzero(envelope[1:-1] >= 0.5 * level) + 1
    here, before, after = envelope[high], envelope[high - 1], envelope[high + 1]
    if (here == after).any() or (here == before).any():  # a plateau
        return np.asarray(signal.find_peaks(envelope, height=0.5 * level)[0], dtype=np.int64)
    return np.asarray(high[(here > before) & (here > after)])


def _apart(
    tops: NDArray[np.int64], heights: NDArray[np.float32], fs: float, *, refractory_s: float
) -> NDArray[np.int64]:
    """Return those of the ``tops`` beside which none is higher: as ``distance`` of :func:`scipy.signal.find_peaks`.

    That takes 60 us however few there are.
    """
    distance = max(1, round(refractory_s * fs))
    if not len(tops) or int((tops[1:] - tops[:-1]).min(initial=distance)) >= distance:
        return tops
    places, last = tops.tolist(), len(tops) - 1
    kept = [True] * len(places)
    for i in np.argsort(heights)[::-1].tolist():
        if kept[i]:
            at, j = places[i], i
            while j > 0 and at - places[j - 1] < distance:
                j -= 1
                kept[j] = False
            j = i
            while j < last and places[j + 1] - at < distance:
                j += 1
                kept[j] = False
    return tops[kept]


def _regular(peaks: NDArray[np.int64], envelope: NDArray[np.float32], level: float, fs: float) -> Pulse:
    low, middle, high = percentiles(np.diff(peaks), (20, 50, 80))
    return Pulse(
        bpm=float(60 * fs / middle),
        scatter=float((high - low) / middle),
        quiet=np.count_nonzero(envelope < 0.25 * level) / len(envelope),
    )
