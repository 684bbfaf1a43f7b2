"""evaluate, at the site: its own exact figures, controls on its bins, cases above shared cuts, and placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.allowance import spend, spend_score
from client.rows.binned import CutQuestion, read_cuts
from client.rows.compared import compare_answer
from client.rows.context import SiteContext
from client.rows.cut_sets import open_cuts, open_question, outcome_parts
from client.rows.for_pooling import histogram_answer, placement_answer, scale_answer, slope_answer
from client.rows.heads import admitted_heads
from client.rows.judged import SUMMED_PHASES
from client.rows.logits import feature_matrix
from client.rows.own_figures import admitted_subgroups, local_answer
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from client.rows.weighted import followed, weighted_answer
from ecgshared.errors import RefusalCode, Refused
from ecgshared.stages.evaluate import (
    LINES,
    Config,
    compared_scores,
    heads_of,
    partitions_of,
)
from ecgshared.stats.control_bins import ROOM
from ecgshared.stats.score_scale import HIGHEST, score_of
from ecgshared.stats.score_scale import risk_of as risk_at
from ecgshared.study.score import risk_of
from ecgshared.wire.protocol import Answer, Request


def local(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``local``."""
    heads, step = _heads(site, request), _config(site)
    answer = local_answer(
        heads,
        step,
        site.settings.limits,
        cuts=[_open_threshold(site, request, head, name) for head, name in _named(site, heads)],
        patients_known=site.data.patients_known,
        admitted=admitted_subgroups(site, step, heads),
        study=site.study,
    )
    return _ranks_alone(answer) if site.case_control else answer


_HANGS_ON_HOW_OFTEN = (
    *("mean_predicted", "average_precision", "brier", "intercept", "slope", "expected_over_observed", "at_threshold"),
    "subgroup_rates",
)


def _ranks_alone(answer: Answer) -> Answer:
    """Take away what a case-control series cannot tell; counts of cases and controls, and AUCs, are left."""
    blank = {name: np.full_like(getattr(answer.payload, name), np.nan) for name in _HANGS_ON_HOW_OFTEN}
    return replace(answer, payload=replace(answer.payload, **blank))


def scale(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``scale``."""
    site.require_cohort()
    return scale_answer(_heads(site, request), site.settings.limits)


def histogram(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``histogram``; of one score above one set of cuts: others would tell of those between."""
    site.require_cohort()
    heads = _heads(site, request)
    spend(site, request, "histogram", cap=1)
    return histogram_answer(heads, site.settings.limits, _questions(site, request, heads))


def placement(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``placement``: of one score, one curve a head."""
    site.require_cohort()
    heads = _heads(site, request)
    head = _head(request, heads)
    spend(site, request, f"placement {head}", cap=1)
    question = _questions(site, request, heads)[head]
    return placement_answer(heads[head], request, question, site.settings.limits)


def slope(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``slope``: so many lines a head as a fit asks for, since each is a sum over the same people."""
    site.require_cohort()
    heads = _heads(site, request)
    head, coef = _head(request, heads), received(request, "coef", (2,))
    spend(site, request, f"slope {head}", cap=LINES)
    return slope_answer(heads[head], coef)


def compare(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``compare``."""
    step = _config(site)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    own = score_rows(site, request, step, rows)
    others = []
    for score in compared_scores(step, site.study):
        coef = None
        if score.calibrate is not None:
            coef = received(request, f"{score.calibrate}.coef", (len(score.inputs) + 1,))
        others.append(risk_of(score, feature_matrix(site, score.inputs, request.arrays, rows), coef))
    spend_score(site, request)
    heads = heads_of(step, site.study)
    whole = [with_outcome(site, rows, own, head) for head in heads]
    pairs = [
        [
            (
                with_outcome(site, rows, np.where(np.isfinite(other), own, np.nan), head),
                with_outcome(site, rows, np.where(np.isfinite(own), other, np.nan), head),
            )
            for other in others
        ]
        for head in heads
    ]
    return compare_answer(whole, pairs, site.settings.limits, patients_known=site.data.patients_known)


def weighted(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``weighted``: a study that weights for censoring also reads who is followed for a part."""
    site.require_cohort()
    step = _config(site)
    if site.study.censoring != "ipcw":
        raise Refused(RefusalCode.BAD_REQUEST, "this study does not weight for censoring", value=site.study.censoring)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, step, rows)
    spend_score(site, request)
    names = heads_of(step, site.study)
    labelled = [with_outcome(site, rows, risk, name) for name in names]
    # As of those with a label, so of all who are followed.
    cuts = [_open_threshold(site, request, head, name) for head, name in zip(labelled, names, strict=True)]
    heads = [followed(site, rows, risk, name) for name in names]
    return weighted_answer(
        heads, [None if cut is None else float(risk_at(cut)) for cut in cuts], site.data.patients_known
    )


PHASES = {
    "local": local,
    "scale": scale,
    "histogram": histogram,
    "placement": placement,
    "slope": slope,
    "compare": compare,
    "weighted": weighted,
    **SUMMED_PHASES,
}


def _config(site: SiteContext) -> Config:
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step does not evaluate", value=site.step.stage)
    return site.step


def _heads(site: SiteContext, request: Request) -> list[Scored]:
    step = _config(site)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, step, rows)
    spend_score(site, request)
    heads = heads_of(step, site.study)
    found = [
        with_outcome(site, rows if told else rows[:0], risk if told else risk[:0], head)
        for head, told in zip(heads, admitted_heads(site, step.id, heads, rows[np.isfinite(risk)]), strict=True)
    ]
    named = {group.column for group in partitions_of(step, site.study)} - {"age", "male"}
    every: dict[str, NDArray[Any]] = {**site.data.columns, **site.data.covariates}
    return [
        replace(one, columns={name: np.asarray(every[name][one.rows], dtype=np.float64) for name in named})
        for one in found
    ]


def _head(request: Request, heads: Sequence[Scored]) -> int:
    head = int(received(request, "head", (1,))[0])
    if not 0 <= head < len(heads):
        raise Refused(RefusalCode.BAD_REQUEST, "no such head", value=head)
    return head


def _named(site: SiteContext, heads: Sequence[Scored]) -> list[tuple[Scored, str]]:
    return list(zip(heads, heads_of(_config(site), site.study), strict=True))


def _questions(site: SiteContext, request: Request, heads: Sequence[Scored]) -> list[CutQuestion]:
    """Read the cuts asked for, without those closed by other steps'. A hospital alone in its group tells its own AUC,
    whose precision no bins carry: there a cut needs but one bin of controls on either side, and a curve has points at
    100 ECGs too."""
    group_of, own = site.study.sites.group_of, site.settings.site
    alone = sum(group_of(s) == group_of(own) for s in site.study.members(site.step)) == 1
    asked = read_cuts(request, len(heads), _cut(site, request), room=1 if alone else ROOM)
    return [
        open_question(site, request, head, name, question)
        for (head, name), question in zip(_named(site, heads), asked, strict=True)
    ]


def _open_threshold(site: SiteContext, request: Request, head: Scored, name: str) -> float | None:
    """Return the threshold where figures of those above it may be told beside other steps'."""
    cut = _cut(site, request)
    if cut is None or head.rows is None or not len(head.rows):
        return cut
    parts = outcome_parts(site.study, {name: head.y.astype(np.float64)})
    return cut if open_cuts(site, request, head.rows, score_of(head.risk), [cut], parts).all() else None


def _cut(site: SiteContext, request: Request) -> float | None:
    fixed = site.study.used(site.step, "threshold")
    if fixed is None:
        return None
    cut = float(received(request, f"{fixed.id}.cut", (1,))[0])
    return cut if cut < HIGHEST else None
