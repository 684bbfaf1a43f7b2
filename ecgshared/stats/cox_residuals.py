"""After the fit: robust errors and the baseline hazard, all from sums.

The coordinator sends the pooled hazard and the pooled mean of the covariates at each grid time; a site forms its
rows' residuals with them and returns sums only. Score residuals with Efron ties as in Therneau & Grambsch, Modeling
Survival Data (2000), section 7.1; robust covariance: Lin & Wei 1989 (doi 10.1080/01621459.1989.10478874), summed over
each patient's rows first. The test of proportional hazards is in :mod:`ecgshared.stats.cox_proportional`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.stats.cox import (
    PooledHazard,
    RiskSums,
    SurvivalRows,
    Ties,
    between,
    relative_hazard,
    tie_terms,
)
from ecgshared.stats.cox_fit import CoxFit
from ecgshared.stats.influence import by_patient


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
    borne = between(terms.hazard.increment, rows) - rows.event * terms.hazard.dying[k]
    drift = between(terms.drift, rows) - dies * terms.dying_drift[k]
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
    bread, kept = of_kept(fit)
    covariance = bread @ meat @ bread
    covariance[~np.outer(kept, kept)] = np.nan
    return replace(fit, covariance=covariance, robust=True)


def of_kept(fit: CoxFit) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the covariance with 0 where an l1 penalty left none, and which coefficients have one."""
    return np.nan_to_num(fit.covariance, nan=0.0), np.isfinite(np.diag(fit.covariance))


def baseline_cumulative_hazard(total: RiskSums, ties: Ties) -> Floats:
    """Return the cumulative hazard at each grid time of a person whose (standardised) covariates are 0, shape = (K,).

    ``total`` at the fit's coefficients. Pooled only: a single site's would tell when its patients died. "breslow" gives
    Breslow's estimator, lifelines' choice; "efron" goes with Efron's likelihood.
    """
    return np.asarray(np.cumsum(tie_terms(total, ties).one) * np.exp(-total.shift), dtype=np.float64)
