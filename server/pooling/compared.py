"""Paired differences of AUC over sites: each site's own, weighted by its pairs of cases and controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from ecgshared.stages.evaluate import Compared
from ecgshared.stats.influence import UNDEFINED, Estimate
from ecgshared.stats.small_samples import few_events, t_interval
from server.pooling.combine import est, number


def site_difference(reply: Compared | None, h: int, v: int) -> dict[str, Any]:
    """Return one site's comparison of head ``h`` with other score ``v``: both AUCs, difference, interval and P."""
    if reply is None:
        return _json(np.full(2, np.nan), UNDEFINED, np.nan, np.full(4, np.nan))
    counts = reply.counts[h, v]
    return _json(reply.auc[h, v], Estimate(*reply.difference[h, v]), _event_patients(counts), counts)


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
    pooled, error = float(weight @ value), float(np.sqrt(np.sum((weight * np.nan_to_num(se)) ** 2))) or np.nan
    people = float(events.sum())
    bounds = (np.nan, np.nan) if few_events(people) else t_interval(pooled, error, people - 1)
    total = np.sum([r.counts[h, v] for r in replies if np.isfinite(r.counts[h, v, [0, 2]]).all()], axis=0)
    return _json(np.array([weight @ first, weight @ second]), Estimate(pooled, error, *bounds), people, total)


def _event_patients(counts: Any) -> float:
    return float(counts[3]) if np.isfinite(counts[3]) else float(counts[2])


def _json(aucs: Any, difference: Estimate, event_patients: float, counts: Any) -> dict[str, Any]:
    p = np.nan
    if np.isfinite(difference.low) and difference.se > 0:
        p = 2 * float(t.sf(abs(difference.value) / difference.se, event_patients - 1))
    return {
        "auc": number(aucs[0]),
        "other_auc": number(aucs[1]),
        "difference": est(difference),
        "p": number(p),
        "ecgs": number(counts[0]),
        "events": number(counts[2]),
    }
