"""What the released histograms, influences and scalars of several sites say together; pure, nothing is asked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import LocalResults
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.threshold import at_edges
from ecgshared.stats.histogram import N_BINS, Bounded, PooledCurves, ScoreHistogram, edge_risk, pool, pooled_auc
from ecgshared.stats.influence import AucSums, Estimate, estimate, ratio_estimate
from server.pooling.combine import est, number, numbers

_MAX_POINTS = 200


@dataclass(frozen=True)
class AtThreshold:
    """Exact pooled counts at the fixed cut: ECGs, flagged ECGs, events, flagged events; of the sites that released
    them."""

    sites: tuple[str, ...]
    ecgs: float
    flagged: float
    events: float
    flagged_events: float

    @property
    def ppv(self) -> float:
        """Event rate among the flagged; 0 where nobody is."""
        return self.flagged_events / self.flagged if self.flagged else 0.0

    @property
    def sensitivity(self) -> float:
        """Share of events that are flagged; 0 where there are none."""
        return self.flagged_events / self.events if self.events else 0.0


@dataclass(frozen=True)
class PooledHead:
    """One outcome over the sites of one group that released a histogram of it.

    Attributes
    ----------
    histograms, predicted : by site; summed risk of each interval's ECGs.
    auc : pairs within a site are exact where the site released its AUC; else ``curves.auc``.
    """

    histograms: Mapping[str, ScoreHistogram]
    predicted: Mapping[str, Floats]
    curves: PooledCurves
    auc: Bounded
    at_threshold: AtThreshold

    @property
    def expected(self) -> float:
        """Summed risk of all ECGs."""
        return float(sum(p.sum() for p in self.predicted.values()))

    @property
    def expected_over_observed(self) -> float:
        """Predicted over observed events; 0 where there are none."""
        return self.expected / self.curves.n_cases if self.curves.n_cases else 0.0


def pooled_head(
    histograms: Mapping[str, ScoreHistogram],
    predicted: Mapping[str, Floats],
    local: Mapping[str, LocalResults],
    h: int,
) -> PooledHead:
    """Pool one outcome; ``h`` is its number among the heads."""
    totals, sites, own_auc = np.zeros(4), [], []
    for site in histograms:
        own_auc.append(_own_auc(histograms[site], local.get(site), h))
        if site not in local:
            continue
        ecgs, _, events, _ = local[site].counts[h]
        share, ppv = local[site].at_threshold[h, :2, 0]
        if np.isfinite([ecgs, events, share, ppv]).all():
            flagged = round(share * ecgs)
            totals += [ecgs, flagged, events, round(ppv * flagged)]
            sites.append(site)
    everything = list(histograms.values())
    return PooledHead(
        histograms,
        predicted,
        pool(everything),
        pooled_auc(everything, own_auc),
        AtThreshold(tuple(sites), *map(float, totals)),
    )


def _own_auc(histogram: ScoreHistogram, local: LocalResults | None, h: int) -> float:
    """A site's exact AUC, where it is of the ECGs its histogram counts; else NaN."""
    if local is None or local.counts[h, 2] != histogram.cases.sum():
        return float("nan")
    same = local.counts[h, 0] == (histogram.cases + histogram.controls).sum()
    return float(local.auc[h, 0]) if same else float("nan")


def request_arrays(heads: list[PooledHead], cut_bin: int | None) -> dict[str, Floats]:
    """Return what sites need to compute their influences; one row a head, zeros where a head has no curves."""
    n = len(heads)
    arrays = {
        "case_placement": np.zeros((n, N_BINS)),
        "control_placement": np.zeros((n, N_BINS)),
        **{name: np.zeros((n, N_BINS + 1)) for name in ("rate_above", "rate_at", "share_above")},
        **{name: np.zeros(n) for name in ("auc", "n_cases", "n_controls", "expected_over_observed", "sensitivity")},
    }
    for h, head in enumerate(heads):
        curves = head.curves
        if not curves.n_cases or not curves.n_controls:
            continue
        arrays["case_placement"][h], arrays["control_placement"][h] = curves.placements
        arrays["auc"][h] = curves.auc.value
        arrays["n_cases"][h], arrays["n_controls"][h] = curves.n_cases, curves.n_controls
        arrays["rate_above"][h] = np.nan_to_num(curves.rate_above().value)
        arrays["rate_at"][h] = np.clip(curves.marginal_rate(), 0, 1)
        arrays["share_above"][h] = np.clip(curves.share_above().value, 0, 1)
        arrays["expected_over_observed"][h] = head.expected_over_observed
        arrays["sensitivity"][h] = head.at_threshold.sensitivity
        if cut_bin is not None and cut_bin <= N_BINS and head.at_threshold.sites:
            # The threshold is a fixed number, not a quantile of these data: nothing enters as something leaves.
            arrays["rate_above"][h, cut_bin] = arrays["rate_at"][h, cut_bin] = head.at_threshold.ppv
    return arrays


@dataclass(frozen=True)
class HeadInfluence:
    """One site's influence sums for one head; ``edge``, ``edge_square_sum``, ``edge_patients`` at its own edges."""

    auc: Floats
    in_large: float
    sensitivity: float
    edge: Floats
    edge_square_sum: Floats
    edge_patients: Floats


def pooled_json(
    head: PooledHead,
    influences: Mapping[str, HeadInfluence],
    local: Mapping[str, LocalResults],
    h: int,
    *,
    top_shares: tuple[float, ...],
    subgroups: tuple[str, ...],
    cut_bin: int | None,
) -> dict[str, Any]:
    """Return the pooled result of one outcome, see :mod:`ecgshared.stages.evaluate`; intervals need every site's
    sums."""
    curves, sites = head.curves, tuple(head.histograms)
    complete = bool(sites) and set(influences) >= set(sites)
    sums = [influences[s] for s in sites] if complete else []
    n, events = curves.n_cases + curves.n_controls, curves.n_cases
    auc = Estimate(head.auc.value, np.nan, np.nan, np.nan)
    in_large = Estimate(head.expected_over_observed if events else np.nan, np.nan, np.nan, np.nan)
    if sums and np.isfinite([s.auc for s in sums]).all() and events and curves.n_controls:
        total = AucSums.total(s.auc for s in sums)
        if np.isfinite(total.variance):
            auc = estimate(head.auc.value, total.variance, "logit")
        squares = sum(s.in_large for s in sums)
        in_large = ratio_estimate(in_large.value, squares, events, total.patients, scale="log")
    briers = [(local[s].counts[h, 0], local[s].brier[h, 0]) for s in sites if s in local]
    weights, values = (np.array(v) for v in zip(*briers, strict=True)) if briers else (np.zeros(0), np.zeros(0))
    known = np.isfinite(weights) & np.isfinite(values)
    return {
        "sites": list(sites),
        "ecgs": number(n) if sites else None,
        "events": number(events) if sites else None,
        "base_rate": number(events / n) if n else None,
        "auc": {**est(auc).model_dump(), "bound_low": number(head.auc.low), "bound_high": number(head.auc.high)},
        "expected_over_observed": est(in_large),
        "brier": number(weights[known] @ values[known] / weights[known].sum()) if known.any() else None,
        "ppv": _ppv(curves, sums, top_shares) if n else [],
        "threshold": _threshold(head.at_threshold, influences, cut_bin) if cut_bin is not None else None,
        "roc": _roc(head) if events and curves.n_controls else None,
        "calibration_curve": _calibration_curve(head) if n else [],
        "subgroups": {name: _subgroup(sites, local, h, g) for g, name in enumerate(subgroups)},
    }


def _ppv(curves: PooledCurves, sums: list[HeadInfluence], top_shares: tuple[float, ...]) -> list[dict[str, Any]]:
    share, rate = curves.share_above(), curves.rate_above()
    n = curves.n_cases + curves.n_controls
    rows = []
    for wanted in top_shares:
        edge = curves.edge_near_share(wanted)
        value = Estimate(float(rate.value[edge]), np.nan, np.nan, np.nan)
        if sums:
            squares = sum(float(at_edges(s.edge, s.edge_square_sum, np.array([edge]), N_BINS)[0]) for s in sums)
            patients = sum(float(at_edges(s.edge, s.edge_patients, np.array([edge]), N_BINS)[0]) for s in sums)
            value = ratio_estimate(
                value.value, squares, share.value[edge] * n, patients, scale="logit", patients_in=patients
            )
        rows.append(
            {
                "wanted_share": wanted,
                "share": number(share.value[edge]),
                "rate": est(value),
                "bound_low": number(rate.low[edge]),
                "bound_high": number(rate.high[edge]),
            }
        )
    return rows


def _threshold(at: AtThreshold, influences: Mapping[str, HeadInfluence], cut_bin: int) -> dict[str, Any] | None:
    if not at.sites or not at.flagged:
        return None
    ppv = Estimate(at.ppv, np.nan, np.nan, np.nan)
    sensitivity = Estimate(at.sensitivity, np.nan, np.nan, np.nan)
    if set(influences) >= set(at.sites):
        sums = [influences[s] for s in at.sites]
        here = np.array([cut_bin])
        squares = sum(float(at_edges(s.edge, s.edge_square_sum, here, N_BINS)[0]) for s in sums)
        patients = sum(float(at_edges(s.edge, s.edge_patients, here, N_BINS)[0]) for s in sums)
        ppv = ratio_estimate(at.ppv, squares, at.flagged, patients, scale="logit", patients_in=patients)
        with_event = float(sum(s.auc[3] for s in sums))
        sensitivity = ratio_estimate(
            at.sensitivity, sum(s.sensitivity for s in sums), at.events, with_event, scale="logit"
        )
    return {
        "sites": list(at.sites),
        "share": number(at.flagged / at.ecgs),
        "ppv": est(ppv),
        "sensitivity": est(sensitivity),
    }


def _roc(head: PooledHead) -> dict[str, Any]:
    fpr, tpr = head.curves.roc()
    edges = np.unique(np.concatenate([h.lower for h in head.histograms.values()]))[::-1]
    if len(edges) > _MAX_POINTS:
        edges = edges[np.unique(np.linspace(0, len(edges) - 1, _MAX_POINTS).astype(int))]
    edges = np.concatenate([[N_BINS], edges])
    x = fpr.value[edges]
    return {
        "fpr": numbers(x),
        "tpr": numbers(tpr.value[edges]),
        # The true curve passes each edge inside a box; its worst and best corners, read at common x, are the band.
        "tpr_low": numbers(np.interp(x, fpr.high[::-1], tpr.low[::-1])),
        "tpr_high": numbers(np.interp(x, fpr.low[::-1], tpr.high[::-1])),
    }


def site_roc(histogram: ScoreHistogram) -> dict[str, Any] | None:
    """Return one site's ROC at its own edges, where it is exact; None where a class is absent."""
    if not len(histogram.lower):
        return None
    cases, controls = histogram.above
    if not cases[0] or not controls[0]:
        return None
    fpr, tpr = (np.append(c / c[0], 0.0)[::-1] for c in (controls, cases))
    keep = np.unique(np.linspace(0, len(fpr) - 1, _MAX_POINTS).astype(int)) if len(fpr) > _MAX_POINTS else slice(None)
    return {"fpr": numbers(fpr[keep]), "tpr": numbers(tpr[keep])}


def _calibration_curve(head: PooledHead, groups: int = 10) -> list[dict[str, Any]]:
    """Groups of about equal size between fine edges; a group's counts are bounded by the intervals it may share."""
    curves = head.curves
    cuts = [curves.edge_near_share(1 - q / groups) for q in range(1, groups)]
    bounds = np.unique([0, *cuts, N_BINS])
    lower, upper, cases, controls = (
        np.concatenate([getattr(h, name) for h in head.histograms.values()])
        for name in ("lower", "upper", "cases", "controls")
    )
    predicted = np.concatenate(list(head.predicted.values()))
    rows = []
    for low, high in pairwise(bounds):
        part = np.clip(np.minimum(upper, high) - np.maximum(lower, low), 0, None) / (upper - lower)
        n = float(part @ (cases + controls))
        if n < 0.5:
            continue
        inside, touching = part == 1, part > 0
        least = cases[inside].sum() / max(cases[inside].sum() + controls[touching].sum(), 1)
        most = cases[touching].sum() / max(cases[touching].sum() + controls[inside].sum(), 1)
        # Spreading an interval's ECGs evenly may place its mean risk just outside the group's edges.
        mean = np.clip(part @ predicted / n, edge_risk(low) if low else 0, edge_risk(high) if high < N_BINS else 1)
        rows.append(
            {
                "ecgs": number(n),
                "mean_predicted": number(mean),
                "observed": number(part @ cases / n),
                "bound_low": number(least),
                "bound_high": number(most),
            }
        )
    return rows


def _subgroup(sites: tuple[str, ...], local: Mapping[str, LocalResults], h: int, g: int) -> EstimateResult:
    """Inverse-variance mean of the sites' logit AUCs: subgroups release no histograms, so nothing else is pooled."""
    found = [local[s].subgroup_auc[h, g, :2] for s in sites if s in local]
    usable = [(a, se) for a, se in found if np.isfinite([a, se]).all() and 0 < a < 1 and se > 0]
    if not usable:
        return est(np.full(4, np.nan))
    a, se = np.array(usable).T
    weight = (a * (1 - a) / se) ** 2
    centre = float(weight @ np.log(a / (1 - a)) / weight.sum())
    value = 1 / (1 + np.exp(-centre))
    return est(estimate(value, float((value * (1 - value)) ** 2 / weight.sum()), "logit"))
