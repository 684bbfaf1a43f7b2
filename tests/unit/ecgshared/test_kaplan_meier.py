"""Curves and the log-rank test against lifelines; what of a curve may leave."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test

from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.kaplan_meier import LogRank, kaplan_meier, log_rank, log_survival_influence, releasable_times


def tied(seed, n=200):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 30, n).astype(float), (rng.random(n) < 0.5).astype(int), rng.integers(0, 3, n)


@pytest.mark.parametrize("seed", range(4))
def test_survival_and_greenwood_intervals_equal_lifelines(seed):
    time, event, _ = tied(seed)
    fit = KaplanMeierFitter().fit(time, event)
    at = np.arange(0.5, 29, 1.0)
    curve = kaplan_meier(time, event, at)
    np.testing.assert_allclose(curve.survival, fit.survival_function_at_times(at), atol=1e-14)
    band = fit.confidence_interval_.reindex(np.arange(30.0)).ffill().loc[np.floor(at)].to_numpy()
    seen = curve.survival < 1
    np.testing.assert_allclose(np.stack([curve.low, curve.high], axis=1)[seen], band[seen], atol=1e-12)
    np.testing.assert_array_equal(curve.at_risk, [(time > t).sum() for t in at])


def test_one_ecg_a_patient_is_greenwood_and_copies_of_ecgs_add_no_certainty():
    time, event, _ = tied(5)
    plain = kaplan_meier(time, event)
    by_patient = kaplan_meier(time, event, patient=np.arange(len(time)))
    np.testing.assert_allclose(by_patient.log_se, plain.log_se, atol=1e-14)
    twice = kaplan_meier(np.tile(time, 2), np.tile(event, 2), patient=np.tile(np.arange(len(time)), 2))
    np.testing.assert_allclose(twice.log_se, plain.log_se, atol=1e-14)


def test_influences_on_log_survival_are_derivatives_by_weight():
    time, event, _ = tied(6, 40)

    def log_survival(weight):
        total = 0.0
        for u in np.unique(time[event == 1]):
            if u <= 12:
                total += np.log(1 - weight[(time == u) & (event == 1)].sum() / weight[time >= u].sum())
        return total

    for k, found in enumerate(log_survival_influence(time, event, 12.0)):
        bump = np.eye(len(time))[k] * 1e-5
        assert found == pytest.approx((log_survival(1 + bump) - log_survival(1 - bump)) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_log_rank_equals_lifelines(seed):
    time, event, group = tied(seed)
    found = log_rank(time, event, group, 3)
    expected = multivariate_logrank_test(time, group, event)
    assert found.statistic == pytest.approx(expected.test_statistic, rel=1e-10)
    assert found.p == pytest.approx(expected.p_value, rel=1e-9)


def test_sums_of_sites_give_the_stratified_test():
    """The score test of a Cox model with strata, at beta = 0, is the stratified log-rank test without ties."""
    rng = np.random.default_rng(2)
    parts, frames = [], []
    for site in range(3):
        time, event, group = rng.random(60), (rng.random(60) < 0.6).astype(int), rng.integers(0, 2, 60)
        parts.append(log_rank(time, event, group, 2))
        frames.append(np.column_stack([time, event, group, np.full(60, site)]))
    total = LogRank.total(parts)
    import pandas as pd

    frame = pd.DataFrame(np.vstack(frames), columns=["t", "e", "g", "site"])
    fit = CoxPHFitter().fit(frame, "t", "e", strata=["site"])
    assert total.statistic == pytest.approx(fit.log_likelihood_ratio_test().test_statistic, rel=0.02)
    assert total.degrees == 1


def test_an_empty_group_takes_no_part():
    time, event, group = tied(1)
    two = np.where(group == 2, 1, group)
    assert log_rank(time, event, two, 3).statistic == pytest.approx(log_rank(time, event, two, 2).statistic)
    assert log_rank(time, event, two, 3).degrees == 1
    assert np.isnan(log_rank(time, event, np.zeros(len(time), dtype=int), 3).p)


def test_between_two_released_times_many_leave_and_many_stay_after_the_last():
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(80), 2)
    time, event = rng.exponential(5, 160), rng.integers(0, 2, 160)
    times = releasable_times(time, event, patient, np.linspace(0.1, 30, 200), DisclosureLimits(), leavers=8)
    assert 3 < len(times) <= 20
    edges = np.concatenate([[-1.0], times])
    for low, high in itertools.pairwise(edges):
        assert len(np.unique(patient[(time > low) & (time <= high)])) >= 8
    assert len(np.unique(patient[time > times[-1]])) >= 8


def test_a_small_group_and_one_with_few_events_release_no_curve():
    time, patient, grid = np.arange(9.0), np.arange(9), np.arange(9.0)
    assert len(releasable_times(time, np.ones(9), patient, grid, DisclosureLimits(), 1)) == 0
    time, patient = np.arange(40.0), np.arange(40)
    few = (np.arange(40) < 4).astype(int)
    assert len(releasable_times(time, few, patient, np.arange(40.0), DisclosureLimits(), 5)) == 0
    assert len(releasable_times(time, np.ones(40), patient, np.arange(40.0), DisclosureLimits(), 5)) > 2
    open_ = DisclosureLimits(min_patients=1, min_events=0)
    assert len(releasable_times(time, few, patient, np.arange(60.0), open_, 5)) == 40


def test_nobody_has_no_curve():
    with pytest.raises(StatisticsError, match="nobody"):
        kaplan_meier(np.zeros(0), np.zeros(0))


def test_a_follow_up_cut_at_the_last_time_releases_it_where_enough_are_free_of_the_event():
    rng, grid = np.random.default_rng(2), np.arange(1.0, 6.0)
    time = np.minimum(rng.exponential(6, 200), 5.0)
    event, patient = time < 5.0, np.arange(200)
    limits = DisclosureLimits(min_patients=10, min_events=5)
    assert releasable_times(time, event, patient, grid, limits, 5)[-1] == 5.0
    # Three who are left at the end: nothing is said of it.
    short = np.minimum(time, 4.5)
    short[:3] = 5.0
    assert releasable_times(short, short < 4.5, patient, grid, limits, 5)[-1] < 5.0
