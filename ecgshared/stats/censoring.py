"""The chance of not being censored, for inverse weights, and what each ECG contributes to it.

Kaplan-Meier of the censoring times; where an event and a censoring fall on one day the event comes first, so
that who has the event is not at risk of censoring on that day. Weights: Graf et al. 1999 (doi
10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5), Uno et al. 2011 (doi
10.1002/sim.4154). Influence: the derivative by an ECG's weight (the infinitesimal jackknife), exact also for ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError


@dataclass(frozen=True)
class Censoring:
    """Kaplan-Meier of the censoring times of n ECGs.

    Attributes
    ----------
    times : float array, shape = (k,): distinct times at which an ECG is censored, ascending.
    at_risk, hazard : float arrays, shape = (k,): ECGs that may still be censored then, and the share that is.
    free : float array, shape = (k + 1,): the chance to be uncensored before the first, then after each of them.
    """

    times: Floats
    at_risk: Floats
    hazard: Floats
    free: Floats
    _time: Floats
    _event: NDArray[np.bool_]

    def before(self, at: NDArray[Any] | float) -> Floats:
        """Return the chance of being uncensored just BEFORE each time, shape of ``at``."""
        return np.asarray(self.free[self._before(at)], dtype=np.float64)

    def until(self, at: NDArray[Any] | float) -> Floats:
        """Return the chance of being uncensored up to and with each time, shape of ``at``."""
        return np.asarray(self.free[self._until(at)], dtype=np.float64)

    def influence(self, slope: Floats, at: Floats, *, before: bool) -> Floats:
        """Return what each ECG contributes to a statistic through these weights, shape = (n,).

        Parameters
        ----------
        slope : float array, shape = (m,): derivative of the statistic by the log of the chance at each of ``at``.
        at : float array, shape = (m,): times at which the chance was read.
        before : whether it was read by :meth:`before` (or else by :meth:`until`).
        """
        k = len(self.times)
        if not k:
            return np.zeros(len(self._time))
        index = self._before(at) if before else self._until(at)
        summed = np.bincount(index, weights=slope, minlength=k + 1)
        # A factor of the product matters to all readings after it.
        later = np.cumsum(summed[::-1])[::-1][1:]
        reached = self.hazard < 1  # nobody is left to read anything after a hazard of one
        step = np.where(reached, later / np.where(reached, self.at_risk * (1 - self.hazard), 1.0), 0.0)
        accrued = np.concatenate([[0.0], np.cumsum(step * self.hazard)])
        own = self._until(self._time)
        # An event leaves the risk set of censoring before its own day's censorings.
        at_risk_until = np.where(self._event, self._before(self._time), own)
        censored = np.where(self._event, 0.0, step[np.maximum(own - 1, 0)])
        return np.asarray(accrued[at_risk_until] - censored, dtype=np.float64)

    def _before(self, at: NDArray[Any] | float) -> NDArray[np.intp]:
        return np.asarray(np.searchsorted(self.times, at, side="left"))

    def _until(self, at: NDArray[Any] | float) -> NDArray[np.intp]:
        return np.asarray(np.searchsorted(self.times, at, side="right"))


def censoring(time: NDArray[Any], event: NDArray[Any]) -> Censoring:
    """Estimate the chance of being uncensored.

    Parameters
    ----------
    time : float array, shape = (n,), at least 0. event : 0/1 array, shape = (n,): 0 is censored.

    Raises
    ------
    StatisticsError : see :func:`require_survival`.
    """
    time, event = require_survival(time, event)
    times, censored = np.unique(time[~event], return_counts=True)
    order = np.sort(time)
    still = len(time) - np.searchsorted(order, times, side="left")
    same_day = np.searchsorted(np.sort(time[event]), times, side="right") - np.searchsorted(
        np.sort(time[event]), times, side="left"
    )
    at_risk = (still - same_day).astype(np.float64)
    hazard = censored / at_risk
    return Censoring(times, at_risk, hazard, np.concatenate([[1.0], np.cumprod(1 - hazard)]), time, event)


def require_survival(time: NDArray[Any], event: NDArray[Any]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return times and events as float and bool; raise :class:`StatisticsError` unless finite, >= 0 and 0/1."""
    time, event = np.asarray(time, dtype=np.float64), np.asarray(event)
    if time.ndim != 1 or event.shape != time.shape:
        raise StatisticsError("time and event must be vectors of one length", value=(time.shape, event.shape))
    if not len(time):
        raise StatisticsError("there is nobody to follow", value=0)
    if not np.isfinite(time).all() or (time < 0).any():
        raise StatisticsError("times must be finite and not negative", value=float(np.min(time)))
    if not np.isin(event, (0, 1)).all():
        raise StatisticsError("event must hold 0 and 1", value=np.unique(event)[:5].tolist())
    return time, event.astype(bool)
