"""contrast, at the coordinator: each site's paired differences, and those of a group of sites, pairs within a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.stats import t

from ecgshared.arrays import Floats
from ecgshared.stages.contrast import Compared, Config, Placebo, Result, Risks, risks_of
from ecgshared.stages.results.base import Absences, EstimateResult, Group
from ecgshared.stages.results.contrast import Contrasted, Pair, PlaceboContrast, RiskPair, SiteContrasted
from ecgshared.stats.influence import CONFIDENCE, Estimate
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
    context.progress(0, 3, "scores beside each other")
    shapes = {"counts": (h, v, 4), "auc": (h, v, 2, 4), "difference": (h, v, 4)}
    compared: dict[str, Compared] = _ask(context, "compare", shapes, absent) if v else {}
    study = context.study
    are = risks_of(step, study)
    cohorts = tuple(site for site in compared if site not in study.sites.case_control)
    risks: dict[str, Risks] = {}
    if are[0] and any(are[1:]) and cohorts:
        context.progress(1, 3, "as risks")
        risks = _ask(context, "risks", {"brier": (h, v, 3, 4), "slope": (h, v, 2, 4)}, absent, cohorts)
    context.progress(2, 3, "placebo")
    shapes = {"counts": (s, 2, 4), "auc": (s, 2, 4), "difference": (s, 4)}
    placebos: dict[str, Placebo] = _ask(context, "placebo", shapes, absent) if step.placebo else {}
    groups: dict[Group, tuple[str, ...]] = {
        "training": study.sites.train,
        "zero_shot": study.sites.zero_shot,
        "case_control": study.sites.case_control,
    }

    def contrasted(of: Sequence[str]) -> dict[str, Any]:
        return _contrasted(step, _of(compared, of), _of(risks, of), _of(placebos, of))

    sites, pooled = {}, {}
    for group, names in groups.items():
        members = [name for name in names if name in compared or name in placebos]
        for name in members:
            sites[name] = SiteContrasted(group=group, **contrasted([name]))
        if members:
            pooled[group] = Contrasted(**contrasted(members))
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


def _ask(
    context: StepContext,
    phase: str,
    shapes: Mapping[str, tuple[int, ...]],
    absent: Absences,
    sites: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    asked = sites or context.sites
    replies = context.ask(phase, sites=asked, quorum=quorum(context, asked))
    absences(replies, absent, phase)
    found = {}
    for site, reply in replies.by_site.items():
        if all(np.shape(getattr(reply, name)) == shape for name, shape in shapes.items()):
            found[site] = reply
        else:
            absent.setdefault(site, {})[phase] = "wrong-shape"
    return found


Reply = TypeVar("Reply", Compared, Risks, Placebo)


def _of(replies: Mapping[str, Reply], sites: Sequence[str]) -> dict[str, Reply]:
    return {site: replies[site] for site in sites if site in replies}


def _contrasted(
    step: Config, compared: Mapping[str, Compared], risks: Mapping[str, Risks], placebos: Mapping[str, Placebo]
) -> dict[str, Any]:
    """Return what some sites (one, or those of a group) say."""
    return {
        "pairs": {
            outcome: {
                name: _pair(
                    {s: (r.counts[h, v], r.auc[h, v], r.difference[h, v]) for s, r in compared.items()},
                    {s: (compared[s].counts[h, v], r.brier[h, v], r.slope[h, v]) for s, r in risks.items()},
                )
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


def _risks(rows: Mapping[str, Row]) -> RiskPair | None:
    """Return Brier scores and slopes: over several sites means over their ECGs, and no slope.

    ``rows`` : by site counts, Brier scores with their difference (3, 4), slopes (2, 4).
    """
    told = [row for row in rows.values() if np.isfinite([row[0][0], *row[1][:, 0]]).all()]
    if not told:
        return None
    if len(told) == 1:
        ((_, briers, slopes),) = told
    else:
        counts, found, _ = (np.array(part) for part in zip(*told, strict=True))
        share = counts[:, 0] / counts[:, 0].sum()
        value = np.einsum("s,sk->k", share, found[..., 0])
        error = np.sqrt((np.nan_to_num(share[:, None] * found[..., 1]) ** 2).sum(axis=0))
        df = float(np.where(np.isfinite(counts[:, 3]), counts[:, 3], counts[:, 2]).sum()) - len(told)
        half = error * (np.nan if few_events(df + len(told)) else float(t.ppf(0.5 + CONFIDENCE / 2, df)))
        briers, slopes = np.stack([value, np.where(error > 0, error, np.nan), value - half, value + half], axis=1), None
    first, other, difference = (est(one) for one in briers)
    slope, other_slope = (None, None) if slopes is None else (est(one) for one in slopes)
    return RiskPair(
        brier=first, other_brier=other, brier_difference=difference, brier_p=number(p_value(Estimate(*briers[2]))),
        slope=slope, other_slope=other_slope, sites=tuple(s for s, r in rows.items() if any(r is one for one in told)),
    )  # fmt: skip


def _pair(rows: Mapping[str, Row], risks: Mapping[str, Row]) -> Pair:
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
        difference=est(difference), p=number(p), sites=tuple(told), risks=_risks(risks),
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
