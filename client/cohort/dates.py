"""A column of dates as tables hold them: what the whole column says decides what one cell leaves open.

``03/04/2020`` is the third of April or the fourth of March. A column that also holds ``31/12/2020`` tells which; one
that does not, or that holds ``12/31/2020`` too, leaves it open, and such cells are refused. A number is a date only
where spreadsheets count days, and never beside dates that the spreadsheet may have read with day and month exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from ecgshared.ecg.person import parse_date

SERIAL_ORIGIN = datetime(1899, 12, 30)
"""Day 0 of the days that Excel counts; workbooks of old Macintoshes count from 1904-01-01."""

_SLASH = re.compile(r"(\d{1,2})[/-](\d{1,2})[/-](\d{4})(?:\s.*)?")
"""With dashes too: carts and databases of the United States write 04-03-2020 for the third of April. Dots never."""

_SERIAL = re.compile(r"(\d{4,5})(?:[.,](\d+))?")
_SERIAL_DAYS = (10_000, 73_050)
"""1927-05-18 to 2100-01-01: days as a spreadsheet counts them, and neither years nor numbers of people."""

_MONTHS = (
    ("jan", "januar", "january", "januari", "janvier", "enero", "ene", "gennaio", "gen", "janeiro", "jän", "jänner"),
    ("feb", "februar", "february", "februari", "février", "fév", "févr", "febrero", "febbraio", "fevereiro", "fev"),
    ("mar", "march", "märz", "mär", "mrz", "mars", "marzo", "marts", "maart", "mrt", "março"),
    ("apr", "april", "avril", "avr", "abril", "abr", "aprile"),
    ("may", "mai", "maj", "mayo", "maggio", "mag", "mei", "maio"),
    ("jun", "june", "juni", "juin", "junio", "giugno", "giu", "junho"),
    ("jul", "july", "juli", "juillet", "juil", "julio", "luglio", "lug", "julho"),
    ("aug", "august", "augusti", "augustus", "août", "aoû", "agosto", "ago"),
    ("sep", "sept", "september", "septembre", "septiembre", "settembre", "set", "setembro"),
    ("oct", "october", "okt", "oktober", "octobre", "octubre", "ottobre", "ott", "outubro", "out"),
    ("nov", "november", "novembre", "noviembre", "novembro"),
    ("dec", "december", "dez", "dezember", "déc", "décembre", "diciembre", "dic", "dicembre", "desember",
     "des", "dezembro"),
)  # fmt: skip
_MONTH = {word: number for number, words in enumerate(_MONTHS, start=1) for word in words}
_NAMED = re.compile(r"(\d{1,2})(?:\.|-|/|\s)?\s*(?:de\s+)?([^\W\d_]{3,10})\.?(?:-|/|\s)?\s*(?:de\s+)?(\d{4})(\s.*)?")
_DATE_CELL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")
_HALF_DAY = re.compile(r"(.*?)(\d{1,2})(:\d{2}(?::\d{2})?)\s*([AaPp])\.?[Mm]\.?")
_CLOCK = re.compile(r"(\d{1,2})[:.hH](\d{2})(?:[:.](\d{2})(?:[.,]\d+)?)?(?:\s*(?:Uhr|kl\.?))?")
_CLOCK_DIGITS = re.compile(r"(\d{2})(\d{2})(\d{2})?")

OPEN_ORDER = "a date whose day and month the column tells apart; set table.day_first: true or false"
EXCHANGED = (
    "dates of one form: beside 31/12/2020 as text, a spreadsheet's own dates may have day and month exchanged; "
    "export the column as text"
)


def parse_dates(
    texts: Sequence[str],
    *,
    date_format: str | None,
    day_first: bool | None,
    spreadsheet: bool = False,
    origin: datetime = SERIAL_ORIGIN,
) -> tuple[list[np.datetime64], dict[int, str]]:
    """Return each text's date in seconds, NaT where it is empty or not one, and by index what would be allowed.

    Parameters
    ----------
    texts : a column's distinct texts.
    day_first : whether 03/04/2020 is the third of April; None lets the column decide.
    spreadsheet : the texts come out of a workbook.
    """
    slashes = {i: found for i, text in enumerate(texts) if (found := _SLASH.fullmatch(text))}
    order, evidence = (day_first, "") if day_first is not None else _order(list(slashes.values()))
    counted = [i for i, text in enumerate(texts) if _serial(text) is not None]
    cells = {i for i, text in enumerate(texts) if spreadsheet and _from_a_date_cell(text)} if slashes else set()
    converted = cells.union(counted) if slashes and date_format is None else set()
    out, bad = [], {}
    for i, text in enumerate(texts):
        value: Any = np.datetime64("NaT", "s")
        if text:
            try:
                if date_format is not None:
                    value = np.datetime64(parse_date(text, date_format=date_format), "s")
                elif i in converted:
                    raise ValueError(EXCHANGED)
                else:
                    value = _one(text, slashes.get(i), order, evidence, origin)
            except ValueError as error:
                bad[i] = str(error)
        out.append(value)
    return out, bad


def parse_times(texts: Sequence[str]) -> tuple[list[np.timedelta64], dict[int, str]]:
    """Return each text's time since midnight in seconds, NaT where it is empty or none, and what would be allowed."""
    out, bad = [], {}
    for i, text in enumerate(texts):
        seconds: Any = np.timedelta64("NaT", "s")
        if text:
            try:
                seconds = np.timedelta64(_seconds(text), "s")
            except ValueError as error:
                bad[i] = str(error)
        out.append(seconds)
    return out, bad


def order_of(texts: Sequence[str]) -> bool | None:
    """Return whether a column writes the day first, None where no cell tells or the cells contradict each other."""
    return _order([found for text in texts if (found := _SLASH.fullmatch(text))])[0]


def _order(found: Sequence[re.Match[str]]) -> tuple[bool | None, str]:
    day = next((m[0] for m in found if int(m[1]) > 12 >= int(m[2])), None)
    month = next((m[0] for m in found if int(m[2]) > 12 >= int(m[1])), None)
    if day and month:
        return None, f" (the column holds {day} as well as {month})"
    return (None, "") if not day and not month else (day is not None, "")


def _one(text: str, slash: re.Match[str] | None, order: bool | None, evidence: str, origin: datetime) -> np.datetime64:
    half = _HALF_DAY.fullmatch(text)
    if half is not None:
        text = f"{half[1]}{_twelve_hours(half)}"
    if slash is not None:
        first, second = int(slash[1]), int(slash[2])
        if order is None and first <= 12 and second <= 12 and first != second:
            raise ValueError(OPEN_ORDER + evidence)
        # Where a part is no month the cell tells itself; a wrong one is refused by the calendar.
        order = order if order is not None else second <= 12
        return np.datetime64(parse_date(text, day_first=order), "s")
    days = _serial(text)
    if days is not None:
        return np.datetime64(origin + timedelta(seconds=round(days * 86_400)), "s")
    named = _NAMED.fullmatch(text)
    if named is not None and named[2].lower() in _MONTH:
        text = f"{named[3]}-{_MONTH[named[2].lower()]:02d}-{int(named[1]):02d}{(named[4] or '').rstrip()}"
    return np.datetime64(parse_date(text, day_first=True), "s")


def _twelve_hours(half: re.Match[str]) -> str:
    hour = int(half[2])
    if not 1 <= hour <= 12:
        raise ValueError("an hour of 1 to 12 before AM or PM")
    return f"{hour % 12 + (12 if half[4] in 'Pp' else 0):02d}{half[3]}"


def _serial(text: str) -> float | None:
    found = _SERIAL.fullmatch(text)
    if found is None or not _SERIAL_DAYS[0] <= int(found[1]) < _SERIAL_DAYS[1]:
        return None
    return float(f"{found[1]}.{found[2] or 0}")


def _from_a_date_cell(text: str) -> bool:
    """As :mod:`client.cohort.workbook` writes a cell that the spreadsheet itself takes for a date."""
    return _DATE_CELL.fullmatch(text) is not None


def _seconds(text: str) -> int:
    allowed = "a time of day such as 14:05, 14:05:30, 1405 or 2:05 PM"
    half = _HALF_DAY.fullmatch(text)
    if half is not None and not half[1]:
        text = _twelve_hours(half)
    # A spreadsheet writes a time as a part of a day, and a cell of date and time as both.
    if re.fullmatch(r"0[.,]\d+", text):
        return round(float(text.replace(",", ".")) * 86_400) % 86_400
    text = re.sub(r"^(?:1899-12-30|1900-01-0[01]|1904-01-01)[T ]", "", text)
    found = _CLOCK.fullmatch(text) or _CLOCK_DIGITS.fullmatch(text)
    if found is None:
        raise ValueError(allowed)
    hour, minute, second = (int(part or 0) for part in found.groups())
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(allowed)
    return hour * 3600 + minute * 60 + second
