"""Which columns of a regression may be summed: sums of products of yes/no columns ARE the cells of their cross-table.

X'X of two flags holds the number with both; with the flags' own sums it gives all four cells, and with products of
flags those of three and four flags. X'y gives the events in them. So

* every cell of the cross-table of all flags behind any two columns holds nobody, or ``min_patients`` patients;
* every cell of the flags behind one column holds, beside, ``min_events`` patients with each outcome and as many
  without it (an empty cell tells of nobody);
* two outcomes of one table differ, within such a cell, in nobody or in ``min_events`` patients: the difference of their
  sums counts those;
* of a number no few patients carry the sum of squares.

Fixed effects by calendar are absorbed at the site, and yet the difference between sums with and without them is made of
the levels' own sums: of two levels it gives both. So levels are merged with their neighbours until each has
``min_patients``, and must be so many that their sums are at least twice as many unknowns as the difference has numbers.

Columns are taken in their order: a later one is closed where it fails beside one before it. A number of three values or
fewer is treated as flags are, as count, sum and sum of squares give the number with each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.privacy.disclosure import DisclosureLimits, group_size

FEW_VALUES = 3
UNKNOWN, CELL, CARRIED, EVENTS, DISCORDANT = "unknown", "few-patients", "carried", "few-events", "outcomes-alike"
LEVELS = "few-levels"
REASONS = {
    UNKNOWN: "not known of anybody here",
    CELL: "too few patients in a group it forms",
    CARRIED: "a few patients carry it",
    EVENTS: "too few patients with, or without, the outcome in a group it forms",
    LEVELS: "too few periods with enough patients",
    DISCORDANT: "too few patients in whom two outcomes differ, in a group it forms",
}


@dataclass(frozen=True)
class Closed:
    """What may not be summed, and why (a key of :data:`REASONS`).

    Attributes
    ----------
    columns : by column number; of it nothing leaves.
    outcomes : by (column number, outcome number); the product of the two does not leave. Column -1 is the intercept.
    """

    columns: dict[int, str] = field(default_factory=dict)
    outcomes: dict[tuple[int, int], str] = field(default_factory=dict)

    def open(self, columns: int, outcomes: int) -> tuple[Bools, Bools]:
        """Return what may be summed: shapes (columns,) and (outcomes, columns + 1), the intercept first."""
        free = np.array([j not in self.columns for j in range(columns)], dtype=np.bool_)
        pairs = np.array(
            [[(j, o) not in self.outcomes and (j < 0 or free[j]) for j in range(-1, columns)] for o in range(outcomes)],
            dtype=np.bool_,
        ).reshape(outcomes, columns + 1)
        return free, pairs


def closed_columns(
    columns: Floats,
    parts: Sequence[Sequence[str]],
    factors: Mapping[str, Floats],
    outcomes: Ints,
    patient: Ints,
    limits: DisclosureLimits,
    unknown: Sequence[int] = (),
) -> Closed:
    """Say which columns and outcomes may not be summed.

    Parameters
    ----------
    columns : float array, shape = (n, q): the regression's, without its intercept; no NaN but in ``unknown``.
    parts : names of the factors that each column is the product of.
    factors : float array each, shape = (n,).
    outcomes : 0/1 array, shape = (n, O).
    unknown : columns of which nobody's value is known; they are closed.
    """
    coded = {name: level for name, values in factors.items() if (level := _levels(values)) is not None}
    closed = Closed(dict.fromkeys(unknown, UNKNOWN))
    open_ones: list[int] = []
    for j in range(columns.shape[1]):
        if j in closed.columns:
            continue
        flags = {name for name in parts[j] if name in coded}
        if not all(
            _cells_hold([coded[f] for f in sorted(flags | {g for g in parts[i] if g in coded})], patient, limits)
            for i in (*open_ones, j)
        ):
            closed.columns[j] = CELL
        elif len(flags) < len(parts[j]) and _carriers(columns[:, j], patient) < limits.min_patients:
            closed.columns[j] = CARRIED
        else:
            open_ones.append(j)
    for j in (-1, *open_ones):
        cell = _cells([] if j < 0 else [coded[f] for f in parts[j] if f in coded], len(patient))
        for o in range(outcomes.shape[1]):
            reason = _outcome_fault(
                cell, outcomes, o, [e for e in range(o) if (j, e) not in closed.outcomes], patient, limits
            )
            if reason:
                closed.outcomes[j, o] = reason
    return closed


def merged_levels(level: Ints, patient: Ints, min_patients: int) -> Ints:
    """Merge neighbouring levels until each has ``min_patients`` distinct patients; shape = (n,), numbered from 0."""
    merged, number, inside = np.zeros(len(level), dtype=np.int64), 0, np.zeros(len(level), dtype=bool)
    for value in np.unique(level):
        inside |= level == value
        merged[inside] = number
        if len(np.unique(patient[inside])) >= min_patients:
            number, inside = number + 1, np.zeros(len(level), dtype=bool)
    # What was left over joins the last one that is whole.
    return np.minimum(merged, max(number - 1, 0))


def levels_hidden(parameters: int, columns: int, outcomes: int) -> bool:
    """Say whether so many absorbed parameters hide their levels' sums of columns and outcomes (see above)."""
    numbers = columns * (columns + 1) // 2 + outcomes * columns + outcomes
    return (parameters - 1) * (1 + columns + outcomes) >= 2 * numbers


def _levels(values: Floats) -> Ints | None:
    found, level = np.unique(values, return_inverse=True)
    return level.astype(np.int64) if len(found) <= FEW_VALUES and not np.isnan(found).any() else None


def _cells(levels: Sequence[Ints], n: int) -> Ints:
    """Number the non-empty cells of a cross-table; shape = (n,)."""
    cell = np.zeros(n, dtype=np.int64)
    for level in levels:
        cell = cell * FEW_VALUES + level
    return np.unique(cell, return_inverse=True)[1].astype(np.int64)


def _cells_hold(levels: Sequence[Ints], patient: Ints, limits: DisclosureLimits) -> bool:
    cell = _cells(levels, len(patient))
    pairs = np.unique(np.stack([cell, patient]), axis=1)[0]
    return not len(pairs) or bool((np.bincount(pairs) >= limits.min_patients).all())


def _carriers(values: Floats, patient: Ints) -> int:
    """Effective number of patients behind the spread of a number (Kish 1965)."""
    who = np.unique(patient, return_inverse=True)[1]
    weight = np.bincount(who, weights=(values - values.mean()) ** 2) if len(values) else np.zeros(1)
    square = float(weight @ weight)
    return int(float(weight.sum()) ** 2 / square + 1e-9) if square > 0 else len(weight)


def _outcome_fault(
    cell: Ints, outcomes: Ints, number: int, earlier: Sequence[int], patient: Ints, limits: DisclosureLimits
) -> str:
    y = outcomes[:, number]
    for c in range(int(cell.max()) + 1 if len(cell) else 0):
        inside = cell == c
        size = group_size(patient, y, inside)
        if not limits.allow(size.patients, size.events):
            return EVENTS
        for other in earlier:
            for differ in (inside & (y > outcomes[:, other]), inside & (y < outcomes[:, other])):
                patients = len(np.unique(patient[differ]))
                if 0 < patients < max(limits.min_events, 1):
                    return DISCORDANT
    return ""
