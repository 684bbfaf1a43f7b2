"""The pooled AUC with its bounds and its interval, and the AUC of pairs within a site, which needs no bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ecgshared.stages.evaluate import MAX_BOUNDS, Placement
from ecgshared.stats.influence import UNDEFINED, Estimate
from ecgshared.stats.placement import N_SUMS, AucTotals
from ecgshared.stats.small_samples import auc_interval, few_events, satterthwaite
from server.pooling.combine import released
from server.pooling.head import PooledHead


@dataclass(frozen=True)
class Bounded:
    """A number with bounds that contain what the scores of all sites, put together, would give."""

    value: float
    low: float
    high: float


def pooled_auc(head: PooledHead, placements: Mapping[str, Placement]) -> tuple[Bounded, Estimate]:
    """Return the pooled AUC with its bounds, and with its interval.

    One site alone has its own. A site that gave no sum leaves the pairs of its cases with other sites' controls
    unknown. Bounds further apart than MAX_BOUNDS leave no value, and no interval excludes them.
    """
    n_cases, n_controls = head.at_cuts.n_cases, head.at_cuts.n_controls
    if not n_cases or not n_controls:
        return Bounded(np.nan, np.nan, np.nan), UNDEFINED
    if len(head.sites) == 1:
        own = Estimate(*head.of("auc", head.sites[0]))
        return Bounded(own.value, own.value, own.value), own
    pairs, complete = np.zeros(2), True
    for site, counts in head.counts.items():
        answer = placements.get(site)
        if answer is not None and released(answer.pairs, (2,)) and released(answer.sums, (N_SUMS,)):
            pairs += np.clip(answer.pairs, 0, counts.n_cases * n_controls)
            continue
        complete = False
        own_auc = head.of("auc", site)[0]
        within = counts.n_cases * counts.bins.total
        pairs += (own_auc * within if np.isfinite(own_auc) else 0.0) + np.array(
            [0.0, counts.n_cases * n_controls - within]
        )
    low, high = (pairs / (n_cases * n_controls)).tolist()
    value = (low + high) / 2
    if high - low > MAX_BOUNDS:
        return Bounded(np.nan, low, high), UNDEFINED
    if not complete:
        return Bounded(value, low, high), Estimate(value, np.nan, np.nan, np.nan)
    totals = AucTotals.total(placements[s].sums for s in head.sites)
    found = totals.variance(value, n_cases, n_controls).estimate(value)
    return Bounded(value, low, high), _widened(found, low, high)


def _widened(found: Estimate, low: float, high: float) -> Estimate:
    if not np.isfinite([found.low, found.high]).all():
        return found
    return Estimate(found.value, found.se, min(found.low, low), max(found.high, high))


def auc_within(head: PooledHead) -> Estimate:
    """Return the AUC of pairs within a site: the sites' own AUCs, weighted by their pairs.

    It needs no common scale and no bounds; where sites differ in their scores it is another quantity than the pooled
    AUC.
    """
    rows = []
    for site in head.sites:
        auc, se, counts = *head.of("auc", site)[:2], head.of("counts", site)
        if np.isfinite(auc) and np.isfinite(counts[[0, 2]]).all():
            controls = counts[0] - counts[2]
            patients, with_event = (
                (counts[1], counts[3]) if np.isfinite(counts[[1, 3]]).all() else (counts[0], counts[2])
            )
            rows.append((auc, se, counts[2] * controls, with_event, max(patients - with_event, 1.0)))
    if not rows:
        return UNDEFINED
    auc, se, pairs, cases, controls = np.array(rows).T
    weight = pairs / pairs.sum()
    value = float(np.clip(weight @ auc, 0, 1))
    variances = np.nan_to_num(weight * se) ** 2
    error = float(np.sqrt(variances.sum())) or np.nan
    if few_events(cases.sum(), controls.sum()):
        return Estimate(value, error, np.nan, np.nan)
    df = satterthwaite(variances.tolist(), np.maximum(np.minimum(cases, controls) - 1, 1).tolist())
    strata = list(zip(weight.tolist(), cases.tolist(), controls.tolist(), strict=True))
    return Estimate(value, error, *auc_interval(value, float(variances.sum()), df, strata))
