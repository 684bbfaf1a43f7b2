"""The scale on which scores are counted: the logit of the risk on a dyadic grid as fine as the data need.

Fixed bins cannot serve every score: risks between 0.1192 and 0.1198, or of one in ten million, fall into one of them.
An edge here is a whole multiple of a power of two, 2^-level, and a site takes the coarsest level at which its scores
are still told apart (see :func:`grid_level`); an edge is a grid value, never a person's score.

Where the scores of all sites lie, the coordinator learns from sketches (:class:`Sketch`): the mean score of
neighbours, ten patients or more at a time. From pooled sketches it chooses cuts that all sites share
(:func:`quantile_cut`), so that counts above a cut can be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import StatisticsError

LOWEST, HIGHEST = -1024.0, 1024.0
"""Ends of the scale: below and above every score."""
FINEST_LEVEL = 30
_GROWTH = 0.15


def score_of(risk: NDArray[Any]) -> Floats:
    """Return log(p / (1 - p)) of risks in [0, 1], shape as given, with room for any that a float can tell apart."""
    risk = np.asarray(risk, dtype=np.float64)
    if not ((risk >= 0) & (risk <= 1)).all():
        raise StatisticsError("a risk lies outside [0, 1]", value=float(risk[~((risk >= 0) & (risk <= 1))][0]))
    p = np.clip(risk, 1e-300, 1 - 2.0**-53)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def risk_of(score: NDArray[Any] | float) -> Floats:
    """Return the risk at a score; ECGs at or above it have at least this risk."""
    return np.asarray(expit(np.asarray(score, dtype=np.float64)), dtype=np.float64)


def normal_cuts(moments: Floats, bins: int) -> Floats:
    """Return ``bins - 1`` quantiles of the normal distribution with the moments (number, sum, sum of squares)."""
    mean = moments[1] / moments[0]
    sd = max(moments[2] / moments[0] - mean**2, 1e-12) ** 0.5
    return np.asarray(mean + sd * norm.ppf(np.arange(1, bins) / bins), dtype=np.float64)


def cells(score: Floats, level: int) -> Ints:
    """Return the grid cell of each score, shape = (n,): cell c covers c x 2^-level <= score < (c + 1) x 2^-level."""
    return np.floor(np.ldexp(score, level)).astype(np.int64)


def _tied(ordered: NDArray[Any]) -> float:
    """Share of ordered pairs (of sorted values) that are equal, each value's pair with itself left out."""
    n = len(ordered)
    _, counts = np.unique(ordered, return_counts=True)
    return float((counts * (counts - 1.0)).sum()) / n**2


def grid_level(score: Floats, group: int) -> int:
    """Return the coarsest level whose cells blur no more than a tenth of a group of ``group`` scores would.

    Parameters
    ----------
    score : float array, shape = (n,). group : how many scores a bin will hold at least.
    """
    if len(score) < 2:
        return 0
    ordered = np.sort(score)
    allowed = _tied(ordered) + max(0.1 * group / len(score), 1e-4)
    low, high = -1, FINEST_LEVEL
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _tied(cells(ordered, middle)) <= allowed else (middle, high)
    return high


@dataclass(frozen=True)
class Sketch:
    """Mean score and number of ECGs of neighbouring groups, from the highest scores down; shape = (k,) each."""

    mean: Floats
    ecgs: Floats
    patients: Ints


EMPTY_SKETCH = Sketch(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))


def distinct_groups(who: Ints, least: int, ends: Bools | None = None) -> tuple[Ints, Ints]:
    """Cut a sequence into neighbouring groups of at least ``least`` distinct members each.

    Parameters
    ----------
    who : int array, shape = (n,), members in the order of the sequence.
    ends : bool array, shape = (n,): True where a group may end after this element; None: anywhere.

    Returns
    -------
    starts : int array, shape = (k + 1,), n at the end; what is left over joins the last group. (0,) where the whole is
        too small.
    members : int array, shape = (k,): distinct members of each group.
    """
    n = len(who)
    last = np.full(n, -1, dtype=np.int64)
    order = np.argsort(who, kind="stable")
    same = who[order[1:]] == who[order[:-1]]
    last[order[1:][same]] = order[:-1][same]
    starts, begin = [0], 0
    while begin < n:
        width = 2 * least
        while True:
            full = np.cumsum(last[begin : begin + width] < begin) >= least
            if ends is not None:
                full &= ends[begin : begin + width]
            if full.any() or begin + width >= n:
                break
            width *= 4
        if not full.any():
            break
        begin += int(np.argmax(full)) + 1
        starts.append(begin)
    if len(starts) == 1:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    starts[-1] = n
    edges = np.array(starts, dtype=np.int64)
    return edges, _members(last, edges)


def _members(last: Ints, starts: Ints) -> Ints:
    """Count distinct members of each group from where each element's member stood before."""
    fresh = last < np.repeat(starts[:-1], np.diff(starts))
    return np.asarray(np.add.reduceat(fresh.astype(np.int64), starts[:-1]))


def sketch(score: Floats, patient: Ints, least: int, *, growing: bool) -> Sketch:
    """Return mean scores of neighbours; nothing where there are fewer than ``least`` patients.

    Parameters
    ----------
    score, patient : shape = (n,). least : distinct patients a group.
    growing : each group holds at least a seventh of what lies above it, so that large sites send some 40 numbers.
    """
    order = np.argsort(-score, kind="stable")
    who = np.asarray(patient)[order]
    starts, people = distinct_groups(who, least)
    if len(starts) < 2:
        return EMPTY_SKETCH
    if growing:
        kept = [0]
        for start in starts[1:-1]:
            if start - kept[-1] >= _GROWTH * kept[-1]:
                kept.append(int(start))
        starts = np.array([*kept, starts[-1]], dtype=np.int64)
        people = np.array([len(np.unique(part)) for part in np.split(who, starts[1:-1])], dtype=np.int64)
    ecgs = np.diff(starts)
    return Sketch(np.add.reduceat(score[order], starts[:-1]) / ecgs, ecgs.astype(np.float64), people)


def quantile_cut(mean: Floats, ecgs: Floats, share: float) -> float:
    """Return a grid value that leaves about ``share`` of pooled sketches above it.

    Parameters
    ----------
    mean, ecgs : shape = (k,): sketches of several sites, one after another.
    """
    order = np.argsort(-mean, kind="stable")
    position, weight = mean[order], ecgs[order]
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    at = float(np.interp(share, middle, position))
    near = np.interp([share * 0.9, share * 1.1], middle, position)
    gap = abs(float(near[0] - near[1]))
    # The roundest grid value near the quantile: within a quarter of what a tenth of the group would move it.
    level = int(np.clip(np.ceil(-np.log2(gap / 4)), 0, FINEST_LEVEL)) if gap > 0 else FINEST_LEVEL
    return float(np.round(np.ldexp(at, level)) * 2.0**-level)


def pooled_sketch(sketches: Sequence[Sketch]) -> tuple[Floats, Floats]:
    """Return means and sizes of several sketches, one after another."""
    return (
        np.concatenate([np.zeros(0), *(s.mean for s in sketches)]),
        np.concatenate([np.zeros(0), *(s.ecgs for s in sketches)]),
    )
