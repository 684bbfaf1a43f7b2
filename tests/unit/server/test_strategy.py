"""Aggregation against its definition, and the state a checkpoint carries."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from ecgshared.errors import ModelError
from ecgshared.stages.train import StrategyConfig
from server.pooling.weights import Aggregator

RNG = np.random.default_rng(0)
CURRENT = RNG.normal(size=7)
UPDATES = {site: RNG.normal(size=7) for site in "abcde"}
WEIGHTS = dict(zip("abcde", (0.1, 0.3, 0.2, 0.25, 0.15), strict=True))


@pytest.fixture(autouse=True)
def _a_task():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def aggregate(name: str, **settings: float) -> np.ndarray:
    return Aggregator(StrategyConfig(name=name, **settings)).aggregate(1, CURRENT, UPDATES, WEIGHTS)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedbn"])
def test_averages_are_weighted_by_fixed_numbers(name):
    expected = sum(WEIGHTS[site] * UPDATES[site] for site in "abcde")
    np.testing.assert_allclose(aggregate(name), expected, rtol=0, atol=1e-12)


def test_median_and_trimmed_mean():
    stacked = np.stack(list(UPDATES.values()))
    np.testing.assert_allclose(aggregate("fedmedian"), np.median(stacked, axis=0), atol=1e-12)
    trimmed = np.sort(stacked, axis=0)[1:-1].mean(axis=0)
    np.testing.assert_allclose(aggregate("fedtrimmedavg", trim=0.2), trimmed, atol=1e-12)


def test_krum_takes_one_of_the_crowd_and_not_the_liar():
    crowd = {site: CURRENT + 0.01 * RNG.normal(size=7) for site in "abcd"}
    chosen = Aggregator(StrategyConfig(name="krum", malicious=1)).aggregate(
        1, CURRENT, {**crowd, "e": CURRENT + 100}, WEIGHTS
    )
    assert any(np.array_equal(chosen, update) for update in crowd.values())


def test_fedadam_equals_its_formula_and_resumes_from_its_state():
    """Reddi et al. 2021, algorithm 2, with the bias correction of Kingma and Ba that Flower applies."""
    config = StrategyConfig(name="fedadam", server_learning_rate=0.1)
    whole, m, v, x = Aggregator(config), np.zeros(7), np.zeros(7), CURRENT
    states = []
    for number in (1, 2, 3):
        delta = sum(WEIGHTS[site] * UPDATES[site] for site in "abcde") - x
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        eta = 0.1 * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        expected = x + eta * m / (np.sqrt(v) + 1e-3)
        states.append(whole.state)
        x = whole.aggregate(number, x, UPDATES, WEIGHTS)
        np.testing.assert_allclose(x, expected, rtol=1e-10)
    resumed = Aggregator(config)
    resumed.restore(whole.state)
    np.testing.assert_array_equal(resumed.aggregate(4, x, UPDATES, WEIGHTS), whole.aggregate(4, x, UPDATES, WEIGHTS))


def test_a_vector_of_another_shape_or_type_is_an_error():
    with pytest.raises(ModelError, match="site 'a' sent"):
        Aggregator(StrategyConfig()).aggregate(1, CURRENT, {"a": np.zeros(3)}, WEIGHTS)
    with pytest.raises(ModelError, match="float32"):
        Aggregator(StrategyConfig()).aggregate(1, CURRENT, {"a": np.zeros(7, np.float32)}, WEIGHTS)
