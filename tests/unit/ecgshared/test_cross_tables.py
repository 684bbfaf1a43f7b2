"""What sums of yes/no columns tell: every cell that they give is empty or large enough, whatever the cohort."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.privacy.cross_tables import (
    CARRIED,
    CELL,
    DISCORDANT,
    EVENTS,
    UNKNOWN,
    closed_columns,
    levels_hidden,
    merged_levels,
)
from ecgshared.privacy.disclosure import DisclosureLimits

PARTS = [["a"], ["b"], ["a", "b"], ["c"], ["b", "c"]]
LIMITS = DisclosureLimits(min_patients=4, min_events=2)


def designed(factors, parts):
    return np.stack([np.prod([factors[f] for f in part], axis=0) for part in parts], axis=1).astype(float)


def judged(factors, y, patient, limits=LIMITS, parts=PARTS):
    factors = {name: np.asarray(v, dtype=float) for name, v in factors.items()}
    return closed_columns(designed(factors, parts), parts, factors, np.atleast_2d(y.T).T, patient, limits)


@st.composite
def cohorts(draw):
    n = draw(st.integers(8, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.lists(st.sampled_from([0.0, 0.03, 0.1, 0.3, 0.5, 0.9]), min_size=4, max_size=4))
    factors = {name: rng.random(n) < p for name, p in zip("abc", share, strict=False)}
    patient = rng.integers(0, max(n // 2, 4), n)
    y = np.stack([rng.random(n) < share[3], rng.random(n) < 0.3], axis=1).astype(np.int64)
    return factors, y, patient


@settings(max_examples=150, deadline=None)
@given(cohorts())
def test_no_cell_that_open_sums_give_by_subtraction_is_small(cohort):
    """The attacker's algebra, not ours: every pattern of flags that is a signed sum of released products."""
    factors, y, patient = cohort
    free, pairs = judged(factors, y, patient).open(len(PARTS), 2)
    released = {frozenset()} | {frozenset(PARTS[j]) for j in range(len(PARTS)) if free[j]}
    products = {a | b for a in released for b in released}
    for names in (set(c) for k in range(4) for c in combinations("abc", k)):
        for pattern in product([True, False], repeat=len(names)):
            ones = frozenset(n for n, on in zip(sorted(names), pattern, strict=True) if on)
            zeros = sorted(names - ones)
            needed = [ones | frozenset(c) for k in range(len(zeros) + 1) for c in combinations(zeros, k)]
            if not all(n in products for n in needed):
                continue
            inside = np.ones(len(patient), dtype=bool)
            for name, on in zip(sorted(names), pattern, strict=True):
                inside &= factors[name] == on
            people = len(np.unique(patient[inside]))
            if len(names):
                assert people == 0 or people >= LIMITS.min_patients
            for o in range(2):
                told = {frozenset()} if pairs[o, 0] else set()
                told |= {frozenset(PARTS[j]) for j in range(len(PARTS)) if pairs[o, j + 1]}
                if people and all(n in told for n in needed):
                    sick = len(np.unique(patient[inside & (y[:, o] == 1)]))
                    assert min(sick, people - sick) >= LIMITS.min_events


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_the_difference_of_two_outcomes_is_nobody_or_enough(cohort):
    factors, y, patient = cohort
    y = np.stack([y[:, 0], y[:, 0] | y[:, 1]], axis=1)
    _, pairs = judged(factors, y, patient).open(len(PARTS), 2)
    for j in range(len(PARTS) + 1):
        inside = np.ones(len(patient), dtype=bool)
        for name in PARTS[j - 1] if j else []:
            inside &= factors[name]
        if pairs[0, j] and pairs[1, j]:
            people = len(np.unique(patient[inside & (y[:, 0] != y[:, 1])]))
            assert people == 0 or people >= LIMITS.min_events


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_without_limits_nothing_is_closed(cohort):
    factors, y, patient = cohort
    free, pairs = judged(factors, y, patient, DisclosureLimits(min_patients=1, min_events=0)).open(len(PARTS), 2)
    assert free.all()
    assert pairs.all()


def crossed(both, only_a, only_b, neither):
    cells = np.repeat([3, 2, 1, 0], [both, only_a, only_b, neither])
    return {"a": cells >= 2, "b": cells % 2 == 1}, np.arange(len(cells))


def test_three_patients_with_both_close_the_later_flag_and_its_product():
    parts = [["a"], ["b"], ["a", "b"]]
    factors, patient = crossed(3, 40, 40, 40)
    y = (patient % 2).astype(np.int64)
    assert judged(factors, y, patient, parts=parts).columns == {1: CELL, 2: CELL}
    factors, patient = crossed(0, 40, 40, 40)
    assert not judged(factors, (patient % 2).astype(np.int64), patient, parts=parts).columns, "an empty cell is nobody"


def test_many_ecgs_of_few_patients_are_few():
    factors, ecg = crossed(40, 40, 40, 40)
    patient = np.where(ecg < 40, ecg % 3, ecg)
    assert 1 in judged(factors, (ecg % 2).astype(np.int64), patient, parts=[["a"], ["b"]]).columns


def test_a_group_in_which_nobody_has_the_outcome_closes_its_product_with_it():
    factors, patient = crossed(40, 40, 40, 40)
    y = ((patient % 2) & ~(factors["a"] & factors["b"])).astype(np.int64)
    closed = judged(factors, y, patient, parts=[["a"], ["b"], ["a", "b"]])
    assert closed.columns == {}
    assert closed.outcomes == {(2, 0): EVENTS}


def test_two_outcomes_that_differ_in_one_patient():
    factors, patient = crossed(40, 40, 40, 40)
    first = (patient % 2).astype(np.int64)
    second = first.copy()
    second[0] = 1 - second[0]
    closed = judged(factors, np.stack([first, second], axis=1), patient, parts=[["a"], ["b"]])
    assert {key for key, why in closed.outcomes.items() if why == DISCORDANT} == {(-1, 1), (0, 1), (1, 1)}


def test_a_number_that_one_patient_carries_and_one_of_three_values():
    n = 60
    y, patient = (np.arange(n) % 2).astype(np.int64), np.arange(n)
    carried = np.random.default_rng(0).normal(size=n)
    carried[0] = 1e3
    assert judged({"x": carried}, y, patient, parts=[["x"]]).columns == {0: CARRIED}
    three = np.where(patient < 2, 2.0, patient % 2)
    assert judged({"x": three}, y, patient, parts=[["x"]]).columns == {0: CELL}


def test_what_nobody_knows_is_closed_as_unknown():
    n = 60
    y, patient = (np.arange(n) % 2).astype(np.int64), np.arange(n)
    a = (patient % 2).astype(float)
    closed = closed_columns(
        np.stack([a, np.zeros(n)], axis=1), [["a"], ["b"]], {"a": a}, y[:, None], patient, LIMITS, [1]
    )
    assert closed.columns == {1: UNKNOWN}


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 8))
def test_merged_levels_are_large_enough_and_keep_the_order(seed, levels, least):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 150))
    level, patient = rng.integers(0, levels, n) ** 2, rng.integers(0, 60, n)
    merged = merged_levels(level, patient, least)
    sizes = [len(np.unique(patient[merged == value])) for value in np.unique(merged)]
    assert min(sizes) >= min(least, len(np.unique(patient)))
    order = np.argsort(level, kind="stable")
    assert (np.diff(merged[order]) >= 0).all()
    assert all(len(np.unique(merged[level == value])) == 1 for value in np.unique(level))
    np.testing.assert_array_equal(np.unique(merged), np.arange(len(sizes)))


def test_the_sums_of_two_levels_follow_from_the_difference_and_are_closed():
    assert not levels_hidden(2, 5, 1)
    assert not levels_hidden(6, 5, 1)
    assert levels_hidden(12, 5, 1)
