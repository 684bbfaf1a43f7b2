"""The site's own table as the text its owner sees: columns, the line of every row, and where the header is."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from client.cohort.dates import SERIAL_ORIGIN
from client.site.table_settings import TableConfig
from ecgshared.errors import CohortError

EMPTY = frozenset(
    {"", "na", "n/a", "nan", "nat", "null", "none", "<na>", "#n/a", "#nv", "(null)", "(empty)", "(leer)", "k.a.", "."}
)
"""Spellings of an empty cell, in lower case."""

HEADER_LINES = 50
"""The names of the columns stand within so many lines."""
Kind = Literal["text", "workbook", "parquet"]

Row = tuple[int, Sequence[str]]
"""Line (the last one of a row that spans several) and cells."""


@dataclass(frozen=True)
class Coded:
    """A text column as distinct values and, per row, which of them: a million rows stay small.

    ``codes`` : int32 array, shape = (n,), index into ``values``; an empty cell points at "".
    """

    codes: NDArray[np.int32]
    values: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> Coded:
        """Return the same column at ``rows``."""
        return Coded(self.codes[rows], self.values)

    def texts(self) -> NDArray[np.object_]:
        """Return every cell's text, shape = (n,)."""
        return np.asarray([*self.values, ""], dtype=object)[self.codes]


@dataclass(frozen=True)
class LocalTable:
    """The local columns asked for.

    ``lines`` : int64 array, shape = (n,): the line of the file at which a row ends; in Parquet its number.
    ``header_line`` : where the names of the columns stand; 0 in Parquet.
    ``origin`` : day 0 of a workbook's days.
    """

    path: Path
    columns: dict[str, Coded]
    lines: NDArray[np.int64]
    header_line: int = 1
    kind: Kind = "text"
    origin: datetime = SERIAL_ORIGIN

    def __len__(self) -> int:
        return len(self.lines)

    def matching(self, rows: dict[str, str]) -> NDArray[np.bool_]:
        """Mark the rows whose cells match ``{local column: pattern}``; ``*`` and ``?`` stand for any text."""
        keep = np.ones(len(self), dtype=bool)
        for name, pattern in rows.items():
            column = self.columns[name]
            hit = [fnmatch.fnmatchcase(value, pattern) for value in column.values]
            keep &= np.asarray([*hit, False])[column.codes]
        return keep


def kind_of(path: Path) -> Kind:
    """Tell what a table is by how the file begins, whatever it is called.

    Raises
    ------
    CohortError : it is not there, or what no table is: an old workbook, or a page that only looks like one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise CohortError("there is no such table", where=path, remedy="check table.path") from None
    except IsADirectoryError:
        raise CohortError("is a folder, not a table", where=path, remedy="name one file in table.path") from None
    except OSError as error:
        raise CohortError(f"cannot be read ({type(error).__name__})", where=path) from None
    if not head:
        raise CohortError(
            "is empty (0 bytes)", where=path, allowed="a header and a row an ECG", remedy="export it again"
        )
    if head.startswith(b"PK\x03\x04"):
        return "workbook"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise CohortError(
            "is a workbook of old Excel, or one with a password",
            where=path,
            allowed="CSV, Excel (.xlsx) or Parquet",
            remedy="open it in Excel and save it as .xlsx without a password",
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise CohortError(
            "is a web page or XML, though a spreadsheet may open it",
            where=path,
            allowed="CSV, Excel (.xlsx) or Parquet",
            remedy="open it in Excel and save it as .xlsx",
        )
    if path.suffix.lower() in (".xlsx", ".xlsm", ".parquet", ".pq"):
        raise CohortError(
            f"is no {path.suffix} file inside", where=path, allowed="CSV, Excel or Parquet", remedy="export it again"
        )
    return "text"


def clean_name(text: str) -> str:
    """Return a column's name as it is compared: composed characters, single blanks, none around."""
    return unicodedata.normalize("NFC", " ".join(text.replace("\ufeff", "").split()))


def cell_text(text: str) -> str:
    """Return what stands in a cell, "" for any spelling of nothing."""
    text = text.strip()
    return "" if text.lower() in EMPTY else text


def header_at(rows: Sequence[Row], names: Sequence[str], config: TableConfig) -> int:
    """Return the place among ``rows``, the first of the table, of the one that names the columns.

    It is the line that ``config.header`` says, else the first that has all ``names``, else the one that has most of
    them; of none the first that has any cell, so that :func:`absent_columns` can say what is there.
    """
    if config.header is not None:
        at = [place for place, (line, _) in enumerate(rows) if line == config.header]
        if not at:
            raise CohortError("table.header names an empty line, or none", where=config.path, value=config.header)
        return at[0]
    wanted = {clean_name(name) for name in names}
    held = [len(wanted.intersection(map(clean_name, cells))) for _, cells in rows]
    return held.index(max(held)) if held else 0


def absent_columns(names: Sequence[str], header: Sequence[str], where: str) -> None:
    """Raise a :class:`CohortError` that names every column the header lacks or has twice, with what it may be."""
    have = [clean_name(name) for name in header]
    lines = [f"  column {name!r} stands twice in the header" for name in names if have.count(clean_name(name)) > 1]
    for name in names:
        if clean_name(name) not in have:
            close = get_close_matches(clean_name(name), have, n=1)
            shown = ", ".join(map(repr, filter(None, have[:40])))
            lines.append(f"  no column {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"columns: {shown}"))
    if lines:
        raise CohortError("the header does not fit table.columns:\n" + "\n".join(lines), where=where)


class _Coder(dict[str, int]):
    """From a cell as it stands in the file to the code of its text; each spelling is looked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}

    def __missing__(self, cell: str) -> int:
        code = self[cell] = self.texts.setdefault(cell_text(cell), len(self.texts))
        return code


class Columns:
    """The cells of the wanted columns as they come, row by row."""

    def __init__(self, names: Sequence[str], header: Sequence[str]) -> None:
        have = [clean_name(name) for name in header]
        self._names = names
        self._places = [have.index(clean_name(name)) for name in names]
        self._coders = [_Coder() for _ in names]
        self._codes = [array("i") for _ in names]
        self._lines = array("q")

    def add(self, line: int, cells: Sequence[str]) -> None:
        """Take one row; it must be as long as the header."""
        self._lines.append(line)
        for place, coder, column in zip(self._places, self._coders, self._codes, strict=True):
            column.append(coder[cells[place]])

    def coded(self) -> dict[str, Coded]:
        """Return the columns by name."""
        return {
            name: Coded(np.frombuffer(column, dtype=np.int32).copy(), tuple(coder.texts))
            for name, column, coder in zip(self._names, self._codes, self._coders, strict=True)
        }

    def lines(self) -> NDArray[np.int64]:
        """Return the line of each row."""
        return np.frombuffer(self._lines, dtype=np.int64).copy()


def number_text(value: float) -> str:
    """Return a number as a person would write it; one that had more digits than a spreadsheet keeps stays marked.

    Of 16 digits and more the last are lost: written with an exponent, no identifier passes for whole.
    """
    if value != value:
        return ""
    if abs(value) >= 1e15:
        return f"{value:.5E}"
    return str(int(value)) if value == int(value) else repr(value)


_DIGITS_ONLY = re.compile(r"0{2,}")


def padded(text: str, number_format: str) -> str:
    """Return a whole number with the leading zeros that its cell's format shows (``0000000``)."""
    return text.zfill(len(number_format)) if _DIGITS_ONLY.fullmatch(number_format) and text.isdigit() else text
