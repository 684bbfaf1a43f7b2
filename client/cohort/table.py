"""The cohort table in standard columns: local names mapped, local spellings read, every fault listed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.faults import Fault
from client.cohort.identities import normal_id
from client.cohort.localtable import Coded, LocalTable
from client.cohort.standard import Reading, contradictions, derive_age
from client.cohort.tablefile import read_table
from client.site.settings import DateAndTime, MatchedLabel, SiteSettings, TableConfig
from ecgshared.errors import CohortError


@dataclass(frozen=True)
class CohortTable:
    """The site's rows in standard columns.

    Attributes
    ----------
    columns : standard columns and labels by name, each shape = (n,): dates ``datetime64[s]`` with NaT,
        numbers, flags and labels float64 with NaN, ``sex``, codes and texts str with "" where empty.
    ids : ``patient_id`` and ``ecg_id`` where mapped.
    file : for each row the path of its recording below the records folder, by the join rule; "" for none.
    other_files : the same for rows of the table that ``rows:`` gives to other sites.
    lines : line in the file of each row.
    faults : what stands in the way. doubts : what does not, in words. Both hold values: for the terminal only.
    faulty : bool array, shape = (n,): rows that one of the faults is about.
    unread : how many cells of each column count as not known because they could not be read.
    """

    columns: dict[str, NDArray[Any]]
    ids: dict[str, Coded]
    file: tuple[str, ...]
    other_files: frozenset[str]
    lines: NDArray[np.int64]
    faults: tuple[Fault, ...]
    doubts: tuple[str, ...]
    faulty: NDArray[np.bool_]
    unread: dict[str, int]
    path: Path
    header_line: int = 1

    def __len__(self) -> int:
        return len(self.lines)


def read_cohort_table(settings: SiteSettings) -> CohortTable:
    """Read and map the site's table; bad values are collected in ``faults``, not raised.

    Raises
    ------
    CohortError : the file itself or its header cannot be used.
    """
    config = settings.table
    joins = _join_fields(config)
    labels = {name: c.column if isinstance(c, MatchedLabel) else c for name, c in config.labels.items()}
    local = read_table(config, [*local_names(config), *labels.values(), *config.rows, *joins.values()])
    own = local.matching(config.rows)
    file = _join(config, joins, local)
    mine = np.flatnonzero(own)
    table = replace(local, columns={k: c.take(mine) for k, c in local.columns.items()}, lines=local.lines[mine])
    reading = Reading(table, config)
    for name, source in config.columns.items():
        reading.column(name, source)
    for name, label in config.labels.items():
        reading.label(name, label)
    reading.sex_beside_age()
    derive_age(reading)
    contradictions(reading)
    return CohortTable(
        columns=reading.columns,
        ids=reading.ids,
        file=tuple(file[i] for i in mine),
        other_files=frozenset(file[i] for i in np.flatnonzero(~own)) - {""},
        lines=table.lines,
        faults=tuple(reading.faults),
        doubts=tuple(reading.doubts),
        faulty=reading.faulty,
        unread=reading.unread,
        path=table.path,
        header_line=table.header_line,
    )


def usable_table(settings: SiteSettings) -> CohortTable:
    """Return the table, or raise a CohortError that names columns but shows no value of any patient."""
    table = read_cohort_table(settings)
    if table.faults:
        columns = ", ".join(sorted({fault.column for fault in table.faults}))
        raise CohortError(
            f"{len(table.faults)} fault(s) in {columns}",
            where=settings.table.path,
            remedy="run `ecgfed site check SITE.yaml`: it shows each line and value",
        )
    return table


def local_names(config: TableConfig) -> list[str]:
    """Return the local columns that standard columns are read from."""
    sources = config.columns.values()
    return [name for s in sources for name in ((s.date, s.time) if isinstance(s, DateAndTime) else (s,))]


def _join_fields(config: TableConfig) -> dict[str, str]:
    """Return ``{field of the join: local column}``."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(config.join) if field is not None]
    except ValueError as error:
        raise CohortError(f"table.join is not a pattern: {error}", value=config.join) from None
    if not fields:
        raise CohortError("table.join names no column", value=config.join, allowed="e.g. 'wfdb/{ExamID}'")
    return {field: str(config.columns.get("file", field)) if field == "file" else field for field in fields}


def _join(config: TableConfig, joins: dict[str, str], table: LocalTable) -> list[str]:
    parts = [(text, field) for text, field, _, _ in Formatter().parse(config.join)]
    texts = {field: [normal_id(v) for v in table.columns[column].values] for field, column in joins.items()}
    codes = {field: table.columns[column].codes for field, column in joins.items()}
    paths = []
    for row in range(len(table)):
        values = {field: texts[field][codes[field][row]] for field in texts}
        if not all(values.values()):
            paths.append("")
            continue
        path = "".join(text + (values[field] if field is not None else "") for text, field in parts)
        paths.append(path.replace("\\", "/").removeprefix("./"))
    return paths
