"""Counts of several outcomes above shared cuts, over the sites of one group and of each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.arrhythmia import COUNTED, OUTCOMES, Curve, Errors
from ecgshared.stages.results.arrhythmia import Incidence, Point
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stats.influence import ratio_estimate
from ecgshared.stats.score_scale import HIGHEST, LOWEST, risk_of
from server.pooling.combine import bare, est, number
from server.pooling.head import by_luck

_MIN_ANSWERED = 0.8
"""A point stands where sites with this share of the group's ECGs answered it."""


@dataclass(frozen=True)
class Curves:
    """What the sites of one group told.

    Attributes
    ----------
    cuts : asked for, the most wanted first.
    asked : sites of the group, those that told nothing among them; 0: those of ``by_site``.
    cut, like : the absolute cut-off, and the one of its share; HIGHEST where there is none.
    """

    cuts: tuple[float, ...]
    by_site: Mapping[str, Curve]
    errors: Mapping[str, Errors]
    cut: float
    like: float
    asked: int = 0

    def telling(self, outcome: str) -> tuple[str, ...]:
        """Return the sites that tell of an outcome."""
        return tuple(s for s in self.by_site if self.at(s, LOWEST, outcome) is not None)

    def at(self, site: str, cut: float, outcome: str) -> Floats | None:
        """Return ECGs, patients, events and patients with the event at or above a cut; None where not told."""
        reply = self.by_site[site]
        here = np.flatnonzero(reply.cut == cut)
        if not len(here):
            return None
        columns = [getattr(reply, name)[here[0]] for name in ("ecgs", "patients", "events", "event_patients")]
        if outcome == "added":
            scd, either = (np.array([c[COUNTED.index(name)] for c in columns]) for name in ("scd", "composite"))
            found = np.array([either[0], either[1], either[2] - scd[2], np.nan])
        else:
            found = np.array([c[COUNTED.index(outcome)] for c in columns])
        return found if np.isfinite(found[[0, 2]]).all() else None

    def answered(self, cut: float, outcome: str) -> dict[str, Floats]:
        """Return by site what stands above a cut; nobody where too few sites answered it."""
        found = {s: n for s in self.by_site if (n := self.at(s, cut, outcome)) is not None}
        everybody = {s: n for s in self.by_site if (n := self.at(s, LOWEST, outcome)) is not None}
        total = sum(float(n[0]) for n in everybody.values())
        return found if total > 0 and sum(float(everybody[s][0]) for s in found) >= _MIN_ANSWERED * total else {}

    def rates(self) -> Floats:
        """Return the pooled rate above each cut asked, then everybody's; shape = (cuts + 1, outcomes), 0 if none."""
        rates = np.zeros((len(self.cuts) + 1, len(OUTCOMES)))
        for i, cut in enumerate((*self.cuts, LOWEST)):
            for o, outcome in enumerate(OUTCOMES):
                n = sum(self.answered(cut, outcome).values(), np.zeros(4))
                rates[i, o] = n[2] / n[0] if n[0] > 0 else 0.0
        return rates

    def share_above(self, cut: float) -> float:
        """Return the share of ECGs at or above a cut, of the outcome that most ECGs have."""
        shares = []
        for outcome in ("composite", "vfvt"):
            above = self.answered(cut, outcome)
            total = sum(float(n[0]) for s in above if (n := self.at(s, LOWEST, outcome)) is not None)
            if total > 0:
                shares.append(sum(float(n[0]) for n in above.values()) / total)
        return shares[0] if shares else np.nan


def pooled(curves: Curves) -> dict[str, Incidence]:
    """Return every outcome's curve over the sites of the group."""
    return {outcome: _incidence(curves, outcome, tuple(curves.by_site)) for outcome in OUTCOMES}


def own(site: str, curves: Curves) -> dict[str, Incidence]:
    """Return one site's own curves."""
    alone = Curves(curves.cuts, {site: curves.by_site[site]}, {}, curves.cut, curves.like)
    return {outcome: _incidence(alone, outcome, ()) for outcome in OUTCOMES}


def _incidence(curves: Curves, outcome: str, pooled_sites: tuple[str, ...]) -> Incidence:
    whole = curves.answered(LOWEST, outcome)
    total = sum(whole.values(), np.zeros(4))
    cuts = sorted({*curves.cuts, LOWEST}, reverse=True) if whole else []
    points = {cut: point for cut in cuts if (point := _point(curves, cut, outcome, bool(pooled_sites))) is not None}
    numbers = [number(n) if whole else None for n in total]
    return Incidence(
        ecgs=numbers[0],
        patients=numbers[1],
        events=numbers[2],
        event_patients=numbers[3],
        points=tuple(points.values()),
        at_cutoff=points.get(curves.cut) if curves.cut < HIGHEST else None,
        same_share=points.get(curves.like) if curves.like < HIGHEST else None,
    )


def _point(curves: Curves, cut: float, outcome: str, together: bool) -> Point | None:
    found = curves.answered(cut, outcome)
    ecgs, _, events, _ = sum(found.values(), np.zeros(4))
    if not ecgs > 0:
        return None
    total = sum(float(n[0]) for s in found if (n := curves.at(s, LOWEST, outcome)) is not None)
    rate = _rate(curves, cut, outcome, found) if together else _own_rate(curves, cut, outcome, found)
    if together and by_luck(events, len(found), max(curves.asked, len(curves.by_site))):
        rate = bare(rate)
    return Point(
        cutoff=number(risk_of(cut)) if cut > LOWEST else 0.0,
        share=number(ecgs / total) if total > 0 else None,
        ecgs=number(ecgs),
        events=number(events),
        rate=rate,
        sites=tuple(found),
    )


def _own_rate(curves: Curves, cut: float, outcome: str, found: Mapping[str, Floats]) -> EstimateResult:
    (site,) = found
    reply = curves.by_site[site]
    return est(reply.rate[int(np.flatnonzero(reply.cut == cut)[0]), OUTCOMES.index(outcome)])


def _rate(curves: Curves, cut: float, outcome: str, found: Mapping[str, Floats]) -> EstimateResult:
    """The pooled rate with the interval of the sites' squared influences."""
    ecgs, patients, events, _ = sum(found.values(), np.zeros(4))
    patients = patients if np.isfinite(patients) else ecgs
    squares = 0.0
    for site in found:
        reply = curves.errors.get(site)
        here = np.zeros(0, dtype=int) if reply is None else np.flatnonzero(reply.cut == cut)
        told = reply is not None and len(here) > 0
        squares += float(reply.squares[here[0], OUTCOMES.index(outcome)]) if told and reply is not None else np.nan
    if not np.isfinite(squares):
        return est(np.array([events / ecgs, np.nan, np.nan, np.nan]))
    return est(ratio_estimate(events / ecgs, squares, ecgs, patients, scale="logit", patients_in=patients))
