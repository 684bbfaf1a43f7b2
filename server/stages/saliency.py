"""saliency, at the coordinator: each site's map, and the mean of a group of sites, weighted by patients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.leads import LEADS
from ecgshared.stages.results.base import Absences, Group, Number
from ecgshared.stages.results.saliency import Map, SiteMap
from ecgshared.stages.saliency import BEAT_PHASES, Config, Result, Told, window
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, number, numbers, quorum
from server.report.labels import NO_LABELS, Labels
from server.report.saliency import sections
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask every site once."""
    if not isinstance(step, Config):
        raise TypeError("a saliency step's configuration was expected")
    study = context.study
    before, after = window(study.input.fs_hz)
    replies = context.ask("tell", sites=context.sites, quorum=quorum(context, context.sites))
    absent: Absences = {}
    absences(replies, absent, "tell")
    found: dict[str, Told] = {}
    for site, reply in replies.by_site.items():
        if np.shape(reply.share) == (12, len(BEAT_PHASES)) and np.shape(reply.course) == (12, before + after):
            found[site] = reply
        else:
            absent.setdefault(site, {})["tell"] = "wrong-shape"
    sites: dict[str, SiteMap] = {}
    pooled: dict[Group, Map] = {}
    groups: dict[Group, tuple[str, ...]] = {"training": study.sites.train, "zero_shot": study.sites.zero_shot}
    for group, members in groups.items():
        mine = {s: found[s] for s in members if s in found}
        if mine:
            pooled[group] = _together(mine)
        for site, told in mine.items():
            sites[site] = SiteMap(group=group, **_together({site: told}).model_dump())
    result = Result(
        head=step.head,
        method=step.method,
        times_s=tuple(float(t) for t in np.arange(-before, after) / study.input.fs_hz),
        sites={s: sites[s] for s in context.sites if s in sites},
        pooled=pooled,
        absent=absent,
    )
    return Artefact(step.id, "saliency", result, {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Shares by lead and phase, and the course along the mean beat."""
    return sections(artefact.step, artefact.result, labels)


def _together(told: Mapping[str, Told]) -> Map:
    """Mean over the sites that told, weighted by patients; the error is of the mean over patients."""
    own = {s: t for s, t in told.items() if np.isfinite(t.patients[0]) and np.isfinite(t.share).all()}
    n = np.array([float(t.patients[0]) for t in own.values()])
    weight = n / n.sum() if len(n) else n

    def mean(name: str, width: int) -> Floats:
        parts = [w * np.asarray(getattr(t, name), dtype=np.float64) for w, t in zip(weight, own.values(), strict=True)]
        return sum(parts, np.zeros((12, width))) if parts else np.full((12, width), np.nan)

    width = next(iter(told.values())).course.shape[1]
    phases = len(BEAT_PHASES)
    squares = [(w * t.spread) ** 2 / max(k - 1, 1) for w, k, t in zip(weight, n, own.values(), strict=True)]
    error = np.sqrt(sum(squares, np.zeros((12, phases)))) if squares else np.full((12, phases), np.nan)
    return Map(
        patients=number(n.sum()) if len(n) else None,
        sites=tuple(own),
        share=_by_phase(mean("share", phases)),
        signed=_by_phase(mean("signed", phases)),
        error=_by_phase(error),
        course={lead: numbers(row) for lead, row in zip(LEADS, mean("course", width), strict=True)},
        beat={lead: numbers(row) for lead, row in zip(LEADS, mean("beat", width), strict=True)},
    )


def _by_phase(table: Floats) -> dict[str, dict[str, Number]]:
    return {
        lead: {phase: number(value) for phase, value in zip(BEAT_PHASES, row, strict=True)}
        for lead, row in zip(LEADS, table, strict=True)
    }
