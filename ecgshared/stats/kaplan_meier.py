"""Kaplan-Meier curves, the log-rank test, and what of a curve may leave a hospital.

Kaplan & Meier 1958 (doi 10.1080/01621459.1958.10501452); variance of Greenwood 1926, which with one ECG a
patient is exactly the infinitesimal jackknife's, and is clustered by patient where there are several; intervals
symmetric in log(-log S), Kalbfleisch & Prentice 1980. Log-rank: Mantel 1966, with the hypergeometric variance; the
sums of several sites add to the test stratified by site.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.censoring import require_survival
from ecgshared.stats.influence import CONFIDENCE, by_patient


@dataclass(frozen=True)
class Curve:
    """Survival at given times; arrays of shape = (k,).

    Attributes
    ----------
    time : ascending. at_risk : ECGs followed longer than this. survival : chance to be free of the event until then.
    log_se : standard error of log S. low, high : 95% interval; NaN where nobody had the event, or all had.
    """

    time: Floats
    at_risk: Floats
    survival: Floats
    log_se: Floats
    low: Floats
    high: Floats


def kaplan_meier(
    time: NDArray[Any], event: NDArray[Any], at: NDArray[Any] | None = None, *, patient: Ints | None = None
) -> Curve:
    """Estimate survival.

    Parameters
    ----------
    time : float array, shape = (n,). event : 0/1, shape = (n,).
    at : float array, shape = (k,), ascending: where the curve is read; None takes the times of events.
    patient : shape = (n,): clusters the errors; None counts each ECG as a patient of its own.
    """
    time, event = require_survival(time, event)
    times, at_risk, deaths = _table(time, event)
    at = times if at is None else np.asarray(at, dtype=np.float64)
    index = np.searchsorted(times, at, side="right")
    hazard = deaths / at_risk
    survival = np.concatenate([[1.0], np.cumprod(1 - hazard)])[index]
    with np.errstate(divide="ignore"):
        if patient is None:
            spread = np.concatenate([[0.0], np.cumsum(deaths / (at_risk * (at_risk - deaths)))])[index]
        else:
            spread = np.array([float(share @ share) for share in _log_influence(time, event, at, patient)])
    spread = np.where(survival > 0, spread, np.nan)
    log_se = np.sqrt(spread)
    low, high = log_log_interval(survival, log_se)
    followed = len(time) - np.searchsorted(np.sort(time), at, side="right")
    return Curve(at, followed.astype(np.float64), survival, log_se, low, high)


def log_survival_influence(time: NDArray[Any], event: NDArray[Any], at: float) -> Floats:
    """Return the derivative of log S(at) by each ECG's weight, shape = (n,)."""
    time, event = require_survival(time, event)
    times, at_risk, deaths = _table(time, event)
    inside = times <= at
    times, at_risk, deaths = times[inside], at_risk[inside], deaths[inside]
    step = np.where(at_risk > deaths, 1.0 / np.where(at_risk > deaths, at_risk - deaths, 1.0), 0.0)
    accrued = np.concatenate([[0.0], np.cumsum(step * deaths / at_risk)])
    place = np.searchsorted(times, time, side="right")
    own = event & (time <= at)
    return np.asarray(accrued[place] - np.where(own, np.append(step, 0.0)[np.maximum(place - 1, 0)], 0.0))


def _log_influence(time: Floats, event: NDArray[np.bool_], at: Floats, patient: Ints) -> Iterable[Floats]:
    return (by_patient(log_survival_influence(time, event, float(t)), patient) for t in at)


def _table(time: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    times, deaths = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), times, side="left")
    return times, at_risk.astype(np.float64), deaths.astype(np.float64)


def log_log_interval(survival: Floats, log_se: Floats) -> tuple[Floats, Floats]:
    """Return the 95% interval symmetric in log(-log S), shape = (k,) each; NaN where S is 0, 1 or unknown."""
    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    open_ = (survival > 0) & (survival < 1)
    log_s = np.log(np.where(open_, survival, 0.5))
    half = z * log_se / np.abs(log_s)
    centre = np.log(-log_s)
    low = np.where(open_, np.exp(-np.exp(centre + half)), np.nan)
    return low, np.where(open_, np.exp(-np.exp(centre - half)), np.nan)


@dataclass(frozen=True)
class LogRank:
    """Sums of the log-rank test of g groups; those of several sites (strata) add.

    Attributes
    ----------
    observed, expected : float arrays, shape = (g,): events, and those expected were all groups alike.
    covariance : float array, shape = (g, g), of observed less expected.
    """

    observed: Floats
    expected: Floats
    covariance: Floats

    @classmethod
    def total(cls, parts: Iterable[LogRank]) -> LogRank:
        """Add the sums of several sites: the test stratified by site."""
        items = list(parts)
        if not items:
            raise StatisticsError("no site gave sums to add")
        return cls(*(np.sum([getattr(s, name) for s in items], axis=0) for name in cls.__dataclass_fields__))

    @property
    def statistic(self) -> float:
        """Chi-squared with :attr:`degrees` degrees of freedom."""
        excess = self.observed - self.expected
        values, vectors = np.linalg.eigh(self.covariance)
        real = values > self._rounding
        return float(((vectors[:, real].T @ excess) ** 2 / values[real]).sum())

    @property
    def degrees(self) -> int:
        """Groups that could differ, less one."""
        return int((np.linalg.eigvalsh(self.covariance) > self._rounding).sum())

    @property
    def p(self) -> float:
        """Chance of so large a statistic were all groups alike; NaN with a single group."""
        return float(chi2.sf(self.statistic, self.degrees)) if self.degrees else np.nan

    @property
    def _rounding(self) -> float:
        return 1e-10 * max(float(self.expected.sum()), 1.0)


def log_rank(time: NDArray[Any], event: NDArray[Any], group: NDArray[Any], n_groups: int) -> LogRank:
    """Return the sums of one site.

    Parameters
    ----------
    time, event : shape = (n,). group : int array, shape = (n,), 0..n_groups-1.
    """
    time, event = require_survival(time, event)
    group = np.asarray(group)
    times, at_risk, deaths = _table(time, event)
    of_group = np.empty((n_groups, len(times)))
    observed = np.empty(n_groups)
    for g in range(n_groups):
        mine = np.sort(time[group == g])
        of_group[g] = len(mine) - np.searchsorted(mine, times, side="left")
        observed[g] = float((event & (group == g)).sum())
    share = of_group / at_risk
    spread = np.where(at_risk > 1, deaths * (at_risk - deaths) / np.maximum(at_risk - 1, 1), 0.0)
    covariance = np.diag((share * spread).sum(axis=1)) - (share * spread) @ share.T
    return LogRank(observed, share @ deaths, covariance)


def releasable_times(
    time: NDArray[Any], event: NDArray[Any], patient: Ints, grid: NDArray[Any], limits: DisclosureLimits, leavers: int
) -> Floats:
    """Choose the times of ``grid`` at which a curve may leave a hospital.

    Two neighbouring numbers of a curve tell who left between them. So between two chosen times at least ``leavers``
    patients leave (by event or censoring), and as many are still free of the event at the last; none is chosen where
    the group does not meet ``limits``, or where patients with the event by the last chosen time are fewer than its
    ``min_events``. Under limits that withhold nothing every time that someone reaches is chosen.

    Parameters
    ----------
    time, event, patient : shape = (n,). grid : float array, ascending.
    """
    time, event = require_survival(time, event)
    grid = np.asarray(grid, dtype=np.float64)
    if limits.withhold_nothing:
        return np.asarray(grid[grid <= time.max()], dtype=np.float64)
    if len(np.unique(patient)) < limits.min_patients:
        return grid[:0]
    needed = max(leavers, 1)

    def leaving(after: float, until: float) -> int:
        return len(np.unique(patient[(time > after) & (time <= until)]))

    # From the last time backwards: the end of a curve is what it is read for. Where follow-up is cut at its end, those
    # who are censored there are still free of the event.
    chosen: list[float] = []
    for edge in grid[::-1]:
        free = (time > edge) | ((time == edge) & ~event)
        beyond = leaving(edge, chosen[0]) if chosen else len(np.unique(patient[free]))
        if beyond >= needed and leaving(-np.inf, edge) >= needed:
            chosen.insert(0, float(edge))
    if chosen and len(np.unique(patient[event & (time <= chosen[-1])])) < limits.min_events:
        return grid[:0]
    return np.array(chosen)
