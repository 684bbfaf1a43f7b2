"""Counts of controls on a site's own bins, counts of cases above cuts that all sites share, and what they bound.

A site releases three things about one score, and they are made to be read together:

* **control bins**: ECGs without the event on neighbouring bins, each of at least ``min_patients`` distinct patients
  (:func:`control_bins`). Cases have no part in them, so that five events cannot coarsen five thousand controls;
* **cases above cuts**: ECGs with the event at or above the coordinator's cuts. A cut is answered only where the group
  between it and the next answered one meets all limits of the site (patients, patients with the event, patients
  without; :func:`answered_cuts`), on both sides;
* **one sum of the pooled control curve over its cases** (:mod:`ecgshared.stats.placement`).

What they disclose together. The answered cuts are edges of the control bins: a count of controls between any two known
edges is a sum of whole bins, and no difference of two releases is a group of fewer than ``min_patients`` controls.
Cases are counted on a coarser partition whose edges are a subset of the bins' edges: a difference of two case counts
is a group that meets the limits, with at least ``min_patients`` controls in it. Nothing else is counted: no second
histogram stands beside this one, on other edges, from which it could be subtracted. An edge tells that the grid cell
above it holds a control; cells are as coarse as the data allow. A sketch (mean score of ten neighbours or more) counts
nothing, so that no count can be subtracted from it. The sum over cases is a statistic of the whole group; the site
refuses a curve that would single out few of its cases, see :func:`ecgshared.stats.placement.isolates`.

Everything that is read from bins of several sites carries bounds: a count's place is known to its bin only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stats.score_scale import FINEST_LEVEL, HIGHEST, LOWEST, cells, distinct_groups, grid_level

ROOM = 5
"""A cut divides the controls only where each side keeps this many bins: cuts must not cost the AUC its precision."""


@dataclass(frozen=True)
class ControlBins:
    """Controls with ``lower[i] <= score < upper[i]``; bins ascend and do not overlap; shape = (k,) each.

    ``patients`` : distinct patients in each bin; it stays at the site.
    """

    lower: Floats
    upper: Floats
    controls: Floats
    patients: Ints

    def __post_init__(self) -> None:
        columns = (self.lower, self.upper, self.controls)
        if len({len(c) for c in columns}) != 1 or not all(np.isfinite(c).all() for c in columns):
            raise StatisticsError("a histogram's columns differ in length, or hold no numbers")
        if len(self.lower) and (
            (self.upper <= self.lower).any()
            or (self.lower[1:] < self.upper[:-1]).any()
            or (self.controls < 0).any()
            or (self.controls != np.round(self.controls)).any()
        ):
            raise StatisticsError("a histogram's bins overlap, run backwards, or hold no counts")

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def total(self) -> float:
        """All control ECGs."""
        return float(self.controls.sum())

    def above(self, edge: Floats) -> tuple[Floats, Floats]:
        """Return the fewest and the most controls at or above each of ``edge``; equal at the bins' own edges."""
        below_upper = np.concatenate([[0.0], np.cumsum(self.controls)])
        surely_below = below_upper[np.searchsorted(self.upper, edge, side="right")]
        possibly_below = below_upper[np.searchsorted(self.lower, edge, side="left")]
        return self.total - possibly_below, self.total - surely_below

    def divided_by(self, edge: Floats) -> bool:
        """Say whether no bin reaches across any of ``edge``: counts of controls above them are exact."""
        low, high = self.above(edge)
        return bool((low == high).all())


EMPTY_BINS = ControlBins(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))


def control_bins(
    score: Floats,
    patient: Ints,
    limits: DisclosureLimits,
    *,
    cuts: Sequence[float] = (),
    fixed: float | None = None,
    room: int = ROOM,
) -> ControlBins:
    """Bin controls, at least ``min_patients`` distinct patients a bin; empty where there are fewer in all.

    Parameters
    ----------
    score, patient : shape = (n,), of the controls.
    cuts : values at which a bin should begin, the most wanted first; one that would leave too few on a side is passed
        over. room : bins that each side of a cut must have room for.
    fixed : a decision threshold, which comes before the cuts and needs but one bin on either side.
    """
    if len(np.unique(patient)) < max(limits.min_patients, 1):
        return EMPTY_BINS
    order = np.argsort(-score, kind="stable")
    ordered, who = score[order], patient[order]
    # Where every group may be named, nothing is coarsened: tests compare with pooled data.
    level = FINEST_LEVEL if limits.withhold_nothing else grid_level(ordered, limits.min_patients)
    grid = cells(ordered, level)
    edges = _dividing(ordered, who, limits.min_patients, cuts, fixed, room)
    lower: list[Floats] = []
    upper: list[Floats] = []
    counts: list[Floats] = []
    patients: list[Ints] = []
    for top, bottom in zip([HIGHEST, *edges], [*edges, LOWEST], strict=True):
        first, last = (int(np.searchsorted(-ordered, -edge, side="right")) for edge in (top, bottom))
        piece = slice(first, last)
        ends = np.append(grid[piece][1:] != grid[piece][:-1], True)
        starts, people = distinct_groups(who[piece], limits.min_patients, ends)
        own = np.maximum(np.ldexp(grid[piece][starts[1:] - 1].astype(np.float64), -level), bottom)
        if limits.withhold_nothing:
            above = np.minimum(np.ldexp(grid[piece][starts[:-1]] + 1.0, -level), top)
        else:
            # A bin reaches up to the next one: where in between the scores end is nobody's business.
            own[-1] = bottom
            above = np.concatenate([[top], own[:-1]])
        lower.append(own)
        upper.append(above)
        counts.append(np.diff(starts).astype(np.float64))
        patients.append(people)
    columns = [np.concatenate(column)[::-1] for column in (lower, upper, counts)]
    return ControlBins(columns[0], columns[1], columns[2], np.concatenate(patients)[::-1])


def _dividing(
    ordered: Floats, who: Ints, least: int, cuts: Sequence[float], fixed: float | None, room: int
) -> list[float]:
    """Return the cuts that divide the controls with enough on either side, descending."""
    found: list[tuple[int, float]] = []
    for cut in [*([fixed] if fixed is not None else []), *cuts]:
        need = least * (1 if cut == fixed else room)
        if not LOWEST < cut < HIGHEST or any(cut == edge for _, edge in found):
            continue
        # Rows from the top that lie at or above the cut.
        at = int(np.searchsorted(-ordered, -cut, side="right"))
        ends = sorted([0, len(ordered), *(row for row, _ in found)])
        before, after = max(e for e in ends if e <= at), min(e for e in ends if e >= at)
        if min(at - before, after - at) < need:
            continue
        if min(len(np.unique(who[before:at])), len(np.unique(who[at:after]))) >= need:
            found.append((at, cut))
    return [edge for _, edge in sorted(found, key=lambda pair: -pair[1])]


def answered_cuts(
    score: Floats,
    y: NDArray[Any],
    patient: Ints,
    limits: DisclosureLimits,
    *,
    bins: ControlBins,
    cuts: Sequence[float],
    fixed: float | None = None,
) -> Floats:
    """Return the cuts above which cases may be counted, descending; LOWEST (the whole) is the last.

    Between any two neighbours the group meets ``limits``; none lies inside one of ``bins``. Empty where the whole does
    not meet them.

    Parameters
    ----------
    score, y, patient : shape = (n,), of all ECGs. cuts, fixed : as :func:`control_bins`.
    """
    whole = group_size(patient, y)
    if not len(bins) or not limits.allow(whole.patients, whole.events):
        return np.zeros(0)
    known = [LOWEST, HIGHEST]
    for cut in [*([fixed] if fixed is not None else []), *cuts]:
        if cut in known or not bins.divided_by(np.array([cut])):
            continue
        below, above = max(k for k in known if k < cut), min(k for k in known if k > cut)
        sides = [(score >= low) & (score < high) for low, high in ((below, cut), (cut, above))]
        if all(_fit(side, y, patient, limits) for side in sides):
            known.append(cut)
    return np.array(sorted(known, reverse=True)[1:])


def _fit(inside: Bools, y: NDArray[Any], patient: Ints, limits: DisclosureLimits) -> bool:
    size = group_size(patient, y, inside)
    with_event = len(np.unique(patient[inside & (y == 1)]))
    return bool(limits.allow(size.patients, size.events)) and with_event >= limits.min_events


def between(known: Floats, value: Floats, cut: Floats, total: float) -> tuple[Floats, Floats]:
    """Bound a cumulative count at cuts from what is known at others; shapes (k,), (k,), (m,) -> (m,) each.

    ``value[i]`` lies at or above ``known[i]``; nobody above HIGHEST, ``total`` above LOWEST.
    """
    order = np.argsort(known, kind="stable")
    edges = np.concatenate([[LOWEST], known[order], [HIGHEST]])
    above = np.concatenate([[total], value[order], [0.0]])
    low = above[np.searchsorted(edges, cut, side="left")]
    high = above[np.searchsorted(edges, cut, side="right") - 1]
    return low, high
