"""What a site's handlers compute on: the cohort's arrays and the cached signals, row by row the same order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import UNITS_PER_MV
from ecgshared.arrays import Bools, Floats
from ecgshared.study.endpoints import EventTimes
from ecgshared.wire.protocol import SPLITS, Split


@dataclass(frozen=True)
class CachedSignals:
    """Rows of a cohort in a memory map whose slots lie in another order; only rows asked for are read.

    ``slots`` : int16 memory map, shape = (slots, 12, T); ``order`` : int64 array, shape = (n,), slot of each row;
    ``made`` : of the cache that the slots are of (:class:`~client.cache.generation.CacheGeneration`).
    """

    slots: NDArray[np.int16]
    order: NDArray[np.int64]
    made: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, 12, T)."""
        return len(self.order), self.slots.shape[1], self.slots.shape[2]

    @property
    def dtype(self) -> np.dtype[np.int16]:
        """int16."""
        return self.slots.dtype

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: Any) -> NDArray[np.int16]:
        picked: NDArray[np.int16] = self.slots[self.order[rows]]
        return picked

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.slots[self.order], dtype=dtype)

    def take(self, rows: NDArray[np.int64]) -> CachedSignals:
        """Return the same map seen through fewer rows; nothing is read."""
        return CachedSignals(self.slots, self.order[rows], self.made)


@dataclass(frozen=True)
class SiteData:
    """One site's eligible ECGs.

    Attributes
    ----------
    signals : int16 array or rows of a memory map, shape = (n, 12, T), microvolts; index it by rows.
    patient : int array, shape = (n,): 0..n_patients-1, an index without meaning outside this object.
    split : int8 array, shape = (n,): index into SPLITS.
    heads : names of the study's endpoints, in the study's order.
    labels : float32 array, shape = (n, n_heads): 1, 0, or NaN where not known.
    age : float32 array, shape = (n,), years, NaN where unknown.
    male : float32 array, shape = (n,): 1, 0, NaN.
    covariates : the study's further covariates, each shape = (n,), NaN where unknown.
    fs_hz : rate of the signals.
    patients_known : False where the table has no patient ids: then no patient-level claim may be made.
    flow : (reason, ECGs left, patients left) from table to cohort, for the exclusion flow.
    descriptions : counts of ECGs by name: "device", "fs" (of patients: "device patients", "fs patients"), "findings"
        (by code of the quality report), "files" ("without a row": recordings that no row of the table means).
    follow_up_years : float array, shape = (n,): from ECG to last known status, NaN where unknown.
    event_times : time and status by event, of the events that steps of the study name.
    populations : the study's, by name: bool array, shape = (n,), who belongs.
    columns : further numbers and flags that steps of the study read, and those it declares (of a category, the place
        among its levels), each shape = (n,), NaN where unknown.
    chronology : int array, shape = (n,): the later ECG of a patient has the higher number; None: the later row.
    record_keys, patient_keys : uint64 arrays, shape = (n,): pseudonyms of recording and patient that last, by which the
        site remembers whom figures spoke of; None where the cohort stands in memory alone.
    table_keys : uint64 array: of all recordings of the table that nobody opted out of, whatever the study's rules.
    """

    signals: NDArray[np.int16] | CachedSignals
    patient: NDArray[np.int64]
    split: NDArray[np.int8]
    heads: tuple[str, ...]
    labels: NDArray[np.float32]
    age: NDArray[np.float32]
    male: NDArray[np.float32]
    covariates: dict[str, NDArray[np.float32]]
    fs_hz: float
    patients_known: bool
    flow: tuple[tuple[str, int, int], ...]
    descriptions: dict[str, dict[str, int]]
    follow_up_years: NDArray[np.float32]
    event_times: dict[str, EventTimes] = field(default_factory=dict)
    chronology: NDArray[np.int64] | None = None
    populations: dict[str, Bools] = field(default_factory=dict)
    columns: dict[str, Floats] = field(default_factory=dict)
    record_keys: NDArray[np.uint64] | None = None
    patient_keys: NDArray[np.uint64] | None = None
    table_keys: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.patient)

    @property
    def n_patients(self) -> int:
        """Distinct patients."""
        return int(self.patient.max()) + 1 if len(self.patient) else 0

    def rows(self, *splits: Split) -> NDArray[np.int64]:
        """Return the row numbers of the named splits."""
        wanted = [SPLITS.index(split) for split in splits]
        return np.flatnonzero(np.isin(self.split, wanted))

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return signals of ``rows``, shape = (len(rows), 12, T), float32 mV."""
        return np.asarray(self.signals[rows], dtype=np.float32) / np.float32(UNITS_PER_MV)

    def subset(self, rows: NDArray[np.int64]) -> SiteData:
        """Return ``rows`` alone, patients renumbered; ``flow`` and ``descriptions`` still tell of the cohort."""
        signals = self.signals
        kept = signals.take(rows) if isinstance(signals, CachedSignals) else signals[rows]
        return replace(
            self,
            signals=kept,
            patient=np.unique(self.patient[rows], return_inverse=True)[1].astype(np.int64),
            split=self.split[rows],
            labels=self.labels[rows],
            age=self.age[rows],
            male=self.male[rows],
            covariates={name: column[rows] for name, column in self.covariates.items()},
            follow_up_years=self.follow_up_years[rows],
            event_times={name: times.take(rows) for name, times in self.event_times.items()},
            chronology=None if self.chronology is None else self.chronology[rows],
            populations={name: belongs[rows] for name, belongs in self.populations.items()},
            columns={name: column[rows] for name, column in self.columns.items()},
            record_keys=None if self.record_keys is None else self.record_keys[rows],
            patient_keys=None if self.patient_keys is None else self.patient_keys[rows],
        )

    def members(self, population: str) -> SiteData:
        """Return a population alone; the flow ends with it."""
        rows = np.flatnonzero(self.populations[population])
        line = (f"not of the population {population}", len(rows), len(np.unique(self.patient[rows])))
        return replace(self.subset(rows), flow=(*self.flow, line))

    def without_lockbox(self) -> SiteData:
        """Return what a step that may not open the lockbox sees: training and validation rows."""
        return self.subset(self.rows("train", "validation"))
