"""Who opted out: the site's own list, and those forgotten before, of whom only pseudonyms are kept."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.cohort.identities import Near, asked_forms, is_damaged, kept_forms, normal_id
from client.cohort.workbook import MOST_COLUMNS, opened_workbook, sheet_rows
from client.site.keys import SiteKeys
from client.site.settings import SiteSettings
from ecgshared.errors import CohortError
from ecgshared.service.files import append_line

OPT_OUT_FILE = "opt-out.txt"
"""In the site's state: a pseudonym a line; behind ``~`` that of a form by which ids near it are known."""

HEADER_WITHIN = 20
"""Lines in which a list of several columns must name them."""

LONGEST = 200
"""No hospital's number is longer; what is, is another file's content."""


@dataclass(frozen=True)
class OptOuts:
    """Everyone who opted out.

    Attributes
    ----------
    path : the site's ``exclude`` file, None where it has none.
    listed : ids in it, in their normal form, and the line each stands in first.
    damaged : lines and ids in it that a spreadsheet rounded: nobody can say whose they are.
    forgotten, forgotten_near : pseudonyms of those forgotten, and of the forms that ids near theirs have.
    """

    path: Path | None
    listed: dict[str, int]
    damaged: tuple[tuple[int, str], ...]
    forgotten: frozenset[bytes]
    forgotten_near: frozenset[bytes]


def read_opt_outs(settings: SiteSettings) -> OptOuts:
    """Read the site's opt-out list and the pseudonyms of those forgotten.

    Raises
    ------
    CohortError : one of them cannot be read; no id is in its text.
    """
    listed: dict[str, int] = {}
    damaged: list[tuple[int, str]] = []
    for number, name in [] if settings.exclude is None else _names(settings.exclude, _heading(settings)):
        if is_damaged(name):
            damaged.append((number, name))
        else:
            listed.setdefault(name, number)
    forgotten, near = _forgotten(settings.state / OPT_OUT_FILE)
    return OptOuts(settings.exclude, listed, tuple(damaged), forgotten, near)


def remember_forgotten(settings: SiteSettings, keys: SiteKeys, name: str) -> None:
    """Put a person on the list of those forgotten: as pseudonyms, of the id and of what ids near it have."""
    for form in kept_forms(name):
        append_line(settings.state / OPT_OUT_FILE, f"~{keys.near(form).hex()}")
    append_line(settings.state / OPT_OUT_FILE, keys.patient(name).hex())


def left_out(
    opt_outs: OptOuts, names: Sequence[str], pseudonyms: Sequence[bytes], keys: SiteKeys, *, near: bool
) -> dict[int, str]:
    """Return which of ``names`` opted out, and by which id of the list, "" for those forgotten.

    Parameters
    ----------
    near : whether ids near one that opted out are left out too.
    """
    found: dict[int, str] = {}
    likely = Near(opt_outs.listed) if near and opt_outs.listed else None
    ask_forgotten = near and bool(opt_outs.forgotten_near)
    for place, (name, pseudonym) in enumerate(zip(names, pseudonyms, strict=True)):
        if name in opt_outs.listed:
            found[place] = name
        elif pseudonym in opt_outs.forgotten:
            found[place] = ""
        elif likely is not None and (others := likely.to(name)):
            found[place] = others[0]
        elif ask_forgotten and any(keys.near(form) in opt_outs.forgotten_near for form in asked_forms(name)):
            found[place] = ""
    return found


def _heading(settings: SiteSettings) -> str:
    local = settings.table.columns.get("patient_id")
    return local if isinstance(local, str) else "patient_id"


def _names(path: Path, heading: str) -> list[tuple[int, str]]:
    """Return line and id of everyone on a list, text or workbook; of several columns the one called ``heading``."""
    try:
        raw = path.read_bytes()
        if raw.startswith(b"PK\x03\x04"):
            with opened_workbook(path) as book:
                return _cleaned(_of_one_column(list(sheet_rows(book.worksheets[0], MOST_COLUMNS)), heading, path))
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except FileNotFoundError:
        raise CohortError("there is no such opt-out list", where=path, remedy="check `exclude`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(
            f"the opt-out list cannot be read ({type(error).__name__})",
            where=path,
            allowed="a UTF-8 text file of patient ids, one a line",
            remedy="save it as UTF-8",
        ) from None
    # Out of a spreadsheet a column comes in quotes, or with the separators of empty columns behind it.
    lines = [line.partition("#")[0].strip().rstrip(",;\t").strip() for line in text.splitlines()]
    mark = next((mark for mark in ";\t," if any(mark in _unquoted(line) for line in lines if not is_damaged(line))), "")
    cells = [next(csv.reader([line], delimiter=mark), []) if mark else [line.strip('"')] for line in lines]
    found = _cleaned(_of_one_column(list(enumerate(cells, start=1)), heading, path))
    for number, name in found:
        if len(name) > LONGEST or "\0" in name:
            raise CohortError(
                "is no list of ids", where=f"{path}:{number}", allowed="a text file of patient ids, one a line"
            )
    return found


def _unquoted(line: str) -> str:
    return re.sub(r'"[^"]*"', "", line)


def _of_one_column(rows: Sequence[tuple[int, Sequence[str]]], heading: str, path: Path) -> Iterator[tuple[int, str]]:
    """Give line and cell of the only column, or of the one that is called as the table's patient id.

    Raises
    ------
    CohortError : there are several, and which holds the ids nobody can say: whoever opted out would stay in.
    """
    if all(sum(bool(cell.strip()) for cell in cells) <= 1 for _, cells in rows):
        yield from ((line, next((cell for cell in cells if cell.strip()), "")) for line, cells in rows)
        return
    called = {_plain(name) for name in (heading, "patient_id", "patient")}
    for start, (_, cells) in enumerate(rows[:HEADER_WITHIN]):
        place = next((i for i, cell in enumerate(cells) if _plain(cell) in called), None)
        if place is not None:
            yield from ((line, below[place] if place < len(below) else "") for line, below in rows[start + 1 :])
            return
    raise CohortError(
        "the opt-out list has several columns, and none is called as the table's patient id",
        where=path,
        allowed=f"one id a line, or a column called {heading!r}",
        remedy="keep the ids alone, one a line, or name their column so",
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _cleaned(lines: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(number, name) for number, text in lines if (name := normal_id(text))]


def _forgotten(path: Path) -> tuple[frozenset[bytes], frozenset[bytes]]:
    if not path.exists():
        return frozenset(), frozenset()
    try:
        lines = path.read_text(encoding="ascii").split()
        near = frozenset(bytes.fromhex(line[1:]) for line in lines if line.startswith("~"))
        return frozenset(bytes.fromhex(line) for line in lines if not line.startswith("~")), near
    except (OSError, ValueError) as error:
        raise CohortError(f"is damaged ({type(error).__name__})", where=path) from None
