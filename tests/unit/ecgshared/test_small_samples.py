"""Intervals hold with ten events: coverage against known truths, and the limits at which there is none."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import norm

from ecgshared.errors import StatisticsError
from ecgshared.stats.influence import clustered_auc
from ecgshared.stats.small_samples import (
    auc_interval,
    auc_variance,
    few_events,
    logit_t_interval,
    rate_interval,
    satterthwaite,
    t_interval,
)


@pytest.mark.parametrize(("cases", "controls", "auc"), [(10, 34, 0.8), (10, 200, 0.7), (15, 60, 0.86), (12, 12, 0.9)])
def test_the_aucs_interval_covers_with_ten_events(cases, controls, auc):
    rng = np.random.default_rng(cases)
    distance = np.sqrt(2) * norm.ppf(auc)
    y = np.repeat([1, 0], [cases, controls])
    hits = []
    for _ in range(600):
        found = clustered_auc(rng.normal(size=len(y)) + distance * y, y, np.arange(len(y)))
        hits.append(found.low <= auc <= found.high)
    # Three standard errors of 600 draws about the range promised.
    assert 0.93 - 0.025 < np.mean(hits) < 0.97 + 0.015


def test_a_perfect_auc_has_an_interval_and_no_error():
    y = np.repeat([1, 0], [12, 40])
    found = clustered_auc(y + np.linspace(0, 0.5, 52), y, np.arange(52))
    assert found.value == found.high == 1.0
    assert 0.7 < found.low < 0.97
    assert np.isnan(found.se)
    worst = clustered_auc(-y - np.linspace(0, 0.5, 52), y, np.arange(52))
    assert (worst.value, worst.low) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - found.low, abs=1e-9)


def test_below_ten_patients_with_the_event_there_is_no_interval():
    rng = np.random.default_rng(0)
    for cases, shown in ((9, False), (10, True)):
        y = np.repeat([1, 0], [cases, 50])
        found = clustered_auc(rng.normal(size=len(y)) + y, y, np.arange(len(y)))
        assert np.isfinite(found.low) == shown
    # Twenty ECGs of nine patients are nine.
    y = np.repeat([1, 0], [20, 50])
    found = clustered_auc(rng.normal(size=70) + y, y, np.concatenate([np.arange(20) % 9, np.arange(20, 70)]))
    assert np.isnan(found.low)
    assert few_events(np.nan)
    assert few_events(50, 9)
    assert not few_events(10, 10)


def test_many_events_bring_back_the_normal_interval():
    low, high = auc_interval(0.8, 0.01**2, 900.0, [(1.0, 1000, 5000)])
    plain = 0.8 - 1.96 * 0.01, 0.8 + 1.96 * 0.01
    assert low == pytest.approx(plain[0], abs=0.001)
    assert high == pytest.approx(plain[1], abs=0.001)


def test_newcombes_variance_at_a_perfect_auc_and_at_one_half():
    # Newcombe 2006, method 5, by hand for 10 and 30: N* = 20.
    assert auc_variance(0.5, 10, 30) == pytest.approx(0.25 * (1 + 19 * (0.5 / 1.5 + 0.5 / 1.5)) / 300)
    assert auc_variance(1.0, 10, 30) == 0


@pytest.mark.parametrize(("events", "n"), [(0, 20), (3, 40), (20, 20), (13, 200)])
def test_a_rates_interval_is_wilsons(events, n):
    rate = events / n
    low, high = sm.stats.proportion_confint(events, n, method="wilson")
    found = rate_interval(rate, rate * (1 - rate) / n, n)
    assert found[0] == pytest.approx(low, abs=1e-12)
    assert found[1] == pytest.approx(high, abs=1e-12)


@pytest.mark.parametrize(("rate", "n"), [(0.05, 200), (0.3, 40), (0.6, 50)])
def test_a_rates_interval_covers_with_ten_events(rate, n):
    rng = np.random.default_rng(1)
    events = rng.binomial(n, rate, 4000)
    found = [rate_interval(k / n, k / n * (1 - k / n) / n, n) for k in events]
    assert 0.93 < np.mean([low <= rate <= high for low, high in found]) < 0.975


def test_degrees_of_freedom_and_intervals_that_do_not_exist():
    assert satterthwaite([1.0, 0.0], [9, 500]) == pytest.approx(9)
    assert satterthwaite([1.0, 1.0], [9, 9]) == pytest.approx(18)
    assert satterthwaite([0.0, 0.0], [9, 9]) == 0
    for found in (t_interval(1.0, 0.0, 9), t_interval(1.0, 1.0, 0), logit_t_interval(1.0, 0.1, 9)):
        assert np.isnan(found).all()
    low, high = logit_t_interval(0.8, 0.05, 1e6)
    assert 0 < low < 0.8 < high < 1
    with pytest.raises(StatisticsError):
        auc_interval(1.2, 0.1, 9, [(1.0, 10, 10)])
