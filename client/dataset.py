"""What a site's handlers compute on: the cohort's arrays and the cached signals, row by row the same order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgshared.stages.protocol import SPLITS, Split

UNITS_PER_MV = 1000.0
"""Signals are cached as int16 microvolts."""


@dataclass(frozen=True)
class SiteData:
    """One site's eligible ECGs.

    Attributes
    ----------
    signals : int16 array or memory map, shape = (n, 12, T), microvolts.
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
    descriptions : counts by name, e.g. {"device": {"CS-12": 40}, "fs": {"500": 40}}.
    follow_up_years : float array, shape = (n,): from ECG to last known status, NaN where unknown.
    """

    signals: NDArray[np.int16]
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

    def rows(self, *splits: Split) -> NDArray[np.int64]:
        """Return the row numbers of the named splits."""
        wanted = [SPLITS.index(split) for split in splits]
        return np.flatnonzero(np.isin(self.split, wanted))

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return signals of ``rows``, shape = (len(rows), 12, T), float32 mV."""
        return np.asarray(self.signals[rows], dtype=np.float32) / np.float32(UNITS_PER_MV)
