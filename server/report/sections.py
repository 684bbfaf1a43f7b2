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
    about : of which step and model it is, e.g. "judged · risk of score (risk, resnet1d)".
    """

    label: str
    value: Cell
    note: str = ""
    about: str = ""


@dataclass(frozen=True)
class Table:
    """A table; numbers are formatted by the renderer, ``None`` reads "withheld".

    Attributes
    ----------
    groups : headings above several columns each: (heading, number of columns), from the left; "" heads nothing.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()


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
    site: str = ""
    """The site it is of, whose colour it gets; else the one its label begins with."""
    muted: bool = False
    """Drawn thin and grey, as what a curve is compared with."""


@dataclass(frozen=True)
class Figure:
    """One chart. ``reference``: "diagonal", or a number (or several) drawn as a horizontal line, or None."""

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_log: bool = False
    reference: Any = None
    caption: str = ""
    square: bool = False


@dataclass(frozen=True)
class Panels(Figure):
    """Small multiples: one panel a group of series, on common axes. ``panels``: (heading, series)."""

    panels: Sequence[tuple[str, Sequence[Series]]] = ()


Panel = tuple[str, Sequence[Series]]
"""A heading and what is drawn below it."""


def told(panels: Sequence[Panel], least: int = 2) -> tuple[list[Panel], str]:
    """Return the panels with ``least`` points or more, and a sentence that names the others; none where none has.

    A point alone says what the tables say: everybody's rate.
    """
    shown = [panel for panel in panels if any(_points(series) >= least for series in panel[1] if not series.muted)]
    silent = [heading for heading, series in panels if (heading, series) not in shown]
    return shown, f" Not told: {'; '.join(silent)}." if shown and silent else ""


def _points(series: Series) -> int:
    return sum(x is not None and y is not None for x, y in zip(series.x, series.y, strict=True))


@dataclass(frozen=True)
class ConsortBox:
    """One step down a CONSORT diagram: what is left, and at the side what was taken away before it.

    Attributes
    ----------
    title : e.g. "Rows of the sites' tables".
    counts : in all, e.g. "6,339 ECGs of 4,650 patients".
    sites : the same by site, one text each.
    reasons, excluded, excluded_sites : the side box; without reasons there is none.
    """

    title: str
    counts: str
    sites: Sequence[str] = ()
    reasons: Sequence[str] = ()
    excluded: str = ""
    excluded_sites: Sequence[str] = ()


@dataclass(frozen=True)
class Consort(Figure):
    """A CONSORT diagram: boxes downwards, then one box a site with (name, lines)."""

    boxes: Sequence[ConsortBox] = ()
    ends: Sequence[tuple[str, Sequence[str]]] = ()


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    title: str
    blocks: Sequence[Text | Table | Flow | Figure]


Block = Text | Key | Table | Flow | Figure | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]
