"""Discrepancy, precision and recall, nearest neighbours and slopes, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.errors import StatisticsError
from ecgshared.stats.generative import (
    adjusted_r2,
    median_distance,
    mmd2,
    nearest,
    precision_recall,
    principal_axes,
    standardised_slopes,
)

RNG = np.random.default_rng(0)


def test_the_discrepancy_is_its_definition():
    a, b, width = RNG.normal(size=(7, 3)), RNG.normal(size=(5, 3)) + 1, 1.7

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * width**2))

    within_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert mmd2(a, b, width) == pytest.approx(within_a + within_b - 2 * between, abs=1e-14)


def test_the_discrepancy_is_unbiased_and_grows_with_a_shift():
    same = [mmd2(RNG.normal(size=(60, 4)), RNG.normal(size=(60, 4)), 2.0) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    apart = [mmd2(RNG.normal(size=(60, 4)), RNG.normal(size=(60, 4)) + d, 2.0) for d in (0.5, 1.0, 3.0)]
    assert 0.01 < apart[0] < apart[1] < apart[2]
    with pytest.raises(StatisticsError):
        mmd2(np.zeros((1, 2)), np.zeros((3, 2)), 1.0)


def test_precision_and_recall_tell_far_from_collapsed():
    real, same = RNG.normal(size=(400, 4)), RNG.normal(size=(400, 4))
    precision, recall = precision_recall(real, same)
    assert min(precision, recall) > 0.9
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    collapsed = precision_recall(real, 0.05 * RNG.normal(size=(400, 4)))
    assert collapsed[0] == 1.0
    assert collapsed[1] < 0.05
    with pytest.raises(StatisticsError):
        precision_recall(real[:5], same)


def test_a_ball_reaches_to_the_kth_neighbour():
    real = np.array([[0.0], [1.0], [3.0]])
    # With one neighbour the balls reach 1, 1 and 2.
    made = np.array([[-0.9], [-1.1], [4.9], [5.1]])
    assert precision_recall(real, made, neighbours=1)[0] == 0.5


def test_nearest_is_the_nearest():
    x, among = RNG.normal(size=(300, 3)), RNG.normal(size=(20, 3))
    brute = [min(np.linalg.norm(row - other) for other in among) for row in x]
    np.testing.assert_allclose(nearest(x, among), brute)
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2.0


def test_principal_axes_hold_the_spread():
    x = RNG.normal(size=(500, 2)) @ np.array([[3.0, 0, 1.0], [0, 0.5, 0]]) + 7
    mean, axes = principal_axes(x, 2)
    assert axes.shape == (3, 2)
    np.testing.assert_allclose((x - mean) @ axes @ axes.T + mean, x, atol=1e-9)


def test_adjusted_r2_is_nothing_for_noise_and_one_for_a_line():
    x, y = RNG.normal(size=(100, 10)), RNG.normal(size=100)
    values = [adjusted_r2(RNG.normal(size=(100, 10)), RNG.normal(size=100)) for _ in range(200)]
    assert abs(np.mean(values)) < 0.03
    assert adjusted_r2(x, x[:, 3] * 2 + 1) == pytest.approx(1)
    assert np.isnan(adjusted_r2(x[:11], y[:11]))
    assert np.isnan(adjusted_r2(x, np.ones(100)))


def test_slopes_are_least_squares_without_unknown_rows():
    x = RNG.normal(size=(80, 3))
    y = np.column_stack([x @ [1.0, -2.0, 0.0] + 5, x @ [0.0, 0.0, 3.0]])
    y[::4, 1] = np.nan
    np.testing.assert_allclose(standardised_slopes(x, y), [[1, -2, 0], [0, 0, 3]], atol=1e-12)
    assert np.isnan(standardised_slopes(x[:3], y[:3])).all()
