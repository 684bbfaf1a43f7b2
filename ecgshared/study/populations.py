"""Populations: groups of ECGs that a study names once, by filters over columns; a step says whom it is about.

::

    populations:
      reported:
        label: under 80, without a defibrillator
        where: {age: {below: 80}, defibrillator: false}
      measured: {where: {lvef: known}}
      last_ecg: {where: {days_to_index: {at_least: 2}}, most_recent_only: true}

All filters of one population must hold. A value that is not known passes no filter but ``unknown``: nobody of unknown
age is under 80, and at a hospital that does not know of defibrillators nobody is known to be without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from ecgshared.arrays import Bools, Floats
from ecgshared.config import Config
from ecgshared.study.columns import STANDARD_COLUMNS, Kind

DERIVED: dict[str, tuple[Kind, str]] = {
    "male": ("flag", "1 for M, 0 for F"),
    "defibrillator": ("flag", "1 where one was implanted on the day of the ECG or before"),
    "days_to_index": ("number", "days from the ECG to the index date; not known without one"),
    "days_to_admission": ("number", "days from the ECG to the admission"),
    "year": ("number", "calendar year of the ECG"),
    "month": ("number", "calendar month of the ECG, 1 to 12"),
    "hour": ("number", "hour of the day of the ECG, 0 to 23; 0 where its date has no time"),
}
"""What filters may name beside standard columns: it follows from them."""

_FILTERED = ("number", "flag", "sex", "text", "code", "category", "date")


class Within(Config):
    """A number between bounds; at least one of them."""

    at_least: float | None = Field(default=None, description="lowest value that counts")
    above: float | None = Field(default=None, description="values above this count")
    at_most: float | None = Field(default=None, description="highest value that counts")
    below: float | None = Field(default=None, description="values below this count")

    @model_validator(mode="after")
    def _holds_something(self) -> Within:
        low = max((b for b in (self.at_least, self.above) if b is not None), default=-np.inf)
        high = min((b for b in (self.at_most, self.below) if b is not None), default=np.inf)
        if not np.isfinite([low, high]).any():
            raise ValueError("needs a bound: at_least, above, at_most or below")
        open_end = self.above == low or self.below == high
        if low > high or (low == high and open_end):
            raise ValueError(f"no number lies between {low:g} and {high:g} as they are given")
        return self

    def holds(self, values: Floats) -> Bools:
        """Mark the values within; NaN is not."""
        passes = ~np.isnan(values)
        for bound, within in (
            (self.at_least, np.greater_equal),
            (self.above, np.greater),
            (self.at_most, np.less_equal),
            (self.below, np.less),
        ):
            if bound is not None:
                passes &= within(values, bound)
        return np.asarray(passes, dtype=np.bool_)


class OneOf(Config):
    """A text or code that is one of those listed; case and blanks at the ends don't matter."""

    one_of: tuple[str, ...] = Field(min_length=1, description="values that count")

    def holds(self, values: NDArray[Any]) -> Bools:
        """Mark the values listed; "" is none of them."""
        wanted = {text.strip().casefold() for text in self.one_of} - {""}
        return np.asarray([str(value).strip().casefold() in wanted for value in values], dtype=np.bool_)


Condition = Literal["known", "unknown"] | bool | Within | OneOf


class Population(Config):
    """A group of a site's eligible ECGs."""

    label: str = Field(default="", description="in words, for reports")
    where: dict[str, Condition] = Field(
        default={}, description="column: known, unknown, true, false, {below: 80}, {one_of: [F]}; all must hold"
    )
    most_recent_only: bool = Field(
        default=False, description="of each patient's ECGs that pass, the last one; after all filters"
    )

    @field_validator("where", mode="before")
    @classmethod
    def _words(cls, where: Any) -> Any:
        # A bare word may stand for a list of one, and 0 and 1 for false and true.
        if not isinstance(where, dict):
            return where
        bare = {name: {"one_of": [text]} for name, text in where.items() if isinstance(text, str)}
        bare |= {name: bool(flag) for name, flag in where.items() if isinstance(flag, int) and flag in (0, 1)}
        return where | {k: v for k, v in bare.items() if where[k] not in ("known", "unknown")}

    @model_validator(mode="after")
    def _says_something(self) -> Population:
        if not self.where and not self.most_recent_only:
            raise ValueError("needs a filter under `where`, or most_recent_only")
        return self

    def check(self, kinds: Mapping[str, str]) -> list[str]:
        """Return what is wrong with the filters, given the columns that exist and their kinds."""
        faults = []
        for name, condition in self.where.items():
            kind = kinds.get(name)
            if kind is None or kind not in _FILTERED:
                faults.append(f"where.{name}: {_nearest(name, kinds)}")
            elif isinstance(condition, bool) and kind != "flag":
                faults.append(f"where.{name}: true and false are for flags; this is a {kind}")
            elif isinstance(condition, Within) and kind != "number":
                faults.append(f"where.{name}: bounds are for numbers; this is a {kind}")
            elif isinstance(condition, OneOf) and kind not in ("text", "code", "sex", "category"):
                faults.append(f"where.{name}: one_of is for words; this is a {kind}")
        return faults


def kinds(declared: Mapping[str, str] = {}) -> dict[str, str]:
    """Return every column that a filter may name, with its kind; ``declared`` are the study's own."""
    standard = {column.name: column.kind for column in STANDARD_COLUMNS.values() if column.kind != "id"}
    return {**standard, **{name: kind for name, (kind, _) in DERIVED.items()}, **declared}


def members(population: Population, columns: Mapping[str, NDArray[Any]], among: Bools, patient: Any) -> Bools:
    """Mark the ECGs that belong to a population.

    Parameters
    ----------
    columns : standard and declared columns, each shape = (n,); one that is absent is not known of anybody.
    among : bool array, shape = (n,): the site's eligible ECGs; nobody else belongs.
    patient : int array, shape = (n,), equal for ECGs of one patient; needed for ``most_recent_only``.

    Returns
    -------
    bool array, shape = (n,).
    """
    n = len(among)
    passes = among.copy()
    for name, condition in population.where.items():
        passes &= _holds(condition, _column(name, columns, n))
    if population.most_recent_only:
        passes = most_recent(np.asarray(patient), columns.get("recorded_at", _nowhere(n)), passes)
    return passes


def numbers_of(name: str, columns: Mapping[str, NDArray[Any]], n: int) -> Floats:
    """Return a number or flag, standard, derived or declared, of each ECG; shape = (n,), NaN where not known."""
    return _column(name, columns, n).astype(np.float64)


def most_recent(patient: NDArray[np.int64], recorded: NDArray[np.datetime64], among: Bools) -> Bools:
    """Mark each patient's last ECG of those ``among``; of equal dates the later row, an unknown date before all."""
    rows = np.flatnonzero(among)
    when = np.where(np.isnat(recorded[rows]), np.iinfo(np.int64).min, recorded[rows].astype(np.int64))
    order = np.lexsort((rows, when, patient[rows]))
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = patient[rows][order][1:] != patient[rows][order][:-1]
    kept = np.zeros(len(among), dtype=np.bool_)
    kept[rows[order[last]]] = True
    return kept


def _holds(condition: Condition, values: NDArray[Any]) -> Bools:
    if condition in ("known", "unknown"):
        unknown = _unknown(values)
        return unknown if condition == "unknown" else ~unknown
    if isinstance(condition, Within | OneOf):
        return condition.holds(values)
    return np.asarray(values.astype(np.float64) == float(condition is True), dtype=np.bool_)


def _unknown(values: NDArray[Any]) -> Bools:
    if values.dtype.kind == "M":
        return np.asarray(np.isnat(values), dtype=np.bool_)
    if values.dtype.kind in "fiub":
        return np.asarray(np.isnan(values.astype(np.float64)), dtype=np.bool_)
    return np.asarray([not str(value) for value in values], dtype=np.bool_)


def _column(name: str, columns: Mapping[str, NDArray[Any]], n: int) -> NDArray[Any]:
    if name in columns:
        return np.asarray(columns[name])
    recorded = columns.get("recorded_at", _nowhere(n)).astype("datetime64[D]")
    if name == "male":
        sex = columns.get("sex", np.full(n, "")).astype(str)
        return np.select([sex == "M", sex == "F"], [1.0, 0.0], np.nan)
    if name == "defibrillator":
        if "icd_date" not in columns:
            return np.full(n, np.nan)
        implanted = columns["icd_date"].astype("datetime64[D]")
        at_ecg = np.where(np.isnat(implanted), 0.0, (implanted <= recorded).astype(np.float64))
        return np.where(np.isnat(recorded) & ~np.isnat(implanted), np.nan, at_ecg)
    if name.startswith("days_to_"):
        other = {"days_to_index": "index_date", "days_to_admission": "admission_time"}.get(name, name[8:])
        span = columns.get(other, _nowhere(n)).astype("datetime64[D]") - recorded
        return np.where(np.isnat(span), np.nan, span.astype(np.float64))
    if name == "year":
        years = recorded.astype("datetime64[Y]").astype(np.float64) + 1970
        return np.where(np.isnat(recorded), np.nan, years)
    if name in ("month", "hour"):
        return _within_cycle(name, columns.get("recorded_at", _nowhere(n)))
    kind = STANDARD_COLUMNS[name].kind if name in STANDARD_COLUMNS else "number"
    return np.full(n, "" if kind in ("text", "code", "sex") else np.nan, dtype=object if kind == "text" else None)


def _within_cycle(name: str, recorded: NDArray[np.datetime64]) -> Floats:
    """Month of the year from 1, or hour of the day from 0."""
    unit, cycle, first = {"month": ("M", 12, 1), "hour": ("h", 24, 0)}[name]
    turn = recorded.astype(f"datetime64[{unit}]").astype(np.int64) % cycle + first
    return np.where(np.isnat(recorded), np.nan, turn.astype(np.float64))


def _nowhere(n: int) -> NDArray[np.datetime64]:
    return np.full(n, np.datetime64("NaT", "s"), dtype="datetime64[s]")


def _nearest(name: str, known: Mapping[str, str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3)
    return f"no such column; did you mean {', '.join(close)}?" if close else "no such column"
