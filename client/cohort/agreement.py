"""Whether table and recording speak of one person: their sex, and their age within two years."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.cohort.faults import where
from client.cohort.table import CohortTable
from ecgshared.arrays import Floats
from ecgshared.ecg.person import ages_disagree, sexes_disagree

_MANY = 0.2
"""More than this share of contradictions is no slip of the pen: rows and recordings are joined wrongly."""

_SHOWN = 10


@dataclass(frozen=True)
class Agreement:
    """Rows whose recording contradicts them, and how many could be compared, each by ``sex`` and ``age``."""

    apart: dict[str, NDArray[np.int64]]
    compared: dict[str, int]

    def lines(self, table: CohortTable) -> list[str]:
        """Return what to tell the operator: lines of the table, and no value of anybody."""
        said = []
        for column, rows in self.apart.items():
            if not len(rows):
                continue
            how = "by more than two years" if column == "age" else ""
            text = f"{where(table.path, table.lines, rows)}: {column}: table and recording differ {how}".rstrip()
            text += f" in {len(rows)} of {self.compared[column]} ECGs compared"
            many = len(rows) > max(2, _MANY * self.compared[column])
            said.append(text + ("; does table.join give each row its own recording?" if many else ""))
        return said


def one_signal_for_several(
    table: CohortTable, rows: NDArray[np.int64], unit: NDArray[np.int64], content: NDArray[np.object_]
) -> list[str]:
    """Return the lines whose recordings hold one and the same signal for different patients.

    Parameters
    ----------
    rows, unit, content : of each recording its row, its patient's number, and a hash of its signals, b"" for none.
    """
    held: dict[bytes, list[int]] = {}
    for place, signal in enumerate(content.tolist()):
        if signal:
            held.setdefault(signal, []).append(place)
    several = [places for places in held.values() if len(set(unit[places].tolist())) > 1]
    said = [
        f"{where(table.path, table.lines, rows[at])}: one signal in recordings of several patients, the first counts"
        for at in several[:_SHOWN]
    ]
    more = len(several) - _SHOWN
    return said + ([f"{table.path}: {more} more signals stand for several patients"] if more > 0 else [])


def compare(table: CohortTable, rows: NDArray[np.int64], age: Floats, sex: NDArray[np.str_]) -> Agreement:
    """Compare table and recordings.

    Parameters
    ----------
    rows : int64 array, shape = (k,): the rows of the table that were read.
    age, sex : of their recordings, shape = (k,): NaN and "" where the file does not say.
    """
    n = len(table)
    said_age, said_sex = table.columns.get("age", np.full(n, np.nan)), table.columns.get("sex", np.full(n, ""))
    apart = {
        "sex": rows[sexes_disagree(said_sex[rows], sex)],
        "age": rows[ages_disagree(said_age[rows], age)],
    }
    compared = {
        "sex": int(((said_sex[rows] != "") & (sex != "")).sum()),
        "age": int((~np.isnan(said_age[rows]) & ~np.isnan(age)).sum()),
    }
    return Agreement(apart, compared)
