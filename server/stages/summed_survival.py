"""summed_survival, at the coordinator: a curve and Cox models from sums over all hospitals; nobody's own."""

from __future__ import annotations

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError, TooFewError
from ecgshared.stages.results.base import Absences, MeanSd
from ecgshared.stages.results.summed_survival import SummedModel, SurvivalAt
from ecgshared.stages.results.survival import ChiSquared
from ecgshared.stages.summed_survival import Config, Result, Who, grids
from ecgshared.stages.survival import Cohort, columns_of, model_columns
from ecgshared.stats.kaplan_meier import log_log_interval
from ecgshared.stats.small_samples import few_events
from ecgshared.study.secure import TOGETHER
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, number
from server.pooling.cox import Question, coefficient, errors_and_hazards, fit_over_sites
from server.report.labels import NO_LABELS, Labels, counted
from server.report.sections import Block, Cell, Section, Table, Text
from server.rounds.secure_sums import TooFewTogether
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Count, choose the finest grid that all hospitals together can serve, and fit every model."""
    if not isinstance(step, Config):
        raise TypeError("a summed_survival step's configuration was expected")
    names, absent = columns_of(step.union, context.study), Absences()
    context.progress(0, 2 + len(step.models), "who is followed")
    replies = context.ask("who")
    absences(replies, absent, "who")
    cohort = _cohort(replies.by_site[TOGETHER])
    flat = [name for name, sd in zip(names, cohort.sd, strict=True) if not sd > 1e-9]
    if flat:
        raise StatisticsError("an input does not vary over all sites", value=", ".join(flat), remedy="leave it out")
    context.progress(1, 2 + len(step.models), "life table")
    grid, table = _life_table(step, context)
    if grid is None and step.mode == "exact":
        raise TooFewError(
            "no time grid leaves enough people of all hospitals together in each interval",
            where=step.id,
            remedy="mode: stratified, or a longer grid_years",
        )
    models = {}
    for i, model in enumerate(step.inputs_of):
        context.progress(2 + i, 2 + len(step.models), model)
        columns = model_columns(step, context.study, model)
        of_model = tuple(names[j] for j in columns)
        fitted_grid = grid if step.mode == "exact" else None
        question = Question(context, step, i, of_model, columns, {TOGETHER: cohort}, fitted_grid, absent)
        models[model] = _model(question)
    ecgs, patients, events, with_event = (number(v) for v in cohort.counts)
    few = few_events(float(cohort.counts[3]), float(cohort.counts[1] - cohort.counts[3]))
    result = Result(
        event=step.event,
        mode=step.mode,
        ties=step.ties,
        splits=step.splits,
        horizon_years=step.horizon_years,
        ecgs=ecgs,
        patients=patients,
        events=events,
        event_patients=with_event,
        standardised={
            name: MeanSd(mean=number(m), sd=number(s)) for name, m, s in zip(names, cohort.mean, cohort.sd, strict=True)
        },
        curve=() if grid is None else _curve(grid, table, float(cohort.counts[0]), intervals=not few),
        models=models,
        absent=absent,
    )
    return Artefact(step.id, "summed_survival", result)


def _cohort(who: Who) -> Cohort:
    """Return the sums as the cohort that one site would have told of, its deviation that of n - 1."""
    n = float(who.counts[0])
    mean = who.total / n
    variance = np.maximum(who.squares - n * mean**2, 0.0) / max(n - 1, 1.0)
    unknown = np.full(2, np.nan)
    return Cohort("", 1, who.counts, unknown, np.full(len(mean), np.nan), mean, np.sqrt(variance), np.zeros((0, 0)))


def _life_table(step: Config, context: StepContext) -> tuple[Floats | None, Floats]:
    """Return the finest grid that the sites answer, and who left and who had the event in its intervals."""
    for turn, grid in enumerate(grids(step)):
        try:
            replies = context.ask("life_table", round=turn, arrays={"grid": grid})
        except TooFewTogether:
            continue
        return grid, np.round(replies.by_site[TOGETHER].counts)
    return None, np.zeros((0, 2))


def _curve(grid: Floats, table: Floats, ecgs: float, *, intervals: bool) -> tuple[SurvivalAt, ...]:
    """Kaplan and Meier's curve of times moved up to the ends of their intervals, with Greenwood's variance."""
    at_risk = ecgs - np.concatenate([[0.0], np.cumsum(table[:-1, 0])])
    events = table[:, 1]
    survival = np.cumprod(1 - events / at_risk).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.cumsum(events / (at_risk * (at_risk - events))).astype(np.float64)
    log_se: Floats = np.asarray(np.sqrt(spread) if intervals else np.full(len(grid), np.nan), dtype=np.float64)
    low, high = log_log_interval(survival, log_se)
    names = ("years", "at_risk", "events", "survival", "low", "high")
    rows = zip(grid, at_risk, events, survival, low, high, strict=True)
    return tuple(SurvivalAt.model_validate(dict(zip(names, map(number, row), strict=True))) for row in rows)


def _model(question: Question) -> SummedModel:
    notes: list[str] = []
    fit, _, moments = fit_over_sites(question, (TOGETHER,))
    fit.require_converged()
    fit, hazards = errors_and_hazards(question, fit, (TOGETHER,), moments, notes)
    raw = fit.unstandardised(moments)
    return SummedModel(
        inputs=question.names,
        coefficients={
            name: coefficient(raw, j, float(raw.beta[j] * moments.sd[j])) for j, name in enumerate(question.names)
        },
        log_likelihood=number(fit.log_likelihood),
        log_likelihood_null=number(fit.log_likelihood_null),
        rounds=fit.rounds,
        robust=raw.robust,
        proportional_hazards=None
        if hazards is None
        else {
            name: ChiSquared(chi2=number(statistic), degrees=int(degrees), p=number(p))
            for name, statistic, degrees, p in zip(
                hazards.names, hazards.statistic, hazards.degrees, hazards.p_value, strict=True
            )
        },
        notes=tuple(notes),
    )


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """The curve, and a table of coefficients for each model."""
    r = artefact.result
    who = (
        f"{counted(len(r.together), 'hospital')}, whose numbers were added under masks: only these sums are known, and "
        "nothing of one hospital."
    )
    curve: list[list[Cell]] = [
        [row.years, row.at_risk, row.events, row.survival, _span(row.low, row.high)] for row in r.curve
    ]
    sections = [
        Section(
            f"{labels.step(artefact.step)}: {labels.event(r.event)}, all hospitals together",
            [
                Text(f"{r.patients:.0f} patients, {r.event_patients:.0f} with the event, over {who}"),
                Table(
                    "Survival",
                    ["years", "at risk", "events", "free of the event", "95% interval"],
                    curve,
                    note="Kaplan-Meier of times moved up to the ends of these intervals.",
                ),
            ],
        )
    ]
    for name, model in r.models.items():
        rows: list[list[Cell]] = [
            [labels.column(column), c.coef, c.se, c.hazard_ratio, _span(c.low, c.high), c.p]
            for column, c in model.coefficients.items()
        ]
        columns = ["input", "log hazard ratio", "standard error", "hazard ratio", "95% interval of the log", "p"]
        blocks: list[Block] = [Table("Coefficients", columns, rows), *(Text(note) for note in model.notes)]
        sections.append(Section(f"{labels.step(artefact.step)}: model {name}", blocks))
    return sections


def _span(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"
