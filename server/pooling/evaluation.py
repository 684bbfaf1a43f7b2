"""What the released counts, placements and scalars of sites say, alone and together; pure, nothing is asked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import (
    AT_THRESHOLD,
    COUNTS,
    MAX_BOUNDS,
    Compared,
    Config,
    LocalResults,
    Placement,
    subgroup_names,
)
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stats.influence import UNDEFINED, Estimate, estimate, rate_estimate, ratio_estimate
from ecgshared.stats.small_samples import few_events
from ecgshared.study.study import Study
from server.pooling.auc import auc_within, pooled_auc
from server.pooling.combine import bare, est, number
from server.pooling.compared import site_difference
from server.pooling.cuts import PooledCuts, SiteCuts, average_precision_bounds
from server.pooling.head import PooledHead
from server.pooling.points import SiteRates, calibration_groups, points, roc, site_roc

_ESTIMATES = {
    "auc": "auc",
    "average_precision": "average_precision",
    "brier": "brier",
    "calibration_slope": "slope",
    "calibration_intercept": "intercept",
    "expected_over_observed": "expected_over_observed",
}


def site_json(
    local: LocalResults,
    h: int,
    step: Config,
    counted: tuple[SiteCuts, SiteRates] | None,
    compared: Compared | None,
    *,
    with_threshold: bool,
    by_ranks: bool,
    study: Study | None = None,
) -> dict[str, Any]:
    """Return one site's own result of one outcome: its exact figures, and its points at the cuts it answered.

    ``study``: whose columns name subgroups. ``by_ranks``: of a case-control series, in which how often the event is
    says nothing.
    """
    ecgs, patients, events, event_patients = local.counts[h]
    subgroups = subgroup_names(step, study)
    base, brier = events / ecgs if ecgs > 0 and not by_ranks else np.nan, local.brier[h, 0]
    known = (patients - event_patients, event_patients) if np.isfinite(patients) else (ecgs - events, events)
    return {
        **{name: number(local.counts[h, i]) for i, name in enumerate(COUNTS)},
        "few_events": few_events(*known),
        "left_out": number(local.left_out[h]),
        "base_rate": number(base),
        "mean_predicted": number(local.mean_predicted[h]),
        **{name: est(getattr(local, field)[h]) for name, field in _ESTIMATES.items()},
        "scaled_brier": number(1 - brier / (base * (1 - base))) if 0 < base < 1 else None,
        "ppv": [] if counted is None else _site_points(*counted),
        "threshold": {name: est(local.at_threshold[h, i]) for i, name in enumerate(AT_THRESHOLD)}
        if with_threshold
        else None,
        "subgroups": {
            name: {
                **{count: number(local.subgroup_counts[h, g, i]) for i, count in enumerate(COUNTS)},
                "mean_predicted": number(local.subgroup_rates[h, g, 0]),
                "observed": number(local.subgroup_rates[h, g, 1]),
                "auc": est(local.subgroup_auc[h, g]),
            }
            for g, name in enumerate(subgroups)
        },
        "calibration_curve": []
        if counted is None
        else [
            {"ecgs": number(row[0]), "mean_predicted": number(row[1]), "observed": est(row[2:])}
            for row in counted[1].group[::-1]
            if np.isfinite(row[0]) and row[0] > 0
        ],
        "roc": None if counted is None else site_roc(counted[0]),
        "compared": {name: site_difference(compared, h, v) for v, name in enumerate(step.compare)},
    }


def _site_points(counts: SiteCuts, rates: SiteRates) -> list[dict[str, Any]]:
    return points(PooledCuts({"": counts}, counts.cuts), {"": rates}, {})


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
    found = {
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
    return _without_intervals_of_rates(found) if head.chosen_by_events else found


def _without_intervals_of_rates(found: dict[str, Any]) -> dict[str, Any]:
    """Take the intervals from what tells how often the event is, see :attr:`PooledHead.chosen_by_events`."""
    at = found["threshold"]
    return {
        **found,
        "expected_over_observed": bare(found["expected_over_observed"]),
        "ppv": [{**row, "rate": bare(row["rate"])} for row in found["ppv"]],
        "threshold": at and {**at, **{name: bare(at[name]) for name in ("ppv", "npv", "accuracy")}},
        "calibration_curve": [{**row, "low": None, "high": None} for row in found["calibration_curve"]],
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
    if head.threshold_chosen:
        found = {name: bare(value) for name, value in found.items()}
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
