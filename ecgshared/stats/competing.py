"""Cumulative incidence where another event forestalls the one of interest, and restricted mean survival.

Aalen & Johansen 1978: the chance to have HAD the event by a time, in a world in which the other one happens. 1 -
Kaplan-Meier, with the others censored, answers for a world in which it does not, and is too high. Errors are those of
the infinitesimal jackknife, clustered by patient; without competing events, clusters and weights they are Greenwood's,
and the estimate is 1 - Kaplan-Meier. Intervals are symmetric in log(-log(1 - F)), as those of a survival curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.influence import by_patient
from ecgshared.stats.kaplan_meier import log_log_interval

CENSORED, EVENT, COMPETING = 0, 1, 2
"""What ended a row's follow-up."""


@dataclass(frozen=True)
class Incidence:
    """Cumulative incidence at given times; arrays of shape = (k,).

    Attributes
    ----------
    time : ascending. at_risk : rows at risk just before it. risk : chance to have had the event by then.
    se : its standard error. low, high : 95% interval; NaN where nobody had the event, or all had.
    """

    time: Floats
    at_risk: Floats
    risk: Floats
    se: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class _Table:
    """At each of K times with an event of any kind: rows at risk, hazards, survival just before and incidence after."""

    times: Floats
    at_risk: Floats
    first: Floats
    every: Floats
    survival: Floats
    incidence: Floats
    exit: Ints
    entry: Ints
    kind: Ints


def require_causes(time: NDArray[Any], cause: NDArray[Any]) -> tuple[Floats, Ints]:
    """Return times and causes; refuse times that are not finite or negative, causes other than 0, 1, 2, and nobody."""
    time, kind = np.asarray(time, dtype=np.float64), np.asarray(cause)
    if time.ndim != 1 or kind.shape != time.shape:
        raise StatisticsError("time and cause must be vectors of one length", value=(time.shape, kind.shape))
    if not len(time):
        raise StatisticsError("there is nobody to follow", value=0)
    if not np.isfinite(time).all() or (time < 0).any():
        raise StatisticsError("times must be finite and not negative", value=float(np.min(time)))
    if not np.isin(kind, (CENSORED, EVENT, COMPETING)).all():
        raise StatisticsError("a cause must be 0, 1 or 2", value=np.unique(kind)[:5].tolist())
    return time, kind.astype(np.int64)


def cumulative_incidence(
    time: NDArray[Any],
    cause: NDArray[Any],
    at: NDArray[Any] | None = None,
    *,
    patient: Ints | None = None,
    entry: NDArray[Any] | None = None,
    weight: NDArray[Any] | None = None,
) -> Incidence:
    """Estimate the cumulative incidence of the event.

    Parameters
    ----------
    time : float array, shape = (n,). cause : shape = (n,): 0 censored, 1 the event, 2 another that forestalls it.
    at : float array, shape = (k,), ascending: where it is read; None takes the times of events.
    patient : shape = (n,): clusters the errors; None counts each row as a patient of its own.
    entry : shape = (n,): a row is at risk after it. weight : shape = (n,), above 0.

    Raises
    ------
    StatisticsError : see :func:`require_causes`.
    """
    time, kind = require_causes(time, cause)
    w = np.ones(len(time)) if weight is None else np.asarray(weight, dtype=np.float64)
    table = _table(time, kind, w, entry)
    at = table.times if at is None else np.asarray(at, dtype=np.float64)
    index = np.searchsorted(table.times, at, side="right")
    risk = np.concatenate([[0.0], table.incidence])[index]
    if patient is not None:
        who = np.unique(patient, return_inverse=True)[1]
        shares = (np.bincount(who, weights=_influence(table, w, int(k))) for k in index)
        se = np.array([float(np.sqrt(share @ share)) for share in shares])
    elif weight is None and not (kind == COMPETING).any():
        se = (1 - risk) * _greenwood(table)[index]
    else:
        se = np.sqrt(_variances(table, w)[index])
    low, high = _interval(risk, se)
    before = _from(time, w, at)
    if entry is not None:
        before = before - _from(np.asarray(entry, dtype=np.float64), w, at)
    return Incidence(at, before, risk, se, low, high)


def incidence_influence(
    time: NDArray[Any], cause: NDArray[Any], at: float, entry: NDArray[Any] | None = None
) -> Floats:
    """Return each row's first-order share in the error of the cumulative incidence at ``at``, shape = (n,)."""
    time, kind = require_causes(time, cause)
    weight = np.ones(len(time))
    table = _table(time, kind, weight, entry)
    return _influence(table, weight, int(np.searchsorted(table.times, at, side="right")))


def _from(times: Floats, weight: Floats, at: Floats) -> Floats:
    """Sum the weights of those whose time is ``at`` or later, shape of ``at``."""
    order = np.argsort(times, kind="stable")
    summed = np.concatenate([[0.0], np.cumsum(weight[order])])
    return np.asarray(summed[-1] - summed[np.searchsorted(times[order], at, side="left")], dtype=np.float64)


def _greenwood(t: _Table) -> Floats:
    """Standard errors of the log of a survival curve, shape = (K + 1,): the jackknife's, but for late entries."""
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.concatenate([[0.0], np.cumsum(t.every / (t.at_risk * (1 - t.every)))])
        return np.asarray(np.sqrt(spread), dtype=np.float64)


def _interval(risk: Floats, se: Floats) -> tuple[Floats, Floats]:
    free = 1 - risk
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = log_log_interval(free, np.where(free > 0, se / free, np.nan))
    return 1 - high, 1 - low


def _table(time: Floats, kind: Ints, weight: Floats, entry: NDArray[Any] | None) -> _Table:
    times = np.unique(time[kind != CENSORED])
    n = len(times)
    exit_ = np.searchsorted(times, time, side="right") - 1
    since = np.full(len(time), -1)
    if entry is not None:
        since = np.searchsorted(times, np.asarray(entry, dtype=np.float64), side="right") - 1
    # At risk at the times after the entry, up to and with the last before the exit.
    change = np.bincount(since + 1, weights=weight, minlength=n + 1) - np.bincount(
        np.maximum(exit_, since) + 1, weights=weight, minlength=n + 1
    )
    at_risk = np.cumsum(change)[:n]
    deaths, of_event = (
        np.bincount(exit_[inside], weights=weight[inside], minlength=n) for inside in (kind != CENSORED, kind == EVENT)
    )
    every, first = deaths / at_risk, of_event / at_risk
    after = np.cumprod(1 - np.minimum(every, 1.0))
    survival = np.concatenate([[1.0], after[:-1]]) if n else after
    return _Table(times, at_risk, first, every, survival, np.cumsum(survival * first), exit_, since, kind)


def _variances(t: _Table, weight: Floats) -> Floats:
    """Return the sum of squared influences after none, the first, ... all of the K times, shape = (K + 1,).

    A row's influence is A - F B, with F the incidence and A, B that grow while it is at risk and stand still
    afterwards: so the three sums of products over rows are running sums, and no array of rows by times is needed.
    """
    n = len(t.times)
    left = 1 - t.every
    per_death = np.where(left > 0, 1 / np.where(left > 0, t.at_risk * left, 1.0), 0.0)
    direct = t.survival / t.at_risk
    own = np.stack([t.incidence * per_death, per_death])
    expected = np.zeros((2, n + 1))
    expected[:, 1:] = np.cumsum(np.stack([direct * t.first, np.zeros(n)]) + own * t.every, axis=1)
    start = t.entry + 1
    stop = np.maximum(t.exit + 1, start)
    final = -(expected[:, stop] - expected[:, start])
    dead = t.kind != CENSORED
    final[:, dead] += own[:, t.exit[dead]]
    final[0, t.kind == EVENT] += direct[t.exit[t.kind == EVENT]]
    square = weight**2

    def running(values: Floats, begin: Ints | None, end: Ints | None) -> Floats:
        # From ``begin`` (or never) up to ``end`` (or for good).
        change = np.zeros(n + 2)
        if begin is not None:
            change += np.bincount(begin, weights=values, minlength=n + 2)
        if end is not None:
            change -= np.bincount(end, weights=values, minlength=n + 2)
        return np.asarray(np.cumsum(change)[: n + 1], dtype=np.float64)

    since = expected[:, start]
    at_risk = running(square, start, stop)
    mean = [running(square * since[j], start, stop) for j in range(2)]

    def products(i: int, j: int) -> Floats:
        done = running(square * final[i] * final[j], stop, None)
        both = running(square * since[i] * since[j], start, stop)
        between = at_risk * expected[i] * expected[j] - expected[i] * mean[j] - expected[j] * mean[i]
        return np.asarray(done + between + both, dtype=np.float64)

    f = np.concatenate([[0.0], t.incidence])
    found = products(0, 0) - 2 * f * products(0, 1) + f**2 * products(1, 1)
    return np.asarray(np.maximum(found, 0.0), dtype=np.float64)


def _influence(t: _Table, weight: Floats, until: int) -> Floats:
    """Return each row's share in the error of the incidence after the first ``until`` times, shape = (n,)."""
    k = slice(0, until)
    last = t.incidence[until - 1] if until else 0.0
    left = 1 - t.every[k]
    # After a time at which all have an event nobody's incidence can grow: the remaining rise there is 0.
    through = np.where(left > 0, (last - t.incidence[k]) / np.where(left > 0, t.at_risk[k] * left, 1.0), 0.0)
    direct = t.survival[k] / t.at_risk[k]
    return _share(t, weight, until, direct, through)


def _share(t: _Table, weight: Floats, until: int, direct: Floats, through: Floats) -> Floats:
    """Return for each row: direct at its event of interest, less through at any event, less what was expected of both.

    direct, through : shape = (until,), what an event at each time adds to the statistic, and takes from it.
    """
    expected = np.concatenate([[0.0], np.cumsum(direct * t.first[:until] - through * t.every[:until])])
    stop = np.clip(t.exit + 1, 0, until)
    start = np.clip(t.entry + 1, 0, until)
    own = np.zeros(len(t.kind))
    inside = (t.kind != CENSORED) & (t.exit < until)
    own[inside] = np.where(t.kind[inside] == EVENT, direct[t.exit[inside]], 0.0) - through[t.exit[inside]]
    return np.asarray(weight * (own - (expected[np.maximum(stop, start)] - expected[start])), dtype=np.float64)


@dataclass(frozen=True)
class RestrictedMean:
    """Mean survival up to a time, its standard error, and each row's share in it, shape = (n,)."""

    value: float
    se: float
    influence: Floats


def restricted_mean(
    time: NDArray[Any],
    event: NDArray[Any],
    until: float,
    *,
    patient: Ints | None = None,
    entry: NDArray[Any] | None = None,
    weight: NDArray[Any] | None = None,
) -> RestrictedMean:
    """Return the area under the survival curve from 0 to ``until``.

    Raises
    ------
    StatisticsError : the last of those followed leaves before ``until`` without the event: the curve does not reach it.
    """
    kind = np.asarray(np.asarray(event, dtype=bool), dtype=np.int64)
    time, kind = require_causes(time, kind)
    w = np.ones(len(time)) if weight is None else np.asarray(weight, dtype=np.float64)
    t = _table(time, kind, w, entry)
    if not until > 0 or (time.max() < until and (not len(t.times) or t.times[-1] < time.max() or t.every[-1] < 1)):
        raise StatisticsError("nobody is followed to the end of the restricted mean", value=until, allowed="earlier")
    inside = int(np.searchsorted(t.times, until, side="right"))
    edges = np.concatenate([[0.0], t.times[:inside], [until]])
    height = np.concatenate([[1.0], 1 - t.incidence[:inside]])
    area = np.diff(edges) * height
    # What is still to come of the area after each event.
    rest = np.cumsum(area[::-1])[::-1][1:]
    left = 1 - t.every[:inside]
    lost = np.where(left > 0, rest / np.where(left > 0, t.at_risk[:inside] * left, 1.0), 0.0)
    influence = _share(t, w, inside, np.zeros(inside), lost)
    share = by_patient(influence, np.arange(len(time)) if patient is None else patient)
    return RestrictedMean(float(area.sum()), float(np.sqrt(share @ share)), influence)
