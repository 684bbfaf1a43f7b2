"""age_sex, at the coordinator: the line of the gap and the interval from validation patients, then figures by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from ecgshared.arrays import Floats
from ecgshared.stages.age_sex import (
    AGE_SUMS,
    GROUPS,
    AgeFigures,
    Config,
    Figures,
    GapSums,
    Result,
    conformal,
    gap_line,
    mean_error,
)
from ecgshared.stages.results.age_sex import AgeGroup, Gap, Judged, SexGroup
from ecgshared.stages.results.base import Absences, EstimateResult, Group
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, quorum, released
from server.report.age_sex import sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext

_G = len(GROUPS)
NOTHING = EstimateResult(value=None, se=None, low=None, high=None)


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask the training sites for the gap, then all for their figures."""
    if not isinstance(step, Config):
        raise TypeError("an age_sex step's configuration was expected")
    absent: Absences = {}
    context.progress(0, 2, "the age gap")
    gap, width = _gap(step, context, absent) if step.age is not None else (None, {})
    context.progress(1, 2, "judging")
    replies = context.ask("judge", quorum=quorum(context, context.sites))
    absences(replies, absent, "judge")
    told = {site: reply for site, reply in replies.by_site.items() if _fits(reply)}
    groups: dict[Group, Sequence[str]] = {
        "training": context.study.sites.train,
        "zero_shot": context.study.sites.zero_shot,
    }
    sites = {site: _judged([reply]) for site, reply in told.items()}
    result = Result(
        age=step.age,
        sex=step.sex,
        against={} if step.against is None else step.against.model_dump(exclude_none=True),
        coverage=step.coverage,
        gap=gap,
        conformal=width,
        sites=sites,
        pooled={
            group: _judged([told[s] for s in names if s in told])
            for group, names in groups.items()
            if any(s in told for s in names)
        },
        withheld=tuple(s for s, judged in sites.items() if not judged.age and not judged.sex),
        absent=absent,
    )
    known = gap is not None and gap.intercept is not None and gap.slope is not None
    line = np.array([gap.intercept, gap.slope]) if known and gap is not None else np.full(2, np.nan)
    return Artefact(step.id, "age_sex", result, {"line": line.astype(np.float64)} if known else {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Figures of age and of sex, the gap, and what another model gives on the same ECGs."""
    return sections(artefact.step, artefact.result, labels)


def _gap(step: Config, context: StepContext, absent: Absences) -> tuple[Gap | None, dict[str, float | None]]:
    sites = tuple(s for s in context.sites if s in context.study.sites.train)
    if not sites:
        return None, {}
    replies = context.ask("calibrate", sites=sites, quorum=quorum(context, sites))
    absences(replies, absent, "calibrate")
    told: Mapping[str, GapSums] = {s: r for s, r in replies.by_site.items() if released(r.sums, (6,))}
    if not told:
        return None, {}
    total = np.sum([r.sums for r in told.values()], axis=0)
    intercept, slope, sd = gap_line(total)
    bins = [
        (r.edge, r.ecgs) for r in replies.by_site.values() if np.isfinite(r.edge).all() and np.isfinite(r.ecgs).all()
    ]
    half = conformal([edge for edge, _ in bins], [ecgs for _, ecgs in bins], step.coverage)
    gap = Gap(intercept=number(intercept), slope=number(slope), sd=number(sd), ecgs=number(total[0]), sites=tuple(told))
    return gap, {str(step.age): number(half)}


def _fits(reply: Any) -> bool:
    shapes: dict[str, tuple[int, ...]] = {
        "age_sums": (_G, len(AGE_SUMS)),
        "age_clusters": (_G, 3),
        "sex_sums": (_G, 3),
        "sex_clusters": (_G, 3),
    }
    shapes |= {"predicted_men": (_G,), "auc": (_G, 4), "difference": (2, 5), "chance": (2, 5), "patients": (_G, 2)}
    return all(np.shape(getattr(reply, name)) == shape for name, shape in shapes.items())


def _judged(replies: Sequence[Figures]) -> Judged:
    """Figures of one site, or over several: sums add up; an AUC is a site's own, over several there is none."""
    age, sex = {}, {}
    for g, name in enumerate(GROUPS):
        mine = [r for r in replies if np.isfinite(r.age_sums[g]).all()]
        if mine:
            age[name] = _age(mine, g)
        mine = [r for r in replies if np.isfinite(r.sex_sums[g]).all()]
        if mine:
            sex[name] = _sex(mine, g)
    beside = [_difference(replies, name, i) for name in ("difference", "chance") for i in (0, 1)]
    return Judged(
        age=age,
        sex=sex,
        age_difference=beside[0],
        sex_difference=beside[1],
        age_chance=beside[2],
        sex_chance=beside[3],
    )


def _age(replies: Sequence[Figures], g: int) -> AgeGroup:
    sums = np.sum([r.age_sums[g] for r in replies], axis=0)
    patients = float(np.sum([r.patients[g, 0] for r in replies]))
    figures = AgeFigures.of(sums)
    return AgeGroup(
        ecgs=number(figures.n),
        patients=number(patients),
        mae=_mean(sums[2], sums[0], np.sum([r.age_clusters[g] for r in replies], axis=0), patients),
        bias=number(figures.bias),
        sd=number(figures.sd),
        r2=number(figures.r2),
        agreement_low=number(figures.limits[0]),
        agreement_high=number(figures.limits[1]),
        slope=number(figures.slope),
        r=_correlation(figures.r, patients),
    )


def _sex(replies: Sequence[Figures], g: int) -> SexGroup:
    sums = np.sum([r.sex_sums[g] for r in replies], axis=0)
    patients = float(np.sum([r.patients[g, 1] for r in replies]))
    predicted = np.sum([r.predicted_men[g] * r.sex_sums[g, 0] for r in replies]) / sums[0]
    return SexGroup(
        ecgs=number(sums[0]),
        patients=number(patients),
        accuracy=_mean(sums[1], sums[0], np.sum([r.sex_clusters[g] for r in replies], axis=0), patients, share=True),
        men=number(sums[2] / sums[0]),
        predicted_men=number(predicted),
        auc=est(replies[0].auc[g]) if len(replies) == 1 else NOTHING,
    )


def _difference(replies: Sequence[Figures], name: str, i: int) -> EstimateResult | None:
    mine = [r for r in replies if np.isfinite(getattr(r, name)[i]).all()]
    if not mine:
        return None
    sums = np.sum([getattr(r, name)[i] for r in mine], axis=0)
    # Patients with both: at most those of age or of sex; the pairs' own number is not told, ECGs stand for it.
    patients = min(float(np.sum([r.patients[0, i] for r in mine])), sums[0])
    return _mean(sums[1], sums[0], sums[2:], patients)


def _mean(total: float, n: float, of: Floats, patients: float, *, share: bool = False) -> EstimateResult:
    """Return a mean with its patient-clustered 95% interval, by Student's t; of a share, within 0 and 1."""
    mean, se = total / n, mean_error(total, n, of, patients)
    if not np.isfinite(se) or se == 0:
        return EstimateResult(value=number(mean), se=None, low=None, high=None)
    half = float(student.ppf(0.975, patients - 1)) * se
    low, high = mean - half, mean + half
    if share:
        low, high = _wilson(mean, se)
    return EstimateResult(value=number(mean), se=number(se), low=number(low), high=number(high))


def _correlation(r: float, patients: float) -> EstimateResult:
    """Return Pearson's r with its 95% interval by Fisher's z, of so many independent patients."""
    if not abs(r) < 1 or not patients > 3:
        return EstimateResult(value=number(r), se=None, low=None, high=None)
    half = 1.959963984540054 / np.sqrt(patients - 3)
    low, high = (float(np.tanh(np.arctanh(r) + sign * half)) for sign in (-1, 1))
    return EstimateResult(value=number(r), se=None, low=number(low), high=number(high))


def _wilson(p: float, se: float) -> tuple[float, float]:
    """Wilson's interval of a share whose clustered error stands for that of so many independent answers."""
    n, z = p * (1 - p) / se**2, 1.959963984540054
    centre, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z * np.sqrt(se**2 + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return float(centre - half), float(centre + half)
