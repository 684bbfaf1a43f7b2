"""The median beats of a site's cached recordings: computed once, kept owner-only beside the signals they come from.

``median-beats.i16`` in the cache's folder: a header, then a place for every slot of the cache. A place remembers the
checksum of the signal its beat was made from and a checksum of itself, so that a beat of another recording, of other
code or half written is made anew. Where a recording is forgotten, its beat is overwritten with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.cache.beats import BeatStore
from ecgshared.models.config import BEAT_WINDOW_S

if TYPE_CHECKING:
    from client.dataset.data import SiteData


class MedianBeats:
    """Median beats by row of a cohort.

    Parameters
    ----------
    data : of a site; rows asked for are rows of it.

    ``samples`` is W: :data:`~ecgshared.models.config.BEAT_WINDOW_S` at the rate of the signals.
    """

    every = None
    """An ECG has one."""

    def __init__(self, data: SiteData) -> None:
        from client.dataset.data import CachedSignals

        self._data = data
        self._before = round(-BEAT_WINDOW_S[0] * data.fs_hz)
        self.samples = self._before + round(BEAT_WINDOW_S[1] * data.fs_hz)
        signals = data.signals
        self._store: BeatStore | None = None
        if isinstance(signals, CachedSignals) and isinstance(signals.slots, np.memmap):
            folder = Path(str(signals.slots.filename)).parent
            self._store, self._order = BeatStore(folder, self.samples, signals.made), signals.order
        self._here: dict[int, NDArray[np.float32] | None] = {}

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the rows that have a median beat: two whole beats were found in the recording."""
        if self._store is None:
            return np.array([self._made(int(row)) is not None for row in rows], dtype=bool)
        rows_of = dict(zip(self._order[rows].tolist(), rows.tolist(), strict=True))
        self._store.fill(self._order[rows], lambda slot: self._beat(rows_of[slot]))
        return self._store.known(self._order[rows])

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the beats of ``rows``, shape = (len(rows), 12, W), mV; NaN where there is none."""
        if self._store is not None:
            known = self.known(rows)
            beats = self._store.read(self._order[rows])
            beats[~known] = np.nan
            return beats
        found = np.full((len(rows), 12, self.samples), np.nan, dtype=np.float32)
        for i, row in enumerate(rows):
            beat = self._made(int(row))
            if beat is not None:
                found[i] = beat
        return found

    def _made(self, row: int) -> NDArray[np.float32] | None:
        if row not in self._here:
            self._here[row] = self._beat(row)
        return self._here[row]

    def _beat(self, row: int) -> NDArray[np.float32] | None:
        return window_of(self._data.batch(np.array([row]))[0], self._data.fs_hz)


def window_of(p_signal: NDArray[np.float32], fs: float) -> NDArray[np.float32] | None:
    """Return the median beat that models see, shape = (12, W), mV, of a preprocessed recording; None if it has none."""
    # SciPy's filters behind it are heavy, and the cache that overwrites beats does without them.
    from ecgshared.ecg.beats import median_beat

    beat = median_beat(p_signal, fs)
    if beat is None:
        return None
    before, after = round(-BEAT_WINDOW_S[0] * fs), round(BEAT_WINDOW_S[1] * fs)
    return np.asarray(beat.signal[:, beat.centre - before : beat.centre + after])
