"""Rows of survival data, sorted once into the intervals of a time grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import StatisticsError


@dataclass(frozen=True)
class SurvivalRows:
    """Rows sorted by the interval in which they leave the risk set, deaths first; made once, used at every round.

    Interval k is ``grid[k] <= time < grid[k + 1]``, the last one open. Rows that leave before ``grid[0]``, or enter
    after the last grid time before they leave, are in no risk set and are left out.

    Attributes
    ----------
    x : float array, shape = (n, p).
    interval : int array, shape = (n,), ascending, 0..K-1.
    entry : int array, shape = (n,), -1..K-1: the last grid time at which the row is not yet at risk; -1: none.
    event : bool array, shape = (n,).
    weight : float array, shape = (n,).
    row : int array, shape = (n,): where each row stood in the caller's arrays.
    grid : float array, shape = (K,), ascending: every event time is one of them.
    """

    x: Floats
    interval: Ints
    entry: Ints
    event: Bools
    weight: Floats
    row: Ints
    grid: Floats


def event_times(time: NDArray[Any], event: NDArray[Any]) -> Floats:
    """Return the distinct times with an event, ascending. Dates of death: for one machine, not for release."""
    return np.unique(np.asarray(time, dtype=np.float64)[np.asarray(event, dtype=bool)])


def coarsen(time: NDArray[Any], event: NDArray[Any], edges: NDArray[Any]) -> tuple[Floats, Bools]:
    """Move each time up to the next edge; who is followed beyond the last edge is censored there.

    Parameters
    ----------
    time : float array, shape = (n,).
    event : 0/1 array, shape = (n,).
    edges : float array, shape = (K,), ascending; interval k ends at ``edges[k]``.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise StatisticsError("the time grid is not valid", value=edges.tolist(), allowed="ascending finite times")
    k = np.searchsorted(edges, np.asarray(time, dtype=np.float64), side="left")
    return edges[np.minimum(k, len(edges) - 1)], np.asarray(event, dtype=bool) & (k < len(edges))


def prepare(
    x: NDArray[Any],
    time: NDArray[Any],
    event: NDArray[Any],
    *,
    grid: NDArray[Any] | None = None,
    weights: NDArray[Any] | None = None,
    entry: NDArray[Any] | None = None,
) -> SurvivalRows:
    """Sort the rows of a site (or of a stratum) once.

    Parameters
    ----------
    x : float array, shape = (n, p), standardised by pooled moments.
    time : float array, shape = (n,); coarsened where the grid is coarse.
    event : 0/1 array, shape = (n,).
    grid : float array, shape = (K,): the common event times; None: the rows' own, for the stratified mode.
    weights : float array, shape = (n,), positive; None: 1.
    entry : float array, shape = (n,): a row is at risk AFTER this time (left truncation, the start of a start-stop
        row); None: from the start.

    Raises
    ------
    StatisticsError : shapes differ, a number is not finite, or an event falls between grid times.
    """
    x = np.asarray(x, dtype=np.float64)
    time = np.asarray(time, dtype=np.float64)
    event = np.asarray(event, dtype=bool)
    weight = np.ones(len(time)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 2 or not (len(x) == len(time) == len(event) == len(weight)):
        raise StatisticsError(
            "covariates, times, events and weights differ in length", value=(x.shape, len(time), len(event))
        )
    if not (np.isfinite(x).all() and np.isfinite(time).all() and np.isfinite(weight).all() and (weight > 0).all()):
        raise StatisticsError("a covariate, time or weight is missing, infinite or a weight not above 0")
    times = event_times(time, event) if grid is None else np.asarray(grid, dtype=np.float64)
    k = np.searchsorted(times, time, side="right") - 1
    if (event & ((k < 0) | (times[np.maximum(k, 0)] != time if len(times) else True))).any():
        raise StatisticsError("an event falls between the common grid times", remedy="coarsen the times first")
    since = np.full(len(time), -1) if entry is None else _entries(np.asarray(entry, dtype=np.float64), time, times)
    order = np.lexsort((~event, k))
    order = order[k[order] > since[order]]
    parts = (x[order], k[order].astype(np.int64), since[order].astype(np.int64), event[order], weight[order])
    return SurvivalRows(*parts, order, times)


def _entries(entry: Floats, time: Floats, grid: Floats) -> Ints:
    if entry.shape != time.shape or not np.isfinite(entry).all() or (entry >= time).any():
        raise StatisticsError("each row must be entered at a finite time before it is left")
    return np.asarray(np.searchsorted(grid, entry, side="right") - 1, dtype=np.int64)
