"""Clustered intervals against DeLong, statsmodels, and a naive bootstrap over patients."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from ecgshared.stats.influence import (
    clustered_auc,
    clustered_ratio,
    rate_above,
    ratio_estimate,
    ratio_square_sum,
)
from ecgshared.stats.roc import auc, count_by_score, placements_from_counts


def clustered_cohort(seed: int, patients: int = 900, prevalence: float = 0.15):
    """ECGs of patients who differ in how many they have, in risk, and keep their outcome."""
    rng = np.random.default_rng(seed)
    n_ecgs = rng.choice([1, 1, 2, 3, 8], patients)
    patient = np.repeat(np.arange(patients), n_ecgs)
    frailty = rng.normal(size=patients)
    event = rng.random(patients) < 1 / (1 + np.exp(-(np.log(prevalence / (1 - prevalence)) + 1.3 * frailty)))
    y = event[patient].astype(int)
    score = frailty[patient] + 0.7 * rng.normal(size=len(patient))
    return np.round(score, 2), y, patient


def bootstrap(statistic, score, y, patient, replicates: int = 2000, seed: int = 1) -> np.ndarray:
    """Resample whole patients; return the 2.5th and 97.5th percentile."""
    rng = np.random.default_rng(seed)
    rows_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    values = np.empty(replicates)
    for r in range(replicates):
        rows = np.concatenate([rows_of[p] for p in rng.integers(0, len(rows_of), len(rows_of))])
        values[r] = statistic(score[rows], y[rows])
    return np.percentile(values, [2.5, 97.5])


def test_auc_interval_is_that_of_a_patient_bootstrap():
    score, y, patient = clustered_cohort(3)
    low, high = bootstrap(auc, score, y, patient)
    ours = clustered_auc(score, y, patient)
    naive = clustered_auc(score, y, np.arange(len(y)))
    assert abs(ours.low - low) < 0.005
    assert abs(ours.high - high) < 0.005
    # Counting ECGs as if they were patients would be visibly too sure here.
    assert naive.high - naive.low < 0.75 * (high - low)


def test_rate_above_a_fixed_cut_has_the_interval_of_a_patient_bootstrap():
    score, y, patient = clustered_cohort(4, patients=2500)
    low, high = bootstrap(lambda s, o: o[s >= 0.5].mean(), score, y, patient)
    ours = rate_above(score >= 0.5, y, patient)
    assert ours.value == y[score >= 0.5].mean()
    assert abs(ours.low - low) < 0.005
    assert abs(ours.high - high) < 0.005


def test_without_clusters_it_is_delong():
    score, y, _ = clustered_cohort(6, patients=300)
    counts = count_by_score(score, y)
    case, control = placements_from_counts(counts.cases, counts.controls)
    v10, v01 = case[counts.index][y == 1], control[counts.index][y == 0]
    delong = v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)
    assert abs(clustered_auc(score, y, np.arange(len(y))).se ** 2 - delong) < 1e-15


def test_ratio_equals_the_clustered_mean_of_statsmodels():
    _, y, patient = clustered_cohort(7, patients=200)
    fit = sm.OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": patient, "use_correction": False})
    n = len(np.unique(patient))
    ours = clustered_ratio(y, np.ones(len(y)), patient)
    assert abs(ours.value - fit.params[0]) < 1e-12
    assert abs(ours.se - fit.bse[0] * np.sqrt(n / (n - 1))) < 1e-12


def test_sites_add_up_to_the_pooled_ratio_interval_exactly():
    a, b = clustered_cohort(1), clustered_cohort(2)
    patients = len(np.unique(a[2])) + len(np.unique(b[2]))
    y = np.concatenate([a[1], b[1]])
    pooled = clustered_ratio(y, np.ones(len(y)), np.concatenate([a[2], b[2] + 10_000]))
    squares = sum(ratio_square_sum(o, np.ones(len(o)), p, pooled.value) for _, o, p in (a, b))
    ours = ratio_estimate(pooled.value, squares, len(y), patients, scale="logit")
    np.testing.assert_allclose(ours.as_array(), pooled.as_array(), rtol=1e-12)


def test_a_rate_of_zero_gets_wilsons_interval():
    ours = rate_above(np.ones(20, dtype=bool), np.zeros(20, dtype=int), np.arange(20))
    wilson = sm.stats.proportion_confint(0, 20, method="wilson")
    assert ours.low == 0
    assert abs(ours.high - wilson[1]) < 1e-12


def test_one_patient_gives_a_value_and_no_interval():
    ours = clustered_auc(np.array([0.1, 0.9]), np.array([0, 1]), np.array([0, 0]))
    assert ours.value == 1
    assert np.isnan([ours.se, ours.low, ours.high]).all()


@pytest.mark.parametrize("factor", [1, 5])
def test_repeating_every_ecg_of_a_patient_adds_no_certainty(factor):
    score, y, patient = clustered_cohort(8, patients=200)
    once = clustered_auc(score, y, patient)
    again = clustered_auc(np.repeat(score, factor), np.repeat(y, factor), np.repeat(patient, factor))
    np.testing.assert_allclose(once.as_array(), again.as_array(), rtol=1e-10)
