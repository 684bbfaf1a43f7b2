"""The cohort table in standard columns: local names mapped, local spellings read, every fault listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.faults import Fault
from client.cohort.identities import normal_id
from client.cohort.localtable import Coded, LocalTable
from client.cohort.standard import Reading, contradictions, derive_age
from client.cohort.tablefile import read_table
from client.site.settings import SiteSettings
from client.site.table_settings import DateAndTime, InUnit, MatchedLabel, TableConfig
from ecgshared.errors import CohortError, ConfigError
from ecgshared.study.declared import Declared


@dataclass(frozen=True)
class CohortTable:
    """The site's rows in standard columns.

    Attributes
    ----------
    columns : standard and declared columns and labels by name, each shape = (n,): dates ``datetime64[s]`` with NaT,
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


def read_cohort_table(settings: SiteSettings, declared: Declared = MappingProxyType({})) -> CohortTable:
    """Read and map the site's table; bad values are collected in ``faults``, not raised.

    Parameters
    ----------
    declared : the study's own columns; of those that the site maps, the cells are read.

    Raises
    ------
    CohortError : the file itself or its header cannot be used.
    ConfigError : a declared column is mapped as what it is not.
    """
    config = settings.table
    joins = _join_fields(config)
    labels = {name: c.column if isinstance(c, MatchedLabel) else c for name, c in config.labels.items()}
    own_columns = {name: config.declared[name] for name in declared if name in config.declared}
    _require_fit(declared, own_columns, labels)
    sources = _local(*config.columns.values(), *own_columns.values())
    local = read_table(config, [*sources, *labels.values(), *config.rows, *joins.values()])
    own = local.matching(config.rows)
    file = _join(config, joins, local)
    mine = np.flatnonzero(own)
    table = replace(local, columns={k: c.take(mine) for k, c in local.columns.items()}, lines=local.lines[mine])
    reading = Reading(table, config)
    for name, source in config.columns.items():
        reading.column(name, source)
    for name, mapped in own_columns.items():
        reading.declared(name, declared[name], mapped)
    for name, label in config.labels.items():
        reading.label(name, label)
    reading.sex_beside_age()
    derive_age(reading)
    contradictions(reading, [name for name in own_columns if declared[name].kind == "event"])
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


def usable_table(settings: SiteSettings, declared: Declared = MappingProxyType({})) -> CohortTable:
    """Return the table, or raise a CohortError that names columns but shows no value of any patient."""
    table = read_cohort_table(settings, declared)
    if table.faults:
        columns = ", ".join(sorted({fault.column for fault in table.faults}))
        raise CohortError(
            f"{len(table.faults)} fault(s) in {columns}",
            where=settings.table.path,
            remedy="run `ecgfed site check SITE.yaml`: it shows each line and value",
        )
    return table


def _local(*sources: str | DateAndTime | InUnit) -> list[str]:
    """Return the local columns behind a mapping."""
    names: list[str] = []
    for source in sources:
        if isinstance(source, DateAndTime):
            names += [source.date, source.time]
        else:
            names.append(source.column if isinstance(source, InUnit) else source)
    return names


def _require_fit(
    declared: Declared, sources: Mapping[str, str | DateAndTime | InUnit], labels: Mapping[str, str]
) -> None:
    """Refuse a mapping that contradicts what the study declares: its kind or its unit, or a label of the same name."""
    faults = [f"table.labels.{name}: the study declares a column of the name" for name in labels if name in declared]
    for name, source in sources.items():
        column = declared[name]
        if isinstance(source, DateAndTime) and not column.is_date:
            faults.append(f"table.declared.{name}: {{date, time}} is for dates; the study declares a {column.kind}")
        if isinstance(source, InUnit) and column.kind != "number":
            faults.append(f"table.declared.{name}: {{column, unit}} is for numbers; the study declares a {column.kind}")
        elif isinstance(source, InUnit) and source.unit.strip() != column.unit.strip():
            faults.append(
                f"table.declared.{name}: in {source.unit} here, in {column.unit or 'no unit'} in the study; where the "
                "local values need a factor, give `times` and the study's unit"
            )
    if faults:
        raise ConfigError("; ".join(faults), remedy="change the site file, or ask the coordinator")


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
