"""What is wrong with a table, told so that a person can mend it: file, lines, column, value, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cohort.dates import EXCHANGED, OPEN_ORDER
from client.cohort.localtable import Coded, LocalTable
from ecgshared.ecg.person import NUMERIC_SEX

SHOWN_LINES, SHOWN_VALUES = 5, 200


@dataclass(frozen=True)
class Fault:
    """One distinct bad value. For the operator's terminal only: it may hold a patient's data."""

    where: str
    column: str
    value: str | None
    allowed: str
    rows: int

    def render(self) -> str:
        """Return file, line, column, value and what is allowed, on one line."""
        found = "" if self.value is None else f", found {self.value!r}"
        return f"{self.where}: {self.column}{found}{rows_text(self.rows)}; allowed: {self.allowed}"


def rows_text(n: int) -> str:
    """Return how many rows, where it is more than one."""
    return f" ({n} rows)" if n > 1 else ""


def where(path: Path, lines: NDArray[np.int64], rows: NDArray[np.int64]) -> str:
    """Return file and lines of some rows, the first few of them."""
    shown = ",".join(str(line) for line in lines[rows[:SHOWN_LINES]])
    return f"{path}:{shown}{',...' if len(rows) > SHOWN_LINES else ''}"


def faults_of(table: LocalTable, column: str, coded: Coded, bad: dict[int, str]) -> list[Fault]:
    """Return one fault a value, or one for all of them where the whole column has it.

    ``bad`` says by the value's code what would be allowed.
    """
    for whole in {allowed for allowed in bad.values() if allowed.startswith((NUMERIC_SEX, OPEN_ORDER, EXCHANGED))}:
        # One fault for the column: every row may have it.
        codes = [code for code, allowed in bad.items() if allowed == whole]
        rows = np.flatnonzero(np.isin(coded.codes, codes))
        present = sorted({coded.values[code] for code in np.unique(coded.codes[rows])})
        more = f" and {len(present) - 10} more" if len(present) > 10 else ""
        shown = ", ".join(present[:10]) + more
        found = [fault_of(table.path, table.lines, column, shown, whole, rows)] if len(rows) else []
        return found + faults_of(table, column, coded, {c: why for c, why in bad.items() if why != whole})
    order = np.argsort(coded.codes, kind="stable")
    sorted_codes = coded.codes[order]
    found = []
    for code, allowed in bad.items():
        start, stop = np.searchsorted(sorted_codes, [code, code + 1])
        if start < stop:
            found.append(fault_of(table.path, table.lines, column, coded.values[code], allowed, order[start:stop]))
    if len(found) > SHOWN_VALUES:
        left = found[SHOWN_VALUES:]
        further = sum(fault.rows for fault in left)
        found[SHOWN_VALUES:] = [Fault(str(table.path), column, None, f"({len(left)} further values)", further)]
    return found


def fault_of(
    path: Path, lines: NDArray[np.int64], column: str, value: str | None, allowed: str, rows: NDArray[np.int64]
) -> Fault:
    """Return a fault of some rows of the table at ``path``."""
    return Fault(where(path, lines, rows), column, value, allowed, len(rows))
