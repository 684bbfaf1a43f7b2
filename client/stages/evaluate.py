"""evaluate, at the site: its own exact figures, controls on its bins, cases above shared cuts, and placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.allowance import spend, spend_score
from client.rows.binned import Binned, CutQuestion, read_curve, read_cuts, sketches
from client.rows.compared import compare_answer
from client.rows.context import SiteContext
from client.rows.cut_sets import open_cuts, open_question, outcome_parts
from client.rows.heads import admitted_heads
from client.rows.judged import SUMMED_PHASES
from client.rows.logits import feature_matrix
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from client.rows.weighted import followed, weighted_answer
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.privacy.dominance import carried, ranked
from ecgshared.stages.calibrate import effective_patients, sums_evidence
from ecgshared.stages.evaluate import (
    LINES,
    Config,
    Histograms,
    LocalResults,
    Placement,
    Scale,
    SlopeSums,
    compared_scores,
    heads_of,
    partitions_of,
)
from ecgshared.stats.calibration import logistic_sums, logit, score_meat
from ecgshared.stats.control_bins import ROOM
from ecgshared.stats.influence import ratio_square_sum
from ecgshared.stats.performance import Performance, performance, rates_at_cuts
from ecgshared.stats.placement import ControlCurve, isolates, place
from ecgshared.stats.score_scale import HIGHEST, score_of
from ecgshared.stats.score_scale import risk_of as risk_at
from ecgshared.study.score import risk_of
from ecgshared.study.study import Study
from ecgshared.study.subgroups import Partition
from ecgshared.wire.protocol import Answer, Evidence, Request


def local(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``local``."""
    heads, step = _heads(site, request), _config(site)
    answer = local_answer(
        heads,
        step,
        site.settings.limits,
        cuts=[_open_threshold(site, request, head, name) for head, name in _named(site, heads)],
        patients_known=site.data.patients_known,
        admitted=_admitted_subgroups(site, step, heads),
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


def local_answer(
    heads: Sequence[Scored],
    step: Config,
    limits: DisclosureLimits,
    *,
    cuts: Sequence[float | None],
    patients_known: bool,
    admitted: Bools | None = None,
    study: Study | None = None,
) -> Answer:
    """Compute the site's own figures of every head.

    Parameters
    ----------
    cuts : the threshold, for each head; None where there is none, or nothing may be told of it.
    admitted : which subgroups may be told of beside those of other steps, shape = (heads, subgroups); None: all.
    study : whose columns subgroups are named by; None: sex and age alone.
    """
    groups = partitions_of(step, study)
    found = [_performance(head, groups, limits, cut) for head, cut in zip(heads, cuts, strict=True)]
    whole = Evidence(_stack(p.whole.patients for p in found), _stack(p.whole.events for p in found))
    counts = np.array([p.counts for p in found])
    sub_counts = np.array([p.subgroup_counts.values for p in found])
    if not patients_known:
        counts[..., [1, 3]] = np.nan
        sub_counts[..., [1, 3]] = np.nan
    subgroup = _sized([p.subgroup_counts for p in found])
    if admitted is not None:
        subgroup = _where(subgroup, admitted)
    shown = [_carried(head, limits) for head in heads]
    estimates = ("auc", "average_precision", "brier", "intercept", "slope", "expected_over_observed")
    return Answer(
        LocalResults(
            counts=counts,
            left_out=np.array([float(head.left_out) for head in heads]),
            mean_predicted=np.array([p.mean_predicted for p in found]),
            at_threshold=np.array([p.at_threshold.values for p in found]),
            subgroup_counts=sub_counts,
            subgroup_rates=np.array([p.subgroup_rates for p in found]),
            subgroup_auc=np.array([p.subgroup_auc for p in found]),
            patients_known=int(patients_known),
            **{name: np.array([getattr(p, name).as_array() for p in found]) for name in estimates},
        ),
        {
            "counts": whole,
            **{name: _where(whole, [name in one for one in shown]) for name in ("mean_predicted", *estimates)},
            "left_out": Evidence(_stack(head.left_out_patients for head in heads)),
            "at_threshold": _sized([p.at_threshold for p in found]),
            "subgroup_counts": subgroup,
            **dict.fromkeys(("subgroup_rates", "subgroup_auc"), _carried_in_groups(heads, groups, limits, subgroup)),
        },
    )


def _performance(head: Scored, groups: Sequence[Partition], limits: DisclosureLimits, cut: float | None) -> Performance:
    partitions = [(_cells(head, group), len(group.names)) for group in groups]
    return performance(head.risk, head.y, head.patient, partitions=partitions, limits=limits, cut=cut)


def _cells(head: Scored, group: Partition) -> Ints:
    own = {"age": head.age.astype(np.float64), "male": head.male.astype(np.float64)}
    return group.cells({**own, **head.columns})


def _admitted_subgroups(site: SiteContext, step: Config, heads: Sequence[Scored]) -> Bools:
    """Say which subgroups may be told of: bounds of age moved by a day, in another step, tell of those between."""
    told = []
    for head, name in zip(heads, heads_of(step, site.study), strict=True):
        rows = np.arange(0) if head.rows is None else head.rows
        everybody = np.zeros((1, len(site.data)), dtype=np.bool_)
        everybody[0, rows] = True
        site.cells.admit(f"subgroups by {name}", site.data, everybody, ["all of them"])
        for group in partitions_of(step, site.study):
            cells, names = _cells(head, group), group.names
            inside = np.zeros((len(names), len(site.data)), dtype=np.bool_)
            for g in range(len(names)):
                inside[g, rows[cells == g]] = True
            case = np.zeros(len(site.data), dtype=np.bool_)
            case[rows[head.y == 1]] = True
            told.append(
                site.cells.admit(f"subgroups by {name}", site.data, inside, names)
                & site.cells.admit(f"event in subgroups by {name}", site.data, inside & case, names)
            )
    return np.concatenate(told).reshape(len(heads), -1) if told else np.zeros((len(heads), 0), dtype=np.bool_)


_BY_RANK = ("auc", "average_precision")
_BY_SIZE = ("mean_predicted", "intercept", "slope", "expected_over_observed", "brier")


def _carried(head: Scored, limits: DisclosureLimits) -> tuple[str, ...]:
    """Name the figures that a group carries: not those of a score by which a few stand out."""
    named = _BY_RANK if carried(ranked(head.risk), head.patient, limits) else ()
    return (*named, *(_BY_SIZE if carried(head.risk, head.patient, limits) else ()))


def _carried_in_groups(
    heads: Sequence[Scored], groups: Sequence[Partition], limits: DisclosureLimits, subgroup: Evidence
) -> Evidence:
    """Return the evidence of subgroups' figures: of nobody where a few in one stand out by their score."""
    shown = []
    for head in heads:
        for group in groups:
            cells = _cells(head, group)
            for g in range(len(group.names)):
                inside = cells == g
                risk, who = head.risk[inside], head.patient[inside]
                shown.append(carried(risk, who, limits) and carried(ranked(risk), who, limits))
    return _where(subgroup, np.array(shown, dtype=np.bool_).reshape(np.shape(subgroup.patients)))


def _where(evidence: Evidence, shown: Any) -> Evidence:
    return Evidence(np.where(shown, evidence.patients, 0), evidence.events)


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
            **dict.fromkeys(("predicted", "group"), _where(of_cuts, np.concatenate(by_size))),
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
            "in_large": _where(whole, carried(head.risk, head.patient, limits)),
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


def _stack(values: Any) -> NDArray[np.int64]:
    return np.array(list(values), dtype=np.int64)


def _sized(parts: Sequence[Any]) -> Evidence:
    return Evidence(np.array([p.patients for p in parts]), np.array([p.events for p in parts]))


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
