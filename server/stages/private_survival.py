"""private_survival, at the coordinator: add up the hospitals' noised tables; curves, a Cox model, intervals."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from ecgshared.arrays import Floats
from ecgshared.errors import TooFewError
from ecgshared.stages.private_survival import Config, Result, Table, group_name, shape_of
from ecgshared.stages.results.base import Absences
from ecgshared.stages.results.private_survival import NoisedCoefficient, NoisedPoint
from ecgshared.stages.results.train import PrivacyAccount
from ecgshared.stats.noised_survival import CoxOfCounts, cox, curve, together
from ecgshared.stats.noised_survival import Table as Counts
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, number
from server.report.labels import NO_LABELS, Labels, counted
from server.report.sections import Cell, Section, Text
from server.report.sections import Table as Rows
from server.rounds.step_context import Artefact, StepContext

EVERYBODY = "everybody"
_Z = float(norm.ppf(0.975))


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask once, and make of the sum of the tables all that is told."""
    if not isinstance(step, Config):
        raise TypeError("a private_survival step's configuration was expected")
    absent = Absences()
    replies = context.ask("table")
    absences(replies, absent, "table")
    told: dict[str, Table] = {}
    for site, reply in replies.by_site.items():
        if np.shape(reply.counts) == (shape_of(step),) and np.isfinite(reply.counts).all() and reply.patients > 0:
            told[site] = reply
        else:
            absent.setdefault(site, {})["table"] = "withheld"
    if not told:
        why = ", ".join(f"{site}: {reason['table']}" for site, reason in absent.items())
        raise TooFewError(f"no hospital gave its table ({why})", where=step.id)
    people = np.array([one.patients for one in told.values()])
    sd = np.array([one.noise_sd for one in told.values()])
    table = together(np.array([one.counts for one in told.values()]), people, sd, step.cells, step.intervals)
    curves = {EVERYBODY: _points(table, step.edges)}
    held = step.groups_of_cells()
    for j, one in enumerate(step.inputs):
        for group in range(one.groups):
            curves[group_name(one, group)] = _points(table.of(held[:, j] == group), step.edges)
    names, z = step.coded()
    found = cox(table, z) if names else CoxOfCounts(np.zeros(0), np.zeros(0), np.zeros(0))
    result = Result(
        event=step.event,
        horizon_years=step.horizon_years,
        splits=step.splits,
        patients=float(people.sum()),
        noise_sd=float(np.sqrt(table.variance)),
        numbers=table.numbers,
        curves=curves,
        coefficients={name: _coefficient(found, j) for j, name in enumerate(names)},
        privacy=step.privacy,
        sites={
            site: PrivacyAccount(noise_multiplier=one.noise_sd, epsilon_spent=one.epsilon_spent, delta=one.delta)
            for site, one in told.items()
        },
        absent=absent,
    )
    return Artefact(step.id, "private_survival", result)


def _points(table: Counts, edges: Floats) -> tuple[NoisedPoint, ...]:
    found = curve(table)
    columns = (edges, found.at_risk, found.events, found.survival, found.low, found.high)
    names = ("years", "at_risk", "events", "survival", "low", "high")
    return tuple(
        NoisedPoint.model_validate(dict(zip(names, map(number, row), strict=True)))
        for row in zip(*columns, strict=True)
    )


def _coefficient(found: CoxOfCounts, j: int) -> NoisedCoefficient:
    b, se = float(found.coef[j]), float(found.se[j])
    return NoisedCoefficient(
        coef=number(b),
        se=number(se),
        low=number(b - _Z * se),
        high=number(b + _Z * se),
        hazard_ratio=number(np.exp(b)),
        p=number(2 * norm.sf(abs(b) / se)) if se > 0 else None,
        noise=number(found.noise[j]),
    )


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Where the groups stand at the horizon, everybody's curve, the Cox model, and what it cost."""
    r = artefact.result
    title = f"{labels.step(artefact.step)}: {labels.event(r.event)}, counted with noise"
    spent = "; ".join(
        f"{labels.site(site)} epsilon {one.epsilon_spent:.3g} at delta {one.delta:g}" for site, one in r.sites.items()
    )
    words = (
        f"{r.patients:.0f} patients of {counted(len(r.together or r.sites), 'hospital')}, each in one of {r.numbers} "
        f"numbers, to which {'the hospitals together' if r.together else 'every hospital'} added noise once (SD of the "
        f"sum {r.noise_sd:.2f}). Spent: {spent}. All that stands here is made of these numbers; intervals hold chance "
        "and noise. What the noise may have made is left out."
    )
    everybody: list[list[Cell]] = [
        [p.years, p.at_risk, p.events, p.survival, _span(p.low, p.high)] for p in r.curves[EVERYBODY]
    ]
    ends: list[list[Cell]] = [
        [name, points[-1].years, points[-1].survival, _span(points[-1].low, points[-1].high)]
        for name, points in r.curves.items()
    ]
    blocks: list[Text | Rows] = [
        Text(words),
        Rows("Life table", ["years", "at risk", "events", "free of the event", "95% interval"], everybody),
        Rows("At the horizon", ["group", "years", "free of the event", "95% interval"], ends),
    ]
    if r.coefficients:
        rows: list[list[Cell]] = [
            [name, c.hazard_ratio, _span(_exp(c.low), _exp(c.high)), c.p, c.noise] for name, c in r.coefficients.items()
        ]
        head = ["group", "hazard ratio", "95% interval", "p", "variance by noise"]
        blocks.append(Rows("Cox model", head, rows, note="Against the lowest group of each input."))
    return [Section(title, list(blocks))]


def _span(low: float | None, high: float | None) -> Cell:
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _exp(value: float | None) -> float | None:
    return None if value is None else float(np.exp(value))
