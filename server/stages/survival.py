"""survival, at the coordinator: who takes part, then every model over the sites, its errors, forest and baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError, TooFewError
from ecgshared.stages.results.base import Absences, MeanSd
from ecgshared.stages.results.survival import (
    Baseline,
    ChiSquared,
    Coefficient,
    CoefficientAtSite,
    CoxModel,
    ForestResult,
    SiteFollowed,
)
from ecgshared.stages.survival import SPREAD_EDGES, Cohort, Config, Result, columns_of, model_columns
from ecgshared.stats.cox_disclosure import common_grid
from ecgshared.stats.cox_fit import CoxFit, Moments
from ecgshared.stats.cox_proportional import ProportionalHazards
from ecgshared.stats.cox_tests import overall_tests
from ecgshared.stats.meta_analysis import meta_analysis
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, numbers, quorum, released
from server.pooling.cox import Question, coefficient, errors_and_hazards, fit_over_sites
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.report.survival import fit_sections
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Fit every model of the step; sites that cannot take part are named with their reason."""
    if not isinstance(step, Config):
        raise TypeError("a survival step's configuration was expected")
    names = columns_of(step.union, context.study)
    absent: Absences = {}
    context.progress(0, 1 + len(step.models), "who takes part")
    replies = context.ask("cohort", quorum=quorum(context, context.sites))
    absences(replies, absent, "cohort")
    cohorts: dict[str, Cohort] = dict(replies.by_site)
    reasons = {site: _reason(c, len(names)) for site, c in cohorts.items()}
    active = tuple(site for site, reason in reasons.items() if not reason)
    if not active:
        raise TooFewError(
            "no site can take part in this survival model",
            where=step.id,
            value="; ".join(f"{site}: {reason}" for site, reason in reasons.items()),
            remedy="fewer inputs, or more patients with the event",
        )
    Moments.total(_moments(cohorts, active)).require_spread(names)
    grid = None
    if step.mode == "exact":
        grid = common_grid(step.grid_edges, [cohorts[s].servable == 1 for s in active])
    models: dict[str, CoxModel] = {}
    arrays: dict[str, NDArray[Any]] = {}
    took_part: set[str] = set()
    for i, model in enumerate(step.inputs_of):
        context.progress(1 + i, 1 + len(step.models), model)
        columns = model_columns(step, context.study, model)
        question = Question(context, step, i, tuple(names[j] for j in columns), columns, cohorts, grid, absent)
        models[model], found, members = _model(question, active)
        arrays |= {f"{model}.{name}": array for name, array in found.items()}
        took_part |= set(members)
    total = Moments.total(_moments(cohorts, active))
    result = Result(
        event=step.event,
        mode=step.mode,
        hazard=step.hazard,
        ties=step.ties,
        penalizer=step.penalizer,
        l1_ratio=step.l1_ratio,
        robust=step.robust,
        one_ecg_per_patient=step.one_ecg_per_patient,
        splits=step.splits,
        horizon_years=step.horizon_years,
        follow_up_years=number(step.follow_up_years) if step.follow_up_years else None,
        grid=None if grid is None else numbers(grid),
        standardised={n: MeanSd(mean=number(total.mean[j]), sd=number(total.sd[j])) for j, n in enumerate(names)},
        models=models,
        sites={site: _followed(c, names, reasons[site], site in took_part) for site, c in cohorts.items()},
        absent=absent,
    )
    return Artefact(step.id, "survival", result, arrays)


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Coefficients, forest plots and who was left out."""
    return fit_sections(artefact.step, artefact.result, labels)


def _followed(c: Cohort, names: tuple[str, ...], reason: str, took_part: bool) -> SiteFollowed:
    ecgs, patients, events, event_patients = numbers(c.counts)
    return SiteFollowed(
        ecgs=ecgs,
        patients=patients,
        events=events,
        event_patients=event_patients,
        left_out=dict(zip(("time unknown", "input missing"), numbers(c.left_out), strict=True)),
        missing=dict(zip(names, numbers(c.missing), strict=True)) if len(c.missing) == len(names) else {},
        took_part=took_part,
        reason=reason or ("" if took_part else "did not answer to the end"),
    )


def _reason(c: Cohort, p: int) -> str:
    if c.reason:
        return c.reason
    if not (released(c.mean, (p,)) and released(c.sd, (p,)) and np.shape(c.counts) == (4,)):
        return "withheld its moments"
    return "" if np.isfinite(c.counts[[0, 2]]).all() and c.counts[0] >= 2 else "withheld its counts"


def _moments(cohorts: Mapping[str, Cohort], sites: tuple[str, ...]) -> list[Moments]:
    return [Moments(int(cohorts[s].counts[0]), cohorts[s].mean, cohorts[s].sd) for s in sites]


def _model(question: Question, active: tuple[str, ...]) -> tuple[CoxModel, dict[str, NDArray[Any]], list[str]]:
    """Fit one model; return its result, its arrays and the sites whose data it is of."""
    step, names, notes = question.step, question.names, list[str]()
    moments = question.moments(active)
    singles = question.singles(active, moments)
    forest = {name: _forest(singles, j) for j, name in enumerate(names)}
    hazards: ProportionalHazards | None = None
    if step.mode == "local":
        members = tuple(s for s in active if s in singles)
        fit = _combined(forest, names)
        raw = fit
    else:
        fit, members, moments = fit_over_sites(question, active)
        fit.require_converged()
        fit, hazards = errors_and_hazards(question, fit, members, moments, notes)
        raw = fit.unstandardised(moments)
    beta = raw.beta * moments.sd
    years, log_hazard = question.baseline(members, moments, beta)
    cuts = _cuts(question, members, moments, beta)
    if step.robust and not all(question.cohorts[s].patients_known for s in members):
        notes.append("Some sites know no patients: there the unit of robust errors is the ECG.")
    if step.penalizer:
        notes.append("Sites' own fits in the forest plot carry no penalty.")
    if not len(years):
        notes.append("No site may tell its observed risk at any time up to the horizon: no absolute risks.")
    ecgs, patients, events = (number(sum(question.cohorts[s].counts[i] for s in members)) for i in range(3))
    coefficients = {name: coefficient(raw, j, float(beta[j])) for j, name in enumerate(names)}
    if step.mode == "local":
        coefficients = {name: _of_sites(c, forest[name]) for name, c in coefficients.items()}
    result = CoxModel(
        inputs=names,
        coefficients=coefficients,
        log_likelihood=number(fit.log_likelihood),
        log_likelihood_null=number(fit.log_likelihood_null),
        tests=_tests(raw),
        rounds=fit.rounds,
        robust=raw.robust,
        sites=tuple(members),
        ecgs=ecgs,
        patients=patients,
        events=events,
        proportional_hazards=None
        if hazards is None
        else {
            name: ChiSquared(chi2=number(statistic), degrees=int(degrees), p=number(p))
            for name, statistic, degrees, p in zip(
                hazards.names, hazards.statistic, hazards.degrees, hazards.p_value, strict=True
            )
        },
        forest=forest,
        baseline=Baseline(years=numbers(years), hazard=numbers(np.exp(log_hazard))),
        cuts=numbers(cuts),
        notes=tuple(notes),
    )
    found = {"coef": raw.beta, "mean": moments.mean, "years": years, "log_hazard": log_hazard, "cuts": cuts}
    return result, found, list(members)


def _tests(fit: CoxFit) -> dict[str, ChiSquared]:
    """Test that all coefficients are 0; what is not defined (with a penalty, of sites' own fits) is left out."""
    return {
        name: ChiSquared(chi2=number(test.statistic), degrees=test.degrees, p=number(test.p))
        for name, test in overall_tests(fit).items()
        if np.isfinite(test.statistic)
    }


def _of_sites(coefficient: Coefficient, forest: ForestResult) -> Coefficient:
    """Give a coefficient interval and p-value of random effects: Student's t over the sites."""
    return coefficient.model_copy(update={"low": forest.random.low, "high": forest.random.high, "p": forest.random_p})


def _forest(singles: Mapping[str, tuple[Floats, Floats]], j: int) -> ForestResult:
    """Put the sites' own coefficients of one input together."""
    values = np.array([coef[j] for coef, _ in singles.values()])
    errors = np.array([se[j] for _, se in singles.values()])
    together = meta_analysis(values, np.where(errors > 0, errors, np.nan))
    return ForestResult(
        sites={s: CoefficientAtSite(coef=number(coef[j]), se=number(se[j])) for s, (coef, se) in singles.items()},
        fixed=est(together.fixed),
        random=est(together.random),
        random_p=number(together.random_p),
        prediction=(number(together.prediction[0]), number(together.prediction[1])),
        q=number(together.q),
        p=number(together.p),
        i2=number(together.i2),
        tau2=number(together.tau2),
    )


def _combined(forest: Mapping[str, ForestResult], names: tuple[str, ...]) -> CoxFit:
    """The sites' own fits as random effects; raise where no site has one."""
    beta = np.array([forest[n].random.value for n in names], dtype=np.float64)
    se = np.array([forest[n].random.se for n in names], dtype=np.float64)
    if not np.isfinite(beta).all():
        raise StatisticsError("no site could fit this model by itself", value=names, remedy="mode stratified")
    return CoxFit(beta, np.diag(se**2), np.nan, np.nan, 0.0, 0, 0, True)


def _cuts(question: Question, members: tuple[str, ...], moments: Moments, beta: Floats) -> Floats:
    """Cut the linear predictor of the training rows into groups of equal size; empty where nobody may say."""
    length = float(np.linalg.norm(beta))
    if not length > 0:
        return np.zeros(0)
    counts = question.spread(members, moments, beta / length)
    if not counts.sum() > 0:
        return np.zeros(0)
    shares = np.cumsum(counts)[:-1] / counts.sum()
    wanted = np.arange(1, question.step.risk_groups) / question.step.risk_groups
    # Equal shares (bins nobody told of) would give a cut anywhere between: the lowest edge is taken.
    distinct = np.unique(shares, return_index=True)[1]
    return np.unique(np.interp(wanted, shares[distinct], SPREAD_EDGES[distinct])) * length
