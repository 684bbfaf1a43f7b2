"""contrast, at the coordinator: each site's paired differences, and those of a group of sites, pairs within a site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.contrast import Compared, Config, Placebo, Result
from ecgshared.stages.results.base import Absences, EstimateResult, Group
from ecgshared.stages.results.contrast import Contrasted, Pair, PlaceboContrast, SiteContrasted
from ecgshared.stats.influence import Estimate
from ecgshared.stats.small_samples import few_events, satterthwaite, t_interval
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, quorum
from server.pooling.compared import p_value
from server.report.contrast import sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask every site; training sites and others are put together apart."""
    if not isinstance(step, Config):
        raise TypeError("a contrast step's configuration was expected")
    absent: Absences = {}
    h, v, s = len(step.outcomes), len(step.scores) - 1, len(step.scores)
    context.progress(0, 2, "scores beside each other")
    compared: dict[str, Compared] = _ask(context, "compare", ((h, v, 4), (h, v, 2, 4), (h, v, 4)), absent) if v else {}
    context.progress(1, 2, "placebo")
    shapes = ((s, 2, 4), (s, 2, 4), (s, 4))
    placebos: dict[str, Placebo] = _ask(context, "placebo", shapes, absent) if step.placebo else {}
    study = context.study
    groups: dict[Group, tuple[str, ...]] = {
        "training": study.sites.train,
        "zero_shot": study.sites.zero_shot,
        "case_control": study.sites.case_control,
    }
    sites, pooled = {}, {}
    for group, names in groups.items():
        members = [name for name in names if name in compared or name in placebos]
        for name in members:
            own = _contrasted(step, {name: compared[name]} if name in compared else {}, _one(placebos, name))
            sites[name] = SiteContrasted(group=group, **own)
        if members:
            mine = {name: compared[name] for name in members if name in compared}
            pooled[group] = Contrasted(**_contrasted(step, mine, {n: placebos[n] for n in members if n in placebos}))
    result = Result(
        score=step.scores[0],
        others=step.scores[1:],
        outcomes=step.outcomes,
        placebo=step.placebo,
        sites={name: sites[name] for name in context.sites if name in sites},
        pooled=pooled,
        absent=absent,
    )
    return Artefact(step.id, "contrast", result, {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """AUCs of all scores, differences as forest plots, and the placebo."""
    return sections(artefact.step, artefact.result, labels)


def _ask(context: StepContext, phase: str, shapes: tuple[tuple[int, ...], ...], absent: Absences) -> dict[str, Any]:
    replies = context.ask(phase, sites=context.sites, quorum=quorum(context, context.sites))
    absences(replies, absent, phase)
    found = {}
    for site, reply in replies.by_site.items():
        if (np.shape(reply.counts), np.shape(reply.auc), np.shape(reply.difference)) == shapes:
            found[site] = reply
        else:
            absent.setdefault(site, {})[phase] = "wrong-shape"
    return found


def _one(replies: Mapping[str, Placebo], name: str) -> dict[str, Placebo]:
    return {name: replies[name]} if name in replies else {}


def _contrasted(step: Config, compared: Mapping[str, Compared], placebos: Mapping[str, Placebo]) -> dict[str, Any]:
    """Return what some sites (one, or those of a group) say."""
    return {
        "pairs": {
            outcome: {
                name: _pair({s: (r.counts[h, v], r.auc[h, v], r.difference[h, v]) for s, r in compared.items()})
                for v, name in enumerate(step.scores[1:])
            }
            for h, outcome in enumerate(step.outcomes)
        }
        if compared
        else {},
        "placebo": {
            name: _placebo({s: (r.counts[i], r.auc[i], r.difference[i]) for s, r in placebos.items()})
            for i, name in enumerate(step.scores)
        }
        if placebos
        else {},
    }


Row = tuple[Floats, Floats, Floats]
"""Counts, AUCs as estimates (2, 4), and the difference (4,)."""


def _together(rows: Mapping[str, Row], counts: Mapping[str, Floats]) -> tuple[Estimate, float, list[EstimateResult]]:
    """Return the difference over sites, its P, and both AUCs: each site weighs by its pairs of cases and controls.

    ``counts`` : of the cases that decide; of one site all is that site's own.
    """
    if len(rows) == 1:
        ((_, aucs, difference),) = rows.values()
        found = Estimate(*difference)
        return found, p_value(found), [est(one) for one in aucs]
    pairs = np.array([counts[s][2] * (counts[s][0] - counts[s][2]) for s in rows])
    weight = pairs / pairs.sum()
    ill = np.array([c[3] if np.isfinite(c[3]) else c[2] for c in counts.values()])

    def mean(values: Floats) -> Estimate:
        variances = np.nan_to_num(weight * values[:, 1]) ** 2
        value, error = float(weight @ values[:, 0]), float(np.sqrt(variances.sum())) or np.nan
        df = satterthwaite(variances.tolist(), np.maximum(ill - 1, 1).tolist())
        bounds = (np.nan, np.nan) if few_events(float(ill.sum())) else t_interval(value, error, df)
        return Estimate(value, error, *bounds)

    found = mean(np.array([row[2] for row in rows.values()]))
    aucs_together = [est(mean(np.array([row[1][k] for row in rows.values()]))) for k in (0, 1)]
    return found, p_value(found), aucs_together


def _told(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {s: r for s, r in rows.items() if np.isfinite([*np.ravel(r[0])[[0, 2]], *r[1][:, 0], r[2][0]]).all()}


_NONE = est(np.full(4, np.nan))


def _pair(rows: Mapping[str, Row]) -> Pair:
    told = _told(rows)
    if not told:
        return Pair(
            ecgs=None, patients=None, events=None, event_patients=None, auc=_NONE, other_auc=_NONE, difference=_NONE,
            p=None, sites=(),
        )  # fmt: skip
    counts = {s: r[0] for s, r in told.items()}
    difference, p, (auc, other) = _together(told, counts)
    ecgs, patients, events, ill = (number(n) for n in np.sum(list(counts.values()), axis=0))
    return Pair(
        ecgs=ecgs, patients=patients, events=events, event_patients=ill, auc=auc, other_auc=other,
        difference=est(difference), p=number(p), sites=tuple(told),
    )  # fmt: skip


def _placebo(rows: Mapping[str, Row]) -> PlaceboContrast:
    told = _told(rows)
    if not told:
        return PlaceboContrast(
            ecgs=None, events=None, event_patients=None, placebo_events=None, placebo_event_patients=None, auc=_NONE,
            placebo_auc=_NONE, difference=_NONE, p=None, sites=(),
        )  # fmt: skip
    # The outcome with fewer cases decides how much is known.
    counts = {s: r[0][int(np.argmin(r[0][:, 2]))] for s, r in told.items()}
    difference, p, (auc, other) = _together(told, counts)
    total = np.sum([r[0] for r in told.values()], axis=0)
    return PlaceboContrast(
        ecgs=number(total[0, 0] + total[1, 2]),
        events=number(total[0, 2]),
        event_patients=number(total[0, 3]),
        placebo_events=number(total[1, 2]),
        placebo_event_patients=number(total[1, 3]),
        auc=auc,
        placebo_auc=other,
        difference=est(difference),
        p=number(p),
        sites=tuple(told),
    )
