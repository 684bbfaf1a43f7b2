"""Average precision against scikit-learn, paired differences against an independent DeLong, both against bootstraps."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecgshared.errors import StatisticsError
from ecgshared.stats.discrimination import auc_difference, average_precision


def cohort(seed, patients=400, ecgs=3, rate=0.2):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, ecgs + 1, patients))
    event = rng.random(patients) < rate
    y = event[patient].astype(int)
    frail = rng.normal(size=patients)[patient] + y
    first = np.round(frail + 0.5 * rng.normal(size=len(y)), 1)
    second = np.round(0.5 * frail + rng.normal(size=len(y)), 1)
    return first, second, y, patient


def delong(scores, y):
    """DeLong, DeLong & Clarke-Pearson 1988 from its definition: covariance of placements, pair by pair."""
    case, control = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    psi = [(s[case][:, None] > s[control]) + 0.5 * (s[case][:, None] == s[control]) for s in scores]
    auc = np.array([p.mean() for p in psi])
    s10 = np.cov([p.mean(axis=1) for p in psi]) / len(case)
    s01 = np.cov([p.mean(axis=0) for p in psi]) / len(control)
    cov = s10 + s01
    return auc[0] - auc[1], float(np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]))


def resampled(statistic, patient, replicates=800):
    rng = np.random.default_rng(1)
    rows_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    draws = [
        np.concatenate([rows_of[p] for p in rng.integers(0, len(rows_of), len(rows_of))]) for _ in range(replicates)
    ]
    return np.std([statistic(rows) for rows in draws], ddof=1)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_scikit_learn(seed):
    score, _, y, patient = cohort(seed)
    assert average_precision(score, y, patient).value == pytest.approx(average_precision_score(y, score), abs=1e-12)


def test_average_precisions_error_is_that_of_a_patient_bootstrap():
    score, _, y, patient = cohort(7, patients=1200)
    found = average_precision(score, y, patient)
    spread = resampled(lambda rows: average_precision_score(y[rows], score[rows]), patient, 400)
    assert found.se == pytest.approx(spread, rel=0.1)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("seed", range(3))
def test_with_one_ecg_a_patient_the_difference_is_delongs(seed):
    first, second, y, _ = cohort(seed, ecgs=1)
    found = auc_difference(first, second, y, np.arange(len(y)))
    value, se = delong([first, second], y)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.se == pytest.approx(se, abs=1e-12)


def test_clustered_differences_have_the_error_of_a_patient_bootstrap():
    first, second, y, patient = cohort(11, patients=900)
    found = auc_difference(first, second, y, patient)
    spread = resampled(
        lambda rows: roc_auc_score(y[rows], first[rows]) - roc_auc_score(y[rows], second[rows]), patient, 300
    )
    assert found.se == pytest.approx(spread, rel=0.12)


def test_scores_that_rank_alike_differ_by_nothing_and_have_no_error():
    first, _, y, patient = cohort(3)
    found = auc_difference(first, np.exp(first), y, patient)
    assert found.value == 0
    assert np.isnan([found.se, found.low, found.high]).all()


def test_few_events_have_values_without_an_interval():
    rng = np.random.default_rng(0)
    y = np.array([1] * 9 + [0] * 60)
    a, b = rng.normal(size=69) + y, rng.normal(size=69)
    for found in (average_precision(a, y, np.arange(69)), auc_difference(a, b, y, np.arange(69))):
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()
    with pytest.raises(StatisticsError):
        average_precision(a, np.zeros(69), np.arange(69))
