"""survival_evaluate, at the coordinator: every site's own figures, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from ecgshared.arrays import Floats
from ecgshared.stages.results.base import Absences, Group
from ecgshared.stages.results.survival_evaluate import (
    Differences,
    LogRankResult,
    PooledCurve,
    PooledModel,
    PooledRiskGroup,
    PooledSurvival,
    SiteModel,
    SiteRiskGroup,
    SiteSurvival,
    Spread,
    SurvivalCurve,
)
from ecgshared.stages.survival import Config as FitConfig
from ecgshared.stages.survival import columns_of
from ecgshared.stages.survival_evaluate import COMPARED, FIGURES, Config, LocalResults, Result, curve_times, fit_step
from ecgshared.stats.few_events import few_events_estimate
from ecgshared.stats.influence import UNDEFINED, Estimate
from ecgshared.stats.kaplan_meier import LogRank, log_log_interval
from ecgshared.stats.meta_analysis import MetaAnalysis, meta_analysis
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, numbers, quorum, released
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.report.survival_evaluation import evaluation_sections
from server.rounds.step_context import Artefact, StepContext

_BY_EVENTS, _BY_ECGS = ("harrell", "uno", "auc"), ("brier", "integrated_brier")


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Evaluate; sites that train and sites that never did are pooled apart."""
    if not isinstance(step, Config):
        raise TypeError("a survival_evaluate step's configuration was expected")
    study, fit = context.study, fit_step(step, context.study)
    absent: Absences = {}
    context.progress(0, 1, "each site's own figures")
    answers = context.ask("local", quorum=quorum(context, context.sites))
    absences(answers, absent, "local")
    names, times = columns_of(fit.union, study), curve_times(step, fit)
    local: dict[str, LocalResults] = {}
    for site, reply in answers.by_site.items():
        if _well_formed(reply, len(names), len(fit.models), fit.risk_groups, len(times)):
            local[site] = reply
        else:
            absent.setdefault(site, {})["local"] = "wrong-shape"
    groups: dict[Group, tuple[str, ...]] = {"training": study.sites.train, "zero_shot": study.sites.zero_shot}
    result = Result(
        fit=fit.id,
        event=fit.event,
        horizon_years=fit.horizon_years,
        times=numbers(times),
        models=fit.inputs_of,
        reference=fit.models[0].name,
        sites={
            site: _site(r, fit, names, "training" if site in study.sites.train else "zero_shot")
            for site in context.sites
            if (r := local.get(site)) is not None
        },
        pooled={
            group: _pooled({s: local[s] for s in sites if s in local and not local[s].reason}, fit, times)
            for group, sites in groups.items()
            if any(s in local and not local[s].reason for s in sites)
        },
        absent=absent,
    )
    return Artefact(step.id, "survival_evaluate", result)


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Concordance and its differences, survival by risk group, calibration."""
    return evaluation_sections(artefact.step, artefact.result, labels)


def _well_formed(r: LocalResults, p: int, m: int, g: int, t: int) -> bool:
    shapes = {
        "counts": (4,),
        "left_out": (2,),
        "missing": (p,),
        "observed": (4,),
        "figures": (m, len(FIGURES), 4),
        "differences": (m, len(COMPARED), 4),
        "group_counts": (m, g, 2),
        "group_risks": (m, g, 5),
        "curves": (m, g, t, 3),
        "excess": (m, g),
        "covariance": (m, g, g),
    }
    return all(np.shape(getattr(r, name)) == shape for name, shape in shapes.items())


def _site(r: LocalResults, fit: FitConfig, names: tuple[str, ...], group: Group) -> SiteSurvival:
    ecgs, patients, events, event_patients = numbers(r.counts)
    return SiteSurvival(
        group=group,
        interval_unit="patient" if r.patients_known else "ECG",
        reason=r.reason,
        ecgs=ecgs,
        patients=patients,
        events=events,
        event_patients=event_patients,
        left_out=dict(zip(("time unknown", "input missing"), numbers(r.left_out), strict=True)),
        missing=dict(zip(names, numbers(r.missing), strict=True)),
        observed=est(r.observed),
        models={
            name: SiteModel(
                **{figure: est(r.figures[i, j]) for j, figure in enumerate(FIGURES)},
                difference=Differences(**{figure: est(r.differences[i, j]) for j, figure in enumerate(COMPARED)}),
                groups=tuple(_group(r, i, k) for k in range(fit.risk_groups)),
            )
            for i, name in enumerate(fit.inputs_of)
        },
    )


def _group(r: LocalResults, i: int, k: int) -> SiteRiskGroup:
    survival, log_se, at_risk = r.curves[i, k].T
    low, high = log_log_interval(survival, log_se)
    return SiteRiskGroup(
        ecgs=number(r.group_counts[i, k, 0]),
        events=number(r.group_counts[i, k, 1]),
        predicted=number(r.group_risks[i, k, 0]),
        observed=est(r.group_risks[i, k, 1:]),
        curve=SurvivalCurve(survival=numbers(survival), low=numbers(low), high=numbers(high), at_risk=numbers(at_risk)),
    )


def _pooled(local: Mapping[str, LocalResults], fit: FitConfig, times: Floats) -> PooledSurvival:
    replies = list(local.values())
    ecgs, events = (np.array([r.counts[j] for r in replies]) for j in (0, 2))
    models: dict[str, PooledModel] = {}
    for i, name in enumerate(fit.inputs_of):
        figures = {figure: np.array([r.figures[i, j] for r in replies]) for j, figure in enumerate(FIGURES)}
        together = {n: _mean(figures[n], events if n in _BY_EVENTS else ecgs) for n in (*_BY_EVENTS, *_BY_ECGS)}
        slope = meta_analysis(*figures["slope"][:, :2].T)
        spread, ratio = _concordances(figures["harrell"]), _ratios(figures["expected_over_observed"])
        models[name] = PooledModel(
            **{figure: est(value) for figure, value in together.items()},
            expected_over_observed=est(_back(ratio.random, np.exp)),
            slope=est(slope.random),
            difference=Differences(
                **{
                    figure: est(_mean(_with_ties(np.array([r.differences[i, j] for r in replies])), events, "identity"))
                    for j, figure in enumerate(COMPARED)
                }
            ),
            heterogeneity={
                "harrell": _heterogeneity(spread, expit),
                "slope": _heterogeneity(slope, _same),
                "expected_over_observed": _heterogeneity(ratio, np.exp),
            },
            not_pooled={
                figure: why
                for figure in FIGURES
                if (why := {s: said for s, e in zip(local, figures[figure], strict=True) if (said := _why_not(e))})
            },
            log_rank=_log_rank(local, i, fit.risk_groups),
            groups=tuple(_pooled_group(local, i, k, times) for k in range(fit.risk_groups)),
        )
    return PooledSurvival(
        sites=tuple(local),
        ecgs=number(ecgs.sum()),
        events=number(events.sum()),
        interval_unit="patient" if all(r.patients_known for r in replies) else "ECG",
        models=models,
    )


def _why_not(estimated: Floats) -> str:
    """Say why a site's figure, shape = (4,), is not among the pooled ones; "" where it is, or was withheld."""
    value, se = estimated[:2]
    if not np.isfinite(value) or np.isfinite(se):
        return ""
    return "a perfect score, which has no error" if value in (0.0, 1.0) else "a constant score, which has no error"


def _mean(estimates: Floats, weights: Floats, scale: Any = "logit") -> Estimate:
    """Weighted mean of the sites that told, with its error; estimates of shape = (K, 4)."""
    told = np.isfinite(estimates[:, :2]).all(axis=1) & (weights > 0)
    if not told.any():
        return UNDEFINED
    share, events = weights[told] / weights[told].sum(), float(weights[told].sum())
    value, variance = float(share @ estimates[told, 0]), float(share**2 @ estimates[told, 1] ** 2)
    # The sites' errors are widened for their few events already; the quantile is that of all of them.
    return few_events_estimate(value, variance * (events - 1) / events, events, scale)


def _with_ties(differences: Floats) -> Floats:
    """Where two models rank a site's people alike their difference there is 0 for certain; shape = (K, 4)."""
    alike = (differences[:, 0] == 0) & ~np.isfinite(differences[:, 1])
    return np.where(alike[:, None] & (np.arange(4) == 1), 0.0, differences)


def _concordances(estimates: Floats) -> MetaAnalysis:
    """Concordances of sites, shape = (K, 4), put together on the logit scale; those of 0 and 1 are left out."""
    value, se = estimates[:, 0], estimates[:, 1]
    inside = (value > 0) & (value < 1)
    c = np.where(inside, value, 0.5)
    return meta_analysis(np.where(inside, logit(c), np.nan), se / (c * (1 - c)))


def _ratios(estimates: Floats) -> MetaAnalysis:
    """Ratios of sites, shape = (K, 4), put together on the log scale."""
    positive = estimates[:, 0] > 0
    value = np.where(positive, estimates[:, 0], 1.0)
    return meta_analysis(np.where(positive, np.log(value), np.nan), estimates[:, 1] / value)


def _same(x: float) -> float:
    return x


def _back(found: Estimate, back: Callable[[float], float]) -> Estimate:
    """Bring an estimate back to its own scale; its error by the slope there."""
    value = float(back(found.value))
    slope = {np.exp: value, expit: value * (1 - value)}.get(back, 1.0)
    return Estimate(value, found.se * slope, float(back(found.low)), float(back(found.high)))


def _heterogeneity(found: MetaAnalysis, back: Callable[[float], float]) -> Spread:
    """How far sites differ; q, i2 and tau2 on the scale on which they are put together."""
    low, high = (number(back(bound)) for bound in found.prediction)
    return Spread(
        q=number(found.q),
        p=number(found.p),
        i2=number(found.i2),
        tau2=number(found.tau2),
        random=est(_back(found.random, back)),
        prediction=(low, high),
        sites=found.sites,
    )


def _log_rank(local: Mapping[str, LocalResults], i: int, g: int) -> LogRankResult:
    """The test stratified by site, of the sites that may tell of every group."""
    told = {s: r for s, r in local.items() if released(r.excess[i], (g,)) and released(r.covariance[i], (g, g))}
    if not told:
        return LogRankResult(chi2=None, degrees=None, p=None, sites=())
    total = LogRank.total(LogRank(r.excess[i], np.zeros(g), r.covariance[i]) for r in told.values())
    return LogRankResult(chi2=number(total.statistic), degrees=total.degrees, p=number(total.p), sites=tuple(told))


def _pooled_group(local: Mapping[str, LocalResults], i: int, k: int, times: Floats) -> PooledRiskGroup:
    """One risk group: the mean of the sites' curves, weighted by ECGs, where every site tells its own to the last time.

    A curve is withheld for its few events, so that a mean over the others would be of the sites where more have it.
    Between a site's released times its log survival and the variance of it are taken as straight. The interval is the
    plain one, symmetric about the mean: there is none on another scale where hardly anybody had the event.
    """
    counts = np.array([r.group_counts[i, k] for r in local.values()])
    curves: list[tuple[float, Floats, Floats]] = []
    sites: list[str] = []
    for site, r in local.items():
        survival, log_se, _ = r.curves[i, k].T
        known = np.isfinite(survival) & np.isfinite(log_se) & (survival > 0)
        if np.isfinite(r.group_counts[i, k, 0]) and known.any() and known[-1]:
            at = np.append(0.0, times[known])
            filled = np.exp(np.interp(times, at, np.append(0.0, np.log(survival[known]))))
            variance = np.interp(times, at, np.append(0.0, log_se[known] ** 2))
            curves.append((float(r.group_counts[i, k, 0]), filled, filled * np.sqrt(variance)))
            sites.append(site)
    ecgs, events = number(counts[:, 0].sum()), number(counts[:, 1].sum())
    if len(curves) < len(local):
        empty: tuple[float | None, ...] = (None,) * len(times)
        nothing = PooledCurve(survival=empty, low=empty, high=empty, at_risk=empty, sites=tuple(sites))
        return PooledRiskGroup(ecgs=ecgs, events=events, curve=nothing)
    weight = np.array([c[0] for c in curves])
    weight = weight / weight.sum()
    survival = weight @ np.array([c[1] for c in curves])
    se = np.sqrt(weight**2 @ np.array([c[2] for c in curves]) ** 2)
    z = float(norm.ppf(0.975))
    low, high = np.clip(survival - z * se, 0.0, 1.0), np.clip(survival + z * se, 0.0, 1.0)
    # A time that one of these sites does not tell of has no total.
    still = np.sum([local[site].curves[i, k, :, 2] for site in sites], axis=0)
    curve = PooledCurve(
        survival=numbers(survival), low=numbers(low), high=numbers(high), at_risk=numbers(still), sites=tuple(sites)
    )
    return PooledRiskGroup(ecgs=ecgs, events=events, curve=curve)
