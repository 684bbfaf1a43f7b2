"""The cohort table in standard columns: local names mapped, local spellings read, every fault listed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.cells import NUMERIC_SEX, normal_id, parse_flag, parser
from client.cohort.localtable import Coded, LocalTable, read_table
from client.site.settings import MatchedLabel, SiteSettings, TableConfig
from ecgshared.errors import CohortError
from ecgshared.study.columns import STANDARD_COLUMNS

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
        more = f" ({self.rows} rows)" if self.rows > 1 else ""
        return f"{self.where}: {self.column}{found}{more}; allowed: {self.allowed}"


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
    """

    columns: dict[str, NDArray[Any]]
    ids: dict[str, Coded]
    file: tuple[str, ...]
    other_files: frozenset[str]
    lines: NDArray[np.int64]
    faults: tuple[Fault, ...]

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
    label_columns = [c.column if isinstance(c, MatchedLabel) else c for c in config.labels.values()]
    local = read_table(config, [*config.columns.values(), *label_columns, *config.rows, *joins.values()])
    own = local.matching(config.rows)
    file = _join(config, joins, local)
    mine = np.flatnonzero(own)
    table = LocalTable(local.path, {k: c.take(mine) for k, c in local.columns.items()}, local.lines[mine])
    columns: dict[str, NDArray[Any]] = {}
    ids: dict[str, Coded] = {}
    faults: list[Fault] = []
    for name, source in config.columns.items():
        column = STANDARD_COLUMNS[name]
        read = parser(column, config)
        coded = _mapped(table.columns[source], config.values.get(name, {}))
        if column.kind == "id":
            ids[name] = _normal_ids(coded)
            continue
        blank: Any = {"date": np.datetime64("NaT", "s"), "number": np.nan, "flag": np.nan}.get(column.kind, "")
        columns[name] = _parse(table, name, source, coded, read, blank, faults)
    for name, label in config.labels.items():
        source = label.column if isinstance(label, MatchedLabel) else label
        coded = table.columns[source]
        if isinstance(label, MatchedLabel):
            pattern = re.compile(label.matches)
            values = [np.nan if not text else float(bool(pattern.search(text))) for text in coded.values]
            columns[name] = np.asarray([*values, np.nan])[coded.codes]
        else:
            coded = _mapped(coded, config.values.get(name, {}))
            columns[name] = _parse(table, name, source, coded, parse_flag, np.nan, faults)
    _derive_age(columns)
    faults += _contradictions(table, columns, ids)
    return CohortTable(
        columns=columns,
        ids=ids,
        file=tuple(file[i] for i in mine),
        other_files=frozenset(file[i] for i in np.flatnonzero(~own)) - {""},
        lines=table.lines,
        faults=tuple(faults),
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


def _mapped(coded: Coded, values: dict[str, str]) -> Coded:
    """Apply ``values:``; a local 1.0 is found under "1" too, as spreadsheets write whole numbers."""
    if not values:
        return coded
    normal = {normal_id(key): value for key, value in values.items()}
    return replace(coded, values=tuple(values.get(t, normal.get(normal_id(t), t)) for t in coded.values))


def _normal_ids(coded: Coded) -> Coded:
    """Different spellings of one identifier become one value."""
    index: dict[str, int] = {}
    recode = [index.setdefault(normal_id(text), len(index)) for text in coded.values]
    return Coded(np.asarray([*recode, -1], dtype=np.int32)[coded.codes], tuple(index))


def _parse(
    table: LocalTable,
    name: str,
    source: str,
    coded: Coded,
    read: Callable[[str], Any],
    blank: Any,
    faults: list[Fault],
) -> NDArray[Any]:
    out, bad = [], []
    for code, text in enumerate(coded.values):
        value = blank
        if text:
            try:
                value = read(text)
            except ValueError as error:
                bad.append((code, text, str(error)))
        out.append(value)
    if bad:
        faults += _faults(table, f"{source} ({name})" if source != name else name, coded, bad)
    # The blank behind the last value keeps the type right for a table of no rows.
    return np.asarray([*out, blank])[coded.codes]


def _faults(table: LocalTable, column: str, coded: Coded, bad: list[tuple[int, str, str]]) -> list[Fault]:
    if any(allowed == NUMERIC_SEX for _, _, allowed in bad):
        # One fault for the column: every row has it.
        numbers = {code: text for code, text, allowed in bad if allowed == NUMERIC_SEX}
        rows = np.flatnonzero(np.isin(coded.codes, list(numbers)))
        present = sorted({numbers[code] for code in np.unique(coded.codes[rows])})
        numeric = [_fault(table, column, ", ".join(present[:10]), NUMERIC_SEX, rows)] if len(rows) else []
        return numeric + _faults(table, column, coded, [entry for entry in bad if entry[0] not in numbers])
    order = np.argsort(coded.codes, kind="stable")
    sorted_codes = coded.codes[order]
    found = []
    for code, text, allowed in bad:
        start, stop = np.searchsorted(sorted_codes, [code, code + 1])
        if start < stop:
            found.append(_fault(table, column, text, allowed, order[start:stop]))
    if len(found) > SHOWN_VALUES:
        left = found[SHOWN_VALUES:]
        further = sum(fault.rows for fault in left)
        found[SHOWN_VALUES:] = [Fault(str(table.path), column, None, f"({len(left)} further values)", further)]
    return found


def _fault(table: LocalTable, column: str, value: str | None, allowed: str, rows: NDArray[np.int64]) -> Fault:
    lines = ",".join(str(line) for line in table.lines[rows[:SHOWN_LINES]])
    more = ",..." if len(rows) > SHOWN_LINES else ""
    return Fault(f"{table.path}:{lines}{more}", column, value, allowed, len(rows))


def _derive_age(columns: dict[str, NDArray[Any]]) -> None:
    birth, recorded = columns.pop("birth_date", None), columns.get("recorded_at")
    if birth is None or recorded is None:
        return
    span = recorded - birth
    years = np.where(np.isnat(span), np.nan, span.astype("timedelta64[s]").astype(float) / (365.25 * 86_400))
    age = columns.get("age", np.full(len(years), np.nan))
    columns["age"] = np.where(np.isnan(age) & (years >= 0) & (years <= 130), years, age)


def _contradictions(table: LocalTable, columns: dict[str, NDArray[Any]], ids: dict[str, Coded]) -> list[Fault]:
    found = []
    if "death_date" in columns and "recorded_at" in columns:
        day = "datetime64[D]"
        late = np.flatnonzero(columns["death_date"].astype(day) < columns["recorded_at"].astype(day))
        if len(late):
            found.append(_fault(table, "death_date", None, "a death on or after the day of the ECG", late))
    if "ecg_id" in ids:
        codes, values = ids["ecg_id"].codes, ids["ecg_id"].values
        counts = np.bincount(codes, minlength=len(values))
        for code in np.flatnonzero(counts > 1):
            if values[code]:
                rows = np.flatnonzero(codes == code)
                found.append(_fault(table, "ecg_id", values[code], "each ECG once", rows))
    return found


def _join_fields(config: TableConfig) -> dict[str, str]:
    """Return ``{field of the join: local column}``."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(config.join) if field is not None]
    except ValueError as error:
        raise CohortError(f"table.join is not a pattern: {error}", value=config.join) from None
    if not fields:
        raise CohortError("table.join names no column", value=config.join, allowed="e.g. 'wfdb/{ExamID}'")
    return {field: config.columns.get("file", field) if field == "file" else field for field in fields}


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
