"""Survival curves and Cox models from ONE table of counts to which noise was added, and intervals that know it.

Everybody stands in one number of a table: by the cell of their (cut) inputs, the interval of time in which they leave,
and whether they leave with the event. So one person moves the table by 1 in L2, whatever is computed of it afterwards:
a table noised once pays for the curve of everybody, of each group, and for a Cox model (tables of hospitals add, and so
do the variances of their noise). The number of people of each hospital is public; the table is moved to it (least
squares under a linear constraint), which takes most noise from the numbers at risk early on.

The curve is the life table's (Cutler and Ederer 1958): who leaves within an interval is at risk for half of it. The Cox
model is Breslow's partial likelihood (1974) of times moved up to the ends of their intervals, on the noised counts as
they are, not cut at zero: estimating equations that are linear in each noised number stay without bias to first order.
Variances add what chance gives (Greenwood 1926; the inverse of the information) and what the noise gives, by the delta
method. What the noise may have made (numbers at risk within two SD of nothing) is not told.

Counts, and not gradients as in private Cox regression by descent (arXiv:2508.19640), are for few and coarse inputs at
small hospitals: one message, no learning rate, and intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import StatisticsError

_Z = float(norm.ppf(0.975))
_LARGEST = 5.0
"""A log hazard ratio beyond this is no estimate."""
_TOLD = 2.0
"""SDs of noise above which a number at risk must lie for what rests on it to be told."""
_CELLS_TOLD = 3.0


@dataclass(frozen=True)
class Table:
    """Counts of people over all hospitals, noised.

    Attributes
    ----------
    censored, events : shape = (C, K): who leaves in an interval without and with the event.
    beyond : shape = (C,): who is followed past the last interval.
    variance : of the noise of each number. ``numbers``: of one hospital's table, all of which move together so that
        they add up to its people; 0 where they were not moved.
    """

    censored: Floats
    events: Floats
    beyond: Floats
    variance: float
    numbers: int

    @property
    def at_risk(self) -> Floats:
        """Who is there when an interval begins, shape = (C, K)."""
        leaving = self.censored + self.events
        return np.asarray(self.beyond[:, None] + leaving[:, ::-1].cumsum(axis=1)[:, ::-1], dtype=np.float64)

    def of(self, cells: Bools) -> Table:
        """Return the table of some cells added up."""
        return Table(
            self.censored[cells].sum(axis=0, keepdims=True),
            self.events[cells].sum(axis=0, keepdims=True),
            self.beyond[cells].sum(keepdims=True),
            self.variance * int(cells.sum()),
            self.numbers,
        )

    def spread(self, weights: Floats) -> Floats:
        """Return the noise's variance of sums of the table's numbers.

        Parameters
        ----------
        weights : shape = (..., C, 2 K + 1): of the censored, the events, and those beyond.
        """
        square = (weights**2).sum(axis=(-2, -1))
        moved = weights.sum(axis=(-2, -1)) ** 2 / self.numbers if self.numbers else 0.0
        return np.asarray(self.variance * (square - moved), dtype=np.float64)


def numbers_of(cells: int, intervals: int) -> int:
    """Return how many numbers a hospital's table has: each cell's, and those who are not followed at all."""
    return cells * (2 * intervals + 1) + 1


def counted(cell: Ints, interval: Ints, event: Bools, followed: Bools, cells: int, intervals: int) -> Floats:
    """Return a hospital's table, flat, shape = (numbers_of(cells, intervals),).

    Parameters
    ----------
    cell, interval : int arrays, shape = (n,); an interval of ``intervals`` or more is beyond the last.
    event, followed : bool arrays, shape = (n,); who is not followed counts as that, whatever the rest says.
    """
    place = np.where(interval >= intervals, 2 * intervals, interval + np.where(event, intervals, 0))
    flat = np.where(followed, 1 + cell * (2 * intervals + 1) + place, 0)
    return np.bincount(flat, minlength=numbers_of(cells, intervals)).astype(np.float64)


def together(tables: Floats, people: Floats, sd: Floats, cells: int, intervals: int) -> Table:
    """Add up hospitals' noised tables, each moved so that it adds up to its people.

    Parameters
    ----------
    tables : shape = (S, numbers). ``people``, ``sd`` : shape = (S,): how many, and the SD of the noise.
    """
    if tables.shape[1] != numbers_of(cells, intervals):
        raise StatisticsError("a table of another size", value=tables.shape)
    moved = tables + ((people - tables.sum(axis=1)) / tables.shape[1])[:, None]
    total = moved.sum(axis=0)[1:].reshape(cells, 2 * intervals + 1)
    return Table(
        censored=total[:, :intervals],
        events=total[:, intervals:-1],
        beyond=total[:, -1],
        variance=float((sd**2).sum()),
        numbers=tables.shape[1],
    )


@dataclass(frozen=True)
class Curve:
    """Survival at the ends of intervals, shape = (K,) each; NaN where it may not be told."""

    at_risk: Floats
    events: Floats
    survival: Floats
    low: Floats
    high: Floats


def curve(table: Table) -> Curve:
    """The life table's curve of all cells together, with 95% intervals of chance and noise."""
    whole = table if len(table.beyond) == 1 else table.of(np.ones(len(table.beyond), dtype=np.bool_))
    at_risk, events = whole.at_risk[0] - whole.censored[0] / 2, whole.events[0]
    k = len(events)
    # What each number of the table adds to each number at risk, and to each number of events.
    risk = np.zeros((k, 1, 2 * k + 1))
    for j in range(k):
        risk[j, 0, j:k], risk[j, 0, k + j : 2 * k], risk[j, 0, -1] = 1.0, 1.0, 1.0
        risk[j, 0, j] = 0.5
    died = np.zeros((k, 1, 2 * k + 1))
    died[np.arange(k), 0, k + np.arange(k)] = 1.0
    sd = np.sqrt(whole.spread(risk))
    told = np.logical_and.accumulate((at_risk > _TOLD * sd) & (at_risk - events > _TOLD * sd))
    n, d = np.where(told, at_risk, np.nan), np.where(told, events, np.nan)
    log_survival = np.log1p(-d / n).cumsum()
    weights = (-died / (n - d)[:, None, None] + risk * (d / (n * (n - d)))[:, None, None]).cumsum(axis=0)
    chance = (np.maximum(d, 0) / (n * (n - d))).cumsum()
    se = np.sqrt(chance + whole.spread(weights))
    return Curve(
        at_risk=n,
        events=d,
        survival=np.minimum.accumulate(np.clip(np.exp(log_survival), 0, 1)),
        low=np.clip(np.exp(log_survival - _Z * se), 0, 1),
        high=np.clip(np.exp(log_survival + _Z * se), 0, 1),
    )


@dataclass(frozen=True)
class CoxOfCounts:
    """``coef``, ``se``: shape = (P,); NaN where there is no estimate. ``noise``: the part of the variance it made."""

    coef: Floats
    se: Floats
    noise: Floats


def cox(table: Table, z: Floats, *, rounds: int = 50) -> CoxOfCounts:
    """Fit Cox's model to the counts.

    Parameters
    ----------
    z : float array, shape = (C, P): the inputs of each cell.
    """
    p, events = z.shape[1], table.events
    nothing = CoxOfCounts(np.full(p, np.nan), np.full(p, np.nan), np.full(p, np.nan))
    at_risk = table.at_risk
    everybody = table.of(np.ones(len(z), dtype=np.bool_))
    deaths, alive = everybody.events[0], everybody.at_risk[0]
    used = np.logical_and.accumulate(alive > _CELLS_TOLD * math.sqrt(everybody.variance * events.shape[1]))
    if not used.any() or not (deaths[used].sum() > 0):
        return nothing
    beta = np.zeros(p)
    for _ in range(rounds):
        found = _score(beta, z, at_risk, events, used)
        if found is None:
            return nothing
        score, information, _, _ = found
        try:
            step = np.linalg.solve(information, score)
        except np.linalg.LinAlgError:
            return nothing
        beta = beta + step * min(1.0, 1.0 / max(np.abs(step).max(), 1e-12))
        if not np.isfinite(beta).all() or np.abs(beta).max() > _LARGEST:
            return nothing
        if np.abs(step).max() < 1e-9:
            break
    else:
        return nothing
    found = _score(beta, z, at_risk, events, used)
    if found is None or np.linalg.eigvalsh(found[1]).min() <= 0:
        return nothing
    _, information, mean, hazard = found
    inverse = np.linalg.inv(information)
    # What each number of the table adds to the score: who has the event, and who is at risk in all intervals before.
    risk = np.exp(z @ beta)[:, None, None] * (z[:, None, :] - mean[None]) * hazard[None, :, None] * used[None, :, None]
    at_risk_until = risk.cumsum(axis=1)
    died = (z[:, None, :] - mean[None]) * used[None, :, None]
    weights = np.concatenate([-at_risk_until, died - at_risk_until, -at_risk_until[:, -1:]], axis=1)
    by_input = np.moveaxis(weights, -1, 0)
    flat = by_input.reshape(p, -1)
    moved = np.outer(flat.sum(axis=1), flat.sum(axis=1)) / table.numbers if table.numbers else 0.0
    noise = inverse @ (table.variance * (flat @ flat.T - moved)) @ inverse
    variance = np.diag(inverse) + np.diag(noise)
    return CoxOfCounts(beta, np.sqrt(variance), np.diag(noise) / variance)


def _score(
    beta: Floats, z: Floats, at_risk: Floats, events: Floats, used: Bools
) -> tuple[Floats, Floats, Floats, Floats] | None:
    """Score (P,), information (P, P), mean input of those at risk (K, P), and hazard (K,); None without a risk set."""
    risk = np.exp(z @ beta)[:, None] * at_risk
    s0 = risk.sum(axis=0)
    if (s0[used] <= 0).any():
        return None
    s0 = np.where(used, s0, 1.0)
    mean = np.einsum("ck,cp->kp", risk, z) / s0[:, None]
    square = np.einsum("ck,cp,cq->kpq", risk, z, z) / s0[:, None, None]
    deaths = np.where(used, events.sum(axis=0), 0.0)
    score = np.einsum("ck,cp->p", events * used, z) - deaths @ mean
    information = np.einsum("k,kpq->pq", deaths, square - mean[:, :, None] * mean[:, None, :])
    return score, information, mean, deaths / s0
