"""One site's exact account of a risk: discrimination, calibration, top groups, a threshold and subgroups.

Pure and ungated: each figure comes with the size of the group behind it, and the caller decides what may
leave. All that concerns a cut is taken at edges of one merged histogram (see
:mod:`ecgshared.stats.histogram`).
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
from ecgshared.stats.histogram import N_BINS, bin_of_risk, marginal_rate, score_histogram
from ecgshared.stats.influence import UNDEFINED, Estimate, clustered_auc, clustered_ratio, top_group_rate


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
    auc, brier, intercept, slope, expected_over_observed : estimates.
    top : shape = (K, 5): share of ECGs above and the estimate of PPV, at the edge nearest each wanted share.
    at_threshold : shape = (4, 4): share, PPV, sensitivity, specificity.
    subgroup_counts, subgroup_rates, subgroup_auc : shapes (G, 4), (G, 2), (G, 4).
    calibration : shape = (Q, 6): ECGs, mean predicted, estimate of the observed rate; NaN past the last
        group.
    """

    whole: GroupSize
    counts: Floats
    mean_predicted: float
    auc: Estimate
    brier: Estimate
    intercept: Estimate
    slope: Estimate
    expected_over_observed: Estimate
    top: Sized
    at_threshold: Sized
    subgroup_counts: Sized
    subgroup_rates: Floats
    subgroup_auc: Floats
    calibration: Sized


def performance(
    risk: Floats,
    y: NDArray[Any],
    patient: Ints,
    *,
    partitions: Sequence[tuple[Ints, int]],
    top_shares: Sequence[float],
    calibration_groups: int,
    limits: DisclosureLimits,
    cut_bin: int | None,
) -> Performance:
    """Return everything one site can say of one outcome; what is undefined for so few is NaN.

    Parameters
    ----------
    risk : float array, shape = (n,), in [0, 1]. y : 0/1, shape = (n,). patient : shape = (n,).
    partitions : (cell of each ECG, number of cells) of each subgrouping.
    limits : merge the histogram, and withhold subgroups that subtraction would give back.
    cut_bin : first common bin of the high-risk group; None or N_BINS where there is none.
    """
    risk, y = np.asarray(risk, dtype=np.float64), np.asarray(y)
    case = y == 1
    intercept, slope = _line(risk, y, patient)
    histogram, _ = score_histogram(bin_of_risk(risk), y, patient, limits, barrier=cut_bin)
    edges, bins = histogram.lower, bin_of_risk(risk)
    counts, rates, aucs, sizes = _subgroups(risk, y, patient, partitions, limits)
    return Performance(
        whole=group_size(patient, y),
        counts=_counts(y, patient),
        mean_predicted=float(risk.mean()) if len(risk) else np.nan,
        auc=_defined(lambda: clustered_auc(risk, y, patient)),
        brier=_defined(lambda: brier(risk, y, patient)),
        intercept=intercept,
        slope=slope,
        expected_over_observed=_defined(lambda: expected_over_observed(risk, y, patient)),
        top=_top(
            bins, y, patient, edges, histogram.edge_near_share(top_shares) if len(edges) else None, len(top_shares)
        ),
        at_threshold=_at_threshold(bins, case, patient, cut_bin if cut_bin in edges else None),
        subgroup_counts=Sized(counts, *sizes),
        subgroup_rates=rates,
        subgroup_auc=aucs,
        calibration=_calibration(
            risk,
            y,
            bins,
            patient,
            edges[np.unique(histogram.edge_near_share(np.arange(1, calibration_groups) / calibration_groups))]
            if len(edges)
            else None,
            calibration_groups,
        ),
    )


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


def _top(bins: Ints, y: NDArray[Any], patient: Ints, edges: Ints, near: Ints | None, n_shares: int) -> Sized:
    values = np.full((n_shares, 5), np.nan)
    patients, events = np.zeros(n_shares, dtype=np.int64), np.zeros(n_shares, dtype=np.int64)
    if near is not None:
        # Cumulative counts at the merged edges, from the top: the rate AT a cut is read from them.
        n_above = np.array([(bins >= edge).sum() for edge in edges[::-1]], dtype=np.float64)
        cases_above = np.array([(y[bins >= edge] == 1).sum() for edge in edges[::-1]], dtype=np.float64)
        at_cut = marginal_rate(n_above, cases_above)[::-1]
        for k, i in enumerate(near):
            above = bins >= edges[i]
            size = group_size(patient, y, above)
            patients[k], events[k] = size.patients, size.events
            values[k, 0] = above.mean()
            values[k, 1:] = top_group_rate(above, y, patient, marginal_rate=float(at_cut[i])).as_array()
    return Sized(values, patients, events)


def _at_threshold(bins: Ints, case: NDArray[np.bool_], patient: Ints, cut: int | None) -> Sized:
    values = np.full((4, 4), np.nan)
    size = GroupSize(0, 0)
    if cut is not None and len(bins):
        above = bins >= cut
        sides = [group_size(patient, case, side) for side in (above, ~above)]
        # Total and one side give the other: both must be fit to leave.
        size = GroupSize(min(s.patients for s in sides), min(s.events for s in sides))
        flags = above.astype(np.float64)
        values[0] = clustered_ratio(flags, np.ones(len(flags)), patient).as_array()
        values[1] = top_group_rate(above, case, patient).as_array()
        values[2] = _defined(lambda: clustered_ratio(flags * case, case.astype(float), patient)).as_array()
        values[3] = _defined(lambda: clustered_ratio((1 - flags) * ~case, (~case).astype(float), patient)).as_array()
    return Sized(values, np.full(4, size.patients), np.full(4, size.events))


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


def _calibration(risk: Floats, y: NDArray[Any], bins: Ints, patient: Ints, cuts: Ints | None, n_groups: int) -> Sized:
    values = np.full((n_groups, 6), np.nan)
    patients, events = np.zeros(n_groups, dtype=np.int64), np.zeros(n_groups, dtype=np.int64)
    if cuts is not None and len(bins):
        bounds = np.unique([0, *cuts, N_BINS])
        for g in range(len(bounds) - 1):
            inside = (bins >= bounds[g]) & (bins < bounds[g + 1])
            if not inside.any():
                continue
            size = group_size(patient, y, inside)
            patients[g], events[g] = size.patients, size.events
            observed = clustered_ratio(y[inside], np.ones(int(inside.sum())), patient[inside])
            values[g] = [inside.sum(), risk[inside].mean(), *observed.as_array()]
    return Sized(values, patients, events)
