"""One site's exact account of a risk: discrimination, calibration, a threshold, subgroups, and rates at cuts.

Pure and ungated: each figure comes with the size of the group behind it, and the caller decides what may
leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, GroupSize, group_size, release_partition
from ecgshared.stats.calibration import brier, calibration_line, expected_over_observed
from ecgshared.stats.discrimination import average_precision
from ecgshared.stats.influence import UNDEFINED, Estimate, clustered_auc, clustered_ratio, rate_above
from ecgshared.stats.score_scale import HIGHEST, score_of


@dataclass(frozen=True)
class Sized:
    """Numbers and the group behind each: ``patients`` and ``events`` have the leading axes of ``values``."""

    values: Floats
    patients: Ints
    events: Ints


@dataclass(frozen=True)
class Performance:
    """All figures of one score against one outcome at one site; estimates are (value, se, low, high).

    Attributes
    ----------
    whole : size of the whole group.
    counts : shape = (4,): ECGs, patients, event ECGs, patients with an event.
    auc, average_precision, brier, intercept, slope, expected_over_observed : estimates.
    at_threshold : shape = (6, 4): share, PPV, sensitivity, specificity, NPV, accuracy.
    subgroup_counts, subgroup_rates, subgroup_auc : shapes (G, 4), (G, 2), (G, 4).
    """

    whole: GroupSize
    counts: Floats
    mean_predicted: float
    auc: Estimate
    average_precision: Estimate
    brier: Estimate
    intercept: Estimate
    slope: Estimate
    expected_over_observed: Estimate
    at_threshold: Sized
    subgroup_counts: Sized
    subgroup_rates: Floats
    subgroup_auc: Floats


def performance(
    risk: Floats,
    y: NDArray[Any],
    patient: Ints,
    *,
    partitions: Sequence[tuple[Ints, int]],
    limits: DisclosureLimits,
    cut: float | None,
) -> Performance:
    """Return everything one site can say of one outcome; what is undefined for so few is NaN.

    Parameters
    ----------
    risk : float array, shape = (n,), in [0, 1]. y : 0/1, shape = (n,). patient : shape = (n,).
    partitions : (cell of each ECG, number of cells) of each subgrouping.
    limits : withhold subgroups that subtraction would give back.
    cut : score (logit of the risk) at which the high-risk group begins; None where there is none.
    """
    risk, y = np.asarray(risk, dtype=np.float64), np.asarray(y)
    intercept, slope = _line(risk, y, patient)
    counts, rates, aucs, sizes = _subgroups(risk, y, patient, partitions, limits)
    return Performance(
        whole=group_size(patient, y),
        counts=_counts(y, patient),
        mean_predicted=float(risk.mean()) if len(risk) else np.nan,
        auc=_defined(lambda: clustered_auc(risk, y, patient)),
        average_precision=_defined(lambda: average_precision(risk, y, patient)),
        brier=_defined(lambda: brier(risk, y, patient)),
        intercept=intercept,
        slope=slope,
        expected_over_observed=_defined(lambda: expected_over_observed(risk, y, patient)),
        at_threshold=_at_threshold(score_of(risk), y == 1, patient, cut),
        subgroup_counts=Sized(counts, *sizes),
        subgroup_rates=rates,
        subgroup_auc=aucs,
    )


def rates_at_cuts(
    score: Floats, risk: Floats, y: NDArray[Any], patient: Ints, cuts: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return what a site says at cuts it may answer.

    Parameters
    ----------
    score, risk, y, patient : shape = (n,). cuts : shape = (c,), descending; the last may be LOWEST.

    Returns
    -------
    above : shape = (c, 2): cases and summed risk at or above each cut.
    rate : shape = (c, 4): estimate of the event rate at or above it.
    group : shape = (c, 6): ECGs, mean predicted risk and observed rate from the cut to the one before it.
    """
    above, rate, group = np.zeros((len(cuts), 2)), np.zeros((len(cuts), 4)), np.zeros((len(cuts), 6))
    case = np.asarray(y) == 1
    for i, (cut, top) in enumerate(zip(cuts, [HIGHEST, *cuts][: len(cuts)], strict=True)):
        over = score >= cut
        inside = over & (score < top)
        above[i] = case[over].sum(), risk[over].sum()
        rate[i] = rate_above(over, case, patient).as_array()
        observed = rate_above(inside, case, patient).as_array()
        group[i] = inside.sum(), risk[inside].mean() if inside.any() else np.nan, *observed
    return above, rate, group


def _defined(compute: Callable[[], Estimate]) -> Estimate:
    """An estimate, or UNDEFINED where these data have none: few patients are normal, not an error."""
    try:
        return compute()
    except StatisticsError:
        return UNDEFINED


def _line(risk: Floats, y: NDArray[Any], patient: Ints) -> tuple[Estimate, Estimate]:
    try:
        return calibration_line(risk, y, patient)
    except StatisticsError:
        return UNDEFINED, UNDEFINED


def _counts(y: NDArray[Any], patient: Ints) -> Floats:
    case = y == 1
    return np.array([len(y), len(np.unique(patient)), case.sum(), len(np.unique(patient[case]))], dtype=np.float64)


def _at_threshold(score: Floats, case: NDArray[np.bool_], patient: Ints, cut: float | None) -> Sized:
    values = np.full((6, 4), np.nan)
    size = GroupSize(0, 0)
    if cut is not None and len(score):
        above = score >= cut
        sides = [group_size(patient, case, side) for side in (above, ~above)]
        # Total and one side give the other: both must be fit to leave. Controls are binned by themselves, so that
        # those of a side must be as many as a bin holds, or a bin less the side tells of fewer.
        controls = [len(np.unique(patient[side & ~case])) for side in (above, ~above)]
        size = GroupSize(min(*(s.patients for s in sides), *controls), min(s.events for s in sides))
        flags, everyone = above.astype(np.float64), np.ones(len(above))
        right = np.where(case, flags, 1 - flags)
        for i, (part, whole) in enumerate(
            (
                (flags, everyone),
                (flags * case, flags),
                (flags * case, case.astype(np.float64)),
                ((1 - flags) * ~case, (~case).astype(np.float64)),
                ((1 - flags) * ~case, 1 - flags),
                (right, everyone),
            )
        ):
            values[i] = _defined(partial(clustered_ratio, part, whole, patient)).as_array()
    return Sized(values, np.full(6, size.patients), np.full(6, size.events))


def _subgroups(
    risk: Floats, y: NDArray[Any], patient: Ints, partitions: Sequence[tuple[Ints, int]], limits: DisclosureLimits
) -> tuple[Floats, Floats, Floats, tuple[Ints, Ints]]:
    counts, rates, aucs, patients, events = [], [], [], [], []
    for cell, n_cells in partitions:
        sizes = [group_size(patient, y, cell == g) for g in range(n_cells)]
        people = np.array([s.patients for s in sizes], dtype=np.int64)
        lesser = np.array([s.events for s in sizes], dtype=np.int64)
        released = release_partition(people, lesser, limits)
        for g in range(n_cells):
            inside = cell == g
            if not released[g]:
                counts.append(np.full(4, np.nan))
                rates.append([np.nan, np.nan])
                aucs.append(UNDEFINED.as_array())
                continue
            r, o, p = risk[inside], y[inside], patient[inside]
            counts.append(_counts(o, p))
            rates.append([float(r.mean()), float(o.mean())])
            aucs.append(_defined(partial(clustered_auc, r, o, p)).as_array())
        patients.append(people)
        events.append(lesser)
    if not counts:
        none = np.zeros(0, dtype=np.int64)
        return np.zeros((0, 4)), np.zeros((0, 2)), np.zeros((0, 4)), (none, none)
    sizes_of_all = (np.concatenate(patients), np.concatenate(events))
    return np.array(counts), np.array(rates), np.array(aucs), sizes_of_all
