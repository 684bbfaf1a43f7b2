"""Local columns into standard ones: values mapped and read, and what contradicts itself or cannot be read noted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.cells import declared_parser, parse_flag, parser
from client.cohort.dates import parse_dates, parse_times
from client.cohort.faults import Fault, fault_of, faults_of, rows_text, where
from client.cohort.identities import DAMAGED, is_damaged, normal_id
from client.cohort.localtable import Coded, LocalTable
from client.site.table_settings import DateAndTime, InUnit, MatchedLabel, TableConfig
from ecgshared.ecg.person import ages_disagree, parse_age, sexes_disagree
from ecgshared.study.columns import STANDARD_COLUMNS
from ecgshared.study.deaths import is_cardiac_or_ill_defined
from ecgshared.study.declared import DeclaredColumn


class Reading:
    """A table being read: its standard columns so far, and all that is wrong with it."""

    def __init__(self, table: LocalTable, config: TableConfig) -> None:
        # The numbers of workbooks and Parquet have no language.
        self.table = table
        self.config = config if table.kind == "text" else config.model_copy(update={"decimal": None})
        self.columns: dict[str, NDArray[Any]] = {}
        self.ids: dict[str, Coded] = {}
        self.faults: list[Fault] = []
        self.doubts: list[str] = []
        self.faulty = np.zeros(len(table), dtype=bool)
        self.unread: dict[str, int] = {}
        self._beside_age: NDArray[Any] | None = None

    def column(self, name: str, source: str | DateAndTime) -> None:
        """Read a standard column."""
        column, config = STANDARD_COLUMNS[name], self.config
        if column.kind == "date":
            self.columns[name] = self._moments(name, source)
            return
        assert isinstance(source, str)  # the settings allow no other
        coded = _mapped(self.table.columns[source], config.values.get(name, {}))
        shown = _shown(source, name)
        if column.kind == "id":
            self.ids[name] = coded = _normal_ids(coded)
            bad = {code: DAMAGED for code, text in enumerate(coded.values) if is_damaged(text)}
            self.stop(shown, coded, bad)
            return
        blank: Any = {"number": np.nan, "flag": np.nan}.get(column.kind, "")
        self.columns[name] = self._cells(name, shown, coded, parser(column, config), blank)
        if column.kind == "code":
            self._several_causes(name, shown)
        if name == "age":
            self._beside_age = np.asarray([*map(_sex_beside, coded.values), ""])[coded.codes]

    def label(self, name: str, label: str | MatchedLabel) -> None:
        """Read a 0/1 label: flags, or an expression that is found."""
        if isinstance(label, MatchedLabel):
            coded, pattern = self.table.columns[label.column], re.compile(label.matches)
            values = [np.nan if not text else float(bool(pattern.search(text))) for text in coded.values]
            self.columns[name] = np.asarray([*values, np.nan])[coded.codes]
        else:
            coded = _mapped(self.table.columns[label], self.config.values.get(name, {}))
            self.columns[name] = self._cells(name, _shown(label, name), coded, parse_flag, np.nan)

    def declared(self, name: str, column: DeclaredColumn, source: str | DateAndTime | InUnit) -> None:
        """Read a column that the study declares."""
        if column.is_date:
            assert not isinstance(source, InUnit)  # refused before the table is read
            self.columns[name] = self._moments(name, source)
            return
        local, times = (source.column, source.times) if isinstance(source, InUnit) else (str(source), 1.0)
        coded = _mapped(self.table.columns[local], self.config.values.get(name, {}))
        read = declared_parser(column, self.config.decimal, times)
        self.columns[name] = self._cells(name, _shown(local, name), coded, read, "" if column.levels else np.nan)

    def sex_beside_age(self) -> None:
        """Take the sex of ``63 M`` where the table has no other, and name the rows where it has."""
        if self._beside_age is None or not (self._beside_age != "").any():
            return
        sex = self.columns.get("sex", np.full(len(self.table), ""))
        apart = np.flatnonzero(sexes_disagree(sex, self._beside_age))
        if len(apart):
            self.doubt("sex", "another than the one beside the age", apart)
        self.columns["sex"] = np.where(sex == "", self._beside_age, sex)

    def stop(self, shown: str, coded: Coded, bad: dict[int, str]) -> None:
        """Note values that stand in the way: what is allowed, by code of the value."""
        if bad:
            self.faults += faults_of(self.table, shown, coded, bad)
            self.faulty |= np.isin(coded.codes, list(bad))

    def contradict(self, column: str, value: str | None, allowed: str, rows: NDArray[np.int64]) -> None:
        """Note rows that stand in the way whatever can be read of them."""
        self.faults.append(fault_of(self.table.path, self.table.lines, column, value, allowed, rows))
        self.faulty[rows] = True

    def doubt(self, column: str, what: str, rows: NDArray[np.int64]) -> None:
        """Note rows to look at."""
        at = where(self.table.path, self.table.lines, rows)
        self.doubts.append(f"{at}: {column}{rows_text(len(rows))}: {what}")

    def _refused(self, name: str, shown: str, coded: Coded, bad: dict[int, str]) -> None:
        """Note values that cannot be read, by the site's policy."""
        if self.config.unreadable == "stop" or not bad:
            self.stop(shown, coded, bad)
            return
        found = faults_of(self.table, shown, coded, bad)
        if found:
            self.unread[name] = self.unread.get(name, 0) + sum(fault.rows for fault in found)
            self.doubts += [f"counts as not known: {fault.render()}" for fault in found]

    def _cells(self, name: str, shown: str, coded: Coded, read: Callable[[str], Any], blank: Any) -> NDArray[Any]:
        out, bad = [], {}
        for code, text in enumerate(coded.values):
            value = blank
            if text:
                try:
                    value = read(text)
                except ValueError as error:
                    bad[code] = str(error)
            out.append(value)
        self._refused(name, shown, coded, bad)
        # The blank behind the last value keeps the type right for a table of no rows.
        return np.asarray([*out, blank])[coded.codes]

    def _moments(self, name: str, source: str | DateAndTime) -> NDArray[np.datetime64]:
        config, table = self.config, self.table
        local = source.date if isinstance(source, DateAndTime) else source
        coded = _mapped(table.columns[local], config.values.get(name, {}))
        values, bad = parse_dates(
            coded.values,
            date_format=config.date_format,
            day_first=config.day_first,
            spreadsheet=table.kind == "workbook",
            origin=table.origin,
        )
        self._refused(name, _shown(local, name), coded, bad)
        stamps = np.asarray([*values, np.datetime64("NaT", "s")], dtype="datetime64[s]")[coded.codes]
        if isinstance(source, str):
            return stamps
        clock = table.columns[source.time]
        times, wrong = parse_times(clock.values)
        self._refused(name, _shown(source.time, name), clock, wrong)
        span = np.asarray([*times, np.timedelta64("NaT", "s")], dtype="timedelta64[s]")[clock.codes]
        midnight = stamps.astype("datetime64[D]").astype("datetime64[s]")
        twice = np.flatnonzero(~np.isnat(span) & ~np.isnat(stamps) & (stamps != midnight) & (stamps - midnight != span))
        if len(twice):
            self.contradict(name, None, f"one time of day: {local} has another than {source.time}", twice)
        return np.where(np.isnat(span), stamps, midnight + span)

    def _several_causes(self, name: str, shown: str) -> None:
        texts = self.columns[name]
        several = np.asarray([" " in text for text in texts.tolist()], dtype=bool)
        open_ones = np.flatnonzero(several & np.isnan(is_cardiac_or_ill_defined(texts)))
        if len(open_ones):
            self.doubt(
                shown, "several codes that disagree on a cardiac cause; the cause counts as not known", open_ones
            )


_LATER_DATES = (
    *("death_date", "vfvt_date", "vf_date", "vt_date", "mi_date", "icd_date", "index_date", "last_encounter"),
    "admission_time",
)
_ENDED_BY_DEATH = {
    **dict.fromkeys(
        ("vfvt_date", "vf_date", "vt_date"),
        "after the death, which no label counts; is the death or the arrhythmia dated wrongly?",
    ),
    "mi_date": "after the death, which no label counts; is the death or the infarction dated wrongly?",
    "icd_date": "a defibrillator implanted after the death",
    "last_encounter": "seen alive after the death; the death counts",
}


def derive_age(reading: Reading) -> None:
    """Fill in the age that birth date and date of the ECG make, and name the ages they contradict."""
    columns = reading.columns
    birth, recorded = columns.pop("birth_date", None), columns.get("recorded_at")
    if birth is None or recorded is None:
        return
    span = recorded - birth
    years = np.where(np.isnat(span), np.nan, span.astype("timedelta64[s]").astype(float) / (365.25 * 86_400))
    possible = (years >= 0) & (years <= 130)
    for name in _LATER_DATES:
        if name in columns and len(early := np.flatnonzero(columns[name] < birth)):
            reading.doubt(name, "lies before the birth", early)
    impossible = np.flatnonzero(~np.isnan(years) & ~possible)
    if len(impossible):
        reading.doubt("birth_date", "makes no age of a human at the date of the ECG and is left out", impossible)
    age = columns.get("age", np.full(len(years), np.nan))
    apart = np.flatnonzero(possible & ages_disagree(age, years))
    if len(apart):
        reading.doubt("age", "more than two years from what birth date and date of the ECG make", apart)
    columns["age"] = np.where(np.isnan(age) & possible, years, age)


def contradictions(reading: Reading, events: Iterable[str] = ()) -> None:
    """Note deaths before the ECG, what is dated after the death, and ECGs that stand in the table twice.

    ``events`` are the columns of the study's own events.
    """
    columns, ids = reading.columns, reading.ids
    died = columns.get("death_date")
    own = dict.fromkeys(events, "after the death, which no label counts; is the death or the event dated wrongly?")
    for name, what in {**_ENDED_BY_DEATH, **own}.items():
        if died is not None and name in columns:
            later = columns[name].astype("datetime64[D]") > died.astype("datetime64[D]")
            if later.any():
                reading.doubt(name, what, np.flatnonzero(later))
    if "death_date" in columns and "recorded_at" in columns:
        day = "datetime64[D]"
        late = np.flatnonzero(columns["death_date"].astype(day) < columns["recorded_at"].astype(day))
        if len(late):
            reading.contradict("death_date", None, "a death on or after the day of the ECG", late)
    if "ecg_id" in ids:
        counts = np.bincount(ids["ecg_id"].codes, minlength=len(ids["ecg_id"].values))
        twice = [code for code in np.flatnonzero(counts > 1).tolist() if ids["ecg_id"].values[code]]
        reading.stop("ecg_id", ids["ecg_id"], dict.fromkeys(twice, "each ECG once"))


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


def _sex_beside(text: str) -> str:
    try:
        return parse_age(text).sex or "" if text else ""
    except ValueError:
        return ""


def _shown(source: str, name: str) -> str:
    return f"{source} ({name})" if source != name else name
