"""The summed Newton fit against statsmodels on pooled data, and what happens where no fit exists."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from ecgshared.errors import StatisticsError
from ecgshared.stats.calibration import (
    LogisticSums,
    brier,
    calibration_curve,
    calibration_line,
    expected_over_observed,
    fit_logistic,
    logistic_sums,
    newton,
    quantile_groups,
    sandwich,
    score_meat,
    to_raw_scale,
)


def unlike_sites(seed: int = 0):
    """Three sites with unlike means, scales, sizes and event rates."""
    rng = np.random.default_rng(seed)
    sites = []
    for n, centre, spread, base in ((700, 0, 1, -1.0), (90, 5, 4, -3.0), (300, -3, 0.3, 1.0)):
        x = rng.normal(centre, spread, (n, 3)) * [1, 20, 0.01] + [0, 60, 0]
        eta = base + 0.5 * x[:, 0] - 0.02 * (x[:, 1] - 60) + 30 * x[:, 2]
        sites.append((x, (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)))
    return sites


def federated_fit(sites, ridge=0.0):
    n = sum(len(x) for x, _ in sites)
    mean = sum(x.sum(axis=0) for x, _ in sites) / n
    scale = np.sqrt(sum((x**2).sum(axis=0) for x, _ in sites) / n - mean**2)
    designs = [(np.column_stack([np.ones(len(x)), (x - mean) / scale]), y) for x, y in sites]
    fit = newton(
        lambda coef: LogisticSums.total(logistic_sums(x, y, coef) for x, y in designs),
        np.zeros(4),
        names=["intercept", "a", "b", "c"],
        ridge=ridge,
    )
    return fit, designs, mean, scale


def test_federated_newton_equals_statsmodels_on_pooled_data():
    sites = unlike_sites()
    fit, _, mean, scale = federated_fit(sites)
    coef, covariance = to_raw_scale(fit.coef, fit.covariance, mean, scale)
    x, y = (np.concatenate(part) for part in zip(*sites, strict=True))
    oracle = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=100)
    np.testing.assert_allclose(coef, oracle.params, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), oracle.bse, rtol=1e-7)
    assert abs(fit.log_likelihood - oracle.llf) < 1e-8


def test_federated_clustered_errors_equal_statsmodels_on_pooled_data():
    sites = unlike_sites(1)
    fit, designs, _, _ = federated_fit(sites)
    patients = [np.arange(len(y)) // 3 + 10_000 * i for i, (_, y) in enumerate(designs)]
    meat = sum(score_meat(x, y, p, fit.coef) for (x, y), p in zip(designs, patients, strict=True))
    groups = np.concatenate(patients)
    n = len(np.unique(groups))
    x, y = (np.concatenate(part) for part in zip(*designs, strict=True))
    oracle = sm.Logit(y, x).fit(
        disp=0, tol=1e-14, cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    ours = np.sqrt(np.diag(sandwich(fit.covariance, meat, n)))
    np.testing.assert_allclose(ours, oracle.bse * np.sqrt(n / (n - 1)), rtol=1e-7)


def test_ridge_equals_scikit_learn_and_leaves_the_intercept_free():
    sites = unlike_sites(2)
    fit, designs, _, _ = federated_fit(sites, ridge=3.0)
    x, y = (np.concatenate(part) for part in zip(*designs, strict=True))
    oracle = LogisticRegression(C=1 / 3.0, tol=1e-12, max_iter=5000, solver="newton-cholesky").fit(x[:, 1:], y)
    np.testing.assert_allclose(fit.coef, [*oracle.intercept_, *oracle.coef_[0]], atol=1e-6)


def test_step_halving_reaches_the_optimum_from_a_bad_start():
    sites = unlike_sites(3)
    good, designs, _, _ = federated_fit(sites)
    fit = newton(
        lambda coef: LogisticSums.total(logistic_sums(x, y, coef) for x, y in designs),
        np.array([3.0, -4.0, 4.0, -4.0]),
        names=list("abcd"),
        max_iterations=60,
    )
    np.testing.assert_allclose(fit.coef, good.coef, atol=1e-9)


def test_separation_is_named_and_ridge_is_the_way_out():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=200), rng.normal(size=200)])
    y = (x[:, 1] > 0.3).astype(int)
    with pytest.raises(StatisticsError, match="separate"):
        fit_logistic(x, y, names=["age", "perfect"], max_iterations=60)
    with pytest.raises(StatisticsError, match="separate"):
        fit_logistic(x, y, names=["age", "perfect"])
    assert fit_logistic(x, y, ridge=1.0).coef[2] > 0


def test_quasi_separation_by_a_flag_is_named():
    rng = np.random.default_rng(1)
    flag = (rng.random(300) < 0.1).astype(float)
    y = np.where(flag == 1, 1, rng.random(300) < 0.2).astype(int)
    with pytest.raises(StatisticsError, match="separate"):
        fit_logistic(np.column_stack([rng.normal(size=300), flag]), y, names=["age", "flag"])


def test_collinear_inputs_are_named():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=100), rng.normal(size=100)
    with pytest.raises(StatisticsError, match=r"collinear[\s\S]*left, sum"):
        fit_logistic(np.column_stack([b, a, 2 * a + 1]), rng.integers(0, 2, 100), names=["other", "left", "sum"])


def test_a_constant_input_is_named():
    with pytest.raises(StatisticsError, match=r"vary[\s\S]*flat"):
        fit_logistic(np.ones((20, 1)), np.arange(20) % 2, names=["flat"])


def test_perfectly_calibrated_risks_have_slope_one_and_tilted_ones_have_not():
    rng = np.random.default_rng(3)
    eta = rng.normal(-1, 1.2, 20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-eta))).astype(int)
    people = np.arange(20_000)
    intercept, slope = calibration_line(1 / (1 + np.exp(-eta)), y, people)
    assert intercept.low < 0 < intercept.high
    assert slope.low < 1 < slope.high
    _, wide = calibration_line(1 / (1 + np.exp(-2 * eta)), y, people)
    assert abs(wide.value - slope.value / 2) < 1e-8


def test_brier_and_expected_over_observed():
    rng = np.random.default_rng(4)
    risk = rng.random(500)
    y = (rng.random(500) < risk).astype(int)
    patient = np.arange(500) // 2
    assert abs(brier(risk, y, patient).value - brier_score_loss(y, risk)) < 1e-12
    ratio = expected_over_observed(risk, y, patient)
    assert abs(ratio.value - risk.sum() / y.sum()) < 1e-12
    assert ratio.low < ratio.value < ratio.high


def test_calibration_curve_by_deciles_equals_plain_means():
    rng = np.random.default_rng(5)
    risk = rng.random(1000)
    y = (rng.random(1000) < risk).astype(int)
    group = quantile_groups(risk)
    curve = calibration_curve(risk, y, np.arange(1000), group)
    assert len(curve.n) == 10
    for g in range(10):
        assert abs(curve.observed[g, 0] - y[group == g].mean()) < 1e-12
        assert abs(curve.mean_predicted[g] - risk[group == g].mean()) < 1e-12
