"""A Cox model over the tables of several sites, in one process, by the messages a federation would send."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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
from ecgshared.stats.cox_proportional import (
    ProportionalHazards,
    Transform,
    TrendSums,
    proportional_hazards,
    transformed,
    trend_curvatures,
    trend_outer,
)
from ecgshared.stats.cox_residuals import residual_terms, robust_fit, score_meat, score_residuals
from ecgshared.tables.tables import SiteTable

Pooling = Literal["exact", "stratified"]


@dataclass(frozen=True)
class Options:
    """How to fit; ``grid`` coarsens times to these ends of intervals, shape = (K,).

    ``terms``: columns by the variable they come from, for tests of a whole variable; None: each column by itself.
    """

    ties: Ties = "efron"
    penalty: Penalty = field(default_factory=Penalty)
    robust: bool = False
    grid: NDArray[np.float64] | None = None
    transform: Transform = "rank"
    max_rounds: int = 30
    terms: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True)
class Fitted:
    """A fit on the covariates' own scale, and the test of proportional hazards (None where it is undefined)."""

    fit: CoxFit
    moments: Moments
    proportional: ProportionalHazards | None


@dataclass(frozen=True)
class Part:
    """Rows of one site that share a baseline hazard with the other parts of their group.

    ``index``: int array, shape = (n,): where the site's table has them.
    """

    site: int
    rows: SurvivalRows
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """All who share one baseline hazard: ``key`` is (stratum, site), the site "" where it is every site's."""

    key: tuple[str, str]
    parts: list[Part]


def fit_sites(sites: Sequence[SiteTable], names: Sequence[str], mode: Pooling, options: Options) -> Fitted:
    """Fit one model to all sites: with one baseline hazard ("exact") or one for each site ("stratified").

    Raises
    ------
    StatisticsError : covariates are constant, collinear or separate the events, or there is no event.
    """
    moments = Moments.total(Moments.of(site.x) for site in sites)
    moments.require_spread(names)
    groups = groups_of(sites, moments, mode, options.grid)

    def ask(beta: Floats) -> CoxSums:
        return CoxSums.total(pooled_sums([p.rows for p in group.parts], beta, options.ties) for group in groups)

    fit = newton_fit(ask, names, moments.count, penalty=options.penalty, max_rounds=options.max_rounds)
    fit.require_converged()
    totals = [RiskSums.total(risk_sums(p.rows, fit.beta, options.ties) for p in group.parts) for group in groups]
    proportional = _proportional(fit, sites, groups, totals, options)
    if options.robust:
        fit = robust_fit(fit, _meat(fit, sites, groups, totals, options.ties))
    return Fitted(fit.unstandardised(moments), moments, proportional)


def on_grid(site: SiteTable, grid: NDArray[np.float64] | None) -> tuple[Floats, NDArray[np.bool_]]:
    """Return a site's times and events, coarsened where a grid is given."""
    return (site.time, site.event) if grid is None else coarsen(site.time, site.event, grid)


def groups_of(
    sites: Sequence[SiteTable], moments: Moments, mode: Pooling, grid: NDArray[np.float64] | None
) -> list[Group]:
    """Return the parts of each baseline hazard: of a stratum over all sites, or of a stratum at one site."""
    timed = [on_grid(site, grid) for site in sites]
    standard = [moments.standardise(site.x) for site in sites]
    members: dict[tuple[str, str], list[tuple[int, NDArray[np.int64]]]] = {}
    for s, site in enumerate(sites):
        for level in np.unique(site.strata):
            key = (str(level), site.name if mode == "stratified" else "")
            members.setdefault(key, []).append((s, np.flatnonzero(site.strata == level)))
    groups = []
    for key, found in members.items():
        times = event_times(*(np.concatenate([timed[s][column][index] for s, index in found]) for column in (0, 1)))
        # Without an event a stratum has no risk set and adds nothing.
        if len(times):
            parts = [Part(s, _rows(sites[s], standard[s], timed[s], index, times), index) for s, index in found]
            groups.append(Group(key, parts))
    if not groups:
        raise StatisticsError("nobody has the event within the time grid", remedy="a longer grid")
    return groups


def _rows(
    site: SiteTable, x: Floats, timed: tuple[Floats, NDArray[np.bool_]], index: NDArray[np.int64], grid: Floats
) -> SurvivalRows:
    weights, entry = (None if values is None else values[index] for values in (site.weight, site.entry))
    return prepare(x[index], timed[0][index], timed[1][index], grid=grid, weights=weights, entry=entry)


def _proportional(
    fit: CoxFit, sites: Sequence[SiteTable], groups: list[Group], totals: list[RiskSums], options: Options
) -> ProportionalHazards | None:
    terms = options.terms or {str(j): [j] for j in range(len(fit.beta))}
    sums = []
    try:
        values = time_scale(sites, options)
        for group, total in zip(groups, totals, strict=True):
            terms_of = residual_terms(total, options.ties)
            g = values(group.parts[0].rows.grid)
            parts = [trend_curvatures(p.rows, fit.beta, terms_of.mean, terms_of.hazard, g) for p in group.parts]
            sums.append(TrendSums.total(parts).less(trend_outer(total, options.ties, g)))
        ridge = options.penalty.ridge(sum(len(site.time) for site in sites))
        return proportional_hazards(fit, TrendSums.total(sums), terms, ridge=ridge)
    except StatisticsError:
        return None


@dataclass(frozen=True)
class Residuals:
    """Scaled Schoenfeld residuals of each death, the coefficient added (Grambsch & Therneau 1994).

    ``g``: float array, shape = (d,), transformed times; ``scaled``: float array, shape = (d, p).
    """

    g: Floats
    scaled: Floats


def scaled_residuals(sites: Sequence[SiteTable], fitted: Fitted, mode: Pooling, options: Options) -> Residuals:
    """Return the residuals for a plot: their mean over time is the coefficient's course."""
    moments, beta = fitted.moments, fitted.fit.beta * fitted.moments.sd
    values = time_scale(sites, options)
    g, raw = [], []
    for group in groups_of(sites, moments, mode, options.grid):
        mean = residual_terms(
            RiskSums.total(risk_sums(p.rows, beta, options.ties) for p in group.parts), options.ties
        ).mean
        for part in group.parts:
            dead = np.flatnonzero(part.rows.event)
            at = part.rows.interval[dead]
            raw.append(part.rows.x[dead] - mean[at])
            g.append(values(part.rows.grid)[at])
    residual = np.concatenate(raw) / moments.sd
    # The fit's own information, not the sandwich: residuals are scaled by what one death tells.
    spread = residual.T @ residual / len(residual)
    return Residuals(np.concatenate(g), residual @ np.linalg.pinv(spread) + fitted.fit.beta)


def time_scale(sites: Sequence[SiteTable], options: Options) -> Callable[[Floats], Floats]:
    """Return the transform of event times: one scale over all sites and strata, from all their rows."""
    timed = [on_grid(site, options.grid) for site in sites]
    time, event = (np.concatenate([part[column] for part in timed]) for column in (0, 1))
    entry = None
    if any(site.entry is not None for site in sites):
        entry = np.concatenate([np.zeros(len(s.time)) if s.entry is None else s.entry for s in sites])
    g_of = transformed(time, event, options.transform, entry)
    at, first = np.unique(time[event], return_index=True)
    values = g_of[np.flatnonzero(event)[first]]
    return lambda grid: np.asarray(values[np.searchsorted(at, grid)], dtype=np.float64)


def _meat(fit: CoxFit, sites: Sequence[SiteTable], groups: list[Group], totals: list[RiskSums], ties: Ties) -> Floats:
    residuals = [np.zeros(site.x.shape) for site in sites]
    for group, total in zip(groups, totals, strict=True):
        terms = residual_terms(total, ties)
        for part in group.parts:
            residuals[part.site][part.index[part.rows.row]] = score_residuals(part.rows, fit.beta, terms)
    return clustered_meat(residuals, sites)


def clustered_meat(residuals: Sequence[Floats], sites: Sequence[SiteTable]) -> Floats:
    """Return the sum of outer products over patients; those of two sites are one where the tables say so."""
    if any(site.cluster is None for site in sites) or not sites[0].patients_shared:
        parts = [score_meat(r, site.cluster) for r, site in zip(residuals, sites, strict=True)]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float64)
    return score_meat(
        np.concatenate(residuals), np.concatenate([site.cluster for site in sites if site.cluster is not None])
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
