"""The rules of statistical disclosure: how small a group may be before a number about it stays at the
hospital.

Three rules, all by distinct PATIENTS, never by ECGs:

* a cell is released when its group holds ``min_patients`` patients and, for a 0/1 outcome, ``min_events``
  patients with the event and as many without (a group in which everybody, or nobody, has the event tells
  each member's);
* what is counted on bins is counted on nested ones: controls by themselves, ``min_patients`` a bin, and cases on a
  coarser partition whose every part satisfies the first rule (:mod:`ecgshared.stats.control_bins`);
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


class DisclosureLimits(Config):
    """A site's minimum cells. Groups below either limit are withheld."""

    min_patients: int = Field(default=10, ge=1, description="patients in the smallest group that a figure may speak of")
    min_events: int = Field(default=5, ge=0, description="patients with the event, and without it, in such a group")
    lockbox_scores: int = Field(
        default=5, ge=1, description="different scores answered about one lockbox group, over all studies"
    )
    validation_scores: int = Field(
        default=20, ge=1, description="different scores answered about one group outside the lockbox, over all studies"
    )

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
