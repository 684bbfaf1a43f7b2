"""Which unions of a cross-table's cells may be told: those that a partition is made of, every group of which may be.

A table of risk by ejection fraction has few people in one corner. Where every cell holds enough, all are told. Else
coarser partitions are tried, in their order: one is told where each of its groups holds enough, and where no sum and
difference of its groups and of those told before gives a group that does not (risk by low or not, and risk by known or
not, give together who is at risk with a normal one).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.privacy.disclosure import DisclosureLimits, group_size

Cells = frozenset[int]


def told_unions(
    unions: Sequence[Cells],
    partitions: Sequence[Sequence[Cells]],
    cell: Ints,
    patient: Ints,
    limits: DisclosureLimits,
    y: NDArray[Any] | None = None,
) -> Bools:
    """Return which unions of cells may be told, shape = (len(unions),).

    Parameters
    ----------
    partitions : of all cells, the most wanted first.
    cell, patient : shape = (n,). y : 0/1, shape = (n,); None where no event is told.
    """
    holds: dict[Cells, bool] = {}

    def fit(group: Cells) -> bool:
        if group not in holds:
            inside = np.asarray(np.isin(cell, list(group)), dtype=np.bool_)
            size = group_size(patient, y, inside)
            holds[group] = not inside.any() or bool(limits.allow(size.patients, None if y is None else size.events))
        return holds[group]

    told: list[Sequence[Cells]] = []
    for groups in partitions:
        if all(map(fit, groups)) and all(map(fit, _given_by([*told, groups]))):
            told.append(groups)
    return np.array(
        [any(all(group <= union or not group & union for group in groups) for groups in told) for union in unions],
        dtype=np.bool_,
    )


def _given_by(partitions: Sequence[Sequence[Cells]]) -> list[Cells]:
    """Return every union of cells whose count follows from the counts of these partitions' groups."""
    n = 1 + max(max(group) for groups in partitions for group in groups if group)
    known: Floats = np.array([[float(c in group) for c in range(n)] for groups in partitions for group in groups])
    every = np.array(list(product((0.0, 1.0), repeat=n)))
    # What lies in the span of the known rows is a sum of them with signs.
    basis = np.linalg.svd(known, full_matrices=False)
    rows = basis[2][basis[1] > 1e-9]
    left = np.abs(every - every @ rows.T @ rows).max(axis=1)
    return [frozenset(np.flatnonzero(one).tolist()) for one in every[left < 1e-9] if one.any()]
