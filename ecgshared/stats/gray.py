"""Gray's test: whether groups differ in the cumulative incidence of an event that others forestall.

Gray 1988 (doi 10.1214/aos/1176350951), with rho 0. The log-rank test of cause-specific hazards asks another question: a
treatment that saves from one death leaves more people to the other. Here the hazards of the subdistribution are
compared, each group's risk set being Y (1 - F) / S: those at risk and, of those with a competing event, as many as
would still be followed. The variance is that of Gray's appendix, which R's cmprsk also uses.

Sums of several strata (sites) add.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.stats.competing import COMPETING, EVENT, require_causes
from ecgshared.stats.kaplan_meier import LogRank


def gray_test(time: NDArray[Any], cause: NDArray[Any], group: NDArray[Any], n_groups: int) -> LogRank:
    """Return the sums of one stratum: events of each group, those expected, and the covariance of the difference.

    Parameters
    ----------
    time : shape = (n,). cause : shape = (n,): 0 censored, 1 the event, 2 another that forestalls it.
    group : int array, shape = (n,), 0..n_groups-1.

    Raises
    ------
    StatisticsError : see :func:`ecgshared.stats.competing.require_causes`.
    """
    time, cause = require_causes(time, cause)
    group = np.asarray(group)
    times = np.unique(time[cause != 0])
    at_risk, events, others = _counts(time, cause, group, n_groups, times)
    sums = _Sums(n_groups)
    for k in range(len(times)):
        sums.step(at_risk[:, k], events[:, k], others[:, k])
    return LogRank(events.sum(axis=1), events.sum(axis=1) - sums.excess, sums.covariance())


def _counts(time: Floats, cause: Ints, group: Ints, n_groups: int, times: Floats) -> tuple[Floats, Floats, Floats]:
    """At risk, with the event and with another, by group and time; shape = (groups, times) each."""
    found = np.zeros((3, n_groups, len(times)))
    for g in range(n_groups):
        mine = group == g
        own = np.sort(time[mine])
        found[0, g] = len(own) - np.searchsorted(own, times, side="left")
        for row, kind in ((1, EVENT), (2, COMPETING)):
            at = np.searchsorted(times, time[mine & (cause == kind)])
            found[row, g] = np.bincount(at, minlength=len(times))
    return found[0], found[1], found[2]


class _Sums:
    """Gray's sums from one time to the next; names follow the appendix. Arrays are of groups, shape = (g,) or (g, g).

    ``survival``, ``incidence`` : of each group just before the time; ``pooled`` : incidence were all groups alike.
    """

    def __init__(self, n_groups: int) -> None:
        self.excess = np.zeros(n_groups)
        self._survival, self._incidence, self._pooled = np.ones(n_groups), np.zeros(n_groups), 0.0
        self._weight = np.zeros((n_groups, n_groups))
        self._own, self._cross, self._square = np.zeros(n_groups), *(np.zeros((n_groups, n_groups)) for _ in range(2))

    def step(self, at_risk: Floats, events: Floats, others: Floats) -> None:
        """Take one time; ``at_risk``, ``events``, ``others`` : counts of each group."""
        here = at_risk > 0
        y = np.where(here, at_risk, 1.0)
        survival = np.where(here, self._survival * (y - events - others) / y, self._survival)
        size = np.where(here, at_risk / np.where(self._survival > 0, self._survival, 1.0), 0.0)
        total, all_events = float(size.sum()), float(events.sum())
        pooled = self._pooled + all_events / total
        risk_set = size * (1 - self._incidence)
        self.excess += events - (all_events * risk_set / risk_set.sum() if all_events else 0.0)
        change = np.diag(size) - np.outer(size, size) / total
        self._weight += change * all_events / (total * (1 - self._pooled))
        if all_events:
            self._of_events(here, y, size, total, all_events, survival, pooled, change)
        self._of_others(here, y, others, survival, pooled)
        self._incidence = np.where(here, self._incidence + self._survival * events / y, self._incidence)
        self._survival, self._pooled = survival, pooled

    def _of_events(
        self,
        here: NDArray[np.bool_],
        at_risk: Floats,
        size: Floats,
        total: float,
        events: float,
        survival: Floats,
        pooled: float,
        change: Floats,
    ) -> None:
        left = 1 - np.where(survival > 0, (1 - pooled) / np.where(survival > 0, survival, 1.0), 0.0)
        ties = 1 - (events - 1) / (total * self._survival - 1) if events > 1 else np.ones(len(size))
        variance = np.where(here, ties * self._survival * events / (total * at_risk), 0.0)
        self._add(change - left * self._weight, left, variance)

    def _of_others(
        self, here: NDArray[np.bool_], at_risk: Floats, others: Floats, survival: Floats, pooled: float
    ) -> None:
        told = here & (survival > 0) & (others > 0)
        left = np.where(told, (1 - pooled) / np.where(survival > 0, survival, 1.0), 0.0)
        ties = np.where(others > 1, 1 - (others - 1) / np.maximum(at_risk - 1, 1.0), 1.0)
        variance = np.where(told, ties * self._survival**2 * others / at_risk**2, 0.0)
        self._add(left * self._weight, -left, variance)

    def _add(self, share: Floats, left: Floats, variance: Floats) -> None:
        self._own += left**2 * variance
        self._cross += share * left * variance
        self._square += (share * variance) @ share.T

    def covariance(self) -> Floats:
        """Return the covariance of :attr:`excess`."""
        c = self._weight
        mixed = c @ self._cross.T
        return np.asarray(self._square + (c * self._own) @ c.T + mixed + mixed.T, dtype=np.float64)
