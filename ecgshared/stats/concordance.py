"""Concordance of risk and survival: Harrell's and Uno's C with patient-clustered intervals.

A pair counts when one has the event while the other is still followed: at a later time, or censored on the same
day. It is concordant when the one with the event has the higher risk; equal risks count half. Harrell et al.
1982 (doi 10.1001/jama.1982.03320430047030); Uno et al. 2011 (doi 10.1002/sim.4154) weights each pair by the
inverse square of the chance that the event was seen, so that the value does not depend on censoring.

The interval is that of the infinitesimal jackknife: an ECG's influence is the derivative of C by its weight, for
Uno's C with what it contributes to the censoring weights; a patient's is the sum over the patient's ECGs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.censoring import censoring, require_survival
from ecgshared.stats.few_events import few_events_estimate
from ecgshared.stats.influence import Estimate, Scale, by_patient, estimate


@dataclass(frozen=True)
class Influenced:
    """A number and each ECG's first-order share in its error.

    Attributes
    ----------
    value : the statistic.
    influence : float array, shape = (n,), in the order of the ECGs given.
    """

    value: float
    influence: Floats

    def estimate(self, patient: Ints, scale: Scale = "logit", *, events: float | None = None) -> Estimate:
        """Return value, patient-clustered standard error and interval.

        Parameters
        ----------
        patient : shape = (n,).
        events : patients with the event behind the figure, for an interval that holds where they are few (see
            :mod:`ecgshared.stats.few_events`); None: the plain one, of many.
        """
        variance = clustered_variance(self.influence, patient)
        if events is None:
            return estimate(self.value, variance, scale)
        return few_events_estimate(self.value, variance, events, scale)

    def __sub__(self, other: Influenced) -> Influenced:
        """Return the difference of two statistics of the SAME ECGs: what they share cancels."""
        return Influenced(self.value - other.value, self.influence - other.influence)


def clustered_variance(influence: Floats, patient: Ints) -> float:
    """Return the sum over patients of squared influence, with the factor m / (m - 1) of m patients."""
    share = by_patient(influence, patient)
    return float(share @ share) * len(share) / (len(share) - 1) if len(share) > 1 else np.nan


def harrell(time: NDArray[Any], event: NDArray[Any], risk: NDArray[Any]) -> Influenced:
    """Return Harrell's C.

    Parameters
    ----------
    time : float array, shape = (n,). event : 0/1, shape = (n,). risk : float array, shape = (n,): a higher risk
        means an earlier event.

    Raises
    ------
    StatisticsError : no pair can be compared, or see :func:`ecgshared.stats.censoring.require_survival`.
    """
    time, seen = require_survival(time, event)
    return _weighted(time, seen, _finite(risk, len(time)), seen.astype(np.float64))[0]


def uno(time: NDArray[Any], event: NDArray[Any], risk: NDArray[Any], *, until: float | None = None) -> Influenced:
    """Return Uno's C of events before ``until`` (None: of all).

    Parameters
    ----------
    time, event, risk : as :func:`harrell`. until : in the unit of ``time``; late events weigh heavily where most are
        censored before, so a time that many reach is wanted.

    Raises
    ------
    StatisticsError : as :func:`harrell`.
    """
    time, seen = require_survival(time, event)
    chance = censoring(time, seen)
    counted = seen if until is None else seen & (time < until)
    weight = np.zeros(len(time))
    weight[counted] = chance.before(time[counted]) ** -2.0
    plain, excess = _weighted(time, seen, _finite(risk, len(time)), weight)
    through_weights = chance.influence(-2.0 * excess[counted], time[counted], before=True)
    return Influenced(plain.value, plain.influence + through_weights)


def _finite(risk: NDArray[Any], n: int) -> Floats:
    risk = np.asarray(risk, dtype=np.float64)
    if risk.shape != (n,) or not np.isfinite(risk).all():
        raise StatisticsError("risk must be a finite vector as long as time", value=risk.shape)
    return risk


def _weighted(time: Floats, event: NDArray[np.bool_], risk: Floats, weight: Floats) -> tuple[Influenced, Floats]:
    """Return C with an event's pairs weighing ``weight``, and the excess of each event's own pairs over C."""
    _, rank = np.unique(risk, return_inverse=True)
    # Pairs run from a lower to a higher place in time: on one day events stand before the censored.
    _, place = np.unique(np.stack([time, ~event]), axis=1, return_inverse=True)
    place = np.asarray(place).ravel()
    later, below, equal = _among(-place, rank, np.ones(len(time)))
    concordant_as_event = below + equal / 2
    earlier, w_below, w_equal = _among(place, rank, weight)
    concordant_as_other = earlier - w_below - w_equal / 2
    pairs = float(weight @ later)
    if not pairs > 0:
        raise StatisticsError("no two can be compared: nobody is followed past another's event", value=int(event.sum()))
    value = float(weight @ concordant_as_event) / pairs
    excess = weight * (concordant_as_event - value * later) / pairs
    influence = excess + (concordant_as_other - value * earlier) / pairs
    return Influenced(value, influence), excess


def _among(place: Ints, rank: Ints, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """For each element sum ``weight`` over those at a lower place: all, those of lower, those of equal rank.

    Bottom-up merging in log2(n) passes of vectorised sums. Shapes (n,) each.
    """
    n = len(place)
    # Within one place from high rank to low: whoever stands before me at my own place is never of lower rank.
    order = np.lexsort((-rank, place))
    less = np.empty(n)
    less[order] = _less_before(rank[order], weight[order])
    return _grouped(np.zeros(n, dtype=np.int64), place, weight), less, _grouped(rank, place, weight)


def _grouped(group: Ints, place: Ints, weight: Floats) -> Floats:
    """Sum the weights of a group's members at strictly lower places."""
    order = np.lexsort((place, group))
    g, p, w = group[order], place[order], weight[order]
    running = np.concatenate([[0.0], np.cumsum(w)])
    fresh_group = np.concatenate([[True], g[1:] != g[:-1]])
    fresh_place = fresh_group | np.concatenate([[True], p[1:] != p[:-1]])
    index = np.arange(len(g))
    first_of_place = np.maximum.accumulate(np.where(fresh_place, index, 0))
    first_of_group = np.maximum.accumulate(np.where(fresh_group, index, 0))
    out = np.empty(len(g))
    out[order] = running[first_of_place] - running[first_of_group]
    return out


def _less_before(rank: Ints, weight: Floats) -> Floats:
    """For each position sum the weights of earlier positions of strictly lower rank, shape = (n,)."""
    n = len(rank)
    out = np.zeros(n)
    # Positions sorted by rank; in each pass sorted runs are merged two by two, equal ranks right half first.
    position = np.argsort(rank, kind="stable")
    size = 1
    while size < n:
        block, right = position // (2 * size), (position // size) % 2 == 1
        merged = np.lexsort((~right, rank[position], block))
        at, is_right = position[merged], right[merged]
        left_weight = np.where(is_right, 0.0, weight[at])
        running = np.cumsum(left_weight) - left_weight
        start = np.concatenate([[True], block[merged][1:] != block[merged][:-1]])
        base = running[np.maximum.accumulate(np.where(start, np.arange(n), 0))]
        out[at[is_right]] += (running - base)[is_right]
        position = at
        size *= 2
    return out


def concordance_of_fit(
    time: NDArray[Any],
    event: NDArray[Any],
    risk: NDArray[Any],
    *,
    weight: NDArray[Any] | None = None,
    entry: NDArray[Any] | None = None,
    group: NDArray[Any] | None = None,
) -> Influenced:
    """Return Harrell's C of a fitted model's own rows: pairs within a group (a baseline hazard), both at risk.

    Parameters
    ----------
    weight : shape = (n,): a pair weighs the product of its rows'. entry : shape = (n,): at risk after it.
    group : shape = (n,): only rows of one group are compared.

    Raises
    ------
    StatisticsError : no pair can be compared.
    """
    time, seen = require_survival(time, event)
    risk, n = _finite(risk, len(time)), len(time)
    weight = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    labels = np.zeros(n, dtype=np.int64) if group is None else np.unique(np.asarray(group), return_inverse=True)[1]
    concordant, pairs = np.zeros(n), np.zeros(n)
    total = above = 0.0
    for label in range(int(labels.max()) + 1):
        mine = np.flatnonzero(labels == label)
        part = None if entry is None else np.asarray(entry, dtype=np.float64)[mine]
        as_event, as_other = _pairs(time[mine], seen[mine], risk[mine], weight[mine], part)
        pairs[mine], concordant[mine] = as_event[0] + as_other[0], as_event[1] + as_other[1]
        total += float(weight[mine] @ as_event[0])
        above += float(weight[mine] @ as_event[1])
    if not total > 0:
        raise StatisticsError("no two can be compared: nobody is followed past another's event", value=int(seen.sum()))
    return Influenced(above / total, weight * (concordant - above / total * pairs) / total)


def _pairs(
    time: Floats, event: NDArray[np.bool_], risk: Floats, weight: Floats, entry: Floats | None
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return the weight of each row's pairs and of the concordant ones, as the one with the event and as the other."""
    n = len(time)
    _, rank = np.unique(risk, return_inverse=True)
    _, place = np.unique(np.stack([time, ~event]), axis=1, return_inverse=True)
    place = np.asarray(place).ravel()
    weighing = weight * event
    found = [_among(-place, rank, weight), _among(place, rank, weighing)]
    if entry is not None:
        # Whoever enters on the day of an event, or later, was not there to be compared.
        ranks, nothing = np.concatenate([rank, rank]), np.zeros(n)
        late = [
            _among(_after(-entry, -time), ranks, np.concatenate([weight, nothing])),
            _among(_after(time, entry), ranks, np.concatenate([weighing, nothing])),
        ]
        found = [
            (mine[0] - out[0][n:], mine[1] - out[1][n:], mine[2] - out[2][n:])
            for mine, out in zip(found, late, strict=True)
        ]
    (later, below, equal), (earlier, w_below, w_equal) = found
    return (event * later, event * (below + equal / 2)), (earlier, earlier - w_below - w_equal / 2)


def _after(points: Floats, queries: Floats) -> Ints:
    """Return places of 2n elements at which a point stands before each query of the same or a higher value."""
    values = np.concatenate([points, queries])
    last = np.concatenate([np.zeros(len(points)), np.ones(len(queries))])
    return np.asarray(np.unique(np.stack([values, last]), axis=1, return_inverse=True)[1]).ravel()
