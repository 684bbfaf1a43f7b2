"""No released partition gives back a group below the limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.privacy.disclosure import DisclosureLimits, group_size, release_partition

LIMITS = DisclosureLimits()


def test_a_group_is_counted_by_patients_and_by_its_lesser_side():
    patient = np.array([1, 1, 2, 3, 3])
    y = np.array([1, 0, 0, 0, 0])
    size = group_size(patient, y)
    assert (size.patients, size.events) == (3, 1)
    assert group_size(patient, y, np.array([True, True, False, False, False])).patients == 1


def test_a_single_withheld_cell_takes_the_next_smallest_with_it():
    released = release_partition(np.array([4, 300, 40, 200]), None, LIMITS)
    np.testing.assert_array_equal(released, [False, True, False, True])


def test_two_withheld_cells_that_are_small_together_take_a_third():
    released = release_partition(np.array([2, 3, 40, 200]), None, LIMITS)
    np.testing.assert_array_equal(released, [False, False, False, True])


def test_an_empty_cell_withholds_nobody():
    np.testing.assert_array_equal(release_partition(np.array([0, 40, 200]), None, LIMITS), [False, True, True])


def test_too_few_events_withhold_a_cell_as_too_few_patients_do():
    released = release_partition(np.array([100, 100, 100]), np.array([2, 30, 40]), LIMITS)
    assert released.sum() == 1


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(1, 15),
    st.integers(0, 8),
)
@settings(max_examples=200, deadline=None)
def test_subtraction_from_the_total_finds_no_small_group(cells, min_patients, min_events):
    limits = DisclosureLimits(min_patients=min_patients, min_events=min_events)
    patients = np.array([p for p, _ in cells])
    events = np.array([min(e, p // 2) for p, e in cells])
    released = release_partition(patients, events, limits)
    assert limits.allow(patients[released], events[released]).all()
    hidden = ~released & (patients > 0)
    if released.any() and hidden.any():
        assert hidden.sum() >= 2
        assert limits.allow(patients[hidden].sum(), events[hidden].sum())
