"""The exact AUC against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from ecgshared.errors import StatisticsError
from ecgshared.stats.roc import auc, count_by_score, placements_from_counts, roc_curve


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 60))
    score = draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))
    y = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda v: 0 < sum(v) < len(v)))
    return np.array(score, dtype=float) / 3, np.array(y)


@given(scored())
@settings(max_examples=150, deadline=None)
def test_auc_with_ties_equals_scikit_learn(data):
    score, y = data
    assert abs(auc(score, y) - roc_auc_score(y, score)) < 1e-12


@pytest.mark.parametrize("n", [50, 20_000])
def test_auc_of_many_scores_equals_scikit_learn(n):
    rng = np.random.default_rng(n)
    y = (rng.random(n) < 0.1).astype(int)
    score = rng.normal(size=n) + y
    assert abs(auc(score, y) - roc_auc_score(y, score)) < 1e-12
    assert abs(auc(-score, y) - (1 - auc(score, y))) < 1e-12


@given(scored())
@settings(max_examples=60, deadline=None)
def test_roc_points_equal_scikit_learn(data):
    score, y = data
    ours = roc_curve(score, y)
    fpr, tpr, threshold = sklearn_roc_curve(y, score, drop_intermediate=False)
    np.testing.assert_allclose(ours.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(ours.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(ours.threshold[1:], threshold[1:])


@given(scored())
@settings(max_examples=60, deadline=None)
def test_mean_placement_of_cases_and_of_controls_is_the_auc(data):
    score, y = data
    counts = count_by_score(score, y)
    case, control = placements_from_counts(counts.cases, counts.controls)
    assert abs(case[counts.index][y == 1].mean() - auc(score, y)) < 1e-12
    assert abs(control[counts.index][y == 0].mean() - auc(score, y)) < 1e-12


@pytest.mark.parametrize(
    ("score", "y", "says"),
    [
        ([0.1, 0.2], [1, 1], "2 cases of 2"),
        ([0.1, np.nan], [0, 1], "not finite"),
        ([0.1, 0.2], [0, 2], "neither 0 nor 1"),
        ([0.1, 0.2], [0, 1, 1], "do not match"),
    ],
)
def test_bad_input_is_named(score, y, says):
    with pytest.raises(StatisticsError, match=says):
        auc(np.array(score), np.array(y))
