"""What is measured on the median beats of a site's cached recordings: once, kept owner-only beside the signals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from client.cache.beats import MeasuredStore
from ecgshared.arrays import Floats, Ints

if TYPE_CHECKING:
    from client.dataset.data import SiteData

VERSION = 1
"""Of how beats are measured: another one measures anew."""


class MeasuredBeats:
    """Measurements by row of a cohort, in the order of :func:`ecgshared.stages.biomarker.measurements`."""

    def __init__(self, data: SiteData) -> None:
        from client.dataset.data import CachedSignals
        from ecgshared.stages.biomarker import NUMBERS

        self._data, self._numbers = data, NUMBERS
        signals = data.signals
        self._store: MeasuredStore | None = None
        if isinstance(signals, CachedSignals) and isinstance(signals.slots, np.memmap):
            folder = Path(str(signals.slots.filename)).parent
            self._store, self._order = MeasuredStore(folder, NUMBERS, VERSION, signals.made), signals.order

    def of(self, rows: Ints) -> Floats:
        """Return the measurements of ``rows``, shape = (len(rows), NUMBERS)."""
        if self._store is None or not len(rows):
            return np.stack([self._row(int(row)) for row in rows]) if len(rows) else np.empty((0, self._numbers))
        slots = self._order[rows]
        rows_of = dict(zip(slots.tolist(), rows.tolist(), strict=True))
        self._store.fill(slots, lambda slot: self._row(rows_of[slot]))
        return np.asarray(self._store.places(slots), dtype=np.float64)

    def _row(self, row: int) -> Floats:
        from ecgshared.ecg.beats import median_beat
        from ecgshared.stages.biomarker import measurements

        return measurements(median_beat(self._data.batch(np.array([row]))[0], self._data.fs_hz))
