"""How numbers read in the report: counts with separators, statistics in three digits, bytes, durations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.report.sections import Cell

WITHHELD = "withheld"
UNDEFINED = "–"
_MINUS = re.compile(r"(?<![\w.)])-(?=\d)")
_NUMERIC_TEXT = re.compile(r"^[<>≤≥~±]?\s*[-−]?\d")


@dataclass(frozen=True)
class Shown:
    """A cell as it is printed. ``css``: "withheld", "number" or "" for text."""

    text: str
    css: str = ""


def show(value: Cell, decimals: int | None = None) -> Shown:
    """Return how one cell reads: None is withheld, NaN undefined, whole numbers get separators."""
    if value is None:
        return Shown(WITHHELD, "withheld")
    if isinstance(value, bool):
        return Shown("yes" if value else "no")
    if isinstance(value, int):
        return Shown(_signed(f"{value:,}"), "number")
    if isinstance(value, float):
        return Shown(number(value, decimals), "number")
    if _NUMERIC_TEXT.match(str(value)):
        return Shown(_MINUS.sub("−", str(value)), "number")
    return Shown(str(value))


def number(value: float, decimals: int | None = None) -> str:
    """Write a float; without ``decimals`` as its size asks (0.813, 4.21, 132.4, 12,034, 2.1e-06)."""
    if not math.isfinite(value):
        return UNDEFINED if math.isnan(value) else _signed(f"{value}".replace("inf", "∞"))
    size = abs(value)
    if size >= 1e9 or 0 < size < 5e-4:
        return _signed(f"{value:.1e}")
    return _signed(f"{value:,.{_decimals(size) if decimals is None else decimals}f}")


def column_decimals(values: Sequence[Cell]) -> int | None:
    """Return the decimals that all floats of a column share, or None where their sizes are too far apart."""
    floats = [v for v in values if isinstance(v, float) and math.isfinite(v)]
    if all(v.is_integer() for v in floats):
        # Counts travel as floats, where NaN can stand for a withheld one.
        return 0
    sizes = [abs(v) for v in floats if v != 0]
    if max(sizes) / min(sizes) > 1000:
        return None
    return _decimals(min(sizes)) if max(sizes) < 10 else _decimals(max(sizes))


def _decimals(size: float) -> int:
    return 3 if size < 1 else 2 if size < 100 else 1 if size < 1000 else 0


def _signed(text: str) -> str:
    return "−" + text[1:] if text.startswith("-") else text


def show_rows(rows: Sequence[Sequence[Cell]]) -> list[list[Shown]]:
    """Return all cells of a table, each column's floats with the same decimals."""
    width = max((len(row) for row in rows), default=0)
    decimals = [column_decimals([row[c] for row in rows if c < len(row)]) for c in range(width)]
    return [[show(cell, decimals[c]) for c, cell in enumerate(row)] for row in rows]


def numeric_columns(rows: Sequence[Sequence[Shown]], width: int) -> list[bool]:
    """Mark the columns to align right: those that hold more numbers than words."""
    marks = []
    for c in range(width):
        kinds = [row[c].css for row in rows if c < len(row) and row[c].text not in ("", "-")]
        marks.append(kinds.count("number") > kinds.count(""))
    return marks


def byte_count(size: int) -> str:
    """Write a number of bytes: "712 B", "35.2 kB", "1.4 MB" (powers of ten)."""
    if size < 1000:
        return f"{size} B"
    power = min(3, (len(str(size)) - 1) // 3)
    value, unit = size / 1000**power, ("kB", "MB", "GB")[power - 1]
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:,.0f} {unit}"


def duration(seconds: float) -> str:
    """Write a duration: "0.4 s", "52 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
