"""Who opted out: the site's own list, and those forgotten before, of whom only pseudonyms are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.cohort.identities import Near, asked_forms, is_damaged, kept_forms, normal_id
from client.cohort.workbook import opened_workbook, sheet_rows
from client.site.keys import SiteKeys
from client.site.settings import SiteSettings
from ecgshared.errors import CohortError
from ecgshared.service.files import append_line

OPT_OUT_FILE = "opt-out.txt"
"""In the site's state: a pseudonym a line; behind ``~`` that of a form by which ids near it are known."""

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
    for number, name in [] if settings.exclude is None else _names(settings.exclude):
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


def _names(path: Path) -> list[tuple[int, str]]:
    """Return line and id of everyone on a list: of a text file, or of the first column of a workbook."""
    try:
        raw = path.read_bytes()
        if raw.startswith(b"PK\x03\x04"):
            with opened_workbook(path) as book:
                return _cleaned((line, cells[0]) for line, cells in sheet_rows(book.worksheets[0], 1))
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
    lines = (line.partition("#")[0].strip().rstrip(",;\t").strip().strip('"') for line in text.splitlines())
    found = _cleaned(enumerate(lines, start=1))
    for number, name in found:
        if len(name) > LONGEST or "\0" in name:
            raise CohortError(
                "is no list of ids", where=f"{path}:{number}", allowed="a text file of patient ids, one a line"
            )
    return found


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
