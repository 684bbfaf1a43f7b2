"""What may be told of beside what was told: held against a solver that shares none of the audit's code."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.privacy.audit import admitted, exposes

PEOPLE = np.arange(24)


def sets(*groups):
    return np.array([np.isin(PEOPLE, group) for group in groups])


def test_a_difference_of_nested_sets_is_exposed():
    told = sets(range(24))
    found = exposes(told, sets(range(22))[0], PEOPLE, 5)
    assert found is not None
    assert np.flatnonzero(found.rows).tolist() == [22, 23]
    assert exposes(told, sets(range(19))[0], PEOPLE, 5) is None


def test_a_union_of_parts_told_is_a_set_told():
    told = sets(range(8), range(8, 16))
    found = exposes(told, sets(range(17))[0], PEOPLE, 5)
    assert found is not None
    assert found.by == (0, 1)
    assert exposes(told, sets(range(16))[0], PEOPLE, 5) is None, "it is the sum of what was told"


def test_a_chain_of_many_sets_is_seen_through():
    """No two of these are near each other; the sum of the first three without the other three is one person's."""
    told = sets(range(6), range(6, 12), range(12, 18), [0, 1, 2, 6, 7, 8], [3, 4, 5, 12, 13, 14])
    last = sets([9, 10, 11, 15, 16])[0]
    for one in told:
        differ = (one ^ last).sum()
        assert not 0 < differ < 5
    assert exposes(told, last, PEOPLE, 5) is not None


def test_sets_that_overlap_by_chance_are_not_exposed():
    """Men and the young: four young women and six old men lie between, but only their difference is told."""
    assert exposes(sets(range(12)), sets([*range(6), *range(12, 18)])[0], PEOPLE, 5) is None


def test_ecgs_of_few_patients_count_as_few():
    patient = np.repeat(np.arange(12), 2)
    everybody = np.ones((1, 24), dtype=bool)
    but_one_ecg = everybody[0].copy()
    but_one_ecg[3] = False
    assert exposes(everybody, but_one_ecg, patient, 5) is not None


def smallest_solvable(told, few):
    """The 0/1 cells of fewer than ``few`` rows that some combination of the sets gives, by trying each of them."""
    found = []
    for size in range(1, few):
        for rows in combinations(range(told.shape[1]), size):
            cell = np.zeros(told.shape[1])
            cell[list(rows)] = 1
            if np.linalg.matrix_rank(np.vstack([told, cell])) == np.linalg.matrix_rank(told):
                found.append(rows)
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=9, unique=True), max_size=7), st.integers(2, 4))
def test_nothing_small_can_be_solved_from_what_is_admitted(chosen, few):
    patient = np.arange(9)
    asked = np.array([np.isin(patient, people) for people in chosen], dtype=bool).reshape(-1, 9)
    passed = admitted(asked, patient, few)
    told = asked[passed].astype(float)
    assert not len(told) or smallest_solvable(told, few) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 23), max_size=24, unique=True), min_size=1, max_size=6))
def test_what_was_told_may_be_told_again(chosen):
    asked = np.array([np.isin(PEOPLE, people) for people in chosen])
    passed = admitted(asked, PEOPLE, 5)
    again = admitted(asked[passed], PEOPLE, 5, told=asked[passed])
    assert again.all()
