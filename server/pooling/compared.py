"""Paired differences of AUC over sites: each site's own, weighted by its pairs of cases and controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t

from ecgshared.stages.evaluate import Compared
from ecgshared.stats.influence import CONFIDENCE, UNDEFINED, Estimate
from ecgshared.stats.small_samples import few_events, satterthwaite, t_interval
from server.pooling.combine import est, number


def site_difference(reply: Compared | None, h: int, v: int) -> dict[str, Any]:
    """Return one site's comparison of head ``h`` with other score ``v``: both AUCs, difference, interval and P."""
    if reply is None:
        return _json(np.full(2, np.nan), UNDEFINED, np.full(4, np.nan))
    counts = reply.counts[h, v]
    return _json(reply.auc[h, v], Estimate(*reply.difference[h, v]), counts)


def pooled_difference(replies: Sequence[Compared], h: int, v: int) -> dict[str, Any]:
    """Return the difference of the AUCs within sites, over all of them; nothing where no site gave one."""
    rows = []
    for reply in replies:
        counts, difference, aucs = reply.counts[h, v], reply.difference[h, v], reply.auc[h, v]
        if np.isfinite([counts[0], counts[2], *difference[:1], *aucs]).all():
            rows.append([counts[2] * (counts[0] - counts[2]), *difference[:2], *aucs, _event_patients(counts)])
    if not rows:
        return site_difference(None, h, v)
    pairs, value, se, first, second, events = np.array(rows).T
    weight = pairs / pairs.sum()
    variances = np.nan_to_num(weight * se) ** 2
    pooled, error = float(weight @ value), float(np.sqrt(variances.sum())) or np.nan
    # A site that carries most of the error carries most of what is known of it.
    df = satterthwaite(variances.tolist(), np.maximum(events - 1, 1).tolist())
    bounds = (np.nan, np.nan) if few_events(float(events.sum())) else t_interval(pooled, error, df)
    total = np.sum([r.counts[h, v] for r in replies if np.isfinite(r.counts[h, v, [0, 2]]).all()], axis=0)
    return _json(np.array([weight @ first, weight @ second]), Estimate(pooled, error, *bounds), total)


def _event_patients(counts: Any) -> float:
    return float(counts[3]) if np.isfinite(counts[3]) else float(counts[2])


def p_value(difference: Estimate) -> float:
    """P of no difference, with the degrees of freedom of the interval: it is below 0.05 where that leaves zero out."""
    if not (np.isfinite([difference.low, difference.high]).all() and difference.se > 0):
        return np.nan
    quantile = (difference.high - difference.low) / 2 / difference.se
    upper = 0.5 + CONFIDENCE / 2

    def beyond(log_df: float) -> float:
        return float(t.ppf(upper, np.exp(log_df))) - quantile

    few, many = np.log(0.2), np.log(1e6)
    log_df = many if beyond(many) >= 0 else few if beyond(few) <= 0 else float(brentq(beyond, few, many))
    return 2 * float(t.sf(abs(difference.value) / difference.se, np.exp(log_df)))


def _json(aucs: Any, difference: Estimate, counts: Any) -> dict[str, Any]:
    return {
        "auc": number(aucs[0]),
        "other_auc": number(aucs[1]),
        "difference": est(difference),
        "p": number(p_value(difference)),
        "ecgs": number(counts[0]),
        "events": number(counts[2]),
    }
