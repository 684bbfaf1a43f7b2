"""Reading the site's own table, CSV or Parquet, as the text its owner sees, with the line of every row."""

from __future__ import annotations

import codecs
import csv
import fnmatch
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.site.settings import TableConfig
from ecgshared.errors import CohortError

SEPARATORS: tuple[str, ...] = (",", ";", "\t", "|")
EMPTY = frozenset({"", "na", "n/a", "nan", "nat", "null", "none", "<na>"})
"""Spellings of an empty cell, in lower case."""


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
    """

    path: Path
    columns: dict[str, Coded]
    lines: NDArray[np.int64]

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


def read_table(config: TableConfig, wanted: Iterable[str]) -> LocalTable:
    """Read the ``wanted`` local columns of the site's table.

    Raises
    ------
    CohortError : naming everything that stands in the way: the file, absent columns, lines of a wrong length.
    """
    names = sorted(set(wanted))
    if not config.path.is_file():
        raise CohortError("there is no such table", where=config.path, remedy="check table.path")
    if config.path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(config.path, names)
    return _read_csv(config, names)


def _absent(names: list[str], header: list[str], path: Path) -> None:
    twice = sorted({name for name in names if header.count(name) > 1})
    lines = [f"  column {name!r} stands twice in the header" for name in twice]
    for name in names:
        if name not in header:
            close = get_close_matches(name, header, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(map(repr, header[:40]))}"
            lines.append(f"  no column {name!r}; {hint}")
    if lines:
        raise CohortError("the header does not fit table.columns:\n" + "\n".join(lines), where=f"{path}:1")


def _read_csv(config: TableConfig, names: list[str]) -> LocalTable:
    encoding = config.encoding or _guess_encoding(config.path)
    coders: list[dict[str, int]] = [{} for _ in names]
    codes = [array("i") for _ in names]
    lines = array("q")
    ragged: list[str] = []
    try:
        with config.path.open(encoding=encoding, newline="") as file:
            first = file.readline()
            separator: str = config.separator or max(SEPARATORS, key=lambda mark: first.count(mark))
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _absent(names, header, config.path)
            places = [header.index(name) for name in names]
            for row in reader:
                if not row or (len(row) == 1 and not row[0].strip()):
                    continue
                if len(row) != len(header):
                    ragged.append(f"  line {reader.line_num}: {len(row)} cells, the header has {len(header)}")
                    continue
                lines.append(reader.line_num)
                for place, coder, column in zip(places, coders, codes, strict=True):
                    column.append(coder.setdefault(_cell(row[place]), len(coder)))
    except (UnicodeError, LookupError):
        raise CohortError(
            "cannot be decoded", where=config.path, value=encoding, remedy="set table.encoding, e.g. latin-1"
        ) from None
    except csv.Error as error:
        where = f"{config.path}:{reader.line_num}"
        raise CohortError(f"is not valid CSV: {error}", where=where, remedy="export it again") from None
    except OSError as error:
        raise CohortError(f"cannot be read ({type(error).__name__})", where=config.path) from None
    if ragged:
        shown = ragged[:200] + ([f"  and {len(ragged) - 200} more"] if len(ragged) > 200 else [])
        raise CohortError(
            f"{len(ragged)} line(s) of a wrong length:\n" + "\n".join(shown),
            where=config.path,
            remedy=f"quote cells that hold the separator {separator!r}, or set table.separator",
        )
    columns = {
        name: Coded(np.frombuffer(column, dtype=np.int32).copy(), tuple(coder))
        for name, column, coder in zip(names, codes, coders, strict=True)
    }
    return LocalTable(config.path, columns, np.frombuffer(lines, dtype=np.int64).copy())


def _guess_encoding(path: Path) -> str:
    """UTF-16 and UTF-8 by their marks; otherwise UTF-8 if the whole file is, or else Latin-1."""
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(start)
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def _cell(text: str) -> str:
    text = text.strip()
    return "" if text.lower() in EMPTY else text


def _read_parquet(path: Path, names: list[str]) -> LocalTable:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _absent(names, list(file.schema_arrow.names), path)
        coders: list[dict[str, int]] = [{} for _ in names]
        parts: list[list[NDArray[np.int32]]] = [[] for _ in names]
        total = file.metadata.num_rows
        for batch in file.iter_batches(columns=names):
            for name, coder, part in zip(names, coders, parts, strict=True):
                encoded = batch.column(name)
                if not pyarrow.types.is_dictionary(encoded.type):
                    encoded = encoded.dictionary_encode()
                local = [coder.setdefault(text, len(coder)) for text in _texts(encoded.dictionary)]
                blank = coder.setdefault("", len(coder))
                picked = encoded.indices.fill_null(len(local)).to_numpy(zero_copy_only=False)
                part.append(np.asarray([*local, blank], dtype=np.int32)[picked])
    except (pyarrow.ArrowException, OSError) as error:
        raise CohortError(f"is not readable Parquet ({type(error).__name__})", where=path) from None
    columns = {
        name: Coded(np.concatenate([np.zeros(0, np.int32), *part]), tuple(coder))
        for name, coder, part in zip(names, coders, parts, strict=True)
    }
    return LocalTable(path, columns, np.arange(1, total + 1, dtype=np.int64))


def _texts(values: object) -> Iterator[str]:
    from datetime import date, datetime

    for value in values.to_pylist():  # type: ignore[attr-defined]
        if isinstance(value, bool):
            yield str(int(value))
        elif isinstance(value, datetime | date):
            yield value.isoformat()
        elif isinstance(value, bytes):
            yield _cell(value.decode("utf-8", errors="replace"))
        else:
            yield _cell(str(value))
