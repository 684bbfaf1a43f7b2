"""A score judged over all hospitals together: a site's part of sums that are told of all of them alone."""

from __future__ import annotations

import numpy as np

from client.rows.allowance import spend, spend_score
from client.rows.context import SiteContext
from client.rows.cut_sets import spend_cuts
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import group_size
from ecgshared.stages.calibrate import sums_together
from ecgshared.stages.evaluate import CURVES, LINES, Config, Controls, Placed, SlopeSums, Totals, heads_of
from ecgshared.stats.calibration import logistic_sums, logit, score_meat
from ecgshared.stats.influence import by_patient
from ecgshared.stats.score_scale import score_of
from ecgshared.wire.protocol import Answer, Evidence, Request, Together

_NOTHING_CARRIED = np.zeros((0, 2))


def totals(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``totals``."""
    heads = _heads(site, request)
    counts, predicted, squared, scores, patients, events = [], [], [], [], [], []
    for head in heads:
        with_event, without = (len(np.unique(head.patient[head.y == v])) for v in (1, 0))
        everybody = len(np.unique(head.patient))
        counts.append([len(head.y), everybody, head.y.sum(), with_event, without])
        predicted.append(head.risk.sum())
        squared.append(((head.risk - head.y) ** 2).sum())
        free = score_of(head.risk[head.y == 0])
        scores.append([len(free), free.sum(), free @ free])
        patients.append(everybody)
        events += [with_event, without]
    payload = Totals(*(np.array(rows, dtype=np.float64) for rows in (counts, predicted, squared, scores)))
    sizes = [group_size(head.patient, head.y) for head in heads]
    own = Evidence(np.array([s.patients for s in sizes]), np.array([s.events for s in sizes]))
    together = Together(np.array(patients), np.array(events), _NOTHING_CARRIED)
    return Answer(payload, dict.fromkeys(("counts", "predicted", "squared", "scores"), own), together)


def controls(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``controls``."""
    head, number = _head(site, request)
    cuts = _cuts(request)
    spend(site, request, f"controls {number}", cap=CURVES)
    spend_cuts(site, request, f"controls {_name(site, number)}", cuts, cap=CURVES)
    free = head.y == 0
    group = np.searchsorted(cuts, score_of(head.risk[free]), side="right")
    n = len(cuts) + 1
    patients = np.array([len(np.unique(head.patient[free][group == g])) for g in range(n)])
    counts = np.bincount(group, minlength=n).astype(np.float64)
    return Answer(Controls(counts), {"counts": Evidence(patients)}, Together(patients, np.zeros(0), _NOTHING_CARRIED))


def placed(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``placed``: of one curve, and only where no few of all cases carry the sum."""
    head, number = _head(site, request)
    cuts = _cuts(request)
    counts = received(request, "controls", (len(cuts) + 1,))
    spend(site, request, f"placed {number}", cap=1)
    spend_cuts(site, request, f"placed {_name(site, number)}", cuts)
    if (counts < 0).any() or not counts.sum() > 0:
        raise Refused(RefusalCode.BAD_REQUEST, "a curve that is none")
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    case = head.y == 1
    group = np.searchsorted(cuts, score_of(head.risk[case]), side="right")
    low, high = below[group], below[group + 1]
    middle, people = (low + high) / 2, head.patient[case]
    summed = by_patient(middle, people) if len(people) else np.zeros(0)
    ecgs = by_patient(np.ones(len(people)), people) if len(people) else np.zeros(0)
    other = ecgs - summed
    # A curve sent from outside must not single out a few cases: those above it, or those below.
    carried = np.array([[summed.sum(), summed @ summed], [other.sum(), other @ other]])
    size = group_size(head.patient, head.y)
    own = Evidence(np.array(size.patients), np.array(size.events))
    with_event, without = (len(np.unique(head.patient[head.y == v])) for v in (1, 0))
    return Answer(
        Placed(
            np.array([low.sum(), high.sum()]), np.array([summed @ summed, summed @ ecgs, ecgs @ ecgs], dtype=np.float64)
        ),
        {"share": own, "squares": own},
        Together(np.array([len(np.unique(head.patient))]), np.array([with_event, without]), carried),
    )


def line(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``line``."""
    head, number = _head(site, request)
    coef = received(request, "coef", (2,))
    spend(site, request, f"line {number}", cap=LINES)
    design = np.column_stack([np.ones(len(head.risk)), logit(head.risk)])
    sums = logistic_sums(design, head.y, coef)
    size = group_size(head.patient, head.y)
    own = Evidence(np.array(size.patients), np.array(size.events))
    meat = score_meat(design, head.y, head.patient, coef) if len(head.y) else np.zeros((2, 2))
    return Answer(
        SlopeSums(sums.gradient, sums.hessian, np.array([sums.log_likelihood]), meat),
        dict.fromkeys(("gradient", "hessian", "log_likelihood", "meat"), own),
        sums_together(head.patient, head.y, 2, design, coef),
    )


SUMMED_PHASES = {"totals": totals, "controls": controls, "placed": placed, "line": line}


def _heads(site: SiteContext, request: Request) -> list[Scored]:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step does not evaluate", value=step.stage)
    if not site.data.patients_known:
        raise Refused(RefusalCode.TOO_FEW, "without patient ids the patients of all sites cannot be counted")
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, step, rows)
    spend_score(site, request)
    return [with_outcome(site, rows, risk, head) for head in heads_of(step, site.study)]


def _head(site: SiteContext, request: Request) -> tuple[Scored, int]:
    heads, number = _heads(site, request), int(received(request, "head", (1,))[0])
    if not 0 <= number < len(heads):
        raise Refused(RefusalCode.BAD_REQUEST, "no such head", value=number)
    return heads[number], number


def _name(site: SiteContext, number: int) -> str:
    assert isinstance(site.step, Config)
    return heads_of(site.step, site.study)[number]


def _cuts(request: Request) -> Floats:
    cuts = np.atleast_1d(np.asarray(request.arrays.get("cuts", np.zeros(0)), dtype=np.float64))
    if not 0 < len(cuts) < 512 or not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
        raise Refused(RefusalCode.BAD_REQUEST, "cuts are missing, too many, or do not ascend", value=cuts.shape)
    return cuts
