"""Rates of two groups of ECGs compared, which may share ECGs and patients; errors clustered by patient.

A patient's influence on the difference is the sum over the patient's ECGs of (y - rate) / ECGs of the first group, less
the same of the second: what the groups share cancels as it should. The error is itself an estimate; Student's t has
as many degrees of freedom as patients decide it, less one (:mod:`ecgshared.stats.regression`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.influence import Estimate, by_patient
from ecgshared.stats.regression import decided_estimate, decided_p, deciding_patients
from ecgshared.stats.small_samples import few_events


def rate_difference_influence(
    y: NDArray[Any], groups: tuple[Bools, Bools], rates: tuple[float, float], ecgs: tuple[float, float]
) -> Floats:
    """Return each ECG's influence on the difference of two (pooled) rates, shape = (n,).

    Parameters
    ----------
    y : 0/1, shape = (n,). groups : bool arrays, shape = (n,). ecgs : (pooled) sizes; a group of none has no influence.
    """
    found = np.zeros(len(y))
    for sign, inside, rate, n in zip((1.0, -1.0), groups, rates, ecgs, strict=True):
        if n > 0:
            found += sign * inside * (np.asarray(y, dtype=np.float64) - rate) / n
    return found


def difference_estimate(
    value: float, squares: float, fourths: float, patients: float, event_patients: float
) -> tuple[Estimate, float]:
    """Return the difference with its interval, and P of none, from (pooled) sums over patients.

    Parameters
    ----------
    squares, fourths : of influence. patients : in either group.
    event_patients : with the event, in the group that has fewer; few bear no interval.
    """
    if not (squares > 0 and patients >= 2):
        return Estimate(value, np.nan, np.nan, np.nan), np.nan
    se = float(np.sqrt(squares * patients / (patients - 1)))
    if few_events(event_patients):
        return Estimate(value, se, np.nan, np.nan), np.nan
    deciding = float(deciding_patients(np.array([squares]), np.array([fourths]))[0])
    return decided_estimate(value, se, deciding), decided_p(value, se, deciding)


def rate_difference(y: NDArray[Any], first: Bools, second: Bools, patient: Ints) -> Floats:
    """Return the first group's rate less the second's at one site: value, se, low, high and P, shape = (5,).

    Raises
    ------
    StatisticsError : a group is empty.
    """
    sizes = float(first.sum()), float(second.sum())
    if not min(sizes) > 0:
        raise StatisticsError("a rate needs a group with ECGs", value=sizes)
    case = np.asarray(y) == 1
    rates = float(case[first].mean()), float(case[second].mean())
    each = by_patient(rate_difference_influence(y, (first, second), rates, sizes), patient)
    people = len(np.unique(patient[first | second]))
    fewest = min(len(np.unique(patient[group & case])) for group in (first, second))
    found, p = difference_estimate(
        rates[0] - rates[1], float(each @ each), float((each**4).sum()), float(people), float(fewest)
    )
    return np.append(found.as_array(), p)
