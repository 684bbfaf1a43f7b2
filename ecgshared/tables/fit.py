"""A Cox model over the tables of several sites, in one process, by the messages a federation would send."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import (
    CoxSums,
    RiskSums,
    SurvivalRows,
    Ties,
    coarsen,
    event_times,
    pooled_sums,
    prepare,
    risk_sums,
)
from ecgshared.stats.cox_fit import CoxFit, Moments, Penalty, newton_fit
from ecgshared.stats.cox_residuals import (
    ProportionalHazards,
    SchoenfeldSums,
    Transform,
    proportional_hazards,
    residual_terms,
    robust_fit,
    schoenfeld_sums,
    score_meat,
    score_residuals,
    transformed_times,
)
from ecgshared.tables.tables import SiteTable

Pooling = Literal["exact", "stratified"]


@dataclass(frozen=True)
class Options:
    """How to fit; ``grid`` coarsens times to these ends of intervals, shape = (K,)."""

    ties: Ties = "efron"
    penalty: Penalty = field(default_factory=Penalty)
    robust: bool = False
    grid: NDArray[np.float64] | None = None
    transform: Transform = "rank"
    max_rounds: int = 30


@dataclass(frozen=True)
class Fitted:
    """A fit on the covariates' own scale, and the test of proportional hazards (None where it is undefined)."""

    fit: CoxFit
    moments: Moments
    proportional: ProportionalHazards | None


@dataclass(frozen=True)
class _Part:
    """Rows of one site that share a baseline hazard with the other parts of their group."""

    site: int
    rows: SurvivalRows
    index: NDArray[np.int64]


def fit_sites(sites: Sequence[SiteTable], names: Sequence[str], mode: Pooling, options: Options) -> Fitted:
    """Fit one model to all sites: with one baseline hazard ("exact") or one for each site ("stratified").

    Raises
    ------
    StatisticsError : covariates are constant, collinear or separate the events, or there is no event.
    """
    moments = Moments.total(Moments.of(site.x) for site in sites)
    moments.require_spread(names)
    groups = _groups(sites, moments, mode, options)

    def ask(beta: Floats) -> CoxSums:
        return CoxSums.total(pooled_sums([part.rows for part in group], beta, options.ties) for group in groups)

    fit = newton_fit(ask, names, moments.count, penalty=options.penalty, max_rounds=options.max_rounds)
    fit.require_converged()
    totals = [RiskSums.total(risk_sums(p.rows, fit.beta, options.ties) for p in group) for group in groups]
    proportional = _proportional(fit, groups, totals, options)
    if options.robust:
        fit = robust_fit(fit, _meat(fit, sites, groups, totals, options.ties))
    return Fitted(fit.unstandardised(moments), moments, proportional)


def _groups(sites: Sequence[SiteTable], moments: Moments, mode: Pooling, options: Options) -> list[list[_Part]]:
    """Return the parts of each baseline hazard: of a stratum over all sites, or of a stratum at one site."""
    timed = [
        (site.time, site.event) if options.grid is None else coarsen(site.time, site.event, options.grid)
        for site in sites
    ]
    standard = [moments.standardise(site.x) for site in sites]
    members: dict[tuple[str, int], list[tuple[int, NDArray[np.int64]]]] = {}
    for s, site in enumerate(sites):
        for level in np.unique(site.strata):
            key = (str(level), s if mode == "stratified" else -1)
            members.setdefault(key, []).append((s, np.flatnonzero(site.strata == level)))
    groups = []
    for parts in members.values():
        grid = event_times(*(np.concatenate([timed[s][column][index] for s, index in parts]) for column in (0, 1)))
        # Without an event a stratum has no risk set and adds nothing.
        if len(grid):
            groups.append(
                [
                    _Part(s, prepare(standard[s][index], timed[s][0][index], timed[s][1][index], grid=grid), index)
                    for s, index in parts
                ]
            )
    if not groups:
        raise StatisticsError("nobody has the event within the time grid", remedy="a longer grid")
    return groups


def _proportional(
    fit: CoxFit, groups: list[list[_Part]], totals: list[RiskSums], options: Options
) -> ProportionalHazards | None:
    sums = []
    for group, total in zip(groups, totals, strict=True):
        mean = residual_terms(total, options.ties).mean
        for part in group:
            sums.append(schoenfeld_sums(part.rows, mean, transformed_times(total, part.rows.grid, options.transform)))
    try:
        return proportional_hazards(fit, SchoenfeldSums.total(sums))
    except StatisticsError:
        return None


def _meat(
    fit: CoxFit, sites: Sequence[SiteTable], groups: list[list[_Part]], totals: list[RiskSums], ties: Ties
) -> Floats:
    residuals = [np.zeros(site.x.shape) for site in sites]
    for group, total in zip(groups, totals, strict=True):
        terms = residual_terms(total, ties)
        for part in group:
            residuals[part.site][part.index[part.rows.row]] = score_residuals(part.rows, fit.beta, terms)
    return np.asarray(
        np.sum([score_meat(r, site.cluster) for r, site in zip(residuals, sites, strict=True)], axis=0),
        dtype=np.float64,
    )


def fit_local(site: SiteTable, names: Sequence[str], options: Options) -> tuple[CoxFit, list[str]]:
    """Fit one site by itself with lifelines; returns the fit and what lifelines warned of.

    Raises
    ------
    StatisticsError : lifelines could not fit it.
    """
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    moments = Moments.of(site.x)
    moments.require_spread(names)
    if not site.event.any():
        raise StatisticsError("nobody has the event")
    time, event = (site.time, site.event) if options.grid is None else coarsen(site.time, site.event, options.grid)
    frame = pd.DataFrame(site.x, columns=list(names)).assign(_time=time, _event=event, _strata=site.strata)
    if site.cluster is not None:
        frame["_cluster"] = site.cluster
    fitter = CoxPHFitter(penalizer=options.penalty.penalizer, l1_ratio=options.penalty.l1_ratio)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fitter.fit(
                frame,
                "_time",
                "_event",
                strata=["_strata"],
                robust=options.robust,
                cluster_col="_cluster" if site.cluster is not None else None,
                fit_options={"precision": 1e-14, "r_precision": 1e-14},
            )
        except (ConvergenceError, ValueError, np.linalg.LinAlgError) as error:
            raise StatisticsError(
                "lifelines found no fit", value=str(error).split("\n")[0][:200], remedy="set penalizer above 0"
            ) from error
    beta = fitter.params_.to_numpy()
    penalty = options.penalty.value(beta * moments.sd, len(frame))
    fit = CoxFit(
        beta,
        fitter.variance_matrix_.to_numpy() if not options.robust else np.diag(fitter.standard_errors_.to_numpy() ** 2),
        float(fitter.log_likelihood_) + penalty,
        float(fitter._ll_null_),
        penalty,
        int(event.sum()),
        0,
        True,
        robust=options.robust,
    )
    return fit, [str(w.message).split("\n")[0] for w in caught if not issubclass(w.category, FutureWarning)]
