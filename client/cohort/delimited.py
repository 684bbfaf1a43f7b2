"""Tables of text with a separator: CSV and what hospitals call so."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from client.cohort.localtable import HEADER_LINES, Columns, LocalTable, Row, absent_columns, clean_name, header_at
from client.site.table_settings import TableConfig
from ecgshared.errors import CohortError

SEPARATORS: tuple[str, ...] = (",", ";", "\t", "|")
_SAID = {f"sep={mark}": mark for mark in SEPARATORS} | {"sep=\\t": "\t"}
"""What a spreadsheet writes as a first line to tell the separator."""
_SAMPLE_CHARS = 1 << 18
_SHOWN = 200


def read_csv(config: TableConfig, names: list[str]) -> LocalTable:
    """Read the wanted columns of a delimited table.

    Raises
    ------
    CohortError : it cannot be decoded, is no CSV, lacks columns, or has lines of a wrong length: all are named.
    """
    encoding = config.encoding or guess_encoding(config.path)
    line = 0
    try:
        with config.path.open(encoding=encoding, newline="") as file:
            separator, skipped = _separator(file, config, names)
            rows = _rows(file, separator, skipped)
            head = list(islice(rows, HEADER_LINES))
            place = header_at(head, names, config)
            line, header = head[place] if head else (1, [])
            absent_columns(names, header, f"{config.path}:{line}")
            columns, ragged = Columns(names, header), []
            for line, cells in chain(head[place + 1 :], rows):
                # Separators behind the last cell are a spreadsheet's habit; cells are not.
                if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                    ragged.append(f"  line {line}: {len(cells)} cells, the header has {len(header)}")
                else:
                    columns.add(line, cells)
    except LookupError:
        raise CohortError(
            "table.encoding is no encoding's name",
            where=config.path,
            value=encoding,
            remedy=_encoding_remedy(config.path),
        ) from None
    except UnicodeError:
        raise CohortError(
            "cannot be decoded", where=config.path, value=encoding, remedy=_encoding_remedy(config.path)
        ) from None
    except csv.Error as error:
        raise CohortError(
            f"is not valid CSV: {error}", where=config.path, remedy="mend the line, or export it again"
        ) from None
    except OSError as error:
        raise CohortError(f"cannot be read ({type(error).__name__})", where=config.path) from None
    if ragged:
        shown = ragged[:_SHOWN] + ([f"  and {len(ragged) - _SHOWN} more"] if len(ragged) > _SHOWN else [])
        raise CohortError(
            f"{len(ragged)} line(s) of a wrong length:\n" + "\n".join(shown),
            where=config.path,
            remedy=f"quote cells that hold the separator {separator!r}, or set table.separator",
        )
    header_line = head[place][0] if head else 1
    return LocalTable(config.path, columns.coded(), columns.lines(), header_line)


def first_rows(path: Path, config: TableConfig | None = None) -> tuple[list[Row], str, str]:
    """Return a table's first rows, its separator and its encoding, where nothing is known of its columns yet."""
    encoding = (config.encoding if config else None) or guess_encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            separator, skipped = _separator(file, config, [])
            return list(islice(_rows(file, separator, skipped), 20 * HEADER_LINES)), separator, encoding
    except (UnicodeError, LookupError, csv.Error, OSError) as error:
        raise CohortError(f"cannot be read as a table ({type(error).__name__})", where=path) from None


def _encoding_remedy(path: Path) -> str:
    return f"leave table.encoding out, or set what the file looks like: {guess_encoding(path)}"


def guess_encoding(path: Path) -> str:
    """UTF-32, UTF-16 and UTF-8 by their marks; otherwise UTF-8 if the whole file is, or else Windows-1252."""
    with path.open("rb") as file:
        start = file.read(4)
        if start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
            return "utf-32"
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        utf8, undefined, block = True, False, start
        while block:
            if utf8:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    utf8 = False
            # Five bytes mean nothing in Windows-1252: a file that has one is Latin-1.
            undefined = undefined or any(byte in block for byte in b"\x81\x8d\x8f\x90\x9d")
            block = file.read(1 << 20)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            utf8 = False
    return "utf-8-sig" if utf8 else "latin-1" if undefined else "cp1252"


def _rows(file: TextIO, separator: str, skipped: int) -> Iterator[Row]:
    """Give the rows that hold anything, with their lines."""
    reader = csv.reader(file, delimiter=separator, strict=True)
    line = skipped
    try:
        for cells in reader:
            line = reader.line_num + skipped
            if cells and (cells[0].strip() or "".join(cells).strip()):
                yield line, cells
    except csv.Error as error:
        # A row that never ends begins where the last good one ended.
        why = "a quote that is never closed" if "end of data" in str(error) else str(error)
        raise csv.Error(f"{why}, in the row of line {line + 1}") from None


def _separator(file: TextIO, config: TableConfig | None, names: list[str]) -> tuple[str, int]:
    """Return the separator and how many lines said it; the file is left at the first line of the table."""
    first = file.readline(_SAMPLE_CHARS)
    said = _SAID.get(first.strip().strip('"').lower(), _SAID.get(first.rstrip("\r\n").lower()))
    if said is None:
        file.seek(0)
    chosen = config.separator if config else None
    if chosen or said:
        return str(chosen or said), int(said is not None)
    sample = file.read(_SAMPLE_CHARS)
    file.seek(0)
    wanted = {clean_name(name) for name in names}
    best = max(SEPARATORS, key=lambda mark: _fit(sample, mark, wanted))
    return best, 0


def _fit(sample: str, separator: str, wanted: set[str]) -> tuple[int, int]:
    """Rate a separator: how many of the wanted names one line has, then in how many lines most have one length."""
    rows: list[list[str]] = []
    try:
        for cells in islice(csv.reader(io.StringIO(sample, newline=""), delimiter=separator), HEADER_LINES):
            rows.append(cells)
    except csv.Error:
        pass
    named = max((len(wanted.intersection(map(clean_name, cells))) for cells in rows), default=0)
    lengths = Counter(len(cells) for cells in rows if len(cells) > 1)
    regular = max((count * min(length, 50) for length, count in lengths.items()), default=0)
    return named, regular
