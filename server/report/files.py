"""What can be taken from the report: every table as CSV, every figure as SVG, in the page and beside it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ecgshared.service.files import write_atomically
from server.report.sections import Cell, Flow, Table

FOLDER = "report_files"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?( \([-+\d. to]+\))?$")


class Attachments:
    """Files of one page by name; a name that is taken gets a number."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def add(self, step: str, title: str, ending: str, text: str) -> tuple[str, str]:
        """Keep a file; return its name and the address with which the page itself holds it."""
        # Neither a step's name nor a title may lead out of the folder.
        base = re.sub(r"[^a-z0-9_]+", "-", f"{step} {title}".lower()).strip("-")[:80].strip("-") or "untitled"
        name, number = f"{base}.{ending}", 1
        while name in self.files:
            number += 1
            name = f"{base}-{number}.{ending}"
        self.files[name] = text
        kind = {"csv": "text/csv", "svg": "image/svg+xml"}[ending]
        return name, f"data:{kind};charset=utf-8,{quote(text, safe='')}"

    def write(self, run_folder: Path) -> None:
        """Write all files into the run folder; those of an earlier report that are no longer made go."""
        folder = run_folder / FOLDER
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if old.suffix in (".csv", ".svg") and old.name not in self.files and old.is_file():
                old.unlink()
        for name, text in self.files.items():
            write_atomically(folder / name, text.encode())


def table_csv(table: Table) -> str:
    """Return a table as CSV: numbers in full, "withheld" where a hospital withheld one."""
    above = [heading for heading, width in table.groups for _ in range(width)]
    names = [f"{above[i]}: {name}" if i < len(above) and above[i] else name for i, name in enumerate(table.columns)]
    return _csv([names, *table.rows])


def flow_csv(flow: Flow) -> str:
    """Return an exclusion flow as CSV: what is left after each rule."""
    return _csv([[f"{flow.unit} left after", *flow.columns], *([row.label, *row.remaining] for row in flow.rows)])


def standalone_svg(svg: str) -> str:
    """Return a figure of the page as a file of its own: with a typeface, and white behind it."""
    style = 'style="background:#fff" font-family="Inter, Helvetica, Arial, sans-serif"'
    namespace = "" if "xmlns=" in svg[: svg.index(">")] else ' xmlns="http://www.w3.org/2000/svg"'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg.replace("<svg", f"<svg{namespace} {style}", 1)}\n'


def _csv(rows: Sequence[Sequence[Cell]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_cell(cell) for cell in row] for row in rows])
    return out.getvalue()


def _cell(cell: Cell) -> str:
    if cell is None:
        return "withheld"
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    text = str(cell)
    if isinstance(cell, int) or _NUMBER.match(text) or not text.startswith(_FORMULA) or len(text) == 1:
        return text
    # A spreadsheet would run it.
    return f"'{text}"
