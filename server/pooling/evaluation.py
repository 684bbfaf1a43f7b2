"""What the released counts, placements and scalars of several sites say together; pure, nothing is asked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import AT_THRESHOLD, MAX_BOUNDS, LocalResults, Placement
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stats.few_events import auc_interval, few_events, satterthwaite
from ecgshared.stats.influence import UNDEFINED, Estimate, estimate, rate_estimate, ratio_estimate
from ecgshared.stats.placement import N_SUMS, AucTotals, pooled_curve
from ecgshared.stats.score_scale import LOWEST
from server.pooling.combine import est, number, released
from server.pooling.cuts import PooledCuts, SiteCuts, average_precision_bounds
from server.pooling.points import SiteRates, calibration_groups, points, roc


@dataclass(frozen=True)
class Bounded:
    """A number with bounds that contain what the scores of all sites, put together, would give."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PooledHead:
    """One outcome over the sites of one group that released counts of it.

    Attributes
    ----------
    local, counts, rates, cases : by site; ``rates`` at its own cuts, ``cases`` its sketch of cases (mean, ECGs).
    h : the outcome's number among the heads. cuts : those asked for, and ``fixed``, the threshold's.
    """

    local: Mapping[str, LocalResults]
    counts: Mapping[str, SiteCuts]
    rates: Mapping[str, SiteRates]
    cases: Mapping[str, tuple[Floats, Floats]]
    h: int
    cuts: tuple[float, ...]
    fixed: float | None

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that are pooled."""
        return tuple(self.counts)

    @cached_property
    def at_cuts(self) -> PooledCuts:
        """Pooled counts at every cut some site answered."""
        answered = np.concatenate([s.cuts for s in self.counts.values()])
        asked = [c for c in (*self.cuts, *([self.fixed] if self.fixed is not None else [])) if c in answered]
        return PooledCuts(self.counts, np.array(sorted({*asked, LOWEST}, reverse=True)))

    def of(self, name: str, site: str) -> Floats:
        """Return one field of a site's own figures."""
        return np.asarray(getattr(self.local[site], name)[self.h], dtype=np.float64)

    @property
    def threshold_sites(self) -> tuple[str, ...]:
        """Sites that released their counts at the threshold."""
        return tuple(s for s in self.sites if np.isfinite(self.of("at_threshold", s)[:3, 0]).all())

    @property
    def threshold_counts(self) -> Floats:
        """ECGs, flagged ECGs, events and flagged events of those sites, shape = (4,)."""
        total = np.zeros(4)
        for site in self.threshold_sites:
            ecgs, _, events, _ = self.of("counts", site)
            share, ppv, _ = self.of("at_threshold", site)[:3, 0]
            flagged = round(share * ecgs)
            total += [ecgs, flagged, events, round(ppv * flagged) if np.isfinite(ppv) else 0]
        return total

    @property
    def expected_over_observed(self) -> float:
        """Predicted over observed events; 0 where there are none."""
        predicted = sum(float(r.predicted[-1]) for r in self.rates.values())
        return predicted / self.at_cuts.n_cases if self.at_cuts.n_cases else 0.0

    @property
    def patients_with_event(self) -> float:
        """Patients with the event; ECGs where a site does not know its patients."""
        found = 0.0
        for site in self.sites:
            counts = self.of("counts", site)
            found += float(counts[3]) if np.isfinite(counts[3]) else float(counts[2])
        return found


def request_arrays(head: PooledHead) -> dict[str, Floats]:
    """Return what sites need to place the pooled curves over their ECGs."""
    curve = pooled_curve([s.bins for s in head.counts.values()])
    position, weight = (np.concatenate([c[i] for c in head.cases.values()]) for i in (0, 1))
    order = np.argsort(position, kind="stable")
    at, rate = head.at_cuts, head.at_cuts.rate()[0]
    known = dict(zip(at.cuts.tolist(), np.nan_to_num(rate).tolist(), strict=True))
    _, flagged, events, both = head.threshold_counts
    return {
        "head": np.array([float(head.h)]),
        "lower": curve.lower,
        "by_lower": curve.by_lower,
        "upper": curve.upper,
        "by_upper": curve.by_upper,
        "case_position": position[order],
        "case_weight": weight[order],
        "rates": np.array([*(known.get(c, 0.0) for c in head.cuts), both / flagged if flagged else 0.0, known[LOWEST]]),
        "expected_over_observed": np.array([head.expected_over_observed]),
        "sensitivity": np.array([both / events if events else 0.0]),
    }


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


def pooled_json(head: PooledHead, placements: Mapping[str, Placement], subgroups: Sequence[str]) -> dict[str, Any]:
    """Return the pooled result of one outcome, see :mod:`ecgshared.stages.evaluate`; without sites, nulls."""
    if not head.sites:
        return _nothing(subgroups)
    at = head.at_cuts
    n, events = at.n_cases + at.n_controls, at.n_cases
    bounds, auc = pooled_auc(head, placements)
    brier = _brier(head)
    base = events / n
    of_cuts = points(at, head.rates, {s: placements[s] for s in head.sites if s in placements})
    return {
        "sites": list(head.sites),
        "ecgs": number(n),
        "events": number(events),
        "event_patients": number(head.patients_with_event),
        "few_events": few_events(head.patients_with_event),
        "base_rate": number(base),
        "auc": {**est(auc).model_dump(), "bound_low": number(bounds.low), "bound_high": number(bounds.high)},
        "auc_within_sites": est(auc_within(head)),
        "average_precision": _average_precision(head),
        "expected_over_observed": est(_in_large(head, placements)),
        "brier": number(brier),
        "scaled_brier": number(1 - brier / (base * (1 - base))) if 0 < base < 1 else None,
        "ppv": of_cuts,
        "threshold": _threshold(head, placements),
        "roc": roc(at) if events and at.n_controls else None,
        "calibration_curve": calibration_groups(at, head.rates),
        "subgroups": {name: _subgroup(head, g) for g, name in enumerate(subgroups)},
    }


def _nothing(subgroups: Sequence[str]) -> dict[str, Any]:
    none = est(UNDEFINED)
    single = ("ecgs", "events", "event_patients", "base_rate", "brier", "scaled_brier", "threshold", "roc")
    return {
        "sites": [],
        "few_events": True,
        **dict.fromkeys(single),
        "auc": {**none.model_dump(), "bound_low": None, "bound_high": None},
        "auc_within_sites": none,
        "average_precision": {"value": None, "bound_low": None, "bound_high": None},
        "expected_over_observed": none,
        "ppv": [],
        "calibration_curve": [],
        "subgroups": dict.fromkeys(subgroups, none),
    }


def _brier(head: PooledHead) -> float:
    rows = np.array([[head.of("counts", s)[0], head.of("brier", s)[0]] for s in head.sites])
    return float(rows[:, 0] @ rows[:, 1] / rows[:, 0].sum()) if np.isfinite(rows).all() else np.nan


def _average_precision(head: PooledHead) -> dict[str, float | None]:
    """The exact one of a site alone; else bounds from the cuts that all sites answered."""
    if len(head.sites) == 1:
        value = number(head.of("average_precision", head.sites[0])[0])
        return {"value": value, "bound_low": value, "bound_high": value}
    exact = PooledCuts(head.counts, head.at_cuts.everywhere())
    if not exact.n_cases:
        return {"value": None, "bound_low": None, "bound_high": None}
    low, high = average_precision_bounds(exact.cases[0], exact.controls)
    value = (low + high) / 2 if high - low <= MAX_BOUNDS else np.nan
    return {"value": number(value), "bound_low": number(low), "bound_high": number(high)}


def _in_large(head: PooledHead, placements: Mapping[str, Placement]) -> Estimate:
    ratio, events = head.expected_over_observed, head.at_cuts.n_cases
    if not events:
        return UNDEFINED
    if len(head.sites) == 1:
        return Estimate(*head.of("expected_over_observed", head.sites[0]))
    parts = [placements[s] for s in head.sites if s in placements]
    squares = sum(float(np.ravel(p.in_large)[0]) for p in parts)
    patients = sum(float(p.sums[-1]) for p in parts)
    if len(parts) < len(head.sites) or not np.isfinite([squares, patients]).all():
        return Estimate(ratio, np.nan, np.nan, np.nan)
    df = 0.0 if few_events(head.patients_with_event) else head.patients_with_event - 1
    return ratio_estimate(ratio, squares, events, patients, scale="log", df=df)


def _threshold(head: PooledHead, placements: Mapping[str, Placement]) -> dict[str, Any] | None:
    """Exact pooled counts at the fixed cut, of the sites that released theirs."""
    sites = head.threshold_sites
    ecgs, flagged, events, both = head.threshold_counts
    if head.fixed is None or not sites or not flagged:
        return None
    free, missed = ecgs - flagged, events - both
    values = (
        (flagged, ecgs),
        (both, flagged),
        (both, events),
        (free - missed, ecgs - events),
        (free - missed, free),
        (both + free - missed, ecgs),
    )
    found = {}
    for i, (name, (part, whole)) in enumerate(zip(AT_THRESHOLD, values, strict=True)):
        weights = np.array([_denominator(head, s, name) for s in sites])
        own = np.array([head.of("at_threshold", s)[i] for s in sites])
        found[name] = est(_stratified(part / whole if whole else np.nan, weights, own[:, 1], weights.sum()))
    of_sensitivity = [float(np.ravel(placements[s].sensitivity)[0]) if s in placements else np.nan for s in sites]
    for name, squares, total in (
        ("ppv", _at_fixed(head, placements, sites), flagged),
        ("sensitivity", of_sensitivity, events),
    ):
        if total and np.isfinite(squares).all():
            people = sum(_people(head, placements[s], name) for s in sites)
            found[name] = est(
                ratio_estimate(both / total, float(np.sum(squares)), total, people, scale="logit", patients_in=people)
            )
    odds = np.exp(head.fixed)
    return {
        "sites": list(sites),
        **found,
        "share": number(flagged / ecgs),
        "net_benefit": number((both - (flagged - both) * odds) / ecgs),
    }


def _at_fixed(head: PooledHead, placements: Mapping[str, Placement], sites: Sequence[str]) -> list[float]:
    """Squared influences on the PPV at the threshold, NaN where a site gave none."""
    squares = []
    for site in sites:
        reply = placements.get(site)
        here = np.zeros(0) if reply is None else reply.square_sum[reply.cut == head.fixed]
        squares.append(float(here[0]) if len(here) else np.nan)
    return squares


def _people(head: PooledHead, reply: Placement, name: str) -> float:
    """Patients behind PPV or sensitivity at one site."""
    return float(reply.patients[reply.cut == head.fixed][0]) if name == "ppv" else float(reply.sums[10])


def _denominator(head: PooledHead, site: str, name: str) -> float:
    """ECGs that a rate at the threshold is of at one site."""
    ecgs, _, events, _ = head.of("counts", site)
    flagged = round(head.of("at_threshold", site)[0, 0] * ecgs)
    sizes = {"ppv": flagged, "sensitivity": events, "specificity": ecgs - events, "npv": ecgs - flagged}
    return float(sizes.get(name, ecgs))


def _stratified(value: float, weight: Floats, se: Floats, trials: float) -> Estimate:
    """A pooled rate with the errors of the sites' own; a rate of 0 or 1 at a site adds none."""
    if not np.isfinite(value) or not weight.sum():
        return UNDEFINED
    variance = float(np.sum((weight / weight.sum() * np.nan_to_num(se)) ** 2))
    return rate_estimate(value, variance, trials)


def _subgroup(head: PooledHead, g: int) -> EstimateResult:
    """Inverse-variance mean of the sites' logit AUCs: subgroups release no histograms, so nothing else is pooled."""
    usable, events = [], 0.0
    for site in head.sites:
        a, se = head.of("subgroup_auc", site)[g, :2]
        counts = head.of("subgroup_counts", site)[g]
        if np.isfinite([a, se]).all() and 0 < a < 1 and se > 0:
            usable.append((a, se))
            events += float(counts[3]) if np.isfinite(counts[3]) else float(counts[2])
    if not usable:
        return est(UNDEFINED)
    a, se = np.array(usable).T
    weight = (a * (1 - a) / se) ** 2
    value = 1 / (1 + np.exp(-float(weight @ np.log(a / (1 - a)) / weight.sum())))
    df = 0.0 if few_events(events) else events - 1
    return est(estimate(value, float((value * (1 - value)) ** 2 / weight.sum()), "logit", df=df))
