"""Bounds of pooled statistics always hold the exact value; a merged bin always meets its site's limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.histogram import N_BINS, ScoreHistogram, bin_of_risk, edge_risk, pool, pooled_auc, score_histogram
from ecgshared.stats.roc import auc

UNGATED = DisclosureLimits(min_patients=1, min_events=0)


@st.composite
def sites(draw: st.DrawFn):
    result = []
    for _ in range(draw(st.integers(1, 4))):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        n = draw(st.integers(1, 250))
        spread = draw(st.sampled_from([0.05, 1.0, 6.0]))
        patient = rng.integers(0, draw(st.integers(1, n)), n)
        y = (rng.random(n) < draw(st.sampled_from([0.05, 0.3, 0.6]))).astype(int)
        risk = 1 / (1 + np.exp(-(draw(st.sampled_from([-3.0, 0.0])) + spread * rng.normal(size=n) + y)))
        limits = DisclosureLimits(min_patients=draw(st.integers(1, 12)), min_events=draw(st.integers(0, 6)))
        result.append((risk, y, patient, limits))
    return result


@given(sites())
@settings(max_examples=200, deadline=None)
def test_bounds_always_hold_the_exact_pooled_auc(data):
    released, risks, ys = [], [], []
    for risk, y, patient, limits in data:
        histogram, _ = score_histogram(bin_of_risk(risk), y, patient, limits)
        if len(histogram.lower):
            released.append(histogram)
            risks.append(risk)
            ys.append(y)
    if not released or len(np.unique(np.concatenate(ys))) < 2:
        return
    curves = pool(released)
    exact = auc(np.concatenate(risks), np.concatenate(ys))
    assert curves.auc.low <= exact <= curves.auc.high
    assert curves.auc.low <= curves.auc.value <= curves.auc.high
    own = [auc(r, y) if 0 < y.sum() < len(y) else np.nan for r, y in zip(risks, ys, strict=True)]
    tight = pooled_auc(released, own)
    assert tight.low <= exact <= tight.high
    assert curves.auc.low - 1e-15 <= tight.low <= tight.value <= tight.high <= curves.auc.high + 1e-15
    if len(released) == 1:
        assert tight.low == tight.high == exact
    # A site that lies about its own AUC beyond what its histogram allows is not believed.
    assert pooled_auc(released, [2.0] * len(own)).low == pooled_auc(released, [np.nan] * len(own)).low


@given(sites())
@settings(max_examples=100, deadline=None)
def test_bounds_hold_rates_and_shares_above_every_edge(data):
    released, all_bins, ys = [], [], []
    for risk, y, patient, limits in data:
        bins = bin_of_risk(risk)
        histogram, _ = score_histogram(bins, y, patient, limits)
        if len(histogram.lower):
            released.append(histogram)
            all_bins.append(bins)
            ys.append(y)
    if not released:
        return
    bins, y = np.concatenate(all_bins), np.concatenate(ys)
    curves = pool(released)
    rate, share = curves.rate_above(), curves.share_above()
    for edge in range(0, N_BINS, 16):
        above = bins >= edge
        assert share.low[edge] - 1e-12 <= above.mean() <= share.high[edge] + 1e-12
        assert curves.cases_above.low[edge] <= y[above].sum() <= curves.cases_above.high[edge]
        if above.any():
            exact = y[above].mean()
            assert np.isnan(rate.low[edge]) or rate.low[edge] <= exact + 1e-12
            assert np.isnan(rate.high[edge]) or exact <= rate.high[edge] + 1e-12


@given(sites())
@settings(max_examples=100, deadline=None)
def test_every_merged_bin_meets_the_limits_and_none_is_lost(data):
    for risk, y, patient, limits in data:
        bins = bin_of_risk(risk)
        histogram, groups = score_histogram(bins, y, patient, limits)
        if not len(histogram.lower):
            continue
        assert histogram.cases.sum() == y.sum()
        assert histogram.controls.sum() == (1 - y).sum()
        assert groups.lower[0] == 0
        assert groups.upper[-1] == N_BINS
        np.testing.assert_array_equal(groups.lower[1:], groups.upper[:-1])
        if limits.withhold_nothing:
            continue
        for low, high in zip(groups.lower, groups.upper, strict=True):
            inside = (bins >= low) & (bins < high)
            people, sick = len(set(patient[inside])), len(set(patient[inside & (y == 1)]))
            assert people >= limits.min_patients
            assert sick >= limits.min_events
            assert people - sick >= limits.min_events


def test_resolution_is_spent_at_the_top():
    rng = np.random.default_rng(0)
    risk = 1 / (1 + np.exp(-rng.normal(-3, 1.5, 20_000)))
    y = (rng.random(20_000) < risk).astype(int)
    _, groups = score_histogram(bin_of_risk(risk), y, np.arange(20_000), DisclosureLimits())
    top, bottom = groups.upper[-2] - groups.lower[-2], groups.upper[0] - groups.lower[0]
    assert top < bottom


def test_a_barrier_begins_an_interval_where_both_sides_allow_it():
    rng = np.random.default_rng(1)
    risk = rng.random(2000)
    y = (rng.random(2000) < risk).astype(int)
    for barrier, honoured in ((int(bin_of_risk(np.array([0.7]))[0]), True), (N_BINS - 1, False)):
        _, groups = score_histogram(bin_of_risk(risk), y, np.arange(2000), DisclosureLimits(), barrier=barrier)
        assert (barrier in groups.lower) is honoured


def test_ungated_bins_stand_alone_and_give_an_auc_as_good_as_exact():
    rng = np.random.default_rng(2)
    y = (rng.random(5000) < 0.1).astype(int)
    risk = 1 / (1 + np.exp(-(rng.normal(size=5000) + y - 3)))
    histogram, _ = score_histogram(bin_of_risk(risk), y, np.arange(5000), UNGATED)
    assert len(histogram.lower) == N_BINS
    assert abs(pool([histogram]).auc.value - auc(risk, y)) < 2e-4


def test_seventeen_patients_release_no_histogram():
    y = np.array([1] * 3 + [0] * 14)
    histogram, groups = score_histogram(bin_of_risk(np.linspace(0, 1, 17)), y, np.arange(17), DisclosureLimits())
    assert len(histogram.lower) == len(groups) == 0
    assert np.isnan(pool([histogram]).auc.value)
    assert np.isnan(pool([]).auc.value)


def test_bins_cover_every_risk_and_edges_agree_with_them():
    risk = np.array([0.0, 1e-9, 0.01, 0.5, 0.99, 1.0])
    bins = bin_of_risk(risk)
    assert bins[0] == 0
    assert bins[-1] == N_BINS - 1
    inner = slice(2, 5)
    assert (edge_risk(bins)[inner] <= risk[inner] + 1e-12).all()
    assert (risk[inner] < edge_risk(bins + 1)[inner]).all()
    with pytest.raises(StatisticsError, match="outside"):
        bin_of_risk(np.array([1.2]))


def test_a_lying_histogram_is_refused():
    with pytest.raises(StatisticsError, match="overlap"):
        ScoreHistogram(np.array([0, 3]), np.array([5, 6]), np.ones(2), np.ones(2))
    with pytest.raises(StatisticsError, match="overlap"):
        ScoreHistogram(np.array([0]), np.array([5]), np.array([np.nan]), np.ones(1))
    with pytest.raises(StatisticsError, match="beyond"):
        pool([ScoreHistogram(np.array([0]), np.array([2000]), np.ones(1), np.ones(1))])
