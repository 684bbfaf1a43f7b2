"""What a site counts meets its limits, also in every difference of two counts; bounds hold the exact values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.control_bins import ControlBins, answered_cuts, between, control_bins
from ecgshared.stats.score_scale import HIGHEST, LOWEST

LIMITS = DisclosureLimits()


@st.composite
def site(draw: st.DrawFn):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 400))
    patient = rng.integers(0, draw(st.integers(1, n)), n)
    y = (rng.random(n) < draw(st.sampled_from([0.05, 0.3, 0.6]))).astype(int)
    spread = draw(st.sampled_from([0.001, 1.0, 6.0]))
    score = np.round(draw(st.sampled_from([-16.0, -2.0])) + spread * (rng.normal(size=n) + y), 4)
    limits = DisclosureLimits(min_patients=draw(st.integers(1, 12)), min_events=draw(st.integers(1, 6)))
    cuts = np.quantile(score, rng.random(8)).tolist()
    fixed = draw(st.sampled_from([None, float(np.quantile(score, 0.8))]))
    return score, y, patient, limits, cuts, fixed


@given(site())
@settings(max_examples=200, deadline=None)
def test_every_count_and_every_difference_of_counts_meets_the_limits(drawn):
    score, y, patient, limits, cuts, fixed = drawn
    control = y == 0
    bins = control_bins(score[control], patient[control], limits, cuts=cuts, fixed=fixed)
    if not len(bins):
        assert len(np.unique(patient[control])) < limits.min_patients
        return
    assert (bins.lower[0], bins.upper[-1], bins.total) == (LOWEST, HIGHEST, control.sum())
    for low, high, count, people in zip(bins.lower, bins.upper, bins.controls, bins.patients, strict=True):
        inside = control & (score >= low) & (score < high)
        assert inside.sum() == count
        assert len(set(patient[inside])) == people >= limits.min_patients
    known = answered_cuts(score, y, patient, limits, bins=bins, cuts=cuts, fixed=fixed)
    # A cut is an edge of the bins: no count of controls can be subtracted from another but by whole bins.
    assert np.isin(known, bins.lower).all()
    for low, high in zip(known, [HIGHEST, *known][: len(known)], strict=True):
        inside = (score >= low) & (score < high)
        people, sick = set(patient[inside]), set(patient[inside & (y == 1)])
        assert len(people) >= limits.min_patients
        assert len(sick) >= limits.min_events
        assert len(people) - len(sick) >= limits.min_events
        assert len(set(patient[inside & control])) >= limits.min_patients


@given(site())
@settings(max_examples=100, deadline=None)
def test_counts_above_any_edge_lie_within_their_bounds(drawn):
    score, y, patient, limits, cuts, _ = drawn
    control = y == 0
    bins = control_bins(score[control], patient[control], limits, cuts=cuts)
    if not len(bins):
        return
    edges = np.sort(np.concatenate([score, bins.lower, cuts]))
    low, high = bins.above(edges)
    exact = np.array([(control & (score >= e)).sum() for e in edges])
    assert (low <= exact).all()
    assert (exact <= high).all()
    at_own = np.isin(edges, bins.lower)
    np.testing.assert_array_equal(low[at_own], high[at_own])
    known = answered_cuts(score, y, patient, limits, bins=bins, cuts=cuts)
    cases = np.array([((y == 1) & (score >= c)).sum() for c in known], dtype=float)
    low, high = between(known, cases, edges, float(y.sum()))
    exact = np.array([((y == 1) & (score >= e)).sum() for e in edges])
    if len(known):
        assert (low <= exact).all()
        assert (exact <= high).all()


def test_five_events_do_not_coarsen_five_thousand_controls():
    rng = np.random.default_rng(0)
    bins = control_bins(rng.normal(size=5000), np.arange(5000), LIMITS)
    assert len(bins) > 450
    assert (bins.controls >= 10).all()


@pytest.mark.parametrize(("centre", "spread"), [(-2.0, 0.003), (-16.0, 3.0)])
def test_narrow_and_tiny_risks_are_resolved(centre, spread):
    score = centre + spread * np.random.default_rng(0).normal(size=2000)
    assert len(control_bins(score, np.arange(2000), LIMITS)) > 150


def test_the_threshold_comes_before_other_cuts():
    rng = np.random.default_rng(1)
    score = rng.normal(size=600)
    y = (rng.random(600) < 0.3).astype(int)
    near, fixed = 0.98, 1.0
    control = y == 0
    bins = control_bins(score[control], np.flatnonzero(control), LIMITS, cuts=[near], fixed=fixed)
    assert fixed in bins.lower
    assert near not in bins.lower
    known = answered_cuts(score, y, np.arange(600), LIMITS, bins=bins, cuts=[near], fixed=fixed)
    assert known.tolist() == [fixed, LOWEST]


def test_seventeen_patients_release_nothing():
    y = np.array([1] * 8 + [0] * 9)
    bins = control_bins(np.linspace(-1, 1, 17)[y == 0], np.flatnonzero(y == 0), LIMITS)
    assert len(bins) == 0
    assert len(answered_cuts(np.linspace(-1, 1, 17), y, np.arange(17), LIMITS, bins=bins, cuts=[0.0])) == 0


def test_a_lying_histogram_is_refused():
    whole = np.zeros(2, dtype=np.int64)
    with pytest.raises(StatisticsError, match="overlap"):
        ControlBins(np.array([0.0, 3.0]), np.array([5.0, 6.0]), np.ones(2), whole)
    with pytest.raises(StatisticsError, match="no numbers"):
        ControlBins(np.array([0.0]), np.array([5.0]), np.array([np.nan]), whole[:1])
    with pytest.raises(StatisticsError, match="no counts"):
        ControlBins(np.array([0.0]), np.array([5.0]), np.array([1.5]), whole[:1])
