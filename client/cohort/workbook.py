"""Excel workbooks (.xlsx): cells as the text a person sees in them, by openpyxl.

A cell that Excel takes for a date becomes ISO 8601; a number shown with leading zeros keeps them; one of more digits
than Excel stores is marked as rounded. Nothing is computed: a formula's cell holds the value that was saved with it.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any

from client.cohort.localtable import (
    HEADER_LINES,
    Columns,
    LocalTable,
    Row,
    absent_columns,
    clean_name,
    header_at,
    number_text,
    padded,
)
from client.site.table_settings import TableConfig
from ecgshared.errors import CohortError

LARGEST_PART = 4 << 30
"""Bytes of one unpacked part; Excel's largest sheet of thirty columns has about one gigabyte."""
LARGEST_SHARED = 256 << 20
"""Bytes of all unpacked parts but the sheets: they are held in memory."""
MOST_COLUMNS = 2_000
MOST_ROWS = 1 << 20
"""Of any Excel sheet; a damaged file may claim more, and the rows between are none."""


def read_workbook(config: TableConfig, names: list[str]) -> LocalTable:
    """Read the wanted columns of the sheet that has them, or of ``config.sheet``.

    Raises
    ------
    CohortError : it is no such workbook, no sheet or several have the columns, or a column is absent.
    """
    with opened_workbook(config.path) as book:
        sheet, head, place = _sheet(book, config, names)
        line, header = head[place] if head else (1, [])
        absent_columns(names, header, f"{config.path}, sheet {sheet.title!r}, line {line}")
        columns = Columns(names, header)
        for at, cells in chain(head[place + 1 :], sheet_rows(sheet, len(header), behind=head[-1][0] if head else 1)):
            columns.add(at, [*cells, *[""] * (len(header) - len(cells))])
        origin = book.epoch
        return LocalTable(config.path, columns.coded(), columns.lines(), line, "workbook", origin)


@contextmanager
def opened_workbook(path: Path) -> Iterator[Any]:
    """Open a workbook to be read row by row; whatever its bytes make openpyxl trip over is a :class:`CohortError`."""
    import openpyxl

    try:
        _sizes(path)
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that say nothing of the cells
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            try:
                yield book
            finally:
                book.close()
    except CohortError:
        raise
    except MemoryError:
        raise CohortError("is too large for this machine's memory", where=path, remedy="export it as CSV") from None
    except Exception as error:
        old = isinstance(error, zipfile.BadZipFile)
        raise CohortError(
            f"is not a readable Excel workbook ({type(error).__name__})",
            where=path,
            allowed=".xlsx without a password",
            remedy="open it in Excel and save it as .xlsx" if old else "save it again, or export it as CSV",
        ) from None


def sheet_rows(sheet: Any, most_columns: int, *, behind: int = 0) -> Iterator[Row]:
    """Give the rows of a sheet behind a line that hold anything, each at most so many cells long."""
    from openpyxl.cell.read_only import EMPTY_CELL

    # openpyxl gives one and the same tuple for all rows that are not there: a gap may be a million of them.
    absent: Any = None
    rows = sheet.iter_rows(min_row=behind + 1, max_row=MOST_ROWS, max_col=most_columns)
    for line, row in enumerate(rows, start=behind + 1):
        if row is absent:
            continue
        cells = [_text(cell) for cell in row]
        if any(cells):
            yield line, cells
        elif all(cell is EMPTY_CELL for cell in row):
            absent = row


def _sizes(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    sheets = [part.file_size for part in parts if part.filename.startswith("xl/worksheets/")]
    if max(sheets, default=0) > LARGEST_PART or sum(part.file_size for part in parts) - sum(sheets) > LARGEST_SHARED:
        raise CohortError("is too large to be a table", where=path, remedy="export the table alone, as CSV")


def _sheet(book: Any, config: TableConfig, names: list[str]) -> tuple[Any, list[Row], int]:
    sheets = list(book.worksheets)
    if config.sheet is not None:
        sheets = [sheet for sheet in sheets if sheet.title == config.sheet]
        if not sheets:
            titles = ", ".join(repr(sheet.title) for sheet in book.worksheets)
            raise CohortError("there is no such sheet", where=config.path, value=config.sheet, allowed=titles)
    wanted = {clean_name(name) for name in names}
    found = []
    for sheet in sheets:
        head = list(islice(sheet_rows(sheet, MOST_COLUMNS), HEADER_LINES))
        place = header_at(head, names, config) if head or config.header is not None else 0
        held = len(wanted.intersection(map(clean_name, head[place][1]))) if head else 0
        found.append((held, sheet, head, place))
    if not found:
        raise CohortError("the workbook has no sheet of cells", where=config.path)
    most = max(held for held, *_ in found)
    best = [entry for entry in found if entry[0] == most]
    if len(best) > 1 and most == len(wanted):
        raise CohortError(
            "several sheets have the columns",
            where=config.path,
            allowed="table.sheet: " + " or ".join(repr(sheet.title) for _, sheet, *_ in best),
        )
    return best[0][1:]


def _text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float):
        text = number_text(float(value))
        return padded(text, cell.number_format or "") if isinstance(text, str) and text.isdigit() else text
    if isinstance(value, datetime | time):
        return value.replace(microsecond=0).isoformat()
    if isinstance(value, date):
        return f"{value.isoformat()}T00:00:00"
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return str(value)
