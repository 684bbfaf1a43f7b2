"""The Cox partial likelihood of many hospitals from sums.

Two ways, both Newton on sums:

* site-stratified: every site has its own baseline hazard, and only a log-likelihood, a gradient and a Hessian
  leave it (``stratified_sums``);
* exact: one baseline hazard for all. A site sends, for each interval of a common time grid, sums over those
  who LEAVE the risk set in it and over those who die in it (``risk_sums``). Their reverse cumulative sums, added
  over sites, are the risk-set sums of the pooled cohort. The coordinator turns them into the hazard of each interval
  (``pooled_hazard``), and with it a site forms its part of the Hessian (``curvature``). So no second moments
  per interval leave a site: p + 1 numbers an interval, not (p + 1)(p + 2) / 2.

Likelihood: Cox 1975 (doi 10.1093/biomet/62.2.269); ties: Breslow 1974 (doi 10.2307/2529620) and Efron 1977 (doi
10.1080/01621459.1977.10480613). Sums over sites: Lu et al. 2015, WebDISCO (doi 10.1093/jamia/ocv083).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox_rows import SurvivalRows as SurvivalRows
from ecgshared.stats.cox_rows import coarsen as coarsen
from ecgshared.stats.cox_rows import event_times as event_times
from ecgshared.stats.cox_rows import prepare as prepare

Ties = Literal["efron", "breslow"]

# The shift of the exponent is a multiple of this, so that it says next to nothing about the largest linear predictor.
SHIFT_STEP = 100.0


@dataclass(frozen=True)
class CoxSums:
    """What Newton needs at given coefficients; those of several strata or sites add.

    Attributes
    ----------
    log_likelihood : float, partial.
    gradient : float array, shape = (p,).
    hessian : float array, shape = (p, p), of the NEGATIVE log-likelihood (positive semi-definite).
    events : int.
    """

    log_likelihood: float
    gradient: Floats
    hessian: Floats
    events: int

    @classmethod
    def total(cls, parts: Iterable[CoxSums]) -> CoxSums:
        """Add the sums of several strata or sites."""
        items = list(parts)
        if not items:
            raise StatisticsError("no site gave sums to add")
        return cls(
            float(sum(s.log_likelihood for s in items)),
            np.sum([s.gradient for s in items], axis=0),
            np.sum([s.hessian for s in items], axis=0),
            sum(s.events for s in items),
        )


@dataclass(frozen=True)
class RiskSums:
    """Sums of one site, or of all, over those who leave the risk set in each interval.

    Who enters it late (left truncation) is taken from the sums of the last interval before that: the sums "over those
    who leave" are then net of them, and their reverse cumulative sums still those of the risk sets.

    w = weight x exp(x beta - shift).

    Attributes
    ----------
    shift : float, a multiple of ``SHIFT_STEP``.
    leaving_w : float array, shape = (K,): sum of w over those who leave, deaths included.
    leaving_wx : float array, shape = (K, p): sum of w x over them.
    dying_w, dying_wx : the same over deaths alone, shapes (K,) and (K, p).
    dying_weight : float array, shape = (K,): sum of the row weights over deaths.
    death_x : float array, shape = (p,): sum of weight x over ALL deaths.
    leavers, deaths : int arrays, shape = (K,): how many rows stand behind the sums.
    """

    shift: float
    leaving_w: Floats
    leaving_wx: Floats
    dying_w: Floats
    dying_wx: Floats
    dying_weight: Floats
    death_x: Floats
    leavers: Ints
    deaths: Ints

    @classmethod
    def total(cls, parts: Iterable[RiskSums]) -> RiskSums:
        """Add the sums of several sites on the same grid, one at a time."""
        result: RiskSums | None = None
        for part in parts:
            result = part if result is None else result._plus(part)
        if result is None:
            raise StatisticsError("no site gave sums to add")
        return result

    def _plus(self, other: RiskSums) -> RiskSums:
        if self.leaving_wx.shape != other.leaving_wx.shape:
            raise StatisticsError(
                "sites answered on different grids or covariates",
                value=(self.leaving_wx.shape, other.leaving_wx.shape),
            )
        shift = max(self.shift, other.shift)
        a, b = np.exp(self.shift - shift), np.exp(other.shift - shift)
        return RiskSums(
            shift,
            a * self.leaving_w + b * other.leaving_w,
            a * self.leaving_wx + b * other.leaving_wx,
            a * self.dying_w + b * other.dying_w,
            a * self.dying_wx + b * other.dying_wx,
            self.dying_weight + other.dying_weight,
            self.death_x + other.death_x,
            self.leavers + other.leavers,
            self.deaths + other.deaths,
        )

    @property
    def at_risk(self) -> Ints:
        """Rows at risk at each grid time, shape = (K,)."""
        return np.cumsum(self.leavers[::-1])[::-1]

    @property
    def risk_w(self) -> Floats:
        """S0: sum of w over the risk set at each grid time, shape = (K,)."""
        return np.cumsum(self.leaving_w[::-1])[::-1]

    @property
    def risk_wx(self) -> Floats:
        """S1: sum of w x over the risk set at each grid time, shape = (K, p)."""
        return np.cumsum(self.leaving_wx[::-1], axis=0)[::-1]


@dataclass(frozen=True)
class PooledHazard:
    """What a site needs of all sites to form its part of the Hessian: the pooled hazard of each grid time.

    Attributes
    ----------
    increment : float array, shape = (K,): baseline hazard of each grid time, times exp(shift).
    dying : float array, shape = (K,): the part of it that those who die at that time do not bear (Efron); 0 under
        Breslow.
    shift : float.
    """

    increment: Floats
    dying: Floats
    shift: float


def relative_hazard(rows: SurvivalRows, beta: Floats, shift: float | None = None) -> tuple[Floats, float]:
    """Return w = weight x exp(x beta - shift), shape = (n,), and the shift; None chooses one that keeps w finite."""
    eta = rows.x @ beta
    if not np.isfinite(eta).all():
        raise StatisticsError("the linear predictor left the range of numbers", remedy="standardise the covariates")
    if shift is None:
        shift = SHIFT_STEP * round(float(eta.max()) / SHIFT_STEP) if len(eta) else 0.0
    return rows.weight * np.exp(eta - shift), shift


def _by_interval(values: Floats, interval: Ints, n_intervals: int) -> Floats:
    """Sum runs of an ascending ``interval``; shape (n, ...) to (K, ...)."""
    out = np.zeros((n_intervals, *values.shape[1:]))
    if len(values):
        starts = np.flatnonzero(np.diff(interval, prepend=-1))
        out[interval[starts]] = np.add.reduceat(values, starts, axis=0)
    return out


def risk_sums(rows: SurvivalRows, beta: Floats, ties: Ties = "efron") -> RiskSums:
    """Return the sums of one site at coefficients ``beta``, shape = (p,); linear in rows.

    Breslow's likelihood needs no sums over deaths: ``dying_w`` and ``dying_wx`` are 0 and tell nothing.
    """
    n_intervals = len(rows.grid)
    w, shift = relative_hazard(rows, beta)
    wx = rows.x * w[:, None]
    late = np.flatnonzero(rows.entry >= 0)
    late = late[np.argsort(rows.entry[late], kind="stable")]
    since = rows.entry[late]
    dead = np.flatnonzero(rows.event)
    when = rows.interval[dead]
    tied = dead if ties == "efron" else dead[:0]
    return RiskSums(
        shift=shift,
        leaving_w=_by_interval(w, rows.interval, n_intervals) - _by_interval(w[late], since, n_intervals),
        leaving_wx=_by_interval(wx, rows.interval, n_intervals) - _by_interval(wx[late], since, n_intervals),
        dying_w=_by_interval(w[tied], rows.interval[tied], n_intervals),
        dying_wx=_by_interval(wx[tied], rows.interval[tied], n_intervals),
        dying_weight=_by_interval(rows.weight[dead], when, n_intervals),
        death_x=rows.weight[dead] @ rows.x[dead],
        leavers=(np.bincount(rows.interval, minlength=n_intervals) - np.bincount(since, minlength=n_intervals)),
        deaths=np.bincount(when, minlength=n_intervals).astype(np.int64),
    )


@dataclass(frozen=True)
class TieTerms:
    """Per grid time, sums over its d tied deaths l = 0..d-1 with f = l / d (0 under Breslow) and phi = S0 - f D0.

    Attributes
    ----------
    log_phi : float array, shape = (K,): sum of log phi, without the shift.
    one, f : float arrays, shape = (K,): sums of 1 / phi and f / phi.
    one2, f2, ff2 : float arrays, shape = (K,): sums of 1 / phi^2, f / phi^2 and f^2 / phi^2.

    All are multiplied by the mean row weight of the deaths.
    """

    log_phi: Floats
    one: Floats
    f: Floats
    one2: Floats
    f2: Floats
    ff2: Floats

    def times(self, factor: Floats) -> TieTerms:
        """Return the terms with each grid time's multiplied by ``factor``, shape = (K,)."""
        return TieTerms(*(factor * getattr(self, name) for name in TieTerms.__dataclass_fields__))


# Far along a separating direction the weight of a risk set can vanish: sums that are not finite make Newton's step
# shorter, here and below.
@np.errstate(all="ignore")
def tie_terms(total: RiskSums, ties: Ties) -> TieTerms:
    """Return the terms of each grid time from the sums over all sites."""
    n_intervals, d = len(total.deaths), total.deaths
    k = np.repeat(np.arange(n_intervals), d)
    within = np.arange(len(k)) - np.repeat(np.cumsum(d) - d, d)
    f = within / d[k] if ties == "efron" else np.zeros(len(k))
    phi = total.risk_w[k] - f * total.dying_w[k]
    mean_weight = (total.dying_weight / np.maximum(d, 1))[k]

    def add(values: Floats) -> Floats:
        return _by_interval(mean_weight * values, k, n_intervals)

    r = 1.0 / phi
    return TieTerms(add(np.log(phi)), add(r), add(f * r), add(r * r), add(f * r * r), add(f * f * r * r))


def pooled_hazard(total: RiskSums, ties: Ties) -> PooledHazard:
    """Return what the sites are told before they form their curvature."""
    terms = tie_terms(total, ties)
    return PooledHazard(terms.one, terms.f, total.shift)


@np.errstate(all="ignore")
def curvature(rows: SurvivalRows, beta: Floats, hazard: PooledHazard) -> Floats:
    """Return one site's part of the Hessian, sum of w x x' times the hazard each row has borne; shape = (p, p)."""
    w, _ = relative_hazard(rows, beta, hazard.shift)
    borne = between(hazard.increment, rows) - rows.event * hazard.dying[rows.interval]
    return np.asarray((rows.x * (w * borne)[:, None]).T @ rows.x, dtype=np.float64)


def between(increments: Floats, rows: SurvivalRows) -> Floats:
    """Return the sum of increments, shape = (K, ...), over the grid times at which each row is at risk; (n, ...)."""
    summed = np.concatenate([np.zeros((1, *increments.shape[1:])), np.cumsum(increments, axis=0)])
    return np.asarray(summed[rows.interval + 1] - summed[rows.entry + 1], dtype=np.float64)


def outer_terms(total: RiskSums, terms: TieTerms) -> Floats:
    """Return what the curvatures of all rows are more than the information, shape = (p, p)."""
    t, s1, d1 = terms, total.risk_wx, total.dying_wx
    cross = s1.T @ (t.f2[:, None] * d1)
    return np.asarray(s1.T @ (t.one2[:, None] * s1) - cross - cross.T + d1.T @ (t.ff2[:, None] * d1), dtype=np.float64)


@np.errstate(all="ignore")
def exact_sums(total: RiskSums, curvatures: Floats, beta: Floats, ties: Ties) -> CoxSums:
    """Return the pooled cohort's sums.

    Parameters
    ----------
    total : the sites' risk sums, added.
    curvatures : float array, shape = (p, p): the sites' curvatures, added.
    beta : float array, shape = (p,): where both were taken.
    """
    t, s1, d1 = tie_terms(total, ties), total.risk_wx, total.dying_wx
    hessian = curvatures - outer_terms(total, t)
    return CoxSums(
        log_likelihood=float(total.death_x @ beta - t.log_phi.sum() - total.shift * total.dying_weight.sum()),
        gradient=total.death_x - (t.one @ s1 - t.f @ d1),
        hessian=(hessian + hessian.T) / 2,
        events=int(total.deaths.sum()),
    )


def stratified_sums(rows: SurvivalRows, beta: Floats, ties: Ties = "efron") -> CoxSums:
    """Return the sums of one stratum, which has a baseline hazard of its own."""
    own = risk_sums(rows, beta, ties)
    return exact_sums(own, curvature(rows, beta, pooled_hazard(own, ties)), beta, ties)


def pooled_sums(sites: Iterable[SurvivalRows], beta: Floats, ties: Ties = "efron") -> CoxSums:
    """Return the exact sums of several sites in one process: both messages of a round, one after the other."""
    sites = list(sites)
    total = RiskSums.total(risk_sums(rows, beta, ties) for rows in sites)
    hazard = pooled_hazard(total, ties)
    return exact_sums(total, np.sum([curvature(rows, beta, hazard) for rows in sites], axis=0), beta, ties)
