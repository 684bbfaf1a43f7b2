"""Columns that a study declares beside the standard ones: what they hold, in which unit, within which range.

::

    columns:
      acc_score: {kind: number, range: [0, 100], unit: "%", label: AHA/ACC risk score}
      troponin: {kind: number, range: [0, 100000], unit: ng/L}
      beta_blocker: {kind: flag, label: takes a beta-blocker}
      smoking: {kind: category, levels: [never, former, current]}
      visit: {kind: date}
      stroke: {kind: event, label: first stroke after the ECG}

A site maps them under ``table.declared`` of its site file, as it maps standard columns under ``table.columns``. One
that a site does not map is not known of anybody there. Populations, covariates, subgroups, terms of a regression and
compared scores name them as they name standard columns; an ``event`` is an endpoint's too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.config import Config, Label
from ecgshared.study.columns import STANDARD_COLUMNS
from ecgshared.study.populations import DERIVED

ColumnKind = Literal["number", "flag", "category", "date", "event"]
NAME = r"^[a-z][a-z0-9_]{0,39}$"
"""A declared column's name: it may stand in a term, so it holds no dash."""

_TAKEN = {"male", "lvef_low", "risk", "log_odds", "high_risk", "age_gap", "intercept", "site", "scd", "death", "vfvt"}
_TAKEN |= {"mi", "vf", "vt", "ecg_vt_date"} | set(STANDARD_COLUMNS) | set(DERIVED)


class DeclaredColumn(Config):
    """A column of the study's own; one value an ECG, as known when it was taken (an event: after it)."""

    kind: ColumnKind = Field(
        description="number; flag: yes or no; category: one of `levels`; date; event: date of the first one after the "
        "ECG, empty where there was none"
    )
    label: Label = Field(default=None, description="how the report calls it")
    unit: str = Field(
        default="",
        max_length=20,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="of a number; a site that names another unit is refused",
    )
    range: tuple[float, float] | None = Field(
        default=None, description="[lowest, highest] that a number can be; what lies outside is no value"
    )
    first_day: int = Field(
        default=0,
        ge=0,
        le=365,
        description="an event counts from so many days after the ECG; 1 where on the day itself it may be why the ECG "
        "was taken",
    )
    levels: tuple[str, ...] = Field(default=(), max_length=20, description="what a category can be, in words")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> DeclaredColumn:
        if (self.range is not None) != (self.kind == "number"):
            raise ValueError(f"a {self.kind} {'has no range' if self.range else 'needs a range: [lowest, highest]'}")
        if self.range is not None and not -np.inf < self.range[0] < self.range[1] < np.inf:
            raise ValueError(f"range must ascend between finite numbers, not {self.range[0]:g} to {self.range[1]:g}")
        if self.first_day and self.kind != "event":
            raise ValueError(f"a {self.kind} has no first_day")
        if self.unit and self.kind != "number":
            raise ValueError(f"a {self.kind} has no unit")
        if bool(self.levels) != (self.kind == "category"):
            raise ValueError(f"a {self.kind} {'has no levels' if self.levels else 'needs levels: [one, another]'}")
        if self.levels and (len({_word(t) for t in self.levels} - {""}) < max(len(self.levels), 2)):
            raise ValueError("levels must be two or more different words; case and blanks at the ends don't matter")
        return self

    @property
    def is_number(self) -> bool:
        """Whether it has a number for each ECG: a number, or a flag's 1 and 0."""
        return self.kind in ("number", "flag")

    @property
    def is_date(self) -> bool:
        """Whether its cells are dates."""
        return self.kind in ("date", "event")

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        if self.range is not None:
            return f"{self.range[0]:g} to {self.range[1]:g}{' ' if self.unit else ''}{self.unit}"
        return ", ".join(self.levels) if self.levels else {"flag": "1 or 0, yes or no"}.get(self.kind, "a date")

    def level_of(self, text: str) -> str:
        """Return the level that a text names; raise ValueError where it names none."""
        for level in self.levels:
            if _word(level) == _word(text):
                return level
        close = get_close_matches(_word(text), self.levels, n=1)
        raise ValueError(f"{', '.join(self.levels)}{f'; did you mean {close[0]}?' if close else ''}")


Declared = Mapping[str, DeclaredColumn]


def name_faults(names: Iterable[str]) -> list[str]:
    """Say which names are not a declared column's to have."""
    return [f"{name}: the name is taken by what every study knows; choose another" for name in names if name in _TAKEN]


def filter_kinds(declared: Declared) -> dict[str, str]:
    """Return what a population's filters may name: the columns, and the days from the ECG to each date."""
    kinds = {name: "date" if column.is_date else column.kind for name, column in declared.items()}
    days = {f"days_to_{name}": "number" for name, column in declared.items() if column.kind == "date"}
    return {**kinds, **days}


def number_names(declared: Declared) -> tuple[str, ...]:
    """Return the columns that have a number for each ECG."""
    return tuple(name for name, column in declared.items() if column.is_number)


def with_absent(columns: Mapping[str, NDArray[Any]], declared: Declared, n: int) -> dict[str, NDArray[Any]]:
    """Return the columns with the declared ones that are absent as not known of anybody, in the type of their kind."""
    empty: dict[str, NDArray[Any]] = {
        name: np.full(n, np.datetime64("NaT", "s"), dtype="datetime64[s]")
        if column.is_date
        else np.full(n, "", dtype="<U1")
        if column.kind == "category"
        else np.full(n, np.nan)
        for name, column in declared.items()
        if name not in columns
    }
    return {**columns, **empty}


def as_numbers(column: DeclaredColumn, values: NDArray[Any]) -> Floats:
    """Return a number, a flag, or the place of a category among its levels, of each ECG; NaN where not known."""
    if column.kind != "category":
        return np.asarray(values, dtype=np.float64)
    places = {level: float(i) for i, level in enumerate(column.levels)}
    return np.array([places.get(str(value), np.nan) for value in values], dtype=np.float64)


def _word(text: str) -> str:
    return text.strip().casefold()
