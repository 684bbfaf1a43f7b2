"""Age and sex in the spellings of the world; no birth date comes through."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgshared.ecg import person


@pytest.mark.parametrize(
    "word", ["M", "male", "MALE", " Male ", "Mann", "männlich", "homme", "Hombre", "maschio", "man"]
)
def test_male(word: str) -> None:
    assert person.sex_of(word) == "M"


@pytest.mark.parametrize(
    "word", ["F", "female", "FEMALE", "weiblich", "W", "femme", "mujer", "donna", "vrouw", "kvinna"]
)
def test_female(word: str) -> None:
    assert person.sex_of(word) == "F"


@pytest.mark.parametrize(
    "word", ["", None, "U", "UN", "Unknown", "O", "other", "0", "1", "2", "9", "---", "D", "V", "divers"]
)
def test_unknown(word: str | None) -> None:
    assert person.sex_of(word) is None


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
    assert person.years(text, unit) == (None if years is None else pytest.approx(years))


def test_age_from_dates_is_in_completed_years() -> None:
    born = date(1980, 6, 10)
    assert person.age_at(None, born, date(2020, 6, 9)) == (39.0, [])
    assert person.age_at(None, born, date(2020, 6, 10)) == (40.0, [])
    assert person.age_at(41.0, born, date(2020, 6, 10)) == (41.0, [])
    assert person.age_at(999.0, born, date(2020, 6, 10)) == (40.0, [])
    assert person.age_at(None, None, date(2020, 6, 10)) == (None, [])


@given(born=st.dates(), recorded=st.dates())
def test_an_implausible_age_is_dropped_without_a_date(born: date, recorded: date) -> None:
    age, findings = person.age_at(None, born, recorded)
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
    assert person.moment(text) == expected


@pytest.mark.parametrize(
    ("text", "years", "sex"),
    [
        ("63 M", 63, "M"),
        ("45 m", 45, "M"),
        ("18 M", 18, "M"),
        ("58 male", 58, "M"),
        ("63M", 63, "M"),
        ("71F", 71, "F"),
        ("F/71", 71, "F"),
        ("63 y M", 63, "M"),
        ("63 years, female", 63, "F"),
        ("63 y/o", 63, None),
        ("M 40", 40, "M"),
        ("82 W", 82, "F"),
        ("45 Jahre", 45, None),
        ("6 mois", 0.5, None),
        ("6 mo", 0.5, None),
        ("018M", 1.5, None),
        ("18 months", 1.5, None),
        ("63 j", 63, None),
        ("63 unknown", 63, None),
    ],
)
def test_an_age_with_a_sex_and_the_units_of_the_world(text: str, years: float, sex: str | None) -> None:
    found = person.parse_age(text)
    assert (found.years, found.sex, found.capped) == (pytest.approx(years), sex, False)


@pytest.mark.parametrize(
    "text", ["18M", "6m", "6 m", "18 m", "52W", "104W", "12 j", "old", "", "M", "-3", "4 parsecs", "63 M F", "F 63 M"]
)
def test_what_cannot_be_told_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"an? |one sex|F, M|unit"):
        person.parse_age(text)


@pytest.mark.parametrize("text", ["300", "> 89", ">=90", "≥ 90", "90+", "300 Y", "over 89"])
def test_over_89(text: str) -> None:
    found = person.parse_age(text)
    assert (found.years, found.capped) == (90, True)


@pytest.mark.parametrize("text", ["131", "290", "1600 months"])
def test_ages_of_no_human(text: str) -> None:
    with pytest.raises(person.ImplausibleAge):
        person.parse_age(text)


def test_digits_are_no_sex_and_say_how_to_map_them() -> None:
    for text in ("0", "1", "2", "1.0", "-1"):
        with pytest.raises(ValueError, match="don't say which sex"):
            person.parse_sex(text)
    with pytest.raises(ValueError, match="F, M, female"):
        person.parse_sex("qwerty")


def test_a_stated_age_that_the_dates_contradict_is_named() -> None:
    born = date(1950, 6, 10)
    for stated, named in ((68.0, False), (70.0, False), (72.0, False), (72.9, True), (67.0, True), (30.0, True)):
        value, findings = person.age_at(stated, born, date(2021, 1, 1))
        assert value == stated
        assert [f.code for f in findings] == (["age-contradicts-dates"] if named else []), stated
        assert not any("1950" in f.message for f in findings)
    assert person.age_at(90.0, date(1920, 1, 1), date(2021, 1, 1)) == (90.0, [])  # capped in one place


def test_table_and_file_are_compared() -> None:
    table = np.array([50.0, 50.0, np.nan, 90.0, 52.1])
    file = np.array([52.0, 53.0, 40.0, 97.0, 50.0])
    assert person.ages_disagree(table, file).tolist() == [False, True, False, False, True]
    assert person.sexes_disagree(np.array(["F", "F", "", "M"]), np.array(["F", "M", "M", ""])).tolist() == [
        False,
        True,
        False,
        False,
    ]
