"""Which rows of the table are wanted: decided once from the table, and again only where a recording told more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.link import LinkedRows, eligibility
from client.cohort.table import CohortTable
from ecgshared.arrays import Bools, Ints
from ecgshared.study.study import EligibilityConfig, Study


@dataclass(frozen=True)
class Selection:
    """What the table alone decides.

    Attributes
    ----------
    filters : (reason of exclusion, rows that pass, shape = (n,)), in the order of the flow. A row passes a filter
        that needs what only its recording can tell.
    wanted : bool array, shape = (n,): rows that pass all, whose recordings are read.
    """

    filters: tuple[tuple[str, Bools], ...]
    wanted: Bools

    @property
    def rows(self) -> Ints:
        """Row numbers of the wanted."""
        return np.flatnonzero(self.wanted)


def select(table: CohortTable, linked: LinkedRows, study: Study) -> Selection:
    """Return the rows whose recordings a study needs; who opted out, or is not eligible, is never read."""
    n = len(table)
    first = np.zeros(n, dtype=bool)
    first[np.unique(linked.file, return_index=True)[1]] = True
    filters = (
        ("recording not found", linked.file >= 0),
        ("recording named by an earlier row", first),
        ("opted out", ~linked.opted_out),
        ("no patient id", linked.unit >= 0),
        *eligibility(table.columns, n, study.eligibility, unread=np.ones(n, dtype=bool)),
    )
    return Selection(filters, np.logical_and.reduce([passes for _, passes in filters]))


def decide_read(
    selection: Selection, learned: Ints, columns: dict[str, NDArray[Any]], config: EligibilityConfig
) -> tuple[tuple[str, Bools], ...]:
    """Return the filters with the rows decided about that waited for their recording.

    Parameters
    ----------
    learned : wanted rows of which the table lacked something that recordings tell.
    columns : with what the recordings told.
    """
    filters = {reason: passes.copy() for reason, passes in selection.filters}
    known = {name: column[learned] for name, column in columns.items()}
    for reason, passes in eligibility(known, len(learned), config):
        filters[reason][learned] = passes
    return tuple(filters.items())
