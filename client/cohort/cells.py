"""From the text of a cell to its standard value: dates, numbers, sex, flags, codes in the usual spellings.

Each parser sees one distinct text and returns its value, or raises ValueError saying what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

from client.site.settings import TableConfig
from ecgshared.study.columns import Column

AGE_CAPPED_YEARS = 90.0
"""An age given as "over 89" (PTB-XL writes 300) is read as this."""

NUMERIC_SEX = "numbers don't say which sex they mean: set e.g. values: {sex: {'0': M, '1': F}}"

_MALE = """m male man men mann maennlich männlich manlig mand mandlig herr h homme masculin hombre
    masculino homem uomo maschio maschile mies"""
_FEMALE = """f w k female woman women frau weiblich kvinna kvinnlig kvinde kvindelig kvinne femme féminin
    feminin mujer femenino mulher feminino donna femmina femminile vrouw nainen"""
_NO_SEX = """u unknown unk x o other d divers unbekannt okänd ukjent inconnu desconocido desconhecido
    undetermined indeterminate"""
_YES = """1 true t yes y ja j si sì sí oui sim"""
_NO = """0 false f no n nein nej nei non não nao"""


def _spellings(**words: str) -> dict[str, str]:
    return {word: meaning for meaning, text in words.items() for word in text.split()}


_SEX = _spellings(M=_MALE, F=_FEMALE) | dict.fromkeys(_NO_SEX.split(), "")
_FLAGS = {word: float(meaning == "yes") for word, meaning in _spellings(yes=_YES, no=_NO).items()}

_TIME = r"(?:[T ]\s*(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,]\d+)?)?\s*(?:Z|[+-]\d{2}:?\d{2})?)?"
_YEAR_FIRST = re.compile(r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})" + _TIME)
_YEAR_LAST = re.compile(r"(?P<a>\d{1,2})(?P<sep>[-/.])(?P<b>\d{1,2})(?P=sep)(?P<y>\d{4})" + _TIME)
_COMPACT = re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?:[T ]?(?P<H>\d{2})(?P<M>\d{2})(?P<S>\d{2})?)?(?:\.0+)?")
_ICD10 = re.compile(r"[A-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4})?[*+†!]?")
_WHOLE = re.compile(r"(\d+)\.0+")


def parser(column: Column, config: TableConfig) -> Callable[[str], Any]:
    """Return the parser for a standard column; it is never given an empty text."""
    if column.kind == "date":
        return lambda text: parse_date(text, date_format=config.date_format, day_first=config.day_first)
    if column.kind == "number":
        return lambda text: _plausible(text, column, config.decimal)
    plain: dict[str, Callable[[str], Any]] = {
        "sex": parse_sex,
        "flag": parse_flag,
        "code": parse_icd10,
        "id": normal_id,
        "text": str,
    }
    return plain[column.kind]


def parse_date(text: str, *, date_format: str | None, day_first: bool) -> np.datetime64:
    """Return the stamp in seconds; a date without a time is its midnight, an offset from UTC is left out."""
    if date_format is not None:
        try:
            stamp = datetime.strptime(text, date_format)
        except ValueError:
            raise ValueError(f"a date in the form {date_format}") from None
        return np.datetime64(stamp.replace(tzinfo=None, microsecond=0), "s")
    order = "day first" if day_first else "month first"
    allowed = f"2020-12-31, 20201231, 31.12.2020 or 31/12/2020 ({order}), with or without a time"
    found = _YEAR_FIRST.fullmatch(text) or _YEAR_LAST.fullmatch(text) or _COMPACT.fullmatch(text)
    if found is None:
        raise ValueError(allowed)
    part = found.groupdict()
    if "a" in part:
        # Only slashes are ever month first; 12.31.2020 is nobody's custom.
        swapped = not day_first and part["sep"] == "/"
        part["d"], part["m"] = (part["b"], part["a"]) if swapped else (part["a"], part["b"])
    try:
        stamp = datetime(*(int(part[key] or 0) for key in "ymdHMS"))  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"a day of the calendar, {allowed}") from None
    if not 1800 <= stamp.year <= 2300:
        raise ValueError(f"a year between 1800 and 2300; for a mark of 'none' set values: {{...: {{{text!r}: ''}}}}")
    return np.datetime64(stamp, "s")


def parse_number(text: str, decimal: str | None) -> float:
    """Return a number with the decimal mark ``decimal``; None takes a point or a comma."""
    marks = "[.,]" if decimal is None else re.escape(decimal)
    if not re.fullmatch(rf"[+-]?\d+(?:{marks}\d*)?(?:[eE][+-]?\d+)?", text):
        hint = "" if decimal is None else f" with decimal {decimal!r}"
        raise ValueError(f"a number{hint}, without thousands marks")
    return float(text.replace(",", "."))


def _plausible(text: str, column: Column, decimal: str | None) -> float:
    if column.name == "age":
        return parse_age(text, decimal)
    if column.name == "lvef":
        return parse_lvef(text, decimal)
    value = parse_number(text, decimal)
    low, high = column.low, column.high
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{low:g} to {high:g}" if low is not None and high is not None else "a plausible number")
    return value


def parse_age(text: str, decimal: str | None = None) -> float:
    """Return years; 300, "> 89", "90+" and the like mean over 89 and give 90."""
    if re.fullmatch(r"(>=?\s*(89|90))|((89|90)\s*\+)", text):
        return AGE_CAPPED_YEARS
    value = parse_number(text, decimal)
    if value == 300:
        return AGE_CAPPED_YEARS
    if not 0 <= value <= 130:
        raise ValueError("0 to 130 years, or 300 for over 89")
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


def parse_sex(text: str) -> str:
    """Return "F", "M", or "" for unknown and other."""
    key = text.lower().rstrip(".")
    if key in _SEX:
        return _SEX[key]
    if re.fullmatch(r"-?\d+([.,]0+)?", key):
        raise ValueError(NUMERIC_SEX)
    raise ValueError("F, M, female, male and their like in most languages; others through values: {sex: {...}}")


def parse_flag(text: str) -> float:
    """Return 1.0 or 0.0."""
    key = text.lower()
    whole = _WHOLE.fullmatch(key)
    try:
        return _FLAGS[whole[1] if whole else key]
    except KeyError:
        raise ValueError("1 or 0, yes or no, true or false") from None


def parse_icd10(text: str) -> str:
    """Return an ICD-10 code in capitals."""
    code = text.upper().replace(" ", "")
    if not _ICD10.fullmatch(code):
        raise ValueError("an ICD-10 code such as I21.9")
    return code


def normal_id(text: str) -> str:
    """Return an identifier without the ``.0`` that spreadsheets put behind whole numbers."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text
