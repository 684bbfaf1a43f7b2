"""No two groups that are told of differ by a few patients."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.privacy.groups import close_groups

PATIENT = np.repeat(np.arange(40), 2)


def below(number):
    return number > PATIENT


def test_a_group_that_leaves_out_a_few_is_closed():
    closed = close_groups({"most": below(35), "half": below(20), "half again": below(20)}, PATIENT, 10)
    assert list(closed) == ["most"]
    assert "everybody eligible" in closed["most"]


def test_the_later_of_two_near_groups_is_closed():
    groups = {"half": below(20), "a few more": below(23), "far": below(8)}
    assert set(close_groups(groups, PATIENT, 10)) == {"a few more"}
    assert close_groups(groups, PATIENT, 3) == {}


def test_ecgs_of_few_patients_count_as_few():
    """Two groups of the same patients, by other ECGs: what lies between is still those patients' data."""
    first = np.arange(80) % 2 == 0
    assert close_groups({"first": first}, PATIENT, 10) == {}
    some = np.ones(80, dtype=bool)
    some[:6:2] = False
    assert set(close_groups({"but three ECGs": some}, PATIENT, 10)) == {"but three ECGs"}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 39), max_size=40), max_size=6), st.integers(1, 15))
def test_no_two_that_stay_open_are_near(chosen, least):
    groups = {str(i): np.isin(PATIENT, people) for i, people in enumerate(chosen)}
    closed = close_groups(groups, PATIENT, least)
    left = [np.ones(80, dtype=bool), *(groups[name] for name in groups if name not in closed)]
    for a, b in combinations(left, 2):
        for part in (a & ~b, b & ~a):
            assert not 0 < len(np.unique(PATIENT[part])) < least
    for name, why in closed.items():
        assert name in groups
        assert str(least) in why
