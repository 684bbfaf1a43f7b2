"""The test of proportional hazards: does a log hazard ratio change with time?

The score test of adding x g(t) to the model for every covariate x, at the fitted coefficients: Grambsch & Therneau 1994
(doi 10.1093/biomet/81.3.515) without their approximation of one common covariance of the residuals, as R's cox.zph has
it since survival 3.0. g is ONE function of time for all sites and strata: ranked within each, differences between sites
would look like time.

All of it is sums: the score, and the information with each death weighing g and g squared. A site that knows the pooled
hazard at each grid time (or has a baseline hazard of its own) forms its part of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import (
    PooledHazard,
    RiskSums,
    SurvivalRows,
    Ties,
    curvature,
    outer_terms,
    tie_terms,
)
from ecgshared.stats.cox_fit import CoxFit
from ecgshared.stats.cox_residuals import of_kept

Transform = Literal["rank", "km", "identity", "log"]
GLOBAL = "GLOBAL"
"""Name of the line that tests all covariates together, as in R."""


def transformed(
    time: NDArray[Any], event: NDArray[Any], transform: Transform, entry: NDArray[Any] | None = None
) -> Floats:
    """Return g of each row's time, shape = (n,), from the rows of ALL sites.

    "rank": among all rows, ties share the mean; "km": 1 - Kaplan-Meier just before; the time itself, or its logarithm.

    Raises
    ------
    StatisticsError : the logarithm of a time of 0.
    """
    time, event = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=bool)
    if transform == "identity":
        return time
    if transform == "log":
        if (time[event] <= 0).any():
            raise StatisticsError(
                "somebody has the event at time 0, which has no logarithm", remedy="another transform"
            )
        return np.asarray(np.log(np.maximum(time, np.finfo(float).tiny)), dtype=np.float64)
    if transform == "rank":
        return np.asarray(rankdata(time), dtype=np.float64)
    times, deaths = np.unique(time[event], return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), times, side="left")
    if entry is not None:
        at_risk = at_risk - (len(time) - np.searchsorted(np.sort(np.asarray(entry)), times, side="left"))
    survival = np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)])
    return np.asarray(1 - survival[np.searchsorted(times, time, side="left")], dtype=np.float64)


@dataclass(frozen=True)
class TrendSums:
    """Sums of one site, or of all: those of several sites or strata add.

    Attributes
    ----------
    deaths : int.
    g : float, sum of the transformed time over deaths.
    score, trend : float arrays, shape = (p,): sums of the Schoenfeld residual, and of it times the transformed time.
    information, square : float arrays, shape = (p, p): the information with deaths weighing g, and g squared.
    """

    deaths: int
    g: float
    score: Floats
    trend: Floats
    information: Floats
    square: Floats

    @classmethod
    def total(cls, parts: Iterable[TrendSums]) -> TrendSums:
        """Add the sums of several sites."""
        items = list(parts)
        if not items:
            raise StatisticsError("no site gave sums to add")
        return cls(
            sum(s.deaths for s in items),
            float(sum(s.g for s in items)),
            *(
                np.sum([getattr(s, name) for s in items], axis=0)
                for name in ("score", "trend", "information", "square")
            ),
        )

    def less(self, outer: tuple[Floats, Floats]) -> TrendSums:
        """Return the sums with curvatures of all rows turned into information; see :func:`trend_outer`."""
        return TrendSums(
            self.deaths, self.g, self.score, self.trend, self.information - outer[0], self.square - outer[1]
        )


def trend_curvatures(rows: SurvivalRows, beta: Floats, mean: Floats, hazard: PooledHazard, g: Floats) -> TrendSums:
    """Return one site's part, its matrices still curvatures: :func:`trend_outer` of all sites is to be taken off.

    Parameters
    ----------
    mean : float array, shape = (K, p), of ``cox_residuals.ResidualTerms``. hazard : of all who share the baseline.
    g : float array, shape = (K,): the transformed time at each grid time.
    """
    dead = np.flatnonzero(rows.event)
    at = rows.interval[dead]
    residual = rows.weight[dead, None] * (rows.x[dead] - mean[at])
    first, second = (
        curvature(rows, beta, PooledHazard(factor * hazard.increment, factor * hazard.dying, hazard.shift))
        for factor in (g, g * g)
    )
    return TrendSums(len(dead), float(g[at].sum()), residual.sum(axis=0), g[at] @ residual, first, second)


def trend_outer(total: RiskSums, ties: Ties, g: Floats) -> tuple[Floats, Floats]:
    """Return what the summed curvatures of a shared baseline are more than the information, for g and g squared."""
    terms = tie_terms(total, ties)
    return outer_terms(total, terms.times(g)), outer_terms(total, terms.times(g * g))


@dataclass(frozen=True)
class ProportionalHazards:
    """Chi-squared, degrees of freedom and p-value of each line, the last one :data:`GLOBAL`; small p: hazards cross.

    nan where an l1 penalty holds the coefficients of a line at 0.
    """

    names: tuple[str, ...]
    statistic: Floats
    degrees: Ints
    p_value: Floats


def proportional_hazards(
    fit: CoxFit, total: TrendSums, terms: Mapping[str, Sequence[int]], *, ridge: float = 0.0
) -> ProportionalHazards:
    """Test each term (the columns of one variable) and all together.

    Parameters
    ----------
    fit : on the scale of the sums' rows, with the fit's own covariance. ridge : of its penalty, ``Penalty.ridge``.
    terms : columns by name.

    Raises
    ------
    StatisticsError : all deaths fall on one time, or the covariance is a robust one.
    """
    if fit.robust:
        raise StatisticsError("the test of proportional hazards needs the fit's own covariance, not the robust one")
    covariance, kept = of_kept(fit)
    p, centre = len(kept), total.g / max(total.deaths, 1)
    inverse = np.zeros((p, p))
    inverse[np.ix_(kept, kept)] = np.linalg.inv(covariance[np.ix_(kept, kept)])
    information = inverse - ridge * np.diag(kept.astype(np.float64))
    # The test does not depend on where g is 0, its rounding does.
    score = total.trend - centre * total.score
    cross = total.information - centre * information
    square = total.square - 2 * centre * total.information + centre**2 * information
    spread = square - cross.T @ covariance @ cross
    if (
        total.deaths < 2
        or not kept.any()
        or not (np.diag(spread)[kept] > 1e-10 * np.abs(np.diag(total.square))[kept]).all()
    ):
        raise StatisticsError("all deaths fall on one time: hazards cannot be compared over time")
    lines = {name: [j for j in columns if kept[j]] for name, columns in terms.items()}
    lines[GLOBAL] = [int(j) for j in np.flatnonzero(kept)]
    statistic = np.full(len(lines), np.nan)
    for i, columns in enumerate(lines.values()):
        if len(columns):
            block = np.ix_(columns, columns)
            statistic[i] = score[columns] @ np.linalg.solve(spread[block], score[columns])
    degrees = np.array([len(columns) for columns in lines.values()], dtype=np.int64)
    return ProportionalHazards(tuple(lines), statistic, degrees, np.asarray(chi2.sf(statistic, np.maximum(degrees, 1))))
