"""The rules of statistical disclosure: how small a group may be before a number about it stays at the
hospital.

Three rules, all by distinct PATIENTS, never by ECGs:

* a cell is released when its group holds ``min_patients`` patients and, for a 0/1 outcome, ``min_events``
  patients with the event and as many without (a group in which everybody, or nobody, has the event tells
  each member's);
* neighbouring bins of a histogram are merged until every merged bin satisfies the first rule;
* in a partition whose total is known, the withheld cells together must satisfy it too and be at least two,
  or subtraction gives back what was withheld (complementary suppression).

See Hundepool et al., Statistical Disclosure Control (Wiley, 2012), chapters 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.arrays import Bools, Ints
from ecgshared.config import Config
from ecgshared.errors import PrivacyError


class DisclosureLimits(Config):
    """A site's minimum cells. Groups below either limit are withheld."""

    min_patients: int = Field(default=10, ge=1)
    min_events: int = Field(default=5, ge=0)

    @property
    def withhold_nothing(self) -> bool:
        """True where every group of at least one patient may be named: simulation and tests only."""
        return self.min_patients <= 1 and self.min_events == 0

    def allow(self, patients: NDArray[Any] | int, events: NDArray[Any] | int | None = None) -> Bools:
        """Say which groups may be released; ``events`` is already the lesser of events and non-events."""
        allowed = np.asarray(patients) >= self.min_patients
        if events is not None:
            allowed = allowed & (np.asarray(events) >= self.min_events)
        return np.asarray(allowed, dtype=np.bool_)


@dataclass(frozen=True)
class GroupSize:
    """Distinct patients of a group, and the lesser of those with and those without the event."""

    patients: int
    events: int


def group_size(patient: Ints, y: NDArray[Any] | None = None, inside: Bools | None = None) -> GroupSize:
    """Count the patients of a group.

    Parameters
    ----------
    patient : int array, shape = (n,).
    y : 0/1 array, shape = (n,); a patient has the event who has it at any ECG of the group. None: no event
        concerned.
    inside : bool array, shape = (n,): the group; None means all.
    """
    who = patient if inside is None else patient[inside]
    patients = len(np.unique(who))
    if y is None:
        return GroupSize(patients, patients)
    label = y if inside is None else y[inside]
    with_event = len(np.unique(who[label == 1]))
    return GroupSize(patients, min(with_event, patients - with_event))


@dataclass(frozen=True)
class MergedBins:
    """Neighbouring fine bins put together; interval i covers fine bins ``lower[i] <= bin < upper[i]``.

    Attributes
    ----------
    lower, upper : int arrays, shape = (k,), ascending; together they tile all fine bins.
    patients : int array, shape = (k,): distinct patients in each.
    events : int array, shape = (k,): the lesser of distinct patients with and without the event.
    """

    lower: Ints
    upper: Ints
    patients: Ints
    events: Ints

    def __len__(self) -> int:
        return len(self.lower)


def merge_bins(
    bins: Ints,
    y: NDArray[Any],
    patient: Ints,
    limits: DisclosureLimits,
    *,
    n_bins: int,
    barrier: int | None = None,
) -> MergedBins:
    """Merge neighbouring bins until each meets ``limits``; nothing at all where the whole does not.

    The walk starts at the TOP bin, where decisions are made and resolution is wanted, and closes an interval
    as soon as it meets the limits; what is left at the bottom joins the lowest interval. Under
    ``withhold_nothing`` every fine bin stays by itself. ``barrier`` is a fine bin at which an interval must
    begin (a decision threshold that will be reported): it is honoured where both sides meet the limits by
    themselves, otherwise left out.

    Parameters
    ----------
    bins : int array, shape = (n,), fine bin of each ECG, 0..n_bins-1.
    y : 0/1 array, shape = (n,).
    patient : int array, shape = (n,).
    """
    if len(bins) and (bins.min() < 0 or bins.max() >= n_bins):
        raise PrivacyError(
            "a score lies outside the common bins",
            value=(int(bins.min()), int(bins.max())),
            allowed=f"0..{n_bins - 1}",
        )
    if not len(bins):
        return MergedBins(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
    if limits.withhold_nothing:
        return _unmerged(bins, y, patient, n_bins)
    cuts = [0, n_bins]
    if barrier is not None and 0 < barrier < n_bins:
        above = bins >= barrier
        sides = [group_size(patient, y, side) for side in (above, ~above)]
        if all(limits.allow(side.patients, side.events) for side in sides):
            cuts = [0, barrier, n_bins]
    parts = [_merge_range(bins, y, patient, limits, cuts[i], cuts[i + 1]) for i in range(len(cuts) - 1)]
    if any(not part for part in parts):
        return MergedBins(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
    rows = np.array([row for part in parts for row in part], dtype=np.int64)
    return MergedBins(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])


def _unmerged(bins: Ints, y: NDArray[Any], patient: Ints, n_bins: int) -> MergedBins:
    pairs = np.unique(np.stack([bins, patient]), axis=1)[0] if len(bins) else bins
    event_pairs = np.unique(np.stack([bins[y == 1], patient[y == 1]]), axis=1)[0] if np.any(y == 1) else bins[:0]
    patients = np.bincount(pairs, minlength=n_bins)
    with_event = np.bincount(event_pairs, minlength=n_bins)
    start = np.arange(n_bins, dtype=np.int64)
    return MergedBins(start, start + 1, patients, np.minimum(with_event, patients - with_event))


def _merge_range(
    bins: Ints, y: NDArray[Any], patient: Ints, limits: DisclosureLimits, low: int, high: int
) -> list[tuple[int, int, int, int]]:
    """Merge within fine bins low..high-1; rows (lower, upper, patients, lesser of events and non-events),
    ascending."""
    inside = np.flatnonzero((bins >= low) & (bins < high))
    if inside.size == 0:
        return []
    order = inside[np.argsort(bins[inside], kind="stable")]
    sorted_bins = bins[order]
    _, who = np.unique(patient[order], return_inverse=True)
    label = np.asarray(y[order] == 1)
    starts = np.searchsorted(sorted_bins, np.arange(low, high + 1))
    # `stamp[p] == k` marks patient p as counted in interval k: distinct counts without a set per bin.
    stamp, event_stamp = np.full(who.max() + 1, -1), np.full(who.max() + 1, -1)
    closed: list[tuple[int, int]] = []
    top, patients, with_event = high, 0, 0
    for b in range(high - 1, low - 1, -1):
        first, last = starts[b - low], starts[b - low + 1]
        if first == last:
            continue
        people = who[first:last]
        sick = people[label[first:last]]
        fresh = np.unique(people[stamp[people] != len(closed)])
        fresh_events = np.unique(sick[event_stamp[sick] != len(closed)])
        stamp[fresh], event_stamp[fresh_events] = len(closed), len(closed)
        patients, with_event = patients + len(fresh), with_event + len(fresh_events)
        if limits.allow(patients, min(with_event, patients - with_event)):
            closed.append((b, top))
            top, patients, with_event = b, 0, 0
    if not closed:
        return []
    closed[-1] = (low, closed[-1][1])

    def size_of(lower: int, upper: int) -> GroupSize:
        rows = order[starts[lower - low] : starts[upper - low]]
        return group_size(patient[rows], y[rows])

    # What was left joined the lowest interval, and may bring an event to patients who had none there: while
    # it no longer holds, it joins its neighbour.
    while not limits.allow((lowest := size_of(*closed[-1])).patients, lowest.events):
        if len(closed) == 1:
            return []
        closed[-2:] = [(low, closed[-2][1])]
    sizes = [size_of(*span) for span in closed]
    return [(*span, size.patients, size.events) for span, size in zip(closed, sizes, strict=True)][::-1]


def release_partition(patients: Ints, events: Ints | None, limits: DisclosureLimits) -> Bools:
    """Say which cells of a partition may be released when its total is known.

    Cells below the limits are withheld. While the withheld, non-empty cells are a single one, or together
    still below the limits, the smallest released cell is withheld as well.

    Parameters
    ----------
    patients : int array, shape = (k,): distinct patients per cell.
    events : int array, shape = (k,): the lesser of patients with and without the event; None where there is
        no event.

    Returns
    -------
    bool array, shape = (k,): True where the cell may be released.
    """
    patients = np.asarray(patients, dtype=np.int64)
    released = limits.allow(patients, events) & (patients > 0)
    while released.any():
        hidden = ~released & (patients > 0)
        if not hidden.any():
            break
        together = limits.allow(int(patients[hidden].sum()), None if events is None else int(events[hidden].sum()))
        if hidden.sum() >= 2 and together:
            break
        shown = np.flatnonzero(released)
        released[shown[np.argmin(patients[shown])]] = False
    return released
