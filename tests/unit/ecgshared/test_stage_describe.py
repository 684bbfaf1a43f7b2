"""describe at the site: what its counts would tell of a few is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from federated_stages import Federation, site_data, study
from hypothesis import given
from hypothesis import strategies as st

from client.egress.gate import release
from client.stages.describe import _flow_evidence, counts
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.describe import VARIABLES, SiteCounts, moments
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request


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


@pytest.mark.parametrize(("unlabelled", "told"), [(0, True), (1, False), (15, True)])
def test_table_1_does_not_leave_the_few_without_a_label_over(unlabelled, told):
    """Everybody less those with and those without the event would be the one of whom it is not known."""
    data = site_data(1, 400, split="lockbox")
    labels = data.labels.copy()
    labels[:, 0] = np.where(np.nan_to_num(labels[:, 0], nan=0.0) == 1, 1.0, 0.0)
    labels[np.isin(data.patient, np.arange(unlabelled)), 0] = np.nan
    federation = Federation(study([{"id": "who", "stage": "describe"}]), {"c": replace(data, labels=labels)})
    federation.limits = DisclosureLimits()
    request = Request(federation.study.sha256, "run", "who", "counts", 0, {})
    sealed = release(
        counts(federation.context("who", "c"), request), request, stage="describe", settings=federation.settings("c")
    )
    left = decode_payload(sealed.body, SiteCounts, stamp_of(request, "c"))
    everybody, with_event, without = left.table1[:3, VARIABLES.index("age"), 0]
    assert np.isfinite([everybody, with_event]).all()
    assert np.isfinite(without) == told
    # Sex is known of all: its two groups make up everybody.
    assert np.isfinite(left.table1[3:5, VARIABLES.index("age"), 0]).all()
