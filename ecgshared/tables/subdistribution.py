"""Fine and Gray's model over the tables of several sites, by the messages a federation would send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import CoxSums
from ecgshared.stats.cox_fit import Moments, newton_fit
from ecgshared.stats.cox_residuals import ResidualTerms, robust_fit
from ecgshared.stats.fine_gray import (
    CensoringCurve,
    SubdistributionRows,
    censoring_residuals,
    fine_gray_residuals,
    fine_gray_sums,
    subdistribution_rows,
    terms_of,
)
from ecgshared.tables.fit import Fitted, Options, Pooling, clustered_meat
from ecgshared.tables.tables import SiteTable

Censoring = Literal["pooled", "site"]
"""Whose curve of censoring weighs those with a competing event: one for all, or each site's own."""


def fit_subdistribution(
    sites: Sequence[SiteTable], names: Sequence[str], mode: Pooling, options: Options, censoring: Censoring
) -> Fitted:
    """Fit Fine and Gray's model, with one baseline ("exact") or one for each site ("stratified").

    The errors are Fine and Gray's: robust, clustered by patient where the tables name patients.

    Raises
    ------
    StatisticsError : rows enter late or have weights or strata, or as :func:`ecgshared.tables.fit.fit_sites`.
    """
    if any(site.entry is not None or site.weight is not None or (site.strata != "").any() for site in sites):
        raise StatisticsError("Fine and Gray's model takes no entry times, row weights or strata here")
    moments = Moments.total(Moments.of(site.x) for site in sites)
    moments.require_spread(names)
    causes = [_cause(site) for site in sites]
    times = [site.time for site in sites]
    if censoring == "pooled":
        curves = [CensoringCurve.of(np.concatenate(times), np.concatenate(causes))] * len(sites)
    else:
        curves = [CensoringCurve.of(time, cause) for time, cause in zip(times, causes, strict=True)]
    members = (
        [[s] for s in range(len(sites)) if sites[s].event.any()] if mode == "stratified" else [[*range(len(sites))]]
    )
    parts: dict[int, SubdistributionRows] = {}
    for group in members:
        grid = np.unique(np.concatenate([times[s][sites[s].event] for s in group]))
        for s in group:
            x = moments.standardise(sites[s].x)
            parts[s] = subdistribution_rows(x, times[s], causes[s], curves[s], grid)

    def ask(beta: Floats) -> CoxSums:
        return CoxSums.total(fine_gray_sums([parts[s] for s in group], beta, options.ties) for group in members)

    fit = newton_fit(ask, names, moments.count, penalty=options.penalty, max_rounds=options.max_rounds)
    fit.require_converged()
    terms: dict[int, ResidualTerms] = {}
    for group in members:
        terms |= dict.fromkeys(group, terms_of([parts[s] for s in group], fit.beta, options.ties))
    scores = [np.zeros(site.x.shape) for site in sites]
    for s, part in parts.items():
        scores[s] += fine_gray_residuals(part, fit.beta, terms[s], len(times[s]))
    for shared in [[*parts]] if censoring == "pooled" else [[s] for s in parts]:
        moved = censoring_residuals(
            [parts[s] for s in shared],
            [times[s] for s in shared],
            [causes[s] for s in shared],
            curves[shared[0]],
            fit.beta,
            [terms[s] for s in shared],
        )
        for s, share in zip(shared, moved, strict=True):
            scores[s] += share
    fit = robust_fit(fit, clustered_meat(scores, sites))
    return Fitted(fit.unstandardised(moments), moments, None)


def _cause(site: SiteTable) -> Ints:
    return site.event.astype(np.int64) if site.cause is None else site.cause
