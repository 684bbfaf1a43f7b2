"""Groups that a cut through a score makes, held against those of all cuts before.

A cut comes with the request, and the next study may ask for another: two groups above them differ by whoever lies
between. Figures of an outcome above cuts are held against those of the same score; where much is told of a group
(sums of its columns, curves), its members are held against those above any score's cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from client.rows.allowance import spend_of
from client.rows.asked_scores import sent_scores
from client.rows.binned import Binned, CutQuestion
from client.rows.context import SiteContext
from client.rows.groups import GROUP, event_topics, events_of
from client.rows.risk import Scored
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.stats.score_scale import LOWEST
from ecgshared.study.study import Study
from ecgshared.wire.protocol import Request

CUTS = "cuts-"
"""How the names of these accounts begin; they end with the group's."""


def open_cuts(
    site: SiteContext,
    request: Request,
    rows: Ints,
    score: Floats,
    cuts: Sequence[float],
    parts: Mapping[str, Bools],
    *,
    any_score: bool = False,
) -> Bools:
    """Say of which cuts figures may be told beside those of cuts before, the first first; shape = (len(cuts),).

    Groups of fewer than the least size are not judged: of them nothing is told anyway.

    Parameters
    ----------
    rows : row numbers in the cohort, shape = (n,). score : of them, shape = (n,).
    parts : of whom figures are told, by topic (``event death``, ``yes to male``), shape = (n,) each; sets of one topic
        are held against each other.
    any_score : whether so much is told of a group that other scores' groups count too.
    """
    if site.settings.limits.withhold_nothing or not len(cuts):
        return np.ones(len(cuts), dtype=np.bool_)
    of = next(iter(sent_scores(site.study, site.step, request.arrays)), "column")
    topics = [f"above cuts of {of}", *(["above cuts of any score"] if any_score else [])]

    def is_open(inside: Bools, name: str) -> bool:
        cells = {
            f"{topic} {where}": _in_cohort(site, rows, inside & part)
            for where in topics
            for topic, part in parts.items()
        }
        return site.cells.admit_group(site.data, cells, name)

    if not is_open(np.ones(len(rows), dtype=np.bool_), "all with the score"):
        return np.zeros(len(cuts), dtype=np.bool_)
    return np.array([is_open(np.asarray(score >= cut), f"above the cut {cut:.4g}") for cut in cuts], dtype=np.bool_)


def open_question(site: SiteContext, request: Request, head: Scored, name: str, question: CutQuestion) -> CutQuestion:
    """Return a question about one outcome (``name``) with the cuts closed that other steps' answers close.

    The bins of controls lie between the cuts: of one score and group one set of cuts is answered, over all studies.
    """
    if head.rows is None or not len(head.rows):
        return question
    asked = np.array([*question.cuts, np.nan if question.fixed is None else question.fixed, question.room])
    spend_cuts(site, request, f"bins {name}", asked)
    mine = Binned.of(head, site.settings.limits, question)
    inner = mine.cuts[mine.cuts > LOWEST]
    parts = outcome_parts(site.study, {name: head.y.astype(np.float64)})
    told = open_cuts(site, request, head.rows, mine.score, inner.tolist(), parts)
    if told.all():
        return question
    # Also those that a closed one stood in the way of: nobody held them against anything.
    named = {*question.cuts, *([] if question.fixed is None else [question.fixed])}
    return replace(question, closed=frozenset(named - set(inner[told].tolist())))


def outcome_parts(study: Study, outcomes: Mapping[str, Floats]) -> dict[str, Bools]:
    """Return who is told of where an outcome is counted: whose it is known, and who has it; shape = (n,) each.

    Parameters
    ----------
    outcomes : by endpoint; NaN where not known.
    """
    found = {}
    for head, y in outcomes.items():
        found[f"known: {events_of(study, head)}"] = np.asarray(~np.isnan(y), dtype=np.bool_)
        found |= dict.fromkeys(event_topics(study, head), np.asarray(y == 1, dtype=np.bool_))
    return found


def open_group(site: SiteContext, rows: Ints, parts: Mapping[str, Bools], name: str) -> bool:
    """Say whether a group may be told of beside those told before, under every topic; ``parts`` as in
    :func:`open_cuts`."""
    return site.cells.admit_group(
        site.data, {topic: _in_cohort(site, rows, part) for topic, part in parts.items()}, name
    )


def open_times(
    site: SiteContext, rows: Ints, years: Floats, observed: Bools, event: str, asked: Iterable[float]
) -> Bools:
    """Say at which times a curve may be told: who left, or had the event, by one and not by another step's counts.

    Parameters
    ----------
    rows : row numbers in the cohort, shape = (n,), of the group. years, observed : of its ECGs, shape = (n,).
    asked : times, years; one that is NaN is not asked for.
    """
    found = []
    for at in asked:
        by_then = years <= at
        parts = {f"followed beyond a time: {event}": ~by_then, f"event {event} by a time": by_then & observed}
        found.append(not np.isnan(at) and open_group(site, rows, parts, f"{at:g} years"))
    return np.array(found, dtype=np.bool_)


def _in_cohort(site: SiteContext, rows: Ints, inside: Bools) -> Bools:
    cell = np.zeros(len(site.data), dtype=np.bool_)
    cell[rows[inside]] = True
    return cell


def spend_cuts(site: SiteContext, request: Request, topic: str, content: Floats, *, cap: int = 1) -> None:
    """Hold every step and study to the cuts that were asked of a score and a group first; the same again are free.

    Raises
    ------
    Refused : ``BUDGET_SPENT`` where other cuts were asked ``cap`` times before.
    """
    if site.settings.limits.withhold_nothing:
        return
    of = next(iter(sent_scores(site.study, site.step, request.arrays)), "column")
    for group in sorted({one.digest for one in site.spoken if one.topic == GROUP}):
        spend_of(site, f"{CUTS}{of}-{group}", topic, {"cuts": content}, cap=cap)
