"""Age and sex out of what a file says about a person; the rest of it is not kept.

An age worked out from the birth date is in completed years: with the time of recording, which is kept, a
finer one would give the birth date away.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time

from ecgshared.ecg.record import Finding, Sex

MAX_AGE_YEARS = 130.0

_SPELLINGS: dict[Sex, str] = {
    "M": "m male man mann männlich maennlich homme masculin hombre masculino varon varón homem maschio maschile "
    "uomo mannelijk mand masculine h",
    "F": "f female woman frau weiblich w femme féminin feminin mujer femenino mulher feminino femmina femminile "
    "donna vrouw vrouwelijk v kvinde kvinna kvinne feminine k d",
}
_SEXES: dict[str, Sex] = {word: sex for sex, words in _SPELLINGS.items() for word in words.split()}

_YEARS_PER = {"y": 1.0, "a": 1.0, "j": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25, "h": 1 / 8766.0}
_UNITS = {"year": "y", "yr": "y", "mo": "m", "mon": "m", "wk": "w", "jahr": "y", "ann": "y"}
_AGE = re.compile(r"(\d{1,4}(?:[.,]\d+)?)\s*([a-z]*)", re.IGNORECASE)
_DIGITS = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ]?(\d{2}):?(\d{2})(?::?(\d{2}))?)?")


def sex_of(text: str | None) -> Sex | None:
    """Return the sex a word stands for in any usual spelling; digits only as ISO 5218 has them (1 male, 2 female)."""
    word = (text or "").strip().lower()
    return {"1": "M", "2": "F"}.get(word) or _SEXES.get(word)  # type: ignore[return-value]


def years(text: str | None, unit: str | None = None) -> float | None:
    """Return an age such as ``042Y``, ``18 months`` or (``40``, ``YEARS``) in years; None where it is none."""
    match = _AGE.fullmatch((text or "").strip())
    if match is None:
        return None
    word = (match[2] or unit or "y").strip().lower()
    letter = next((short for start, short in _UNITS.items() if word.startswith(start)), word[:1])
    factor = _YEARS_PER.get(letter)
    return None if factor is None else float(match[1].replace(",", ".")) * factor


def day(year: object, month: object, of_month: object) -> date | None:
    """Return a date from its parts, None where they make none."""
    try:
        return date(int(str(year)), int(str(month)), int(str(of_month)))
    except (ValueError, OverflowError):
        return None


def clock(hour: object, minute: object, second: object = 0) -> time | None:
    """Return a time of day from its parts, None where they make none."""
    try:
        return time(int(str(hour)), int(str(minute)), int(float(str(second))))
    except (ValueError, OverflowError):
        return None


def moment(text: str | None) -> datetime | None:
    """Return the local time in ISO 8601, basic (HL7, DICOM) or extended; zone and fractions are dropped."""
    match = _DIGITS.match((text or "").strip())
    if match is None:
        return None
    on = day(match[1], match[2], match[3])
    at = clock(match[4] or 0, match[5] or 0, min(int(match[6] or 0), 59))
    return None if on is None or at is None else datetime.combine(on, at)


def age(stated: float | None, birth: date | None, recorded: date | None) -> tuple[float | None, list[Finding]]:
    """Return the age at recording: as stated, else from birth and recording dates in completed years.

    A finding says that neither gives a plausible age; it never holds a date.
    """
    from_dates: float | None = None
    if birth is not None and recorded is not None:
        from_dates = float(recorded.year - birth.year - ((recorded.month, recorded.day) < (birth.month, birth.day)))
    given = [value for value in (stated, from_dates) if value is not None]
    plausible = [value for value in given if math.isfinite(value) and 0 <= value <= MAX_AGE_YEARS]
    if plausible:
        return plausible[0], []
    if given:
        return None, [Finding("age-implausible", f"age {given[0]:g} is not plausible and is dropped", value=given[0])]
    return None, []
