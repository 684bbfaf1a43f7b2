"""After the fit: robust errors, the test of proportional hazards and the baseline hazard, all from sums.

The coordinator sends the pooled hazard and the pooled mean of the covariates at each grid time; a site forms its
rows' residuals with them and returns sums only. Score residuals with Efron ties as in Therneau & Grambsch, Modeling
Survival Data (2000), section 7.1; robust covariance: Lin & Wei 1989 (doi 10.1080/01621459.1989.10478874), summed over
each patient's rows first. Proportional hazards: Grambsch & Therneau 1994 (doi 10.1093/biomet/81.3.515), in the form
with one common covariance of the residuals, as lifelines has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import (
    PooledHazard,
    RiskSums,
    SurvivalRows,
    Ties,
    relative_hazard,
    tie_terms,
)
from ecgshared.stats.cox_fit import CoxFit
from ecgshared.stats.influence import by_patient

Transform = Literal["rank", "km", "identity"]


@dataclass(frozen=True)
class ResidualTerms:
    """What a site needs of all sites for its rows' residuals; under Breslow the parts of the dying are 0.

    Attributes
    ----------
    hazard : PooledHazard, shapes (K,).
    mean : float array, shape = (K, p): mean covariates at risk, averaged over tied deaths.
    drift : float array, shape = (K, p): hazard increment times the mean it goes with.
    dying_drift : float array, shape = (K, p): the part of it that those who die then do not bear.
    """

    hazard: PooledHazard
    mean: Floats
    drift: Floats
    dying_drift: Floats


def residual_terms(total: RiskSums, ties: Ties) -> ResidualTerms:
    """Return the terms from the sums over all sites (or of one stratum), at the coefficients of the fit."""
    t, s1, d1 = tie_terms(total, ties), total.risk_wx, total.dying_wx
    weight = np.maximum(total.dying_weight, 1e-300)[:, None]
    return ResidualTerms(
        hazard=PooledHazard(t.one, t.f, total.shift),
        mean=(t.one[:, None] * s1 - t.f[:, None] * d1) / weight,
        drift=t.one2[:, None] * s1 - t.f2[:, None] * d1,
        dying_drift=t.f2[:, None] * s1 - t.ff2[:, None] * d1,
    )


def score_residuals(rows: SurvivalRows, beta: Floats, terms: ResidualTerms) -> Floats:
    """Return each row's share of the gradient, shape = (n, p), in the order of ``rows``; with the row weight."""
    w, _ = relative_hazard(rows, beta, terms.hazard.shift)
    k, dies = rows.interval, rows.event[:, None]
    borne = np.cumsum(terms.hazard.increment)[k] - rows.event * terms.hazard.dying[k]
    drift = np.cumsum(terms.drift, axis=0)[k] - dies * terms.dying_drift[k]
    return np.asarray(
        rows.weight[:, None] * dies * (rows.x - terms.mean[k]) - w[:, None] * (rows.x * borne[:, None] - drift),
        dtype=np.float64,
    )


def score_meat(residuals: Floats, cluster: NDArray[np.int64] | None = None) -> Floats:
    """Return the sum of outer products over rows, or over clusters (patients); shape = (p, p)."""
    summed = residuals if cluster is None else by_patient(residuals, cluster)
    return np.asarray(summed.T @ summed, dtype=np.float64)


def robust_fit(fit: CoxFit, meat: Floats) -> CoxFit:
    """Replace the covariance by the sandwich; ``fit`` and the sites' summed ``meat`` on the same scale."""
    bread, kept = _of_kept(fit)
    covariance = bread @ meat @ bread
    covariance[~np.outer(kept, kept)] = np.nan
    return replace(fit, covariance=covariance, robust=True)


def _of_kept(fit: CoxFit) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the covariance with 0 where an l1 penalty left none, and which coefficients have one."""
    return np.nan_to_num(fit.covariance, nan=0.0), np.isfinite(np.diag(fit.covariance))


def transformed_times(total: RiskSums, grid: Floats, transform: Transform) -> Floats:
    """Return g(t) of each grid time, shape = (K,): the mean rank of its deaths, 1 - Kaplan-Meier, or the time."""
    if transform == "identity":
        return np.asarray(grid, dtype=np.float64)
    if transform == "km":
        return np.asarray(1.0 - np.cumprod(1.0 - total.deaths / np.maximum(total.at_risk, 1)), dtype=np.float64)
    return np.asarray(np.cumsum(total.deaths) - (total.deaths - 1) / 2, dtype=np.float64)


@dataclass(frozen=True)
class SchoenfeldSums:
    """Sums over a site's deaths; those of several sites or strata add.

    Attributes
    ----------
    deaths : int.
    g, gg : float, sums of the transformed time and of its square.
    r, gr : float arrays, shape = (p,): sums of the Schoenfeld residual, and of it times the transformed time.
    """

    deaths: int
    g: float
    gg: float
    r: Floats
    gr: Floats

    @classmethod
    def total(cls, parts: Iterable[SchoenfeldSums]) -> SchoenfeldSums:
        """Add the sums of several sites."""
        items = list(parts)
        if not items:
            raise StatisticsError("no site gave sums to add")
        return cls(
            sum(s.deaths for s in items),
            float(sum(s.g for s in items)),
            float(sum(s.gg for s in items)),
            np.sum([s.r for s in items], axis=0),
            np.sum([s.gr for s in items], axis=0),
        )


def schoenfeld_sums(rows: SurvivalRows, mean: Floats, transformed: Floats) -> SchoenfeldSums:
    """Return the sums of one site.

    Parameters
    ----------
    mean : float array, shape = (K, p), of :class:`ResidualTerms`.
    transformed : float array, shape = (K,), of :func:`transformed_times`.
    """
    dead = np.flatnonzero(rows.event)
    g = transformed[rows.interval[dead]]
    residual = rows.weight[dead, None] * (rows.x[dead] - mean[rows.interval[dead]])
    return SchoenfeldSums(len(dead), float(g.sum()), float(g @ g), residual.sum(axis=0), g @ residual)


@dataclass(frozen=True)
class ProportionalHazards:
    """Chi-squared with one degree of freedom and p-value of each covariate, shapes (p,); small p: hazards cross.

    nan where an l1 penalty holds the coefficient at 0.
    """

    statistic: Floats
    p_value: Floats


def proportional_hazards(fit: CoxFit, total: SchoenfeldSums) -> ProportionalHazards:
    """Test whether log hazard ratios change with transformed time; ``fit`` on the scale of the sums' rows."""
    if fit.robust:
        raise StatisticsError("the test of proportional hazards needs the fit's own covariance, not the robust one")
    spread = total.gg - total.g**2 / max(total.deaths, 1)
    if total.deaths < 2 or not spread > 0:
        raise StatisticsError("all deaths fall on one time: hazards cannot be compared over time")
    covariance, kept = _of_kept(fit)
    trend = total.deaths * covariance @ (total.gr - total.g / total.deaths * total.r)
    statistic = np.full(len(kept), np.nan)
    statistic[kept] = trend[kept] ** 2 / (total.deaths * np.diag(covariance)[kept] * spread)
    return ProportionalHazards(statistic, np.asarray(chi2.sf(statistic, 1), dtype=np.float64))


def baseline_cumulative_hazard(total: RiskSums, ties: Ties) -> Floats:
    """Return the cumulative hazard at each grid time of a person whose (standardised) covariates are 0, shape = (K,).

    ``total`` at the fit's coefficients. Pooled only: a single site's would tell when its patients died. "breslow" gives
    Breslow's estimator, lifelines' choice; "efron" goes with Efron's likelihood.
    """
    return np.asarray(np.cumsum(tie_terms(total, ties).one) * np.exp(-total.shift), dtype=np.float64)
