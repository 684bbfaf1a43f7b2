"""Populations: each filter against a plain loop, unknown values, faults of a study file by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.config import ConfigError, validate
from ecgshared.study.populations import Population, kinds, members, numbers_of

DAY = np.timedelta64(1, "D")
ECG = np.datetime64("2016-06-01T10:00:00", "s")


def population(**content) -> Population:
    return validate(Population, content, where="here")


def table(**changes):
    columns = {
        "age": np.array([30.0, 79.99, 80.0, np.nan]),
        "sex": np.array(["F", "M", "M", ""]),
        "lvef": np.array([0.35, np.nan, 0.6, 0.5]),
        "device": np.array(["TC70", "tc70 ", "MAC 5500", ""], dtype=object),
        "recorded_at": np.array([ECG] * 4),
        "icd_date": np.array([ECG, ECG + DAY, np.datetime64("NaT"), ECG - 300 * DAY]).astype("datetime64[s]"),
        "index_date": np.array([ECG + 2 * DAY, ECG + DAY, ECG - DAY, np.datetime64("NaT")]).astype("datetime64[s]"),
        "diabetes": np.array([1.0, 0.0, np.nan, 0.0]),
    }
    return columns | changes


def chosen(columns=None, *, among=None, patient=(0, 1, 2, 3), **content):
    columns = table() if columns is None else columns
    among = np.ones(4, dtype=bool) if among is None else np.array(among)
    return members(population(**content), columns, among, np.array(patient)).tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"age": {"below": 80}}, [True, True, False, False]),
        ({"age": {"at_least": 30, "at_most": 80}}, [True, True, True, False]),
        ({"age": {"above": 30}}, [False, True, True, False]),
        ({"age": "unknown"}, [False, False, False, True]),
        ({"lvef": "known"}, [True, False, True, True]),
        ({"sex": "m"}, [False, True, True, False]),
        ({"male": False}, [True, False, False, False]),
        ({"device": {"one_of": ["TC70", "x"]}}, [True, True, False, False]),
        ({"defibrillator": False}, [False, True, True, False]),
        ({"defibrillator": True}, [True, False, False, True]),
        ({"days_to_index": {"at_least": 2}}, [True, False, False, False]),
        ({"diabetes": 0}, [False, True, False, True]),
        ({"year": {"at_least": 2016, "below": 2017}}, [True, True, True, True]),
        ({"age": {"below": 80}, "defibrillator": False}, [False, True, False, False]),
    ],
)
def test_each_filter(where, expected):
    assert chosen(where=where) == expected


def test_what_a_hospital_does_not_know_passes_no_filter():
    lacking = {k: v for k, v in table().items() if k not in ("icd_date", "lvef", "index_date")}
    for where in (
        {"defibrillator": False},
        {"defibrillator": True},
        {"lvef": "known"},
        {"days_to_index": {"above": 0}},
    ):
        assert not any(chosen(lacking, where=where))
    assert all(chosen(lacking, where={"defibrillator": "unknown"}))


def test_only_the_eligible_belong_and_the_last_is_the_last_of_those_that_pass():
    when = np.array([ECG, ECG + 5 * DAY, ECG + 9 * DAY, np.datetime64("NaT")])
    columns = table(recorded_at=when, age=np.array([50.0, 50, 90, 50]))
    assert chosen(columns, patient=(0, 0, 0, 0), where={"age": {"below": 80}}, most_recent_only=True) == [
        False, True, False, False,
    ]  # fmt: skip
    assert chosen(columns, patient=(0, 0, 0, 1), most_recent_only=True) == [False, False, True, True]
    assert chosen(columns, among=[True, False, False, True], patient=(0, 0, 0, 1), most_recent_only=True) == [
        True, False, False, True,
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    ages=st.lists(st.one_of(st.just(math.nan), st.floats(0, 120)), min_size=1, max_size=9),
    low=st.floats(0, 60),
    width=st.floats(0.5, 60),
)
def test_bounds_against_a_loop(ages, low, width):
    found = members(
        population(where={"age": {"at_least": low, "below": low + width}}),
        {"age": np.array(ages)},
        np.ones(len(ages), dtype=bool),
        np.arange(len(ages)),
    )
    assert found.tolist() == [not math.isnan(a) and low <= a < low + width for a in ages]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "needs a filter"),
        ({"where": {"age": {}}}, "needs a bound"),
        ({"where": {"age": {"above": 5, "below": 5}}}, "no number lies between 5 and 5"),
        ({"where": {"age": {"under": 5}}}, "under"),
        ({"where": {"sex": {"one_of": []}}}, "at least 1"),
    ],
)
def test_what_a_study_cannot_say(content, told):
    with pytest.raises(ConfigError, match=told):
        population(**content)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"agee": {"below": 80}}, "where.agee: no such column; did you mean age"),
        ({"age": True}, "true and false are for flags; this is a number"),
        ({"sex": {"below": 3}}, "bounds are for numbers; this is a sex"),
        ({"diabetes": "yes"}, "one_of is for words; this is a flag"),
        ({"patient_id": "known"}, "where.patient_id: no such column"),
    ],
)
def test_filters_of_the_wrong_kind_are_named(where, told):
    assert any(told in fault for fault in population(where=where).check(kinds()))


def test_declared_columns_can_be_filtered():
    faults = population(where={"troponin": {"above": 14}}).check(kinds({"troponin": "number"}))
    assert faults == []
    found = members(
        population(where={"troponin": {"above": 14}}),
        {"troponin": np.array([3.0, 20.0, np.nan])},
        np.ones(3, dtype=bool),
        np.arange(3),
    )
    assert found.tolist() == [False, True, False]


def test_numbers_that_follow_from_the_date():
    when = np.array(["2016-12-31T23:59:59", "1969-01-01T00:30:00", "NaT"], dtype="datetime64[s]")
    columns = {"recorded_at": when}
    np.testing.assert_array_equal(numbers_of("year", columns, 3), [2016, 1969, np.nan])
    np.testing.assert_array_equal(numbers_of("month", columns, 3), [12, 1, np.nan])
    np.testing.assert_array_equal(numbers_of("hour", columns, 3), [23, 0, np.nan])
    np.testing.assert_array_equal(numbers_of("defibrillator", columns, 3), [np.nan] * 3)
    np.testing.assert_array_equal(numbers_of("defibrillator", table(), 4), [1, 0, 0, 1])
