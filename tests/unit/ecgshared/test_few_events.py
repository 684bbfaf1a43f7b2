"""Intervals where few patients have the event: what they cover, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.errors import StatisticsError
from ecgshared.stats.concordance import harrell, uno
from ecgshared.stats.few_events import FEWEST_EVENTS, few_events_estimate
from ecgshared.stats.influence import Estimate, estimate
from ecgshared.stats.survival_performance import calibration_slope, cumulative_auc

HORIZON = 1.0


def follow(rng: np.random.Generator, n: int, effect: float, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    death = rng.exponential(size=n) / (rate * np.exp(effect * x))
    end = rng.uniform(0.5, 2, n)
    return np.minimum(death, end), death <= end, effect * x


def figures(time, event, score) -> dict[str, Estimate]:
    patient = np.arange(len(time))
    until = int((event & (time < HORIZON)).sum())
    wanted = {
        "harrell": lambda: harrell(time, event, score).estimate(patient, events=event.sum()),
        "uno": lambda: uno(time, event, score, until=HORIZON).estimate(patient, events=until),
        "auc": lambda: cumulative_auc(time, event, score, HORIZON).estimate(
            patient, events=min(until, int((time > HORIZON).sum()))
        ),
        "slope": lambda: calibration_slope(time, event, score, patient),
    }
    found = {}
    for name, compute in wanted.items():
        try:
            found[name] = compute()
        except StatisticsError:
            continue
    return found


def coverage(n: int, effect: float, rate: float, draws: int, seed: int = 0) -> dict[str, tuple[float, int]]:
    """How often the interval of each figure holds its value in a very large sample, and from how many draws."""
    large = figures(*follow(np.random.default_rng(99), 100_000, effect, rate))
    rng = np.random.default_rng(seed)
    held: dict[str, list[bool]] = {name: [] for name in large}
    for _ in range(draws):
        for name, e in figures(*follow(rng, n, effect, rate)).items():
            if np.isfinite(e.low):
                held[name].append(bool(e.low < large[name].value < e.high))
    return {name: (float(np.mean(hits)) if hits else np.nan, len(hits)) for name, hits in held.items()}


def test_about_fifteen_events_have_intervals_that_hold_the_truth():
    for name, (held, draws) in coverage(150, 0.6, 0.1, draws=160).items():
        assert draws > 60, name
        assert 0.90 <= held <= 0.995, name


def test_many_events_have_the_plain_interval():
    plain, found = estimate(0.7, 1e-4, "logit"), few_events_estimate(0.7, 1e-4, 5000, "logit")
    np.testing.assert_allclose(found.as_array(), plain.as_array(), rtol=2e-4)


def test_fewer_than_ten_stand_without_an_interval():
    few, enough = (few_events_estimate(0.7, 0.01, k, "logit") for k in (FEWEST_EVENTS - 1, FEWEST_EVENTS))
    assert few.se > 0.1
    assert np.isnan([few.low, few.high]).all()
    assert enough.low < 0.7 < enough.high


def test_a_perfect_score_has_wilsons_interval_and_a_constant_one_no_error():
    rng = np.random.default_rng(3)
    time, event, _ = follow(rng, 200, 0.0, 0.15)
    perfect = harrell(time, event, -time).estimate(np.arange(200), events=event.sum())
    assert perfect.value == perfect.high == 1.0
    assert 0.7 < perfect.low < 0.95
    constant = harrell(time, event, np.ones(200)).estimate(np.arange(200), events=event.sum())
    assert constant.value == 0.5
    assert np.isnan([constant.se, constant.low, constant.high]).all()


@pytest.mark.parametrize("scale", ["logit", "log", "identity"])
def test_nothing_known_has_no_interval(scale):
    assert np.isnan(few_events_estimate(np.nan, 0.1, 50, scale).as_array()).all()
    assert np.isnan(few_events_estimate(0.4, 0.0, 50, scale).as_array()[1:]).all()
    assert np.isnan(few_events_estimate(0.4, 0.1, 1, scale).as_array()[2:]).all()
