"""From the text of a cell to its standard value: numbers, sex, flags, codes in the usual spellings.

Each parser sees one distinct text and returns its value, or raises ValueError saying what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from client.cohort.identities import normal_id
from client.site.table_settings import TableConfig
from ecgshared.ecg.person import parse_age, parse_sex
from ecgshared.study.columns import Column
from ecgshared.study.declared import DeclaredColumn

_YES = """1 true t yes y ja j si sì sí oui sim s wahr vrai verdadero verdadeiro vero waar sant sann sand kyllä
    tosi tak prawda"""
_NO = """0 false f no n nein nej nei nee non não nao falsch faux falso onwaar falskt falsk usann usand ei epätosi nie
    fałsz"""


def _spellings(**words: str) -> dict[str, str]:
    return {word: meaning for meaning, text in words.items() for word in text.split()}


_FLAGS = {word: float(meaning == "yes") for word, meaning in _spellings(yes=_YES, no=_NO).items()}

_ICD10 = re.compile(r"([A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?)(?:\.?[-–—])?[*+†!]?")
_CERTAINTY = re.compile(r"([A-Z]\d[0-9A-Z](?:\.\d{1,2}|\.?-)?[*+†!]?)\s*([GVAZ])|([A-Z]\d[0-9A-Z])\s+([GVAZ])")
"""A code and what German records put behind it: sure, suspected, excluded, past. E88.A and S72.001A are none such."""

_BETWEEN_CODES = re.compile(r"\s*[,;|/]\s*|\s+(?=[A-Za-z]\d)")


def parser(column: Column, config: TableConfig) -> Callable[[str], Any]:
    """Return the parser for a standard column that is no date; it is never given an empty text."""
    if column.kind == "number":
        return lambda text: _plausible(text, column, config.decimal)
    plain: dict[str, Callable[[str], Any]] = {
        "sex": lambda text: parse_sex(text) or "",
        "flag": parse_flag,
        "code": parse_icd10,
        "id": normal_id,
        "text": str,
    }
    return plain[column.kind]


def declared_parser(column: DeclaredColumn, decimal: str | None, times: float = 1.0) -> Callable[[str], Any]:
    """Return the parser for a declared column that is no date; ``times`` makes the study's unit of a number."""
    if column.kind == "flag":
        return parse_flag
    if column.range is None:
        return column.level_of
    low, high = column.range

    def number(text: str) -> float:
        value = parse_number(text, decimal) * times
        # A bound written in another unit must not be missed by a rounding of the factor.
        if not low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high):
            raise ValueError(column.allowed)
        return min(max(value, low), high)

    return number


def parse_number(text: str, decimal: str | None) -> float:
    """Return a number with the decimal mark ``decimal``; None takes a point or a comma."""
    marks = "[.,]" if decimal is None else re.escape(decimal)
    if not re.fullmatch(rf"[+-]?\d+(?:{marks}\d*)?(?:[eE][+-]?\d+)?", text):
        hint = "" if decimal is None else f" with decimal {decimal!r}"
        raise ValueError(f"a number{hint}, without thousands marks")
    return float(text.replace(",", "."))


def _plausible(text: str, column: Column, decimal: str | None) -> float:
    if column.name == "age":
        return parse_age(text, decimal=decimal).years
    if column.name == "lvef":
        return parse_lvef(text, decimal)
    value = parse_number(text, decimal)
    low, high = column.low, column.high
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{low:g} to {high:g}" if low is not None and high is not None else "a plausible number")
    return value


def parse_lvef(text: str, decimal: str | None = None) -> float:
    """Return a fraction: 0.35, 35 and "35 %" are the same."""
    percent = text.endswith("%")
    value = parse_number(text.removesuffix("%").strip(), decimal)
    if percent or 5 <= value <= 100:
        value /= 100
    if not 0.01 <= value <= 1:
        raise ValueError("a fraction of 0.01 to 1, or per cent of 5 to 100")
    return value


def parse_flag(text: str) -> float:
    """Return 1.0 or 0.0."""
    key = text.lower()
    try:
        return _FLAGS[normal_id(key)]
    except KeyError:
        raise ValueError("1 or 0, yes or no, true or false in most languages; others through values:") from None


def parse_icd10(text: str) -> str:
    """Return an ICD-10 code in capitals, or several with blanks between: ``I46.1, R96`` is ``I46.1 R96``.

    A dash for digits left out is dropped: ``I21.-`` is the category I21; so is the G of a German code that is sure. One
    that is suspected, excluded or past (``I21.9 A``) is refused: it is no diagnosis.
    """
    codes = []
    for part in _BETWEEN_CODES.split(text.strip().strip(",;|/")):
        part = _sure(part.upper().strip())
        found = _ICD10.fullmatch(part.replace(" ", ""))
        if found is None:
            raise ValueError("an ICD-10 code such as I21.9 or I21.-, or several: I46.1, R96")
        codes.append(found[1])
    return " ".join(dict.fromkeys(codes))


def _sure(code: str) -> str:
    """Return a code without the letter that says how sure it is."""
    found = _CERTAINTY.fullmatch(code)
    if found is None:
        return code
    bare, letter = (found[1], found[2]) if found[1] else (found[3], found[4])
    if letter != "G":
        word = {"V": "suspected", "A": "excluded", "Z": "past"}[letter]
        raise ValueError(
            f"a diagnosis; {letter} behind it says {word}: leave it out, or say through values: what it is"
        )
    return str(bare)
