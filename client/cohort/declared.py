"""How a site file's mapping fits the columns that a study declares: what it lacks, and what it maps otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from client.cohort.table import CohortTable
from client.site.table_settings import TableConfig
from ecgshared.arrays import Bools
from ecgshared.study.declared import Declared, as_numbers


def unmapped(config: TableConfig, declared: Declared) -> list[str]:
    """Say which declared columns the site does not map, with the name it may have meant."""
    strangers = [name for name in config.declared if name not in declared]
    said = []
    for name, column in declared.items():
        if name not in config.declared:
            close = get_close_matches(name, strangers, n=1, cutoff=0.75)
            meant = f"; is table.declared.{close[0]} meant?" if close else ""
            said.append(f"{name} ({column.kind}, {column.allowed}): not mapped under table.declared{meant}")
    return said


def strangers(config: TableConfig, studies: Sequence[Declared]) -> list[str]:
    """Say which names under ``table.declared`` no study declares, and which are near."""
    known = [name for declared in studies for name in declared]
    said = []
    for name in config.declared:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            said.append(
                f"table.declared.{name}: no study that was looked at declares it; its cells were not read{hint}"
            )
    return said


def known_cells(table: CohortTable, declared: Declared, usable: Bools) -> list[str]:
    """Tell of each mapped column how many usable ECGs have a value, and what: for the operator's terminal."""
    said = []
    for name, column in declared.items():
        if name not in table.columns:
            continue
        values = table.columns[name][usable]
        known = _known(values)
        text = f"{name}: {int(known.sum())} known, {int((~known).sum())} not"
        if column.kind == "flag":
            text += f"; {int((values == 1).sum())} yes"
        elif column.kind == "category":
            place = as_numbers(column, values)
            text += "; " + ", ".join(f"{level} {int((place == i).sum())}" for i, level in enumerate(column.levels))
        elif known.any():
            low, high = values[known].min(), values[known].max()
            unit = f" {column.unit}" if column.unit else ""
            day = "datetime64[D]"
            text += f"; {low.astype(day)} to {high.astype(day)}" if column.is_date else f"; {low:g} to {high:g}{unit}"
        if table.unread.get(name):
            text += f"; {table.unread[name]} cells could not be read"
        said.append(text)
    return said


def _known(values: NDArray[np.generic]) -> Bools:
    if values.dtype.kind == "M":
        return np.asarray(~np.isnat(values), dtype=np.bool_)
    if values.dtype.kind in "fiu":
        return np.asarray(~np.isnan(values.astype(np.float64)), dtype=np.bool_)
    return np.asarray(values.astype(str) != "", dtype=np.bool_)
