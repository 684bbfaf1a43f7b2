"""Looking at a table that nobody has described: where its header is, what its columns mean, how rows find their files.

Names say what a column may be; what stands in it must agree. What only a person can know is asked, not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from client.cohort.cells import parser
from client.cohort.dates import order_of, parse_dates, parse_times
from client.cohort.delimited import first_rows
from client.cohort.identities import normal_id
from client.cohort.localtable import Row, cell_text, clean_name, kind_of
from client.cohort.recordings import ANYWHERE, Recordings, match
from client.cohort.tablefile import parquet_texts
from client.cohort.workbook import MOST_COLUMNS, opened_workbook, sheet_rows
from client.operator.headings import TIMES, meaning_of, plain
from client.site.table_settings import TableConfig
from ecgshared.ecg.person import NUMERIC_SEX
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import CohortError
from ecgshared.study.columns import STANDARD_COLUMNS

_ROWS = 1_000
"""Rows looked at."""
_READABLE = 0.8
"""Of a column's cells so many must be what its name says."""
_FOUND = 0.5
"""Of a column's values so many must name a recording for it to be the one that does."""


@dataclass
class TableGuess:
    """What a table seems to be.

    Attributes
    ----------
    settings : values of the ``table:`` section by key. why : what each rests on.
    columns : of each standard column that was found, the local one and what it rests on.
    unused : local columns that were not. open : what only a person can know.
    """

    settings: dict[str, Any]
    why: dict[str, str]
    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    rows: int = 0


@dataclass(frozen=True)
class _Seen:
    """The part of a table that was looked at: its header, and the cells of each column."""

    header: list[str]
    cells: dict[str, list[str]]
    line: int
    spreadsheet: bool


def look_at_table(path: Path, recordings: Recordings, records: dict[str, EcgRecord]) -> TableGuess:
    """Guess the ``table:`` section of a site file.

    Parameters
    ----------
    recordings : of the folder, to tell which column names them.
    records : some of them as read, to tell what numbers for sex mean.

    Raises
    ------
    CohortError : the file is not there or no table.
    """
    guess = TableGuess({"path": str(path)}, {})
    seen = _look(path, guess)
    guess.rows = max(map(len, seen.cells.values()), default=0)
    if not guess.rows:
        raise CohortError("the table has no rows", where=path)
    _columns(seen, guess)
    _times(seen, guess)
    _join(seen, recordings, guess)
    _dates(seen, guess)
    _sex(seen, recordings, records, guess)
    taken = {local for entry in guess.columns.values() for local in entry.split(" + ")}
    guess.unused = [name for name in seen.header if name and name not in taken]
    if "patient_id" not in guess.columns:
        guess.open.append(
            "table.columns.patient_id: which column tells the patients apart? without one: patient_id_missing: "
            "each-ecg-a-patient"
        )
    guess.settings["columns"] = {
        name: ({"date": local.partition(" + ")[0], "time": local.partition(" + ")[2]} if " + " in local else local)
        for name, local in guess.columns.items()
    }
    return guess


def _look(path: Path, guess: TableGuess) -> _Seen:
    kind = kind_of(path)
    if kind == "parquet":
        return _parquet(path)
    if kind == "workbook":
        with opened_workbook(path) as book:
            found = [(sheet.title, list(islice(sheet_rows(sheet, MOST_COLUMNS), _ROWS))) for sheet in book.worksheets]
        best: tuple[str, list[Row]] = max(found, key=lambda entry: (_known(entry[1]), len(entry[1])), default=("", []))
        if len(found) > 1:
            guess.settings["sheet"] = best[0]
            guess.why["table.sheet"] = f"of {len(found)} sheets the one with most columns of a known name"
        return _seen(best[1], path, guess, spreadsheet=True)
    rows, separator, encoding = first_rows(path)
    guess.settings["separator"] = separator
    guess.why |= {
        "table.separator": "it splits the lines alike",
        "table.encoding": f"{encoding}, from the file's bytes",
    }
    return _seen(rows, path, guess, spreadsheet=False)


def _parquet(path: Path) -> _Seen:
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=_ROWS), None)
        names = [clean_name(name) for name in file.schema_arrow.names]
        cells = {name: list(parquet_texts(batch.column(i))) if batch else [] for i, name in enumerate(names)}
    except Exception as error:
        raise CohortError(f"is not readable Parquet ({type(error).__name__})", where=path) from None
    return _Seen(names, cells, 0, False)


def _known(rows: Sequence[Row]) -> int:
    return max((_names(cells) for _, cells in rows[:50]), default=0)


def _names(cells: Sequence[str]) -> int:
    """How many cells of a row are names of columns that are known."""
    return sum(meaning_of(cell) is not None or plain(cell) in TIMES for cell in cells if 0 < len(cell) <= 60)


def _seen(rows: list[Row], path: Path, guess: TableGuess, *, spreadsheet: bool) -> _Seen:
    if not rows:
        raise CohortError("the table is empty", where=path)
    names = [_names(cells) for _, cells in rows[:50]]
    widths = Counter(sum(bool(cell.strip()) for cell in cells) for _, cells in rows)
    wide = max(widths, key=lambda width: (widths[width] * width, width))
    # Where no name is known, the first line that is as wide as the table.
    place = (
        names.index(max(names))
        if max(names)
        else next((i for i, (_, cells) in enumerate(rows) if sum(bool(c.strip()) for c in cells) >= wide), 0)
    )
    line, cells = rows[place]
    header = [clean_name(cell) for cell in cells]
    while header and not header[-1]:
        header.pop()
    if place or line > 1:
        guess.settings["header"] = line
        guess.why["table.header"] = "the first line of names"
    body = [row for _, row in rows[place + 1 :] if len(row) >= len(header) or spreadsheet]
    columns = {
        name: [cell_text(row[i]) if i < len(row) else "" for row in body]
        for i, name in enumerate(header)
        if name and header.count(name) == 1
    }
    return _Seen(header, columns, line, spreadsheet)


def _columns(seen: _Seen, guess: TableGuess) -> None:
    """Give each standard column the local one that is called so, and holds such values."""
    offers: list[tuple[int, int, str, str]] = []
    doubted: dict[str, str] = {}
    for place, (local, cells) in enumerate(seen.cells.items()):
        meaning = meaning_of(local)
        if meaning is None:
            continue
        name, sure = meaning
        # Empty today: a column by its standard name was made to be filled one day.
        if not any(cells) and sure < 3:
            continue
        if name == "file":
            continue
        if _fits(name, cells, seen):
            offers.append((-sure, place, name, local))
        elif sure > 1:
            doubted[name] = local
    for sure, _, name, local in sorted(offers):
        if name in guess.columns:
            guess.open.append(f"table.columns.{name}: {guess.columns[name]!r} was taken; or is it {local!r}?")
            continue
        guess.columns[name] = local
        guess.why[f"columns.{name}"] = "its name and what stands in it" if sure <= -2 else "a part of its name"
    guess.open += [
        f"table.columns.{name}: is it {local!r}? It is called so, but more than one cell in five cannot be read so; "
        "map it, and check shows which"
        for name, local in doubted.items()
        if name not in guess.columns
    ]


def _fits(name: str, cells: list[str], seen: _Seen) -> bool:
    """Tell whether a column holds what a standard column may hold."""
    column = STANDARD_COLUMNS[name]
    values = sorted(set(cells) - {""})
    if column.kind == "date":
        orders = (True, False) if order_of(values) is None else (order_of(values),)
        bad = min(len(parse_dates(values, date_format=None, day_first=order)[1]) for order in orders)
        return bad <= (1 - _READABLE) * len(values)
    if column.kind in ("id", "text"):
        # A day is nobody's name, however many different ones there are.
        dates = parse_dates(values, date_format=None, day_first=True)[1]
        if values and column.kind == "id" and len(dates) < (1 - _READABLE) * len(values) and not _compact(values):
            return False
        return name != "ecg_id" or len(values) > 0.9 * sum(map(bool, cells))
    read = parser(column, TableConfig(path=Path(), columns={}))
    counts, readable = Counter(cell for cell in cells if cell), 0
    for value, rows in counts.items():
        try:
            read(value)
            readable += rows
        except ValueError as error:
            readable += rows * (str(error) == NUMERIC_SEX)
    return readable >= _READABLE * counts.total()


def _compact(values: list[str]) -> bool:
    """Tell whether most are plain digits, which are numbers of people as often as days."""
    return sum(value.isdecimal() for value in values) > 0.5 * len(values)


def _times(seen: _Seen, guess: TableGuess) -> None:
    """Join the date of the ECG with the column of its time of day, where the date has none."""
    local = guess.columns.get("recorded_at")
    if local is None:
        return
    stamps, _ = parse_dates(sorted(set(seen.cells[local]) - {""}), date_format=None, day_first=True)
    if any(stamp == stamp and stamp != stamp.astype("datetime64[D]") for stamp in stamps):
        return
    for name, cells in seen.cells.items():
        values = sorted(set(cells) - {""})
        if name not in guess.columns.values() and plain(name) in TIMES and values and not parse_times(values)[1]:
            guess.columns["recorded_at"] = f"{local} + {name}"
            guess.why["columns.recorded_at"] += f"; {name!r} holds its time of day"
            return


def _join(seen: _Seen, recordings: Recordings, guess: TableGuess) -> None:
    """Find the column whose cells name the recordings, and what must stand around them."""
    folders = {str(folder) for path in recordings.paths for folder in PurePosixPath(path).parents} - {"."}
    outermost_first = sorted(folders, key=lambda folder: (folder.count("/"), folder))
    places = ["", *(f"{folder}/" for folder in outermost_first[:20]), ANYWHERE]
    best: tuple[float, str, str] = (0.0, "", "")
    for name, cells in seen.cells.items():
        values = [normal_id(cell).replace("\\", "/").removeprefix("./") for cell in cells if cell]
        if len(set(values)) < 0.5 * len(values) or not values or any(mark in name for mark in "{}"):
            continue
        for around in places:
            file = match(recordings, [around + value for value in values]).file
            share = float((file >= 0).mean())
            # One folder, where it holds them all; else the name in every folder, so that what is not found is told.
            surer = share > best[0] or (share == best[0] < 1 and around == ANYWHERE and best[2] not in ("", ANYWHERE))
            if share and surer:
                best = (share, name, around)
    share, name, around = best
    if share < _FOUND:
        guess.settings["join"] = "{file}"
        guess.columns["file"] = guess.columns.get("file", _called(seen, "file") or "WHICH COLUMN?")
        guess.open.append(
            "table.columns.file, table.join: no column was found that names the recordings; the first is called "
            f"{recordings.paths[0]!r}"
        )
        return
    if around == "":
        guess.columns["file"] = name
    guess.settings["join"] = f"{around}{{{name}}}" if around else "{file}"
    where = f" behind {around!r}" if around else ""
    guess.why["table.join" if around else "columns.file"] = f"{share:.0%} of its cells{where} name a recording"
    if around:
        guess.columns.setdefault("file", name)
        guess.why["columns.file"] = guess.why["table.join"]


def _called(seen: _Seen, column: str) -> str | None:
    return next((name for name in seen.cells if (meaning_of(name) or ("", 0))[0] == column), None)


def _dates(seen: _Seen, guess: TableGuess) -> None:
    """Say how dates are written where slashes leave it open."""
    locals_ = [guess.columns[n].partition(" + ")[0] for n in guess.columns if STANDARD_COLUMNS[n].kind == "date"]
    open_ones = [name for name in locals_ if _open_order(seen.cells[name])]
    if not open_ones:
        return
    orders = {order for name in locals_ if (order := order_of(seen.cells[name])) is not None}
    if len(orders) == 1:
        guess.settings["day_first"] = orders.pop()
        guess.why["table.day_first"] = "other dates of the table"
    else:
        guess.open.append(
            f"table.day_first: is 03/04/2020 in {open_ones[0]!r} the third of April (true) or March 4 (false)?"
        )


def _open_order(cells: list[str]) -> bool:
    values = sorted(set(cells) - {""})
    if order_of(values) is not None:
        return False
    bad = {order: len(parse_dates(values, date_format=None, day_first=order)[1]) for order in (None, True, False)}
    return bad[None] > min(bad[True], bad[False])


def _sex(seen: _Seen, recordings: Recordings, records: dict[str, EcgRecord], guess: TableGuess) -> None:
    """Learn what numbers for sex mean from the recordings' own statements; else ask."""
    local = guess.columns.get("sex")
    numbers = sorted({normal_id(cell) for cell in seen.cells.get(local or "", []) if cell.replace(".0", "").isdigit()})
    if local is None or not numbers:
        return
    meant: dict[str, Counter[str]] = {number: Counter() for number in numbers}
    names = _paths(seen, guess)
    for file, cell in zip(match(recordings, names).file.tolist(), seen.cells[local], strict=False):
        sex = records[recordings.paths[file]].sex if file >= 0 and recordings.paths[file] in records else None
        if sex is not None and normal_id(cell) in meant:
            meant[normal_id(cell)][sex] += 1
    told = {number: counts.most_common(1)[0][0] for number, counts in meant.items() if len(counts) == 1}
    if len(told) == len(numbers) == len(set(told.values())):
        guess.settings["values"] = {"sex": told}
        seen_in = sum(sum(counts.values()) for counts in meant.values())
        guess.why["table.values"] = f"{seen_in} recordings state the sex themselves, all agree"
    else:
        guess.open.append(
            f"table.values: which of {', '.join(numbers)} in {local!r} is F, which M? {{sex: {{'1': M, ...}}}}"
        )


def _paths(seen: _Seen, guess: TableGuess) -> list[str]:
    join = guess.settings.get("join", "{file}")
    local = guess.columns["file"]
    around = "" if join == "{file}" else join.partition("{")[0]
    return [around + normal_id(cell).replace("\\", "/") if cell else "" for cell in seen.cells.get(local, [])]
