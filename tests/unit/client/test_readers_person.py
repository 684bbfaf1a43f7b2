"""Age and sex in the spellings of the world; no birth date comes through."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.readers import _person


@pytest.mark.parametrize(
    "word", ["M", "male", "MALE", " Male ", "Mann", "männlich", "homme", "Hombre", "maschio", "man", "1"]
)
def test_male(word: str) -> None:
    assert _person.sex_of(word) == "M"


@pytest.mark.parametrize(
    "word", ["F", "female", "FEMALE", "weiblich", "W", "femme", "mujer", "donna", "vrouw", "kvinna", "2"]
)
def test_female(word: str) -> None:
    assert _person.sex_of(word) == "F"


@pytest.mark.parametrize("word", ["", None, "U", "UN", "Unknown", "O", "other", "0", "9", "---"])
def test_unknown(word: str | None) -> None:
    assert _person.sex_of(word) is None


@pytest.mark.parametrize(
    ("text", "unit", "years"),
    [
        ("40", "YEARS", 40),
        ("042Y", None, 42),
        ("18", "MONTHS", 1.5),
        ("018M", None, 1.5),
        ("46", "a", 46),
        ("6", "mo", 0.5),
        ("52", "wk", 364 / 365.25),
        ("10", "d", 10 / 365.25),
        ("71,5", "Years", 71.5),
        ("", None, None),
        ("old", None, None),
        ("-3", "Y", None),
        ("4", "parsecs", None),
    ],
)
def test_ages(text: str, unit: str | None, years: float | None) -> None:
    assert _person.years(text, unit) == (None if years is None else pytest.approx(years))


def test_age_from_dates_is_in_completed_years() -> None:
    born = date(1980, 6, 10)
    assert _person.age(None, born, date(2020, 6, 9)) == (39.0, [])
    assert _person.age(None, born, date(2020, 6, 10)) == (40.0, [])
    assert _person.age(41.0, born, date(2020, 6, 10)) == (41.0, [])
    assert _person.age(999.0, born, date(2020, 6, 10)) == (40.0, [])
    assert _person.age(None, None, date(2020, 6, 10)) == (None, [])


@given(born=st.dates(), recorded=st.dates())
def test_an_implausible_age_is_dropped_without_a_date(born: date, recorded: date) -> None:
    age, findings = _person.age(None, born, recorded)
    assert (age is None) == bool(findings)
    assert age is None or 0 <= age <= 130
    assert not any(born.isoformat() in f.message for f in findings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20021122091000", datetime(2002, 11, 22, 9, 10)),
        ("20021122091000.123+0100", datetime(2002, 11, 22, 9, 10)),
        ("2010-01-19T15:19:22", datetime(2010, 1, 19, 15, 19, 22)),
        ("200211220737", datetime(2002, 11, 22, 7, 37)),
        ("19530508", datetime(1953, 5, 8)),
        ("20021322", None),
        ("2002", None),
        (None, None),
    ],
)
def test_moments(text: str | None, expected: datetime | None) -> None:
    assert _person.moment(text) == expected
