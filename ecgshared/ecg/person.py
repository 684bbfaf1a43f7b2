"""Age, sex and dates as files and tables write them: one rule for every reader and every table.

What a text cannot say for certain is unknown, never guessed: digits stand for a sex only where a format's own
standard or the site's file says which; D is "divers" as well as "dam"; "6m" is six months as well as a boy of six.

An age worked out from a birth date is in completed years: with the time of recording, which is kept, a finer one
would give the birth date away. No message and no finding holds a date.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, time

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats
from ecgshared.ecg.record import Finding, Sex

MAX_AGE_YEARS = 130.0
AGE_CAPPED_YEARS = 90.0
"""An age given as "over 89" (PTB-XL writes 300) is read as this."""

OVER_89 = 300.0
AGE_TOLERANCE_YEARS = 2.0
"""Two statements about one age may differ by this much: birthdays, rounding, a table written a year later."""

NUMERIC_SEX = "numbers don't say which sex they mean: set e.g. values: {sex: {'0': M, '1': F}}"
OTHER_SEX = "F, M, female, male and their like in most languages; others through values: {sex: {...}}"

_SEX_WORDS: dict[str, str] = {
    "M": "m male males man men mann maennlich männlich manlig mand mandlig herr h homme masculin hombre masculino "
    "masculine varon varón homem uomo maschio maschile mannelijk mies mężczyzna muž erkek мужской муж "
    "männl maennl masc mr boy ♂",
    "F": "f w k fem female females frau woman women weiblich kvinna kvinnlig kvinde kvindelig kvinne femme féminin "
    "feminin mujer femenino femenina mulher feminino feminina feminine donna femmina femminile vrouw vrouwelijk "
    "nainen kobieta žena kadın женский жен weibl mrs ms girl ♀",
    "": "u un unk unknown undefined undifferentiated undetermined indeterminate ambiguous x o oth other d divers "
    "diverse unbekannt okänd ukjent ukendt inconnu desconocido desconhecido sconosciuto onbekend n na none null "
    "notspecified unspecified notknown ? - --- .",
}
_SEXES = {word: sex for sex, words in _SEX_WORDS.items() for word in words.split()}

_YEARS_PER = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25, "h": 1 / 8766.0}
_UNIT_WORDS = {
    "y": "y yr yrs year years yo a j jahr jahre jahren jährig ans an année années año años ano anos anni anno år "
    "ar jaar let lat rok vuotta",
    "m": "mo mos mon mons mth mths month months monat monate monaten mois mes meses mesi mese maand maanden månad "
    "månader måned måneder",
    "w": "wk wks week weeks woche wochen semaine semaines semana semanas weken vecka veckor uge uger uke uker",
    "d": "d day days tag tage tagen jour jours dia dias día días giorno giorni dag dage dagar dager dagen",
    "h": "hr hrs hour hours stunde stunden",
}
_UNITS = {word: unit for unit, words in _UNIT_WORDS.items() for word in words.split()}
_UNIT_FIELD = _UNITS | {"m": "m", "w": "w", "h": "h"}
"""In a field of its own, a lone letter is a unit: a sex does not stand there."""

_NUMBER = r"\d{1,4}(?:[.,]\d+)?"
_AGE = re.compile(rf"(?P<value>{_NUMBER})(?P<gap>[\s/,;-]*)(?P<rest>\D*)")
_SEX_FIRST = re.compile(rf"(?P<sex>[^\W\d]+)[\s/,;:-]*(?P<age>{_NUMBER}.*)")
_CAPPED = re.compile(
    r"(?:(?:>=?|≥)\s*(?:89|90)|(?:89|90)\s*\+|(?:over|über|plus de)\s+(?:89|90))(?:\s*[a-z]+)?", re.IGNORECASE
)
_SPLIT = re.compile(r"[\s/,;()-]+")
_COUNTED_UP_TO = {"m": 36, "w": 104}
"""Nobody of more is counted in months or weeks: "63M" is a man, "18M" may be a child."""

_DAYS_UP_TO = 31
_NO_AGE = "an age in years such as 63, or with its unit: 18 months, 042Y"

_TIME = r"(?:[T ]\s*(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,]\d+)?)?\s*(?:Z|[+-]\d{2}:?\d{2})?)?"
_YEAR_FIRST = re.compile(r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})" + _TIME)
_YEAR_LAST = re.compile(r"(?P<a>\d{1,2})(?P<sep>[-/.])(?P<b>\d{1,2})(?P=sep)(?P<y>\d{4})" + _TIME)
_COMPACT = re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?:[T ]?(?P<H>\d{2})(?P<M>\d{2})(?P<S>\d{2})?)?(?:\.0+)?")
_MOMENT = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ]?(\d{2}):?(\d{2})(?::?(\d{2}))?)?")


@dataclass(frozen=True)
class Age:
    """An age in ``years``; ``capped`` where the text says "over 89"; ``sex`` where the same text names it."""

    years: float
    capped: bool = False
    sex: Sex | None = None


# --- sex ---------------------------------------------------------------------------------------------------------


def parse_sex(text: str) -> Sex | None:
    """Return the sex a word stands for, None where it stands for unknown or other.

    Raises
    ------
    ValueError : it is a number (:data:`NUMERIC_SEX`) or no word for a sex that is known here; says what is allowed.
    """
    key = text.strip().lower().rstrip(".") or "."
    if key in _SEXES:
        return _SEXES[key] or None  # type: ignore[return-value]
    if re.fullmatch(r"[-+]?\d+([.,]\d+)?", key):
        raise ValueError(NUMERIC_SEX)
    raise ValueError(OTHER_SEX)


def sex_of(text: str | None) -> Sex | None:
    """Return the sex a word stands for; None where it names none for certain."""
    try:
        return parse_sex(text or "")
    except ValueError:
        return None


# --- age ---------------------------------------------------------------------------------------------------------


def parse_age(text: str, unit: str | None = None, *, decimal: str | None = None) -> Age:
    """Return an age in years, and the sex where the text gives both: ``63 M``, ``F/71``, ``042Y``, ``18 months``.

    Parameters
    ----------
    unit : the unit where it stands in a field of its own; one within the text wins.
    decimal : the decimal mark; None takes a point or a comma.

    A number right before M is a man's age where it can be nothing else; three digits are DICOM's (``018M`` is 18
    months); ``18M`` is refused as ambiguous. 300, ``> 89`` and ``90+`` mean over 89 and give 90.

    Raises
    ------
    ValueError : no age, an ambiguous one, or none of a human; says what is allowed.
    """
    text = text.strip()
    if _CAPPED.fullmatch(text):
        return Age(AGE_CAPPED_YEARS, capped=True)
    first = _SEX_FIRST.fullmatch(text)
    sex = None
    if first is not None:
        sex, text = parse_sex(first["sex"]), first["age"]
    match = _AGE.fullmatch(text)
    if match is None or (decimal is not None and {".", ","} - {decimal} & set(match["value"])):
        raise ValueError(_NO_AGE)
    value = float(match["value"].replace(",", "."))
    found, named = _words_behind(match, value)
    factor = _YEARS_PER[found or _unit_field(unit)]
    if sex is not None and named not in (None, sex):
        raise ValueError("one sex beside the age, not two")
    years = value * factor
    if factor == 1 and years == OVER_89:
        return Age(AGE_CAPPED_YEARS, capped=True, sex=sex or named)
    if not 0 <= years <= MAX_AGE_YEARS:
        raise ImplausibleAge(years)
    return Age(years, sex=sex or named)


class ImplausibleAge(ValueError):
    """An age no human has, in ``years``."""

    def __init__(self, years: float) -> None:
        self.years = years
        super().__init__(f"0 to {MAX_AGE_YEARS:g} years, or {OVER_89:g} for over 89")


def _unit_field(unit: str | None) -> str:
    word = (unit or "").strip().lower().rstrip(".")
    if not word:
        return "y"
    if word not in _UNIT_FIELD:
        raise ValueError("an age in years, months, weeks, days or hours")
    return _UNIT_FIELD[word]


def _words_behind(match: re.Match[str], value: float) -> tuple[str | None, Sex | None]:
    """Return the unit and the sex that stand behind the number of an age, each None where it does not."""
    rest = match["rest"].strip().lower().replace("y.o.", "yo").replace("y/o", "yo")
    words = [word for word in (part.rstrip(".") for part in _SPLIT.split(rest)) if word not in ("", "of", "age", "old")]
    if words in (["m"], ["w"]):
        return _lone_letter(words[0], match, value)
    if words == ["j"] and value <= _DAYS_UP_TO:
        raise ValueError("the unit written out: J stands for years and for days")
    unit: str | None = None
    sex: Sex | None = None
    for word in words:
        if unit is None and sex is None and word in _UNITS:
            unit = _UNITS[word]
        elif sex is None and word in _SEXES:
            sex = parse_sex(word)
        else:
            raise ValueError(_NO_AGE)
    return unit, sex


def _lone_letter(letter: str, match: re.Match[str], value: float) -> tuple[str | None, Sex | None]:
    """Tell months and weeks from a man and a woman where one letter follows the number.

    Apart from the number a capital is the sex, and a small letter may be either. At once behind it, it is the unit in
    the three digits of DICOM, the sex where nobody counts that far in the unit, and else ambiguous.
    """
    digits, sex = match["value"], parse_sex(letter)
    if not match["gap"] or match["rest"].strip().islower():
        if not match["gap"] and len(digits) == 3 and digits.isdecimal() and (digits[0] == "0" or value > MAX_AGE_YEARS):
            return letter, None
        if value <= _COUNTED_UP_TO[letter]:
            raise ValueError(f"a unit or a sex that is written out: {digits} {letter.upper()} can be both")
    return None, sex


def years(text: str | None, unit: str | None = None) -> float | None:
    """Return an age in years, plausible or not, None where the text is none for certain."""
    try:
        return parse_age(text or "", unit).years
    except ImplausibleAge as error:
        return error.years
    except ValueError:
        return None


def age_at(stated: float | None, birth: date | None, recorded: date | None) -> tuple[float | None, list[Finding]]:
    """Return the age at recording: as stated, else from birth and recording dates in completed years.

    A finding names an age that cannot be one, and a stated age that the two dates contradict by more than
    :data:`AGE_TOLERANCE_YEARS`; it never holds a date.
    """
    from_dates: float | None = None
    if birth is not None and recorded is not None:
        from_dates = float(recorded.year - birth.year - ((recorded.month, recorded.day) < (birth.month, birth.day)))
    given = [value for value in (stated, from_dates) if value is not None]
    plausible = [value for value in given if math.isfinite(value) and 0 <= value <= MAX_AGE_YEARS]
    findings = []
    if len(plausible) == 2 and bool(ages_disagree(plausible[0], plausible[1])):
        apart = abs(plausible[0] - plausible[1])
        findings.append(
            Finding(
                "age-contradicts-dates",
                f"the stated age, {plausible[0]:g}, is {apart:.0f} years from what birth and recording date make",
                value=round(apart),
            )
        )
    if plausible:
        return plausible[0], findings
    if given:
        return None, [Finding("age-implausible", f"age {given[0]:g} is not plausible and is dropped", value=given[0])]
    return None, []


# --- one person in two places --------------------------------------------------------------------------------------


def ages_disagree(one: Floats | float, other: Floats | float) -> Bools:
    """Mark ages of one person that differ by more than :data:`AGE_TOLERANCE_YEARS`; arrays or single numbers.

    An unknown age (NaN) disagrees with none; ages over 89 are alike, as one place may have capped them.
    """
    a, b = (np.minimum(np.asarray(x, dtype=np.float64), AGE_CAPPED_YEARS) for x in (one, other))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(a - b) > AGE_TOLERANCE_YEARS, dtype=np.bool_)


def sexes_disagree(one: NDArray[np.str_], other: NDArray[np.str_]) -> Bools:
    """Mark rows whose two statements of sex, "F", "M" or "" for unknown, are both known and differ."""
    a, b = np.asarray(one), np.asarray(other)
    return np.asarray((a != "") & (b != "") & (a != b), dtype=np.bool_)


# --- dates -------------------------------------------------------------------------------------------------------


def parse_date(text: str, *, date_format: str | None = None, day_first: bool = True) -> datetime:
    """Return a date, with its time where one is given; an offset from UTC and fractions of a second are left out.

    Parameters
    ----------
    date_format : of :meth:`datetime.strptime`; None takes ISO 8601, compact or extended, and day.month.year.
    day_first : whether 03/04/2020 and 03-04-2020 are the third of April; with dots the day is always first.

    Raises
    ------
    ValueError : no date in these forms, or none of the calendar; says what is allowed.
    """
    text = text.strip()
    if date_format is not None:
        try:
            return datetime.strptime(text, date_format).replace(tzinfo=None, microsecond=0)
        except ValueError:
            raise ValueError(f"a date in the form {date_format}") from None
    order = "day first" if day_first else "month first"
    allowed = f"2020-12-31, 20201231, 31.12.2020 or 31/12/2020 ({order}), with or without a time"
    found = _YEAR_FIRST.fullmatch(text) or _YEAR_LAST.fullmatch(text) or _COMPACT.fullmatch(text)
    if found is None:
        raise ValueError(allowed)
    part = found.groupdict()
    if "a" in part:
        swapped = not day_first and part["sep"] != "."
        part["d"], part["m"] = (part["b"], part["a"]) if swapped else (part["a"], part["b"])
    try:
        stamp = datetime(*(int(part[key] or 0) for key in "ymdHMS"))  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"a day of the calendar, {allowed}") from None
    if not 1800 <= stamp.year <= 2300:
        raise ValueError(f"a year between 1800 and 2300; for a mark of 'none' set values: {{...: {{{text!r}: ''}}}}")
    return stamp


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
    match = _MOMENT.match((text or "").strip())
    if match is None:
        return None
    on = day(match[1], match[2], match[3])
    at = clock(match[4] or 0, match[5] or 0, min(int(match[6] or 0), 59))
    return None if on is None or at is None else datetime.combine(on, at)
