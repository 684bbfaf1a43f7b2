"""Points of pooled curves: each stands at a cut that sites answered, with the bounds of what others did not.

A decision threshold of risk p says that one true positive is worth (1 - p) / p false ones: net benefit is true
positives less false ones times p / (1 - p), per ECG (Vickers & Elkin 2006, doi 10.1177/0272989X06295361). Every cut is
such a threshold, so the decision curve needs no release of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import Placement
from ecgshared.stats.influence import Estimate, rate_estimate, ratio_estimate
from ecgshared.stats.score_scale import LOWEST, risk_of
from server.pooling.combine import est, number, numbers
from server.pooling.cuts import PooledCuts, SiteCuts

_MAX_UNKNOWN = 0.1
"""A point at which more than this share of the cases may lie on either side is left out."""
_MIN_ANSWERED = 0.8
"""An interval of a rate needs the errors of sites with this share of the ECGs above the cut."""


@dataclass(frozen=True)
class SiteRates:
    """One site's exact rates at its cuts, descending: ``predicted`` (c,), ``rate`` (c, 4), ``group`` (c, 6)."""

    predicted: Floats
    rate: Floats
    group: Floats


def points(at: PooledCuts, rates: Mapping[str, SiteRates], placements: Mapping[str, Placement]) -> list[dict[str, Any]]:
    """Return one row a cut, the highest first: how many stand above it, and what it means to act on it."""
    (c_low, c_high), (k_low, k_high) = at.cases, at.controls
    value, low, high = at.rate()
    n, events = at.n_cases + at.n_controls, at.n_cases
    rows = []
    for i, cut in enumerate(at.cuts):
        if c_high[i] - c_low[i] > _MAX_UNKNOWN * events or not np.isfinite(value[i]):
            continue
        cases, controls = (c_low[i] + c_high[i]) / 2, (k_low[i] + k_high[i]) / 2
        odds = float(np.exp(cut)) if cut > LOWEST else 0.0
        free = n - cases - controls
        rows.append(
            {
                "cutoff": number(risk_of(cut)) if cut > LOWEST else 0.0,
                "share": number((cases + controls) / n),
                "rate": est(_rate(at, rates, placements, float(cut), float(value[i]), (float(low[i]), float(high[i])))),
                "bound_low": number(low[i]),
                "bound_high": number(high[i]),
                "captured": number(cases / events) if events else None,
                "captured_low": number(c_low[i] / events) if events else None,
                "captured_high": number(c_high[i] / events) if events else None,
                "npv": number((free - (events - cases)) / free) if free > 0 else None,
                "accuracy": number((cases + at.n_controls - controls) / n),
                "net_benefit": number((cases - controls * odds) / n),
                "net_benefit_low": number((c_low[i] - k_high[i] * odds) / n),
                "net_benefit_high": number((c_high[i] - k_low[i] * odds) / n),
            }
        )
    return rows


def _rate(
    at: PooledCuts,
    rates: Mapping[str, SiteRates],
    placements: Mapping[str, Placement],
    cut: float,
    value: float,
    bounds: tuple[float, float],
) -> Estimate:
    """The pooled rate above a cut, with the interval of the sites' squared influences; it never excludes the bounds."""
    if len(at.sites) == 1:
        ((site, counts),) = at.sites.items()
        return Estimate(*rates[site].rate[int(np.flatnonzero(counts.cuts == cut)[0])])
    found = _from_squares(at, placements, cut, value)
    if not np.isfinite([found.low, found.high]).all():
        return found
    return Estimate(value, found.se, min(found.low, bounds[0]), max(found.high, bounds[1]))


def _from_squares(at: PooledCuts, placements: Mapping[str, Placement], cut: float, value: float) -> Estimate:
    squares = people = above = 0.0
    for site, counts in at.sites.items():
        reply = placements.get(site)
        here = np.zeros(0, dtype=int) if reply is None else np.flatnonzero(reply.cut == cut)
        if reply is None or not len(here) or not np.isfinite(reply.square_sum[here[0]]):
            continue
        squares += float(reply.square_sum[here[0]])
        people += float(reply.patients[here[0]])
        above += _above(counts, cut)
    everybody = sum(_above(counts, cut) for counts in at.sites.values())
    if not above or above < _MIN_ANSWERED * everybody:
        return Estimate(value, np.nan, np.nan, np.nan)
    # Sites that did not answer are taken to vary as the others do.
    grown = everybody / above
    return ratio_estimate(value, squares * grown, everybody, people * grown, scale="logit", patients_in=people * grown)


def _above(counts: SiteCuts, cut: float) -> float:
    return float(PooledCuts({"": counts}, np.array([cut])).likely[0])


def roc(at: PooledCuts) -> dict[str, Any]:
    """Return the ROC's points, (0, 0) first, with the box each is known to lie in."""
    (c_low, c_high), (k_low, k_high) = at.cases, at.controls
    keep = c_high - c_low <= _MAX_UNKNOWN * at.n_cases
    columns = {
        "fpr": (k_low + k_high) / 2 / at.n_controls,
        "tpr": (c_low + c_high) / 2 / at.n_cases,
        "fpr_low": k_low / at.n_controls,
        "fpr_high": k_high / at.n_controls,
        "tpr_low": c_low / at.n_cases,
        "tpr_high": c_high / at.n_cases,
    }
    return {name: numbers(np.concatenate([[0.0], column[keep]])) for name, column in columns.items()}


def calibration_groups(at: PooledCuts, rates: Mapping[str, SiteRates]) -> list[dict[str, Any]]:
    """Return groups between cuts that every site answered, ascending: there all is exact."""
    cuts = at.everywhere()
    totals = np.zeros((len(cuts), 3))
    for site, counts in at.sites.items():
        here = [int(np.flatnonzero(counts.cuts == cut)[0]) for cut in cuts]
        cases = counts.cases[here]
        totals += np.column_stack([cases + counts.bins.above(cuts)[0], cases, rates[site].predicted[here]])
    ecgs, cases, predicted = np.diff(totals, axis=0, prepend=np.zeros((1, 3))).T
    variance = np.zeros(len(cuts))
    for site, counts in at.sites.items():
        variance += _group_variance(counts, rates[site], cuts)
    rows = []
    for i in reversed(range(len(cuts))):
        if not ecgs[i]:
            continue
        found = rate_estimate(cases[i] / ecgs[i], variance[i] / ecgs[i] ** 2, float(ecgs[i]))
        rows.append(
            {
                "ecgs": number(ecgs[i]),
                "mean_predicted": number(predicted[i] / ecgs[i]),
                "observed": number(found.value),
                "bound_low": number(found.value),
                "bound_high": number(found.value),
                "low": number(found.low),
                "high": number(found.high),
            }
        )
    return rows


def _group_variance(counts: SiteCuts, rates: SiteRates, cuts: Floats) -> Floats:
    """Variance of a site's number of cases between common cuts: its own finer groups between them add up."""
    group = np.searchsorted(-cuts, -counts.cuts, side="left")
    of_cases = (rates.group[:, 0] * np.nan_to_num(rates.group[:, 3])) ** 2
    return np.bincount(group, weights=of_cases, minlength=len(cuts))[: len(cuts)].astype(np.float64)


def site_roc(counts: SiteCuts) -> dict[str, Any] | None:
    """Return one site's ROC at its own cuts, where it is exact; None where a class is absent."""
    at = PooledCuts({"": counts}, counts.cuts)
    return roc(at) if at.n_cases and at.n_controls else None
