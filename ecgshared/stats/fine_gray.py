"""The model of Fine & Gray for the hazard of a subdistribution, from sums that add over sites.

Fine & Gray 1999 (doi 10.1080/01621459.1999.10474144). Who has had a competing event stays in the risk set, with the
weight G(t) / G(T): the chance to be followed to t, given to T. G, the Kaplan-Meier curve of censoring, is one for all
sites, or each site's own. At each event time t_k the risk set is then

    those still at risk, as in Cox's model   +   G(t_k) x the sum over earlier competing events of w / G(T),

so a site sends its Cox sums and one more sum an interval, over those who have a competing event in it; the pooled G
comes from counts. The variance is Fine and Gray's own, which knows that G was estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecgshared.arrays import Floats, Ints
from ecgshared.stats.competing import COMPETING, EVENT
from ecgshared.stats.cox import (
    CoxSums,
    PooledHazard,
    RiskSums,
    SurvivalRows,
    Ties,
    curvature,
    exact_sums,
    pooled_hazard,
    prepare,
    risk_sums,
)
from ecgshared.stats.cox_residuals import ResidualTerms, residual_terms, score_residuals


@dataclass(frozen=True)
class CensoringCurve:
    """Kaplan-Meier of censoring, from counts: those of several sites add before it is made.

    Attributes
    ----------
    times : float array, shape = (c,), ascending. at_risk, censored : counts then; who has an event that day is at risk.
    """

    times: Floats
    at_risk: Floats
    censored: Floats

    @classmethod
    def of(cls, time: Floats, cause: Ints) -> CensoringCurve:
        """Count the censored and those at risk of it."""
        times, censored = np.unique(time[cause == 0], return_counts=True)
        at_risk = len(time) - np.searchsorted(np.sort(time), times, side="left")
        return cls(times, at_risk.astype(np.float64), censored.astype(np.float64))

    def before(self, at: Floats) -> Floats:
        """Return the chance to be uncensored just before each time, shape of ``at``."""
        free = np.concatenate([[1.0], np.cumprod(1 - self.censored / self.at_risk)])
        return np.asarray(free[np.searchsorted(self.times, at, side="left")], dtype=np.float64)


@dataclass(frozen=True)
class SubdistributionRows:
    """Rows of one site, or of all of them, that share a baseline.

    Attributes
    ----------
    rows : as in Cox's model, competing events as censorings; ``index`` of them as of all: order of the caller's arrays.
    x : float array, shape = (m, p): those with a competing event. lasting : float array, shape = (m,): their 1 / G(T).
    since : int array, shape = (m,): the last grid time up to their event. which : where they stand in the caller's.
    reach : float array, shape = (K,): G just before each grid time.
    """

    rows: SurvivalRows
    x: Floats
    lasting: Floats
    since: Ints
    which: Ints
    reach: Floats


def subdistribution_rows(
    x: Floats, time: Floats, cause: Ints, curve: CensoringCurve, grid: Floats
) -> SubdistributionRows:
    """Prepare the rows of one site; ``grid``: the event times of all who share the baseline."""
    other = np.flatnonzero(cause == COMPETING)
    return SubdistributionRows(
        rows=prepare(x, time, cause == EVENT, grid=grid),
        x=x[other],
        lasting=1.0 / curve.before(time[other]),
        since=np.asarray(np.searchsorted(grid, time[other], side="right") - 1, dtype=np.int64),
        which=other,
        reach=curve.before(grid),
    )


def subdistribution_sums(part: SubdistributionRows, beta: Floats, ties: Ties) -> RiskSums:
    """Return one site's sums, in the form of Cox's: "leaving" are differences of the risk sets."""
    own = risk_sums(part.rows, beta, ties)
    w = part.lasting * np.exp(part.x @ beta - own.shift)
    n = len(part.rows.grid)

    def lasting(values: Floats) -> Floats:
        # Joined after the grid time ``since``; those of -1 are there from the first.
        joined = np.zeros((n + 1, *values.shape[1:]))
        np.add.at(joined, part.since + 1, values)
        reach = part.reach.reshape(-1, *([1] * (values.ndim - 1)))
        held = reach * np.cumsum(joined, axis=0)[:n]
        return np.asarray(held - np.concatenate([held[1:], np.zeros((1, *values.shape[1:]))]), dtype=np.float64)

    return RiskSums(
        own.shift,
        own.leaving_w + lasting(w),
        own.leaving_wx + lasting(w[:, None] * part.x),
        own.dying_w,
        own.dying_wx,
        own.dying_weight,
        own.death_x,
        own.leavers,
        own.deaths,
    )


def subdistribution_curvature(part: SubdistributionRows, beta: Floats, hazard: PooledHazard) -> Floats:
    """Return one site's part of the Hessian, shape = (p, p)."""
    borne = part.lasting * np.exp(part.x @ beta - hazard.shift) * _still(part.reach * hazard.increment, part.since)
    return np.asarray(curvature(part.rows, beta, hazard) + (part.x * borne[:, None]).T @ part.x, dtype=np.float64)


def fine_gray_sums(parts: Sequence[SubdistributionRows], beta: Floats, ties: Ties) -> CoxSums:
    """Return the sums of all who share a baseline: both messages of a round, one after the other."""
    total = RiskSums.total(subdistribution_sums(part, beta, ties) for part in parts)
    hazard = pooled_hazard(total, ties)
    curvatures = np.sum([subdistribution_curvature(part, beta, hazard) for part in parts], axis=0)
    return exact_sums(total, curvatures, beta, ties)


def fine_gray_residuals(part: SubdistributionRows, beta: Floats, terms: ResidualTerms, n: int) -> Floats:
    """Return each row's score, shape = (n, p), in the order of the caller's arrays; its sum is the gradient."""
    score = np.zeros((n, len(beta)))
    score[part.rows.row] = score_residuals(part.rows, beta, terms)
    w = part.lasting * np.exp(part.x @ beta - terms.hazard.shift)
    borne = _still(part.reach * terms.hazard.increment, part.since)
    drift = _still(part.reach[:, None] * terms.drift, part.since)
    score[part.which] -= w[:, None] * (part.x * borne[:, None] - drift)
    return score


def censoring_residuals(
    parts: Sequence[SubdistributionRows],
    times: Sequence[Floats],
    causes: Sequence[Ints],
    curve: CensoringCurve,
    beta: Floats,
    terms: Sequence[ResidualTerms],
) -> list[Floats]:
    """Return what each row adds to the error through the estimated curve of censoring, shape = (n, p) a part.

    Parameters
    ----------
    parts : all rows that share ``curve``, ``times`` and ``causes`` theirs. terms : of each part's baseline.
    """
    p, moved = len(beta), np.zeros((len(curve.times), len(beta)))
    for part, time, of in zip(parts, times, terms, strict=True):
        grid, shift = part.rows.grid, of.hazard.shift
        w = part.lasting * np.exp(part.x @ beta - shift)
        order = np.argsort(time[part.which], kind="stable")
        mass = np.concatenate([[0.0], np.cumsum(w[order])])
        mean = np.concatenate([np.zeros((1, p)), np.cumsum((w[:, None] * part.x)[order], axis=0)])
        # Competing events before each censoring, and the hazard from then on.
        earlier = np.searchsorted(time[part.which][order], curve.times, side="left")
        later = np.searchsorted(grid, curve.times, side="right")
        hazard = _from(part.reach * of.hazard.increment)[later]
        drift = _from(part.reach[:, None] * of.drift)[later]
        moved += mean[earlier] * hazard[:, None] - mass[earlier, None] * drift
    step = moved / curve.at_risk[:, None]
    expected = np.concatenate([np.zeros((1, p)), np.cumsum(step * (curve.censored / curve.at_risk)[:, None], axis=0)])
    found = []
    for time, cause in zip(times, causes, strict=True):
        at = np.searchsorted(curve.times, time, side="right")
        own = np.where((cause == 0)[:, None], step[np.maximum(at - 1, 0)], 0.0)
        found.append(np.asarray(own - expected[at], dtype=np.float64))
    return found


def terms_of(parts: Sequence[SubdistributionRows], beta: Floats, ties: Ties) -> ResidualTerms:
    """Return what the residuals of all who share a baseline need."""
    return residual_terms(RiskSums.total(subdistribution_sums(part, beta, ties) for part in parts), ties)


def _still(increments: Floats, since: Ints) -> Floats:
    """Sum of increments, shape = (K, ...), over the grid times after ``since``."""
    return _from(increments)[since + 1]


def _from(increments: Floats) -> Floats:
    """Sums of increments from each grid time on, shape = (K + 1, ...); the last is 0."""
    reverse = np.cumsum(increments[::-1], axis=0)[::-1]
    return np.concatenate([reverse, np.zeros((1, *increments.shape[1:]))])
