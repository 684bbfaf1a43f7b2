"""survival, at the site: who takes part, sums at given coefficients, the site's own fit, and what the pooled baseline
needs."""

from __future__ import annotations

import numpy as np

from client.rows import subdistribution
from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.cut_sets import open_times
from client.rows.followed import followed_rows
from client.rows.question import ModelQuestion, on_grid, read_question, survival_step, too_small
from client.rows.risk import received
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import group_size, release_partition
from ecgshared.stages.survival import (
    SPREAD_EDGES,
    BaselineSums,
    Cohort,
    Curvature,
    IntervalSums,
    NewtonSums,
    ResidualSums,
    SingleFit,
    Spread,
    cox_limits,
)
from ecgshared.stats.competing import cumulative_incidence
from ecgshared.stats.cox import PooledHazard, RiskSums, curvature, prepare, risk_sums, stratified_sums
from ecgshared.stats.cox_disclosure import servable
from ecgshared.stats.cox_fit import Moments, newton_fit
from ecgshared.stats.cox_proportional import trend_curvatures, trend_outer
from ecgshared.stats.cox_residuals import ResidualTerms, residual_terms, score_meat, score_residuals
from ecgshared.stats.kaplan_meier import releasable_times
from ecgshared.wire.protocol import Answer, Evidence, Request


def cohort(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``cohort``."""
    step = survival_step(site)
    # Inputs may come from weights that were sent: other weights are another question about the same people.
    spend(site, request, request.phase, cap=step.questions(request.phase))
    followed = followed_rows(site, step, request.arrays, site.data.rows(*step.splits))
    limits = site.settings.limits
    reason = followed.reason or too_small(followed, step, limits)
    size = group_size(followed.patient, followed.observed)
    p, edges = followed.x.shape[1], step.grid_edges if step.mode == "exact" else np.zeros(0)
    moments = Moments.of(followed.x) if not reason else None
    unknown = np.full(p, np.nan)
    can = np.full((len(edges), len(edges)), np.nan)
    if not reason and len(edges):
        args = (followed.years, followed.observed, followed.patient, edges, cox_limits(limits))
        can = servable(*args, n_covariates=p, rounds=step.rounds_in_all()).astype(np.float64)
    patients, events = (
        (float(len(np.unique(followed.patient))), float(len(np.unique(followed.patient[followed.observed]))))
        if site.data.patients_known
        else (np.nan, np.nan)
    )
    whole = Evidence(np.array(size.patients), np.array(size.events))
    # Moments of a group that may send no sums stay as well.
    fit_to_sum = whole if not reason else Evidence(np.array(0))
    return Answer(
        Cohort(
            reason=reason,
            patients_known=int(site.data.patients_known),
            counts=np.array([len(followed), patients, followed.observed.sum(), events], dtype=np.float64),
            left_out=np.array([len(followed.without_time), len(followed.without_input)], dtype=np.float64),
            missing=followed.missing.astype(np.float64),
            mean=unknown if moments is None else moments.mean,
            sd=unknown if moments is None else moments.sd,
            servable=can,
        ),
        {
            "counts": whole,
            "left_out": Evidence(
                np.array([len(np.unique(followed.without_time)), len(np.unique(followed.without_input))])
            ),
            "missing": Evidence(followed.missing_patients),
            **dict.fromkeys(("mean", "sd", "servable"), fit_to_sum),
        },
    )


def newton(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``newton``: the stratified sums."""
    asked = read_question(site, request)
    if asked.step.hazard == "subdistribution":
        sums = subdistribution.sums(asked)
    else:
        sums = stratified_sums(asked.rows, asked.coef, asked.step.ties)
    fields = ("log_likelihood", "gradient", "hessian")
    payload = NewtonSums(np.array([sums.log_likelihood]), sums.gradient, sums.hessian)
    return Answer(payload, dict.fromkeys(fields, asked.evidence))


def risk(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``risk``: sums by interval of the common grid."""
    asked = on_grid(read_question(site, request))
    sums = risk_sums(asked.rows, asked.coef, asked.step.ties)
    payload = IntervalSums(
        shift=np.array([sums.shift]),
        leavers=sums.leavers.astype(np.float64),
        deaths=sums.deaths.astype(np.float64),
        **{
            name: getattr(sums, name)
            for name in ("leaving_w", "leaving_wx", "dying_w", "dying_wx", "dying_weight", "death_x")
        },
    )
    return Answer(payload, dict.fromkeys(RiskSums.__dataclass_fields__, asked.evidence))


def hessian_part(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``curvature``."""
    asked = on_grid(read_question(site, request))
    hazard = _pooled_hazard(asked, request)
    return Answer(Curvature(curvature(asked.rows, asked.coef, hazard)), {"hessian": asked.evidence})


def _pooled_hazard(asked: ModelQuestion, request: Request) -> PooledHazard:
    k = len(asked.rows.grid)
    hazard = PooledHazard(
        received(request, "increment", (k,)),
        received(request, "dying", (k,)),
        float(received(request, "shift", (1,))[0]),
    )
    # No hazard where patients of this site die is none of all sites' hazards: it would single out other intervals.
    died = np.bincount(asked.rows.interval[asked.rows.event], minlength=k) > 0
    if (hazard.increment < 0).any() or (hazard.dying < 0).any() or (hazard.increment[died] <= 0).any():
        raise Refused(RefusalCode.BAD_REQUEST, "a hazard is negative, or missing where patients here died")
    return hazard


def residuals(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``residuals``; in the exact mode the terms of all sites come with the request."""
    asked = read_question(site, request)
    ties = asked.step.ties
    if asked.step.hazard == "subdistribution":
        return _subdistribution_residuals(asked)
    own = risk_sums(asked.rows, asked.coef, ties) if asked.grid is None else None
    if own is not None:
        terms = residual_terms(own, ties)
    else:
        asked = on_grid(asked)
        k, p = len(asked.rows.grid), len(asked.coef)
        terms = ResidualTerms(
            _pooled_hazard(asked, request),
            *(received(request, name, (k, p)) for name in ("mean_at_risk", "drift", "dying_drift")),
        )
    meat = score_meat(score_residuals(asked.rows, asked.coef, terms), asked.followed.patient[asked.rows.row])
    # Time in years is one scale for all sites; ranks within a site would make differences between sites look like time.
    years = asked.rows.grid
    over_time = trend_curvatures(asked.rows, asked.coef, terms.mean, terms.hazard, years)
    if own is not None:
        over_time = over_time.less(trend_outer(own, ties, years))
    payload = ResidualSums(
        meat=meat,
        times=np.array([over_time.deaths, over_time.g], dtype=np.float64),
        residual=over_time.score,
        residual_time=over_time.trend,
        curvature_time=over_time.information,
        curvature_square=over_time.square,
    )
    return Answer(payload, dict.fromkeys(ResidualSums.__dataclass_fields__, asked.evidence))


def _subdistribution_residuals(asked: ModelQuestion) -> Answer:
    """The meat alone: the test of proportional hazards is one of Cox's model, and its sums are none."""
    p = len(asked.coef)
    nothing = np.zeros((p, p))
    payload = ResidualSums(
        meat=subdistribution.meat(asked.x, asked.followed, asked.coef, asked.step.ties),
        times=np.zeros(2),
        residual=np.zeros(p),
        residual_time=np.zeros(p),
        curvature_time=nothing,
        curvature_square=nothing,
    )
    return Answer(payload, dict.fromkeys(ResidualSums.__dataclass_fields__, asked.evidence))


def single(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``single``: the site fits by itself, its errors clustered by patient where the step says so."""
    asked = read_question(site, request, coef=False)
    p = asked.x.shape[1]
    coef, se, problem = np.full(p, np.nan), np.full(p, np.nan), ""
    rows = prepare(asked.x, asked.followed.years, asked.followed.observed)
    ties = asked.step.ties
    whole = asked.step.hazard == "subdistribution"
    try:
        if whole:
            fit = subdistribution.own_fit(asked)
        else:
            fit = newton_fit(
                lambda beta: stratified_sums(rows, beta, ties),
                [str(j) for j in range(p)],
                len(asked.x),
                tolerance=asked.step.tolerance,
                max_rounds=50,
            )
        if fit.converged:
            covariance = fit.covariance
            if whole:
                covariance = covariance @ subdistribution.meat(asked.x, asked.followed, fit.beta, ties) @ covariance
            elif asked.step.robust:
                terms = residual_terms(risk_sums(rows, fit.beta, ties), ties)
                meat = score_meat(score_residuals(rows, fit.beta, terms), asked.followed.patient[rows.row])
                covariance = covariance @ meat @ covariance
            scale = received(request, "scale", (p,))
            coef, se = fit.beta / scale, np.sqrt(np.diag(covariance)) / scale
        else:
            problem = "no finite coefficients fit best here"
    except StatisticsError:
        problem = "inputs do not vary or are collinear here"
    size = group_size(asked.followed.patient, asked.followed.observed)
    evidence = Evidence(np.array(size.patients), np.array(size.events))
    return Answer(SingleFit(problem, coef, se), dict.fromkeys(("coef", "se"), evidence))


def baseline(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``baseline``."""
    asked = read_question(site, request)
    at, followed = asked.step.baseline_years, asked.followed
    log_hazard = received(request, "log_hazard", at.shape)
    hazard = np.exp(np.clip((asked.x @ asked.coef)[:, None] + log_hazard, -60.0, 60.0))
    survival = np.exp(-hazard)
    may = releasable_times(
        followed.years,
        followed.observed,
        followed.patient,
        at,
        site.settings.limits,
        cox_limits(site.settings.limits).min_leavers,
    )
    told = np.where(np.isin(at, may), at, np.nan)
    is_open = open_times(site, followed.rows, followed.years, followed.observed, asked.step.event, told)
    seen = cumulative_incidence(followed.years, followed.cause, at)
    fields = ("predicted", "slope", "observed")
    payload = BaselineSums(
        # Six digits find a baseline; sixteen would say more of single people than a mean should.
        predicted=np.round((1 - survival).mean(axis=0), 6),
        slope=np.round((survival * hazard).mean(axis=0), 6),
        observed=np.where(is_open, seen.risk, np.nan),
    )
    size = asked.evidence
    evidence = Evidence(np.full(len(at), size.patients), np.full(len(at), size.events))
    return Answer(payload, dict.fromkeys(fields, evidence))


def spread(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``spread``."""
    asked = read_question(site, request)
    bins = np.searchsorted(SPREAD_EDGES, asked.x @ asked.coef, side="right")
    n = len(SPREAD_EDGES) + 1
    patients = np.array([len(np.unique(asked.followed.patient[bins == b])) for b in range(n)], dtype=np.int64)
    # Their sum is known: what is withheld must be two bins and enough patients.
    patients[~release_partition(patients, None, site.settings.limits)] = 0
    counts = np.bincount(bins, minlength=n).astype(np.float64)
    return Answer(Spread(counts), {"counts": Evidence(patients)})


PHASES = {
    "cohort": cohort,
    "newton": newton,
    "risk": risk,
    "curvature": hessian_part,
    "residuals": residuals,
    "single": single,
    "baseline": baseline,
    "spread": spread,
}
