"""The survival curve of a group of this site's ECGs, at the times at which it may be told."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.competing import cumulative_incidence
from ecgshared.stats.kaplan_meier import releasable_times


def told_curve(
    years: Floats,
    observed: Bools,
    cause: NDArray[np.int64],
    patient: Ints,
    times: Floats,
    limits: DisclosureLimits,
    leavers: int,
) -> Floats:
    """Return 1 - the cumulative incidence (Aalen-Johansen), the error of its logarithm and the ECGs still followed.

    Parameters
    ----------
    years, observed, cause, patient : shape = (n,), n > 0. times : shape = (T,), ascending.
    leavers : patients who must leave between two times told.

    Returns
    -------
    shape = (T, 3), NaN at a time that may not be told.
    """
    may = releasable_times(years, observed, patient, times, limits, leavers)
    curve = cumulative_incidence(years, cause, times, patient=patient)
    free = 1 - curve.risk
    with np.errstate(divide="ignore", invalid="ignore"):
        log_se = np.where(free > 0, curve.se / free, np.nan)
    still = len(years) - np.searchsorted(np.sort(years), times, side="right")
    table = np.stack([free, log_se, still.astype(np.float64)], axis=1)
    table[~np.isin(times, may)] = np.nan
    return table
