"""summed_evaluate, at the coordinator: sums over all hospitals, and the figures they give; nobody's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stages.results.base import Absences, EstimateResult
from ecgshared.stages.results.summed_evaluate import BoundedArea, SummedHead
from ecgshared.stages.summed_evaluate import Config, LineSums, Result, Totals, heads_of, normal_cuts
from ecgshared.stats.calibration import LogisticSums, sandwich
from ecgshared.stats.influence import UNDEFINED, Estimate, estimate
from ecgshared.stats.small_samples import few_events
from ecgshared.study.score import risk_score
from ecgshared.study.secure import TOGETHER
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, federated_newton, number
from server.report.labels import NO_LABELS, Labels, counted
from server.report.sections import Cell, Section, Table, Text
from server.rounds.secure_sums import TooFewTogether
from server.rounds.step_context import Artefact, StepContext

_FEWEST_BINS = 4


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Judge every head over all hospitals together."""
    if not isinstance(step, Config):
        raise TypeError("a summed_evaluate step's configuration was expected")
    heads, absent = heads_of(step, context.study), Absences()
    context.progress(0, 1 + len(heads), "counts")
    replies = context.ask("totals")
    absences(replies, absent, "totals")
    totals: Totals = replies.by_site[TOGETHER]
    found = {}
    for h, head in enumerate(heads):
        context.progress(1 + h, 1 + len(heads), head)
        found[head] = _head(step, context, totals, h, absent)
    score = risk_score(step, context.study)
    result = Result(score=score.calibrate or score.inputs[0], heads=found, absent=absent)
    return Artefact(step.id, "summed_evaluate", result)


def _head(step: Config, context: StepContext, totals: Totals, h: int, absent: Absences) -> SummedHead:
    ecgs, patients, events, with_event, without = totals.counts[h]
    area, groups = _area(step, context, totals, h, absent)
    intercept, slope = _line(context, totals, h, absent)
    return SummedHead(
        ecgs=number(ecgs),
        patients=number(patients),
        events=number(events),
        event_patients=number(with_event),
        few_events=few_events(with_event, without),
        base_rate=number(events / ecgs),
        expected_over_observed=number(totals.predicted[h] / events if events else np.nan),
        brier=number(totals.squared[h] / ecgs),
        auc=area,
        groups=groups,
        calibration_intercept=intercept,
        calibration_slope=slope,
    )


def _area(step: Config, context: StepContext, totals: Totals, h: int, absent: Absences) -> tuple[BoundedArea, int]:
    """The AUC from the control curve at as many cuts as the sites answer, placed over the cases."""
    bins, head = step.bins, np.array([float(h)])
    cuts, curve = normal_cuts(totals.scores[h], bins), None
    while curve is None and bins >= _FEWEST_BINS:
        cuts = normal_cuts(totals.scores[h], bins)
        curve = _if_enough(context, "controls", _round(h, bins), {"head": head, "cuts": cuts})
        bins = bins if curve is not None else bins * 3 // 4
    arrays = {"head": head, "cuts": cuts} | ({} if curve is None else {"controls": np.round(curve.counts)})
    sums = None if curve is None else _if_enough(context, "placed", _round(h, bins), arrays)
    if sums is None:
        absent.setdefault("pooled", {})["auc"] = "no cuts leave enough people on either side"
        return BoundedArea(**est(UNDEFINED).model_dump(), bound_low=None, bound_high=None), 0
    _, _, events, with_event, without = totals.counts[h]
    low, high = sums.share / events
    found = _area_estimate((low, high), sums.squares, events, with_event, without)
    return BoundedArea(**est(found).model_dump(), bound_low=number(low), bound_high=number(high)), bins


def _if_enough(context: StepContext, phase: str, round_: int, arrays: Mapping[str, Floats]) -> Any:
    """Return the sum of a phase, or None where the sites found the groups of all of them together too small."""
    try:
        return context.ask(phase, round=round_, arrays=arrays).by_site[TOGETHER]
    except TooFewTogether:
        return None


def _round(h: int, bins: int) -> int:
    return 1000 * h + bins


def _area_estimate(
    bounds: tuple[float, float], squares: Floats, events: float, with_event: float, without: float
) -> Estimate:
    """See :mod:`ecgshared.stages.summed_evaluate`."""
    auc = sum(bounds) / 2
    summed, cross, ecgs = squares
    of_cases = (summed - 2 * auc * cross + auc**2 * ecgs) / events**2 * with_event / max(with_event - 1, 1)
    of_controls = max(2 * auc**2 / (1 + auc) - auc**2, 0.0) / without
    df = 0.0 if few_events(with_event, without) else with_event - 1
    return estimate(auc, of_cases + of_controls, "logit", df=df)


def _line(context: StepContext, totals: Totals, h: int, absent: Absences) -> tuple[EstimateResult, EstimateResult]:
    """Calibration intercept and slope by Newton's method on the hospitals' sums."""
    meat = np.full((2, 2), np.nan)

    def ask_sums(coef: Floats, turn: int, _: tuple[str, ...]) -> Mapping[str, LogisticSums]:
        nonlocal meat
        replies = context.ask("line", round=100 * h + turn, arrays={"head": np.array([float(h)]), "coef": coef})
        absences(replies, absent, "line")
        sums: LineSums = replies.by_site[TOGETHER]
        meat = sums.meat
        return {TOGETHER: LogisticSums(sums.gradient, sums.hessian, float(sums.log_likelihood[0]))}

    try:
        fit, _ = federated_newton(ask_sums, (TOGETHER,), np.array([0.0, 1.0]), names=("intercept", "logit of the risk"))
    except StatisticsError as error:
        absent.setdefault("pooled", {})["line"] = error.what
        return est(UNDEFINED), est(UNDEFINED)
    _, patients, _, with_event, without = totals.counts[h]
    covariance = sandwich(fit.covariance, meat, float(patients))
    df = 0.0 if few_events(with_event, without) else with_event - 1
    intercept, slope = (est(estimate(fit.coef[j], covariance[j, j], "identity", df=df)) for j in (0, 1))
    return intercept, slope


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """One table: figures of all hospitals together, by outcome."""
    r = artefact.result
    rows: list[list[Cell]] = [
        [
            labels.endpoint(head),
            found.ecgs,
            found.patients,
            found.event_patients,
            _told(found.auc),
            f"{found.auc.bound_low:.3f} to {found.auc.bound_high:.3f}" if found.auc.bound_low is not None else None,
            _told(found.calibration_slope),
            found.expected_over_observed,
            found.brier,
        ]
        for head, found in r.heads.items()
    ]
    return [
        Section(
            f"{labels.step(artefact.step)}: all hospitals together",
            [
                Text(
                    f"Score: {labels.score(r.score)}, over {counted(len(r.together), 'hospital')}, whose numbers were "
                    "added under masks: only these sums are known, and nothing of one hospital."
                ),
                Table(
                    "All hospitals together",
                    [
                        "outcome", "ECGs", "patients", "patients with the event", "AUC", "bounds",
                        "calibration slope", "expected/observed", "Brier score",
                    ],
                    rows,
                    note="The exact AUC of all scores put together lies within its bounds. Intervals: 95%, clustered "
                    "by patient.",
                ),
            ],
        )
    ]  # fmt: skip


def _told(e: EstimateResult) -> str | None:
    if e.value is None:
        return None
    return f"{e.value:.3f}" if e.low is None or e.high is None else f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"
