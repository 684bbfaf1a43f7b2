"""What a hospital adds to the pooled figures of an evaluation: sketches, counts on bins and cuts, placements, lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.rows.binned import Binned, CutQuestion, read_curve, sketches
from client.rows.own_figures import where
from client.rows.risk import Scored, received
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.privacy.dominance import carried
from ecgshared.stages.calibrate import effective_patients, sums_evidence
from ecgshared.stages.evaluate import Histograms, Placement, Scale, SlopeSums
from ecgshared.stats.calibration import logistic_sums, logit, score_meat
from ecgshared.stats.influence import ratio_square_sum
from ecgshared.stats.performance import rates_at_cuts
from ecgshared.stats.placement import ControlCurve, isolates, place
from ecgshared.stats.score_scale import HIGHEST
from ecgshared.wire.protocol import Answer, Evidence, Request


def scale_answer(heads: Sequence[Scored], limits: DisclosureLimits) -> Answer:
    """Sketch where the scores of every head's cases and controls lie."""
    columns, patients = sketches(heads, limits)
    return Answer(Scale(**columns), dict.fromkeys(columns, Evidence(patients)))


def histogram_answer(heads: Sequence[Scored], limits: DisclosureLimits, questions: Sequence[CutQuestion]) -> Answer:
    """Count every head's controls on its bins and its cases above the cuts it may answer."""
    bins: dict[str, list[Floats]] = {name: [] for name in ("head", "lower", "upper", "controls")}
    cuts: dict[str, list[Floats]] = {name: [] for name in ("cut_head", "cut", "cases", "predicted", "rate", "group")}
    in_bin, in_cut, with_event, by_size = [], [], [], []
    for h, (head, question) in enumerate(zip(heads, questions, strict=True)):
        mine = Binned.of(head, limits, question)
        above, rate, group = rates_at_cuts(mine.score, head.risk, head.y, head.patient, mine.cuts)
        for name, column in zip(
            bins, (np.full(len(mine.bins), h), mine.bins.lower, mine.bins.upper, mine.bins.controls), strict=True
        ):
            bins[name].append(np.asarray(column, dtype=np.float64))
        for name, column in zip(
            cuts, (np.full(len(mine.cuts), h), mine.cuts, above[:, 0], above[:, 1], rate, group), strict=True
        ):
            cuts[name].append(np.asarray(column, dtype=np.float64))
        in_bin.append(mine.bins.patients)
        in_cut.append(mine.patients)
        with_event.append(mine.events)
        by_size.append(np.full(len(mine.cuts), carried(head.risk, head.patient, limits)))
    joined = {name: np.concatenate(parts) for name, parts in {**bins, **cuts}.items()}
    of_cuts = Evidence(np.concatenate(in_cut), np.concatenate(with_event))
    return Answer(
        Histograms(**joined),
        {
            **dict.fromkeys(bins, Evidence(np.concatenate(in_bin))),
            **dict.fromkeys(cuts, of_cuts),
            **dict.fromkeys(("predicted", "group"), where(of_cuts, np.concatenate(by_size))),
        },
    )


def placement_answer(head: Scored, request: Request, question: CutQuestion, limits: DisclosureLimits) -> Answer:
    """Sum the pooled control curve over the site's cases, and squared influences at its cuts."""
    mine = Binned.of(head, limits, question)
    size = group_size(head.patient, head.y)
    controls, position, weight = read_curve(request)
    pairs, sums, isolated = np.zeros(2), np.zeros(13), False
    if len(mine.cuts):
        pairs, sums, isolated = _placed(head, mine, controls, position, weight, limits)
    scalars = {name: float(received(request, name, (1,))[0]) for name in ("expected_over_observed", "sensitivity")}
    case = head.y.astype(np.float64)
    at_threshold = question.fixed is not None and question.fixed in mine.cuts
    flagged = (mine.score >= (question.fixed if question.fixed is not None else HIGHEST)) * case
    square_sum, people = mine.squares(head, question, received(request, "rates", (len(question.cuts) + 2,)))
    whole = Evidence(np.array(size.patients), np.array(size.events))
    # Which of the two it is, too few or a curve that singles out some, is not said: both withhold.
    of_curve = Evidence(np.array(0), np.array(0)) if isolated else whole
    of_sensitivity = whole if at_threshold else Evidence(np.array(0), np.array(0))
    return Answer(
        Placement(
            pairs=pairs,
            sums=sums,
            in_large=np.array([ratio_square_sum(head.risk, case, head.patient, scalars["expected_over_observed"])]),
            sensitivity=np.array([ratio_square_sum(flagged, case, head.patient, scalars["sensitivity"])]),
            cut=mine.cuts,
            square_sum=square_sum,
            patients=people,
        ),
        {
            **dict.fromkeys(("pairs", "sums"), of_curve),
            "in_large": where(whole, carried(head.risk, head.patient, limits)),
            "sensitivity": of_sensitivity,
            **dict.fromkeys(("cut", "square_sum", "patients"), Evidence(mine.patients, mine.events)),
        },
    )


def _placed(
    head: Scored, mine: Binned, controls: ControlCurve, position: Floats, weight: Floats, limits: DisclosureLimits
) -> tuple[Floats, Floats, bool]:
    try:
        placed = place(mine.score, head.y, head.patient, mine.bins, controls, position, weight)
    except StatisticsError as error:
        raise Refused(RefusalCode.BAD_REQUEST, "a curve that is not the pooled one") from error
    case = head.y == 1
    segment = np.searchsorted(mine.cuts[::-1], mine.score[case], side="right")
    isolated = isolates(placed.others, placed.own, head.patient[case], segment, max(limits.min_events, 1))
    return placed.pairs, placed.sums, isolated


def slope_answer(head: Scored, coef: Floats) -> Answer:
    """Sum gradient, Hessian, log-likelihood and clustered meat of the calibration line at ``coef``."""
    design = np.column_stack([np.ones(len(head.risk)), logit(head.risk)])
    sums = logistic_sums(design, head.y, coef)
    size = group_size(head.patient, head.y)
    effective = effective_patients(design, head.y, head.patient, coef) if len(head.y) else 0.0
    evidence = sums_evidence(size.patients, size.events, 2, effective)
    meat = score_meat(design, head.y, head.patient, coef) if len(head.y) else np.zeros((2, 2))
    fields = ("gradient", "hessian", "log_likelihood", "meat")
    return Answer(
        SlopeSums(sums.gradient, sums.hessian, np.array([sums.log_likelihood]), meat), dict.fromkeys(fields, evidence)
    )
