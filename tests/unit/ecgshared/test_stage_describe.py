"""describe at the site: what its counts would tell of a few is kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.stages.describe import _flow_evidence
from ecgshared.stages.describe import moments


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(0, 40))
def test_no_two_lines_of_a_flow_that_leave_differ_by_a_small_group(removed, rest):
    patients = np.array(rest + np.cumsum([0, *removed])[::-1], dtype=float)
    told = patients[_flow_evidence(patients, 10) >= 10]
    steps = np.abs(told[:, None] - told[None, :])
    assert not ((steps > 0) & (steps < 10)).any()
    assert (told >= 10).all()


def test_the_cohort_itself_is_told_though_a_rule_before_it_took_out_few():
    evidence = _flow_evidence(np.array([1150.0, 1150.0, 1124.0, 1121.0, 1100.0, 1100.0]), 10)
    assert (evidence >= 10).tolist() == [True, True, True, False, True, True]


def test_moments_are_those_of_the_values():
    values = np.array([1.0, 4.0, 7.5, 2.0])
    mean, sd = moments(np.array([4, values.sum(), (values**2).sum()]))
    np.testing.assert_allclose([mean, sd], [values.mean(), values.std()])
    assert np.isnan(moments(np.zeros(3))).all()
