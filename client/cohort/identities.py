"""Identifiers of patients, compared as identities: what is one person, what may be one, what is damaged beyond telling.

Two ids are the same when their normal forms are equal. They are NEAR when they differ only in what exports change on
their way: case, leading zeros, blanks, and dashes and their like. ``12-3`` and ``1-23`` are not near, nor are two ids
whose digits differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_WHOLE = re.compile(r"(\d+)\.0+")
_SCIENTIFIC = re.compile(r"[+-]?\d(?:[.,]\d+)?[eE]\+\d{2,3}")
_MARKS = re.compile(r"[\W_]+")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))

DAMAGED = "an id with all its digits: a spreadsheet made this a rounded number; export the column as text"


def normal_id(text: str) -> str:
    """Return an identifier without surrounding blanks, or the ``.0`` that spreadsheets put behind whole numbers."""
    if text.isalnum():
        return text
    text = text.translate(_INVISIBLE).strip() if not text.isascii() else text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def is_damaged(name: str) -> bool:
    """Tell whether an id went through a spreadsheet as a number (1.23457E+11): several people became one."""
    return _SCIENTIFIC.fullmatch(name) is not None


def may_have_been(damaged: str, name: str) -> bool:
    """Tell whether rounding ``name``, a whole number, gives what is left of a damaged id."""
    if not name.isdecimal() or not name.isascii():
        return False
    digits = len(damaged.replace(",", ".").lower().partition("e")[0].partition(".")[2])
    return f"{int(name):.{digits}E}" == f"{float(damaged.replace(',', '.')):.{digits}E}"


def _parts(name: str) -> tuple[str, str]:
    """Return (its parts joined by dashes, its characters without marks): zeros and case are gone from both."""
    if name.isascii() and name.isalnum():
        one = _ZEROS.sub("", name.lower())
        return one, one
    plain = unicodedata.normalize("NFKC", name).casefold()
    parts = "-".join(_ZEROS.sub("", part) for part in _MARKS.split(plain) if part)
    return parts or plain, _ZEROS.sub("", _MARKS.sub("", plain)) or plain


def kept_forms(name: str) -> tuple[str, ...]:
    """Return the forms to remember an id by; another id is near where any of its :func:`asked_forms` is among them."""
    parts, bare = _parts(name)
    return (f"parts {parts}", f"bare {bare}", *((f"one {bare}",) if parts == bare else ()))


def asked_forms(name: str) -> tuple[str, ...]:
    """Return the forms by which an id is looked for among :func:`kept_forms`."""
    parts, bare = _parts(name)
    return (f"parts {parts}", f"one {bare}", *((f"bare {bare}",) if parts == bare else ()))


class Near:
    """A set of ids that can be asked for those near another."""

    def __init__(self, names: Iterable[str]) -> None:
        self._kept: dict[str, list[str]] = {}
        for name in names:
            for form in kept_forms(name):
                self._kept.setdefault(form, []).append(name)

    def crowded(self) -> list[str]:
        """Return the ids of the set that are near another of it."""
        return list(dict.fromkeys(name for names in self._kept.values() if len(names) > 1 for name in names))

    def to(self, name: str) -> list[str]:
        """Return the ids near ``name``, itself left out, in the set's order."""
        found = dict.fromkeys(other for form in asked_forms(name) for other in self._kept.get(form, ()))
        found.pop(name, None)
        return list(found)
