"""AUC, Brier scores and calibration against slow versions with weights, and their influences as derivatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from sklearn.metrics import roc_auc_score
from test_concordance import derivative, several_ecgs_a_patient, slow_uncensored, tied

from ecgshared.errors import StatisticsError
from ecgshared.stats.calibration import quantile_groups
from ecgshared.stats.concordance import uno
from ecgshared.stats.survival_performance import (
    brier_score,
    calibration_at_horizon,
    calibration_slope,
    cumulative_auc,
    expected_over_observed,
    integrated_brier,
)

HORIZON = 5.0


def slow_auc(time, event, risk, weight):
    above = below = 0.0
    for i in np.flatnonzero((event == 1) & (time <= HORIZON)):
        w = weight[i] / slow_uncensored(time, event, weight, time[i], before=True)
        for j in np.flatnonzero((time > HORIZON) | ((time == HORIZON) & (event == 0))):
            below += w * weight[j]
            above += w * weight[j] * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return above / below


def slow_brier(time, event, survival, weight, horizon):
    total = 0.0
    for i in range(len(time)):
        if time[i] > horizon or (time[i] == horizon and not event[i]):
            free = slow_uncensored(time, event, weight, horizon, before=True)
            total += weight[i] * (1 - survival[i]) ** 2 / free
        elif event[i]:
            total += weight[i] * survival[i] ** 2 / slow_uncensored(time, event, weight, time[i], before=True)
    return total / weight.sum()


@pytest.mark.parametrize("seed", [1, 2])
def test_auc_and_its_influences_equal_the_slow_definition(seed):
    time, event, risk = tied(seed)
    found = cumulative_auc(time, event, risk, HORIZON)
    assert found.value == pytest.approx(slow_auc(time, event, risk, np.ones(30)), abs=1e-12)
    np.testing.assert_allclose(found.influence, derivative(lambda w: slow_auc(time, event, risk, w), 30), atol=1e-8)


def test_without_censoring_it_is_the_plain_auc():
    time, _, risk = tied(3)
    found = cumulative_auc(time, np.ones(30), risk, HORIZON)
    assert found.value == pytest.approx(roc_auc_score(time <= HORIZON, risk), abs=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_brier_and_its_influences_equal_the_slow_definition(seed):
    time, event, risk = tied(seed)
    survival = 1 / (1 + np.exp(risk / 2 - 1))
    found = brier_score(time, event, survival, HORIZON)
    assert found.value == pytest.approx(slow_brier(time, event, survival, np.ones(30), HORIZON), abs=1e-12)
    slow = derivative(lambda w: slow_brier(time, event, survival, w, HORIZON), 30)
    np.testing.assert_allclose(found.influence, slow, atol=1e-8)


def test_integrated_brier_is_the_area_under_the_score_over_the_time():
    time, event, risk = tied(4, 60)
    at = np.array([1.5, 3.5, 5.0, 6.5])
    survival = np.exp(-np.exp(risk / 3 - 2)[:, None] * at)
    found = integrated_brier(time, event, survival, at)
    scores = [slow_brier(time, event, survival[:, j], np.ones(60), t) for j, t in enumerate(at)]
    area = np.trapezoid([0.0, *scores], [0.0, *at]) / at[-1]
    assert found.value == pytest.approx(area, abs=1e-12)

    def slow(weight):
        values = [slow_brier(time, event, survival[:, j], weight, t) for j, t in enumerate(at)]
        return np.trapezoid([0.0, *values], [0.0, *at]) / at[-1]

    np.testing.assert_allclose(found.influence, derivative(slow, 60), atol=1e-8)


def _ratio(time, event, risk, patient):
    return expected_over_observed(time, event, 1 - np.exp(-0.7 * np.exp(risk)), patient, 1.0)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda t, e, r, p: cumulative_auc(t, e, r, 1.0).estimate(p),
        lambda t, e, r, p: brier_score(t, e, np.exp(-0.7 * np.exp(r)), 1.0).estimate(p),
        _ratio,
    ],
)
def test_errors_are_those_of_a_patient_bootstrap(statistic):
    time, event, risk, patient = several_ecgs_a_patient(11)
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(patient == p) for p in range(patient.max() + 1)]
    draws = []
    for _ in range(300):
        chosen = np.concatenate([rows[p] for p in rng.integers(0, len(rows), len(rows))])
        draws.append(statistic(time[chosen], event[chosen], risk[chosen], patient[chosen]).value)
    assert statistic(time, event, risk, patient).se == pytest.approx(np.std(draws, ddof=1), rel=0.12)


def test_calibration_groups_are_observed_by_kaplan_meier():
    time, event, risk, patient = several_ecgs_a_patient(12)
    predicted = 1 - np.exp(-0.5 * np.exp(risk))
    group = quantile_groups(predicted, 5)
    found = calibration_at_horizon(time, event, predicted, patient, 1.0, group, 6)
    assert np.all(np.diff(found.predicted[:5]) > 0)
    assert np.isnan(found.predicted[5])
    for g in range(5):
        fit = KaplanMeierFitter().fit(time[group == g], event[group == g])
        assert found.observed[g, 0] == pytest.approx(1 - float(fit.predict(1.0)), abs=1e-12)
    assert (found.observed[:5, 2] < found.observed[:5, 0]).all()
    assert (found.observed[:5, 0] < found.observed[:5, 3]).all()


def test_a_true_model_is_calibrated_and_a_constant_one_scores_as_its_variance():
    rng = np.random.default_rng(5)
    n = 20_000
    risk = rng.normal(size=n)
    time = rng.exponential(size=n) / np.exp(risk - 1)
    censored = rng.exponential(2, n)
    event, seen = (time <= censored).astype(int), np.minimum(time, censored)
    survival = np.exp(-np.exp(risk - 1))
    ratio = expected_over_observed(seen, event, 1 - survival, np.arange(n), 1.0)
    assert ratio.low < 1 < ratio.high
    truth = np.mean((survival - (time > 1)) ** 2)
    assert brier_score(seen, event, survival, 1.0).value == pytest.approx(truth, abs=0.003)
    tenths = quantile_groups(1 - survival, 10)
    groups = calibration_at_horizon(seen, event, 1 - survival, np.arange(n), 1.0, tenths, 10)
    inside = (groups.observed[:, 2] <= groups.predicted) & (groups.predicted <= groups.observed[:, 3])
    assert inside.sum() >= 8


def test_what_is_undefined_is_said():
    time, event = np.array([1.0, 2.0, 3.0]), np.array([0, 0, 0])
    with pytest.raises(StatisticsError, match="events by the horizon"):
        cumulative_auc(time, event, np.arange(3.0), 2.0)
    with pytest.raises(StatisticsError, match="followed to"):
        brier_score(time, event, np.ones(3), 9.0)
    with pytest.raises(StatisticsError, match="ascend"):
        integrated_brier(time, event, np.ones((3, 2)), np.array([2.0, 1.0]))
    with pytest.raises(StatisticsError, match="nobody"):
        expected_over_observed(time, event, np.ones(3) / 2, np.arange(3), 2.0)
    with pytest.raises(StatisticsError):
        calibration_slope(time, np.array([1, 1, 0]), np.ones(3), np.arange(3))


def test_the_slope_is_lifelines_cox_model_of_the_linear_predictor():
    time, event, risk, patient = several_ecgs_a_patient(13)
    frame = pd.DataFrame({"t": time, "e": event, "risk": risk, "patient": patient})
    fit = CoxPHFitter().fit(frame, "t", "e", cluster_col="patient", fit_options={"precision": 1e-12})
    found = calibration_slope(time, event, risk, patient)
    assert found.value == pytest.approx(fit.params_["risk"], abs=1e-8)
    events = len(np.unique(patient[event == 1]))
    widened = fit.standard_errors_["risk"] * np.sqrt(events / (events - 1))
    assert found.se == pytest.approx(widened, rel=1e-5)


def test_a_follow_up_cut_at_the_horizon_leaves_every_status_known():
    rng = np.random.default_rng(7)
    x = rng.normal(size=4000)
    time = rng.exponential(8 / np.exp(0.7 * x))
    event, seen = time <= 2.0, np.minimum(time, 2.0)
    found = cumulative_auc(seen, event, x, 2.0)
    assert found.value == pytest.approx(roc_auc_score(event, x), abs=1e-12)
    assert found.value == pytest.approx(0.708, abs=0.02)
    survival = np.exp(-np.exp(0.7 * x) / 4)
    assert brier_score(seen, event, survival, 2.0).value == pytest.approx(np.mean((survival - ~event) ** 2), abs=1e-12)


def slow_known(time, cause, weight, horizon):
    """Each row's status at the horizon (NaN where unknown) and its weight, by its definition."""
    status, inverse = np.full(len(time), np.nan), np.zeros(len(time))
    for i in range(len(time)):
        if time[i] <= horizon and cause[i]:
            status[i], at = float(cause[i] == 1), time[i]
        elif time[i] >= horizon:
            status[i], at = 0.0, horizon
        else:
            continue
        inverse[i] = weight[i] / slow_uncensored(time, (cause > 0).astype(int), weight, at, before=True)
    return status, inverse


def slow_competing_auc(time, cause, risk, weight):
    status, w = slow_known(time, cause, weight, HORIZON)
    above = below = 0.0
    for i in np.flatnonzero(status == 1):
        for j in np.flatnonzero(status == 0):
            below += w[i] * w[j]
            above += w[i] * w[j] * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return above / below


def slow_competing_brier(time, cause, survival, weight):
    status, w = slow_known(time, cause, weight, HORIZON)
    known = np.isfinite(status)
    return float(w[known] @ (1 - survival[known] - status[known]) ** 2) / weight.sum()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_died_of_something_else_is_without_the_event(seed):
    time, event, risk = tied(seed)
    cause = np.where(event == 1, np.random.default_rng(seed).integers(1, 3, 30), 0)
    survival = 1 / (1 + np.exp(risk / 2 - 1))
    auc, brier = cumulative_auc(time, cause, risk, HORIZON), brier_score(time, cause, survival, HORIZON)
    assert auc.value == pytest.approx(slow_competing_auc(time, cause, risk, np.ones(30)), abs=1e-12)
    assert brier.value == pytest.approx(slow_competing_brier(time, cause, survival, np.ones(30)), abs=1e-12)
    slow = derivative(lambda w: slow_competing_auc(time, cause, risk, w), 30)
    np.testing.assert_allclose(auc.influence, slow, atol=1e-8)
    slow = derivative(lambda w: slow_competing_brier(time, cause, survival, w), 30)
    np.testing.assert_allclose(brier.influence, slow, atol=1e-8)


def test_a_true_model_is_calibrated_where_other_deaths_compete():
    """Against 1 - Kaplan-Meier it would look as if it foresaw a sixth too few."""
    rng = np.random.default_rng(8)
    n, rate = 20_000, 0.018
    risk = rng.normal(0, 0.5, n)
    own, other = rng.exponential(size=n) / (rate * np.exp(risk)), rng.exponential(size=n) / 0.07
    end = rng.uniform(2, 9, n)
    time = np.minimum(np.minimum(own, other), end)
    cause = np.where(time == end, 0, np.where(own < other, 1, 2))
    hazard = rate * np.exp(risk)
    truth = hazard / (hazard + 0.07) * (1 - np.exp(-5 * (hazard + 0.07)))
    ratio = expected_over_observed(time, cause, truth, np.arange(n), 5.0)
    assert ratio.low < 1 < ratio.high
    naive = expected_over_observed(time, np.where(cause == 2, 0, cause), truth, np.arange(n), 5.0)
    assert naive.high < 0.9


def test_scikit_survival_says_the_same():
    """Where nobody is censored on the day of the horizon, on which conventions differ."""
    from sksurv.metrics import brier_score as sksurv_brier
    from sksurv.metrics import concordance_index_ipcw, cumulative_dynamic_auc
    from sksurv.util import Surv

    rng = np.random.default_rng(9)
    risk = rng.normal(size=400)
    time = np.minimum(rng.exponential(6 / np.exp(risk)), end := rng.uniform(1, 12, 400))
    event = time < end
    seen = Surv.from_arrays(event, time)
    expected, _ = cumulative_dynamic_auc(seen, seen, risk, HORIZON)
    assert cumulative_auc(time, event, risk, HORIZON).value == pytest.approx(expected[0], abs=1e-9)
    survival = np.exp(-np.exp(risk) * HORIZON / 6)
    _, score = sksurv_brier(seen, seen, survival, HORIZON)
    assert brier_score(time, event, survival, HORIZON).value == pytest.approx(score[0], abs=1e-9)
    assert uno(time, event, risk, until=HORIZON).value == pytest.approx(
        concordance_index_ipcw(seen, seen, risk, HORIZON)[0], abs=1e-9
    )
