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
class Key:
    """One headline number; the renderer lifts it into the box at the top of the report.

    Attributes
    ----------
    label : what it is, e.g. "AUC, SCD within 1 y, site north (zero-shot)".
    value : None is shown as withheld.
    note : its interval, bounds or group size, e.g. "95% CI 0.78 to 0.84; 121 events".
    """

    label: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; numbers are formatted by the renderer, ``None`` reads "withheld"."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class FlowRow:
    """One rule of an exclusion flow, one cell per site.

    Attributes
    ----------
    label : the rule, e.g. "age under 80"; of the first row: what was there at the start.
    remaining : how many are left after it; None is withheld.
    excluded : how many it took away; computed from ``remaining`` where not given.
    """

    label: str
    remaining: Sequence[int | None]
    excluded: Sequence[int | None] | None = None


@dataclass(frozen=True)
class Flow:
    """A flow of exclusions (CONSORT), rules downwards, sites across. ``unit``: "ECGs" or "patients"."""

    title: str
    columns: Sequence[str]
    rows: Sequence[FlowRow]
    unit: str = "ECGs"
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One curve or set of points, with an optional band between ``low`` and ``high``; None or NaN leaves a gap."""

    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    style: str = "line"
    """"line", "step" or "points"."""
    emphasis: bool = False
    """Drawn dark and on top, as a pooled curve among the sites'; labels that begin "pooled" are so."""


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


Block = Text | Key | Table | Flow | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]
