"""contrast, at the site: paired differences of AUC, and each score's AUC for an outcome less that for a placebo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from client.rows.allowance import spend_score
from client.rows.compared import pair_counts, paired_difference
from client.rows.context import SiteContext
from client.rows.logits import feature_matrix
from client.rows.risk import Scored, label_column, received, rows_under
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.privacy.dominance import carried
from ecgshared.privacy.groups import close_groups
from ecgshared.stages.contrast import Compared, Config, Placebo, Risks, risks_of, scores_of
from ecgshared.stats.calibration import brier, brier_difference, calibration_line
from ecgshared.stats.discrimination import placebo_difference
from ecgshared.stats.influence import UNDEFINED, Estimate, clustered_auc
from ecgshared.study.score import risk_of
from ecgshared.wire.protocol import Answer, Evidence, Request


@dataclass(frozen=True)
class ContrastRows:
    """ECGs of the lockbox under all scores.

    Attributes
    ----------
    scores : float array, shape = (n, S), NaN where an input is unknown.
    outcomes : float array, shape = (n, H), the placebo (if any) last. patient : shape = (n,).
    """

    scores: Floats
    outcomes: Floats
    patient: Ints

    def under(self, score: int, outcome: int, known: Bools) -> Scored:
        """Return the marked ECGs under a score, with an outcome."""
        blank = np.full(int(known.sum()), np.nan, dtype=np.float32)
        y = self.outcomes[known, outcome].astype(np.int64)
        return Scored(self.scores[known, score], y, self.patient[known], blank, blank, 0, 0)


def compare(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``compare``."""
    step, rows = _rows(site, request)
    return compare_answer(rows, len(step.outcomes), site.settings.limits, patients_known=site.data.patients_known)


def placebo(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``placebo``."""
    step, rows = _rows(site, request)
    if step.placebo is None:
        raise Refused(RefusalCode.BAD_REQUEST, "this step has no placebo")
    return placebo_answer(rows, site.settings.limits, patients_known=site.data.patients_known)


def risks(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``risks``."""
    site.require_cohort()
    step, rows = _rows(site, request)
    return risks_answer(rows, len(step.outcomes), risks_of(step, site.study), site.settings.limits)


PHASES = {"compare": compare, "risks": risks, "placebo": placebo}


def compare_answer(rows: ContrastRows, n_outcomes: int, limits: DisclosureLimits, *, patients_known: bool) -> Answer:
    """Compare the first score with every other, for each outcome, on the ECGs that have both.

    Of groups that differ by a few patients the later one is told of nobody.
    """
    shape = (n_outcomes, rows.scores.shape[1] - 1)
    counts, difference = np.full((*shape, 4), np.nan), np.full((*shape, 4), np.nan)
    aucs = np.full((*shape, 2, 4), np.nan)
    patients, events = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for h, v, first, second in _pairs(rows, shape, limits):
        size = group_size(first.patient, first.y)
        patients[h, v], events[h, v] = size.patients, size.events
        counts[h, v] = pair_counts(first, patients_known=patients_known)
        aucs[h, v] = [_auc(one).as_array() for one in (first, second)]
        difference[h, v] = paired_difference(first, second) if 0 < first.y.sum() < len(first.y) else np.nan
    evidence = Evidence(patients, events)
    return Answer(Compared(counts, aucs, difference), dict.fromkeys(("counts", "auc", "difference"), evidence))


def risks_answer(rows: ContrastRows, n_outcomes: int, risks: Sequence[bool], limits: DisclosureLimits) -> Answer:
    """Compare the first risk with every other, for each outcome, on the same ECGs as :func:`compare_answer`.

    Not a risk by which a few stand out: its sums would be theirs.
    """
    shape = (n_outcomes, rows.scores.shape[1] - 1)
    briers, slopes = np.full((*shape, 3, 4), np.nan), np.full((*shape, 2, 4), np.nan)
    patients, events = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for h, v, first, second in _pairs(rows, shape, limits):
        both = (first, second)
        if not (risks[0] and risks[v + 1] and all(carried(one.risk, one.patient, limits) for one in both)):
            continue
        size = group_size(first.patient, first.y)
        patients[h, v], events[h, v] = size.patients, size.events
        if not len(first.y):
            continue
        briers[h, v, :2] = [_risk(brier, one).as_array() for one in both]
        briers[h, v, 2] = brier_difference(first.risk, second.risk, first.y, first.patient).as_array()
        slopes[h, v] = [_risk(lambda *of: calibration_line(*of)[1], one).as_array() for one in both]
    evidence = Evidence(patients, events)
    return Answer(Risks(briers, slopes), dict.fromkeys(("brier", "slope"), evidence))


def placebo_answer(rows: ContrastRows, limits: DisclosureLimits, *, patients_known: bool) -> Answer:
    """Contrast each score's AUC for the first outcome with that for the last, the placebo."""
    n_scores = rows.scores.shape[1]
    counts, aucs = np.full((n_scores, 2, 4), np.nan), np.full((n_scores, 2, 4), np.nan)
    difference = np.full((n_scores, 4), np.nan)
    patients, events = np.zeros(n_scores, dtype=np.int64), np.zeros(n_scores, dtype=np.int64)
    outcomes = (0, rows.outcomes.shape[1] - 1)
    groups = {
        f"{s} {k}": np.isfinite(rows.scores[:, s]) & np.isfinite(rows.outcomes[:, h])
        for s in range(n_scores)
        for k, h in enumerate(outcomes)
    }
    closed = close_groups(groups, rows.patient, limits.min_patients)
    for s in range(n_scores):
        if f"{s} 0" in closed or f"{s} 1" in closed:
            continue
        heads = [rows.under(s, h, groups[f"{s} {k}"]) for k, h in enumerate(outcomes)]
        sizes = [group_size(head.patient, head.y) for head in heads]
        patients[s], events[s] = min(z.patients for z in sizes), min(z.events for z in sizes)
        counts[s] = [pair_counts(head, patients_known=patients_known) for head in heads]
        aucs[s] = [_auc(head).as_array() for head in heads]
        either = np.isfinite(rows.scores[:, s]) & np.isfinite(rows.outcomes[:, outcomes]).any(axis=1)
        first, second = rows.outcomes[either][:, outcomes].T
        try:
            found = placebo_difference(rows.scores[either, s], first, second, rows.patient[either])
        except StatisticsError:
            found = UNDEFINED
        difference[s] = found.as_array()
    evidence = Evidence(patients, events)
    return Answer(Placebo(counts, aucs, difference), dict.fromkeys(("counts", "auc", "difference"), evidence))


def _pairs(
    rows: ContrastRows, shape: tuple[int, int], limits: DisclosureLimits
) -> Iterator[tuple[int, int, Scored, Scored]]:
    """Give the ECGs that have both scores and the outcome, by outcome and other score, where they may be told of."""
    known = np.isfinite(rows.scores)
    groups = {
        f"{h} {v}": known[:, 0] & known[:, v + 1] & np.isfinite(rows.outcomes[:, h])
        for h in range(shape[0])
        for v in range(shape[1])
    }
    whole = {f"whole {h}": known[:, 0] & np.isfinite(rows.outcomes[:, h]) for h in range(shape[0])}
    closed = close_groups({**whole, **groups}, rows.patient, limits.min_patients)
    for h, v in np.ndindex(*shape):
        if (group := f"{h} {v}") not in closed:
            yield h, v, rows.under(0, h, groups[group]), rows.under(v + 1, h, groups[group])


def _auc(head: Scored) -> Estimate:
    return _risk(clustered_auc, head)


def _risk(figure: Callable[[Floats, Ints, Ints], Estimate], head: Scored) -> Estimate:
    return _defined(lambda: figure(head.risk, head.y, head.patient))


def _defined(figure: Callable[[], Estimate]) -> Estimate:
    try:
        return figure()
    except StatisticsError:
        return UNDEFINED


def _rows(site: SiteContext, request: Request) -> tuple[Config, ContrastRows]:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step contrasts no scores", value=step.stage)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    columns = []
    for score in scores_of(step, site.study):
        coef = None
        if score.calibrate is not None:
            coef = received(request, f"{score.calibrate}.coef", (len(score.inputs) + 1,))
        columns.append(risk_of(score, feature_matrix(site, score.inputs, request.arrays, rows), coef))
    spend_score(site, request)
    named = [*step.outcomes, *([step.placebo] if step.placebo else [])]
    outcomes = np.stack([label_column(site, name)[rows].astype(np.float64) for name in named], axis=1)
    return step, ContrastRows(np.stack(columns, axis=1), outcomes, site.data.patient[rows])
