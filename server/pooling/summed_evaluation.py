"""A score judged over all hospitals together, from sums that hide each hospital's part; nothing of one is known.

The cuts are quantiles of a normal distribution of the scores of those without the event; where they leave too few
people between two of them the sites refuse, and a quarter fewer are asked for. Where a score lies between two cuts is
not known: the bounds of the AUC hold whatever it is, its value stands in their middle. Its error has the cases' part
exactly, clustered by patient, and the controls' part from Hanley and McNeil 1982 (doi
10.1148/radiology.143.1.7063747) with patients for ECGs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stages.evaluate import Config, Result, SlopeSums, Totals, heads_of
from ecgshared.stages.results.base import Absences, EstimateResult
from ecgshared.stages.results.evaluate import BoundedEstimate, PooledHead
from ecgshared.stats.calibration import LogisticSums, sandwich
from ecgshared.stats.influence import UNDEFINED, Estimate, estimate
from ecgshared.stats.score_scale import normal_cuts
from ecgshared.stats.small_samples import few_events
from ecgshared.study.score import risk_score
from ecgshared.study.secure import TOGETHER
from server.pooling.combine import absences, est, federated_newton, number
from server.rounds.secure_sums import TooFewTogether
from server.rounds.step_context import StepContext

_FEWEST_BINS, _MOST_BINS = 4, 128
_PEOPLE_A_BIN = 15
"""Without the event, on average, where cuts begin."""


def summed(step: Config, context: StepContext) -> Result:
    """Judge every head over all hospitals of the step together."""
    study, heads, absent = context.study, heads_of(step, context.study), Absences()
    context.progress(0, 1 + len(heads), "counts")
    replies = context.ask("totals")
    absences(replies, absent, "totals")
    totals: Totals = replies.by_site[TOGETHER]
    for what, asked in (
        ("threshold", study.used(step, "threshold") is not None),
        ("subgroups", bool(step.subgroups)),
        ("weighted", study.censoring == "ipcw"),
        ("curves", True),
    ):
        if asked:
            absent.setdefault("pooled", {})[what] = "not told under secure_sum"
    found = {}
    for h, head in enumerate(heads):
        context.progress(1 + h, 1 + len(heads), head)
        found[head] = _head(context, totals, h, replies.summed, absent)
    score = risk_score(step, study)
    fixed = study.used(step, "threshold")
    return Result(
        score=score.calibrate or score.inputs[0],
        heads=heads,
        threshold=None if fixed is None else number(context.inputs[fixed.id].arrays["cutoff"][0]),
        top_shares=step.top_shares,
        sites={},
        pooled={study.sites.group_of(context.sites[0]): found},
        absent=absent,
    )


def _head(context: StepContext, totals: Totals, h: int, sites: tuple[str, ...], absent: Absences) -> PooledHead:
    ecgs, _, events, with_event, without = totals.counts[h]
    intercept, slope = _line(context, totals, h, absent)
    rate, brier = events / ecgs, totals.squared[h] / ecgs
    ratio = totals.predicted[h] / events if events else np.nan
    return PooledHead(
        sites=sites,
        ecgs=number(ecgs),
        events=number(events),
        event_patients=number(with_event),
        few_events=few_events(with_event, without),
        base_rate=number(rate),
        auc=_area(context, totals, h, absent),
        expected_over_observed=est(UNDEFINED).model_copy(update={"value": number(ratio)}),
        brier=number(brier),
        scaled_brier=number(1 - brier / (rate * (1 - rate)) if 0 < rate < 1 else np.nan),
        ppv=(),
        threshold=None,
        roc=None,
        calibration_curve=(),
        subgroups={},
        calibration_intercept=intercept,
        calibration_slope=slope,
        withheld=(),
        interval_unit="patient",
    )


def _area(context: StepContext, totals: Totals, h: int, absent: Absences) -> BoundedEstimate:
    """The AUC from the control curve at as many cuts as the sites answer, placed over the cases."""
    _, _, events, with_event, without = totals.counts[h]
    bins, head = int(np.clip(without / _PEOPLE_A_BIN, _FEWEST_BINS, _MOST_BINS)), np.array([float(h)])
    cuts, curve = normal_cuts(totals.scores[h], bins), None
    while curve is None and bins >= _FEWEST_BINS:
        cuts = normal_cuts(totals.scores[h], bins)
        curve = _if_enough(context, "controls", _round(h, bins), {"head": head, "cuts": cuts})
        bins = bins if curve is not None else bins * 3 // 4
    arrays = {"head": head, "cuts": cuts} | ({} if curve is None else {"controls": np.round(curve.counts)})
    sums = None if curve is None else _if_enough(context, "placed", _round(h, bins), arrays)
    if sums is None:
        absent.setdefault("pooled", {})["auc"] = "no cuts leave enough people on either side"
        return BoundedEstimate(**est(UNDEFINED).model_dump(), bound_low=None, bound_high=None)
    low, high = sums.share / events
    found = _area_estimate((low, high), sums.squares, events, with_event, without)
    return BoundedEstimate(**est(found).model_dump(), bound_low=number(low), bound_high=number(high))


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
    """The estimate with its interval; see the module's text."""
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
        sums: SlopeSums = replies.by_site[TOGETHER]
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
