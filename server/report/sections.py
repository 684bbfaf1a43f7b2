"""What a stage gives to the report: sections of text, tables and figures, free of any layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | float | int | None
"""None is shown as withheld."""


@dataclass(frozen=True)
class Text:
    """One paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; numbers are formatted by the renderer, ``None`` reads "withheld"."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One curve or set of points, with an optional band between ``low`` and ``high``."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = "line"
    """"line", "step" or "points"."""


@dataclass(frozen=True)
class Figure:
    """One chart. ``reference``: "diagonal", or a number drawn as a horizontal line, or None."""

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_log: bool = False
    reference: Any = None
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Text | Table | Figure]
