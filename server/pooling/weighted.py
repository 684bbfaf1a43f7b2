"""Figures weighted for censoring, of one site and over several: from the sites' own, which are independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import COUNTS, WEIGHTED, Weighted
from ecgshared.stages.results.evaluate import WeightedFigures
from ecgshared.stats.few_events import few_events_estimate
from ecgshared.stats.influence import UNDEFINED, Estimate
from server.pooling.combine import est, number

_POOLED = ("event_rate", "brier")
"""Means over ECGs: pooled by the ECGs followed."""


def well_formed(reply: Weighted, heads: int) -> bool:
    """Say whether a site's answer has the shapes it must have."""
    wanted = ((heads, 4), (heads, len(WEIGHTED), 4), (heads, 4))
    return (np.shape(reply.counts), np.shape(reply.figures), np.shape(reply.moments)) == wanted


def site_weighted(reply: Weighted | None, h: int) -> WeightedFigures | None:
    """Return one site's own figures of one outcome; None where nobody asked."""
    if reply is None:
        return None
    counts = dict(zip(COUNTS, (number(v) for v in reply.counts[h]), strict=True))
    figures = {name: est(reply.figures[h, i]) for i, name in enumerate(WEIGHTED)}
    return WeightedFigures.model_validate({"sites": (), **counts, **figures})


def pooled_weighted(replies: Mapping[str, Weighted], sites: Sequence[str], h: int) -> WeightedFigures | None:
    """Return one outcome's figures over the sites of a group that released theirs; None where nobody asked.

    The AUC is that of pairs within a site, by the pairs that everybody's status would make. Precision at the threshold
    is each site's own.
    """
    if not replies:
        return None
    known = [s for s in sites if s in replies and np.isfinite(replies[s].moments[h]).all()]
    known = [s for s in known if np.isfinite(replies[s].figures[h, :2, 0]).all()]
    if len(known) == 1:
        own = site_weighted(replies[known[0]], h)
        return None if own is None else own.model_copy(update={"sites": tuple(known)})
    if not known:
        return WeightedFigures.model_validate(
            {"sites": (), **dict.fromkeys(COUNTS), **dict.fromkeys(WEIGHTED, est(UNDEFINED))}
        )
    counts, figures, moments = (
        np.array([getattr(replies[s], name)[h] for s in known]) for name in ("counts", "figures", "moments")
    )
    events = np.where(np.isfinite(counts[:, 3]), counts[:, 3], counts[:, 2])
    people = np.where(np.isfinite(counts[:, 1]), counts[:, 1], counts[:, 0])
    of = {name: figures[:, i] for i, name in enumerate(WEIGHTED)}
    ecgs, rate = counts[:, 0], of["event_rate"][:, 0]
    pairs = (ecgs * rate) * (ecgs * (1 - rate))
    lesser = float(min(events.sum(), (people - events).sum()))
    found = {name: _mean(of[name], ecgs, lesser) for name in _POOLED}
    found["auc"] = _mean(of["auc"], pairs, lesser)
    found["expected_over_observed"] = _ratio(ecgs, rate, moments, lesser)
    found["ppv"] = UNDEFINED
    total = dict(zip(COUNTS, (number(v) for v in counts.sum(axis=0)), strict=True))
    return WeightedFigures.model_validate(
        {"sites": tuple(known), **total, **{name: est(found[name]) for name in WEIGHTED}}
    )


def _mean(estimates: Floats, weight: Floats, events: float) -> Estimate:
    """A weighted mean of independent estimates, shape = (k, 4)."""
    share = weight / weight.sum()
    value = float(share @ estimates[:, 0])
    return few_events_estimate(value, float((share**2) @ estimates[:, 1] ** 2), events, "logit")


def _ratio(ecgs: Floats, rate: Floats, moments: Floats, events: float) -> Estimate:
    """Expected over observed of all sites together; ``moments`` as sites release them, shape = (k, 4)."""
    expected, observed = float(ecgs @ moments[:, 0]), float(ecgs @ rate)
    if not expected > 0 or not observed > 0:
        return UNDEFINED
    ratio = expected / observed
    of_site = moments[:, 1] / expected**2 - 2 * moments[:, 3] / (expected * observed) + moments[:, 2] / observed**2
    return few_events_estimate(ratio, float(ratio**2 * (ecgs**2 @ np.maximum(of_site, 0.0))), events, "log")
