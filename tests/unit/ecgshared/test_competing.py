"""Cumulative incidence against lifelines, its errors as derivatives and by a bootstrap; R's: the commands' tests."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import AalenJohansenFitter
from test_concordance import derivative

from ecgshared.errors import StatisticsError
from ecgshared.stats.competing import cumulative_incidence, incidence_influence, restricted_mean
from ecgshared.stats.kaplan_meier import kaplan_meier


def follow(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own, other, end = rng.exponential(6, n), rng.exponential(4, n), rng.uniform(1, 10, n)
    time = np.minimum(np.minimum(own, other), end)
    return time, np.where(time == end, 0, np.where(own < other, 1, 2))


@pytest.mark.parametrize("seed", [1, 2])
def test_it_equals_lifelines(seed):
    time, cause = follow(seed)
    at = np.array([1.0, 2.5, 6.0])
    fitted = AalenJohansenFitter(calculate_variance=False).fit(time, cause, event_of_interest=1)
    expected = [float(fitted.cumulative_density_.loc[:t].iloc[-1, 0]) for t in at]
    np.testing.assert_allclose(cumulative_incidence(time, cause, at).risk, expected, atol=1e-12)


def slow(time, cause, entry, at, weight):
    free, total = 1.0, 0.0
    for t in np.unique(time[cause > 0]):
        if t > at:
            break
        risk = weight[(time >= t) & (entry < t)].sum()
        total += free * weight[(time == t) & (cause == 1)].sum() / risk
        free *= 1 - weight[(time == t) & (cause > 0)].sum() / risk
    return total


@pytest.mark.parametrize("at", [1.0, 4.0, 8.0])
def test_influences_are_derivatives_by_weight_with_ties_and_late_entries(at):
    rng = np.random.default_rng(3)
    time, cause = rng.integers(2, 9, 40).astype(float), rng.integers(0, 3, 40)
    entry = np.where(rng.random(40) < 0.4, rng.integers(0, 2, 40).astype(float), -1.0)
    found, influence = (
        cumulative_incidence(time, cause, np.array([at]), entry=entry),
        incidence_influence(time, cause, at, entry),
    )
    assert found.risk[0] == pytest.approx(slow(time, cause, entry, at, np.ones(40)), abs=1e-12)
    np.testing.assert_allclose(influence, derivative(lambda w: slow(time, cause, entry, at, w), 40), atol=1e-8)
    assert found.se[0] == pytest.approx(np.sqrt(influence @ influence), rel=1e-9)


def test_running_sums_give_the_errors_of_every_time_with_weights_too():
    rng = np.random.default_rng(9)
    time, cause, weight = rng.integers(2, 30, 80).astype(float), rng.integers(0, 3, 80), rng.uniform(0.5, 2, 80)
    entry = np.where(rng.random(80) < 0.4, np.floor(time * rng.random(80)), -1.0)
    together = cumulative_incidence(time, cause, entry=entry, weight=weight)
    apart = cumulative_incidence(time, cause, entry=entry, weight=weight, patient=np.arange(80))
    np.testing.assert_allclose(together.se, apart.se, rtol=1e-8, atol=1e-12)


def test_without_competing_events_it_is_one_less_kaplan_meier_with_its_interval():
    time, cause = follow(4)
    patient = np.arange(300) // 2
    at = np.array([0.5, 3.0, 7.0])
    for who in (None, patient):
        found = cumulative_incidence(time, (cause == 1).astype(int), at, patient=who)
        expected = kaplan_meier(time, cause == 1, at, patient=who)
        np.testing.assert_allclose(1 - found.risk, expected.survival, atol=1e-12)
        np.testing.assert_allclose(found.se, expected.survival * expected.log_se, atol=1e-12)
        np.testing.assert_allclose(1 - found.high, expected.low, atol=1e-12)
        np.testing.assert_allclose(1 - found.low, expected.high, atol=1e-12)


def test_errors_cluster_by_patient_as_a_bootstrap_of_patients():
    time, cause = follow(5, 120)
    time, cause, patient = np.repeat(time, 2), np.repeat(cause, 2), np.repeat(np.arange(120), 2)
    rng, at = np.random.default_rng(0), np.array([3.0])
    draws = []
    for _ in range(300):
        chosen = (2 * rng.integers(0, 120, 120)[:, None] + [0, 1]).ravel()
        draws.append(float(cumulative_incidence(time[chosen], cause[chosen], at).risk[0]))
    found = cumulative_incidence(time, cause, at, patient=patient)
    assert found.se[0] == pytest.approx(np.std(draws, ddof=1), rel=0.12)


def test_one_less_kaplan_meier_is_too_high_where_others_die():
    """A hazard of 2 in 100 a year among people of whom 7 in 100 die of something else: 8.0% by five years, not 9.5%."""
    rng, n = np.random.default_rng(6), 200_000
    own, other = rng.exponential(50, n), rng.exponential(1 / 0.07, n)
    time = np.minimum(own, other)
    cause = np.where(own < other, 1, 2)
    truth = 0.02 / 0.09 * (1 - np.exp(-0.09 * 5))
    at = np.array([5.0])
    assert cumulative_incidence(time, cause, at).risk[0] == pytest.approx(truth, abs=0.002)
    assert cumulative_incidence(time, (cause == 1).astype(int), at).risk[0] == pytest.approx(
        1 - np.exp(-0.1), abs=0.002
    )


def test_nobody_and_the_end_of_follow_up():
    with pytest.raises(StatisticsError, match="nobody to follow"):
        cumulative_incidence(np.zeros(0), np.zeros(0))
    with pytest.raises(StatisticsError, match="0, 1 or 2"):
        cumulative_incidence(np.ones(2), np.array([1, 3]))
    with pytest.raises(StatisticsError, match="followed to the end"):
        restricted_mean(np.array([1.0, 2.0]), np.array([1, 0]), 3.0)
    dead = restricted_mean(np.array([1.0, 2.0]), np.array([1, 1]), 3.0)
    assert dead.value == pytest.approx(1.5)
