"""The single beats of a site's cached recordings: one definition for all that sees them.

R peaks of lead I by NeuroKit2, the window and the quality limits of :func:`ecgshared.ecg.beats.single_beats`. Finding
the peaks is what costs: they are computed once and kept owner-only beside the signals (``r-peaks.i32``, a place for
every slot of the cache, forgotten with its recording); the beats are cut from the signals when they are asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.cache.beats import MOST_PEAKS, PeakStore
from client.cache.entries import UNITS_PER_MV
from ecgshared.ecg.windows import BEAT_S, samples_of

if TYPE_CHECKING:
    from client.dataset.data import SiteData

VERSION = 1
"""Of how peaks are found and chosen: another one finds them anew."""


class SingleBeats:
    """Single beats by row of a cohort.

    Parameters
    ----------
    data : of a site; rows asked for are rows of it.
    rng : where given, :meth:`batch` draws a beat of each row from it; else it takes the middle one.

    ``samples`` is W: the window at the rate of the signals.
    """

    def __init__(self, data: SiteData, rng: np.random.Generator | None = None) -> None:
        from client.dataset.data import CachedSignals

        self._data, self._rng = data, rng
        self._before, after = samples_of(BEAT_S, data.fs_hz)
        self.samples = self._before + after
        signals = data.signals
        self._store: PeakStore | None = None
        if isinstance(signals, CachedSignals) and isinstance(signals.slots, np.memmap):
            folder = Path(str(signals.slots.filename)).parent
            self._store, self._order = PeakStore(folder, VERSION, signals.made), signals.order
        self._here: dict[int, NDArray[np.int64]] = {}

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the rows with a beat that meets the limits."""
        return np.asarray(self._peaks(rows)[:, 0] >= 0) if len(rows) else np.zeros(0, dtype=bool)

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return one beat of each row, shape = (len(rows), 12, W), mV; NaN where there is none."""
        peaks = self._peaks(rows)
        count = (peaks >= 0).sum(axis=1)
        chosen = count // 2 if self._rng is None else (self._rng.random(len(rows)) * count).astype(np.int64)
        found = self._cut(rows, peaks[np.arange(len(rows)), np.minimum(chosen, np.maximum(count - 1, 0))])
        found[count == 0] = np.nan
        return found

    def every(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return all beats of ``rows``, shape = (N, 12, W), mV, and of which of them each is, shape = (N,)."""
        peaks = self._peaks(rows)
        of, column = np.nonzero(peaks >= 0)
        return self._cut(rows[of], peaks[of, column]), of.astype(np.int64)

    def _cut(self, rows: NDArray[np.int64], peak: NDArray[np.int64]) -> NDArray[np.float32]:
        signals: Any = self._data.signals
        # A recording is read once, however many of its beats are wanted.
        distinct, place = np.unique(rows, return_inverse=True)
        read = np.asarray(signals[distinct]) if len(distinct) else np.empty((0, *signals.shape[1:]), dtype=np.int16)
        span = np.maximum(peak, self._before)[:, None] + np.arange(-self._before, self.samples - self._before)
        units = read[place[:, None, None], np.arange(12)[None, :, None], span[:, None, :]]
        return np.asarray(units, dtype=np.float32) / np.float32(UNITS_PER_MV)

    def _peaks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return R peaks, shape = (len(rows), MOST_PEAKS), -1 after the last."""
        if self._store is not None and len(rows):
            slots = self._order[rows]
            rows_of = dict(zip(slots.tolist(), rows.tolist(), strict=True))
            self._store.fill(slots, lambda slot: self._found(rows_of[slot]))
            return self._store.places(slots).astype(np.int64)
        out = np.full((len(rows), MOST_PEAKS), -1, dtype=np.int64)
        for i, row in enumerate(rows.tolist()):
            if row not in self._here:
                self._here[row] = self._found(row)
            out[i, : len(self._here[row])] = self._here[row]
        return out

    def _found(self, row: int) -> NDArray[np.int64]:
        return peaks_of(self._data.batch(np.array([row]))[0], self._data.fs_hz)


def peaks_of(p_signal: NDArray[np.float32], fs: float) -> NDArray[np.int64]:
    """Return the R peaks of the single beats of a preprocessed recording, (12, T) mV; at most MOST_PEAKS of them."""
    # SciPy's filters behind it are heavy, and the cache that overwrites peaks does without them.
    from ecgshared.ecg.beats import r_peaks, single_beats

    kept = single_beats(p_signal, fs, r_peaks(p_signal[0], fs))[1]
    if len(kept) > MOST_PEAKS:
        kept = kept[np.linspace(0, len(kept) - 1, MOST_PEAKS).astype(np.int64)]
    return kept
