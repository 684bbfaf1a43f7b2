"""regress, at the coordinator: every model over the sites, each site by itself, and how far they differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError, TooFewError
from ecgshared.privacy.cross_tables import LEVELS, REASONS
from ecgshared.stages.regress import Cohort, Config, Method, ModelConfig, OwnFit, ProductSums, Result
from ecgshared.stages.results.base import Absences, Heterogeneity
from ecgshared.stages.results.regress import FitResult, ModelResult, SiteRegressed, Together
from ecgshared.stats.meta_analysis import meta_analysis
from ecgshared.stats.regression import LinearSums, solve
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, quorum, released
from server.pooling.regression import Asked, Pooled, nothing, told
from server.pooling.regression_fit import pooled_fit
from server.report.labels import NO_LABELS, Labels
from server.report.regression import sections
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Fit every model of every outcome; what a site closes is named with its reason."""
    if not isinstance(step, Config):
        raise TypeError("a regress step's configuration was expected")
    absent: Absences = {}
    columns = [
        (model, o, method) for method in step.methods for o in range(len(step.outcome)) for model in step.formulas
    ]
    context.progress(0, 1 + len(columns), "who is in it")
    replies = context.ask("cohort", quorum=quorum(context, context.sites))
    absences(replies, absent, "cohort")
    cohorts: dict[str, Cohort] = dict(replies.by_site)
    active = tuple(s for s, c in cohorts.items() if not c.reason and released(c.counts, (2,)))
    if not active:
        raise TooFewError(
            "no site can take part in this regression",
            where=step.id,
            value="; ".join(f"{site}: {c.reason or 'withheld its counts'}" for site, c in cohorts.items()) or "nobody",
            remedy="fewer terms, models or outcomes in the step, or more patients",
        )
    mean, scale = _standardisation([cohorts[s] for s in active], len(step.terms))
    asked = Asked(context, step, cohorts, mean, scale, absent)
    sums = _sums(asked, active) if "ols" in step.methods else {}
    models = []
    for i, (model, o, method) in enumerate(columns):
        context.progress(1 + i, 1 + len(columns), f"{model.name}, {step.outcome[o]}")
        models.append(_model(asked, model, o, method, active, sums))
    cutoff = None
    if any("high_risk" in term.columns for term in step.terms):
        threshold = context.study.used(step, "threshold")
        assert threshold is not None
        cutoff = number(context.inputs[threshold.id].arrays["cutoff"][0])
    result = Result(
        outcomes=step.outcome,
        treatment=step.treated,
        unknown_as_no=step.as_no,
        cutoff=cutoff,
        means={term.text: number(mean[j]) if _known(cohorts, active, j) else None for j, term in enumerate(step.terms)},
        sds={term.text: number(scale[j]) if _known(cohorts, active, j) else None for j, term in enumerate(step.terms)},
        models=tuple(models),
        sites={site: _site(step, c) for site, c in cohorts.items()},
        absent=absent,
    )
    return Artefact(step.id, "regress", result, {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """The table of models, what they say in rates, sites side by side, and what was withheld."""
    return sections(artefact.step, artefact.result, labels)


def _known(cohorts: Mapping[str, Cohort], active: tuple[str, ...], column: int) -> bool:
    return any(np.isfinite(cohorts[s].total[column]) for s in active)


def _standardisation(cohorts: list[Cohort], q: int) -> tuple[Floats, Floats]:
    """Mean and SD of each term over the sites that tell of it; 0 and 1 where nobody does, or it does not vary."""
    mean, scale = np.zeros(q), np.ones(q)
    for j in range(q):
        found = [c for c in cohorts if np.isfinite(c.total[j]) and np.isfinite(c.squares[j])]
        n = sum(float(c.counts[0]) for c in found)
        if n > 0:
            mean[j] = sum(float(c.total[j]) for c in found) / n
            variance = sum(float(c.squares[j]) for c in found) / n - mean[j] ** 2
            if variance > 1e-12 * max(mean[j] ** 2, 1e-12):
                scale[j] = np.sqrt(variance)
    return mean, scale


def _sums(asked: Asked, active: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, ProductSums]]:
    """Ask for the products once under each set of fixed effects."""
    found: dict[tuple[str, ...], dict[str, ProductSums]] = {}
    for number_, effects in enumerate(asked.step.effects):
        answers = asked.ask("sums", {"effects": np.array([float(number_)])}, active)
        found[effects] = dict(answers.by_site)
    return found


def _model(
    asked: Asked,
    model: ModelConfig,
    outcome: int,
    method: Method,
    active: tuple[str, ...],
    sums: Mapping[tuple[str, ...], Mapping[str, ProductSums]],
) -> ModelResult:
    step = asked.step
    pooled = Pooled(asked, model, outcome, method)
    able = tuple(s for s in active if pooled.open_at(s))
    parts: dict[str, LinearSums] = {}
    if method == "ols":
        parts = {s: part for s in able if (part := pooled.part(s, sums[model.fixed_effects].get(s))) is not None}
        able = tuple(parts)
    sites: dict[str, FitResult] = {}
    if able:
        answers = asked.ask("own", pooled.named, able)
        sites = {s: _own(pooled, s, answer, parts.get(s)) for s, answer in answers.by_site.items()}
    return ModelResult(
        name=model.name,
        label=model.label,
        outcome=step.outcome[outcome],
        method=method,
        terms=model.terms,
        fixed_effects=model.fixed_effects,
        pooled=pooled_fit(pooled, able, parts) if able else nothing((), "closed at every hospital"),
        sites=sites,
        together=_together(model, sites),
    )


def _own(pooled: Pooled, site: str, answer: OwnFit, part: LinearSums | None) -> FitResult:
    """A site's own fit as it told it."""
    p = len(pooled.model.terms) + 1
    if answer.reason or not (released(answer.coef, (p,)) and released(answer.covariance, (p, p))):
        return nothing((site,), answer.reason or "withheld")
    r2 = np.nan
    if part is not None:
        try:
            r2 = solve([part], pooled.model.terms).r2
        except StatisticsError:
            return nothing((site,), "no finite coefficients fit best here")
    return told(pooled, (site,), answer.coef, answer.covariance, answer.deciding, r2)


def _together(model: ModelConfig, sites: Mapping[str, FitResult]) -> dict[str, Together]:
    found = {}
    for term in model.terms:
        own = [fit.coefficients[term] for fit in sites.values() if term in fit.coefficients]
        values = np.array([np.nan if c.value is None else c.value for c in own])
        errors = np.array([np.nan if c.se is None or c.low is None else c.se for c in own])
        made = meta_analysis(values, errors)
        if made.sites >= 2:
            found[term] = Together(
                random=est(made.random),
                heterogeneity=Heterogeneity(
                    q=number(made.q), p=number(made.p), i2=number(made.i2), tau2=number(made.tau2)
                ),
            )
    return found


def _site(step: Config, c: Cohort) -> SiteRegressed:
    terms = [term.text for term in step.terms]
    closed: dict[str, str] = {}
    for line in c.closed:
        column, outcome, why = line.split(",")
        what = "all" if column == "-1" else terms[int(column)]
        name = what if outcome == "-1" else f"{step.outcome[int(outcome)]} of {what}"
        closed[name] = REASONS.get(why, why)
    for effects in c.closed_effects:
        closed[" and ".join(step.effects[int(effects)])] = REASONS[LEVELS]
    return SiteRegressed(
        ecgs=number(c.counts[0]),
        patients=number(c.counts[1]),
        events=dict(zip(step.outcome, (number(value) for value in c.events), strict=True)),
        left_out=number(c.left_out[0]),
        closed=closed,
        reason=c.reason,
    )
