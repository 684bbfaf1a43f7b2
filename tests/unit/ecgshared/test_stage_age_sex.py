"""Age and sex: sums against scikit-learn and statsmodels, intervals' coverage, the conformal bound, SaMi-Trop's net."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import statsmodels.api as sm
from lifelines import CoxPHFitter
from pydantic import ValidationError
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, r2_score

from ecgshared.stages.age_sex import (
    DECADES,
    GROUPS,
    AgeFigures,
    Config,
    age_sums,
    clusters,
    conformal,
    gap_line,
    in_groups,
    mean_error,
    merged_errors,
)


def made(n, seed=0, per_patient=1):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n), per_patient)
    age = np.repeat(rng.uniform(20, 95, n), per_patient)
    own = np.repeat(rng.normal(0, 6, n), per_patient)
    predicted = 58 + 0.6 * (age - 58) + own + rng.normal(0, 4, len(age))
    return predicted, age, patient


def gap_sums(predicted, age):
    error = predicted - age
    return np.array([len(age), age.sum(), (age**2).sum(), error.sum(), (error * age).sum(), (error**2).sum()])


def test_figures_from_sums_over_sites_are_the_pooled_ones():
    """Three sites: scikit-learn's MAE and R2, numpy's SD, the least-squares slope; to 1e-9."""
    sites = [made(40, 1), made(25, 2), made(33, 3)]
    found = AgeFigures.of(sum(age_sums(p, a) for p, a, _ in sites))
    predicted, age = (np.concatenate([s[i] for s in sites]) for i in (0, 1))
    error = predicted - age
    assert found.mae == pytest.approx(mean_absolute_error(age, predicted), abs=1e-9)
    assert found.r2 == pytest.approx(r2_score(age, predicted), abs=1e-9)
    assert found.sd == pytest.approx(error.std(ddof=1), abs=1e-9)
    assert found.limits[1] == pytest.approx(error.mean() + 1.96 * error.std(ddof=1), abs=1e-9)
    fit = sm.OLS(error, sm.add_constant((predicted + age) / 2)).fit()
    assert found.slope == pytest.approx(fit.params[1], abs=1e-9)
    assert found.r == pytest.approx(pearsonr(predicted, age).statistic, abs=1e-9)


def test_the_interval_of_a_correlation_is_scipys():
    from server.stages.age_sex import _correlation

    predicted, age, _ = made(40, 1)
    r = pearsonr(predicted, age)
    ours, theirs = _correlation(r.statistic, 40), r.confidence_interval(0.95)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-9), pytest.approx(theirs.high, abs=1e-9))
    assert _correlation(float("nan"), 40).low is None
    assert np.isnan(AgeFigures.of(age_sums(np.full(40, 60.0), age)).r)


def test_the_gaps_line_is_the_pooled_least_squares_and_what_is_left_does_not_go_with_age():
    sites = [made(40, 1), made(25, 2), made(33, 3)]
    intercept, slope, sd = gap_line(sum(gap_sums(p, a) for p, a, _ in sites))
    predicted, age = (np.concatenate([s[i] for s in sites]) for i in (0, 1))
    fit = sm.OLS(predicted - age, sm.add_constant(age)).fit()
    np.testing.assert_allclose([intercept, slope, sd], [*fit.params, np.sqrt(fit.mse_resid)], rtol=0, atol=1e-8)
    gap = predicted - age - intercept - slope * age
    assert abs(np.corrcoef(gap, age)[0, 1]) < 1e-10
    assert np.corrcoef(predicted - age, age)[0, 1] < -0.3
    assert all(np.isnan(gap_line(gap_sums(np.full(5, 50.0), np.full(5, 60.0)))))


def test_the_error_of_a_mean_is_clustered_by_patient():
    """Equal to statsmodels' cluster-robust error of an intercept, with its factor G / (G - 1)."""
    predicted, age, patient = made(30, 4, per_patient=3)
    value = np.abs(predicted - age)
    ours = mean_error(float(value.sum()), len(value), clusters(value, patient), 30)
    fit = sm.OLS(value, np.ones(len(value))).fit(
        cov_type="cluster", cov_kwds={"groups": patient, "df_correction": False}
    )
    assert ours == pytest.approx(float(fit.bse[0]), rel=1e-9)


@pytest.mark.parametrize(("patients", "per_patient"), [(45, 1), (15, 3)])
def test_three_hospitals_of_45_have_intervals_that_hold(patients, per_patient):
    """Coverage of the pooled MAE's 95% interval over 400 draws: at least 92%."""
    from server.stages.age_sex import _mean

    truth = np.abs(np.subtract(*made(200_000, 99)[:2])).mean()
    held = 0
    for draw in range(400):
        sites = [made(patients, 3 * draw + k, per_patient) for k in range(3)]
        values = [(np.abs(p - a), who) for p, a, who in sites]
        total, n = sum(v.sum() for v, _ in values), sum(len(v) for v, _ in values)
        found = _mean(total, n, sum(clusters(v, w) for v, w in values), 3 * patients)
        held += found.low <= truth <= found.high
    print(f"{held / 4:.1f}%")
    assert held >= 0.92 * 400


def test_the_conformal_bound_holds_new_people_and_never_rests_on_few():
    held, sites = [], 3
    for draw in range(200):
        bins = [merged_errors(*_errors(45, 1000 * draw + k), 10) for k in range(sites)]
        assert all((people >= 10).all() for _, _, people in bins)
        half = conformal([b[0] for b in bins], [b[1] for b in bins], 0.9)
        new = _errors(400, 500_000 + draw)[0]
        held.append((new <= half).mean() if np.isfinite(half) else np.nan)
    print(f"coverage {np.nanmean(held):.3f}, no bound in {np.isnan(held).mean():.0%}")
    assert np.nanmean(held) >= 0.9
    assert np.isnan(conformal([np.array([5.0])], [np.array([3.0])], 0.9))


def _errors(n, seed):
    predicted, age, patient = made(n, seed)
    return np.abs(predicted - age), patient


def test_bins_of_errors_leave_nobody_alone():
    absolute = np.array([*np.linspace(0.1, 3.9, 30), 55.0])
    edge, ecgs, people = merged_errors(absolute, np.arange(31), 10)
    assert ecgs.sum() == 31
    assert (people >= 10).all()
    assert edge[-1] >= 55


def test_groups():
    groups = in_groups(np.array([39.9, 40, 85, np.nan]), np.array([1.0, 0.0, np.nan, 1.0]))
    members = {name: groups[g].tolist() for g, name in enumerate(GROUPS)}
    assert members["all"] == [True] * 4
    assert members["men"] == [True, False, False, True]
    assert [members[d] for d in DECADES] == [
        [True, False, False, False],
        [False, True, False, False],
        *[[False] * 4] * 3,
        [False, False, True, False],
    ]


def test_a_step_that_judges_nothing_is_refused():
    with pytest.raises(ValidationError, match="under age, under sex"):
        Config(id="a", stage="age_sex")
    with pytest.raises(ValidationError, match="of the same"):
        Config(id="a", stage="age_sex", age="net.years", against={"sex": "net.male"})


def test_samitrops_net_through_the_same_sums(shared_data):
    """nn_predicted_age of 1,631 patients: MAE as scikit-learn's; the corrected gap as covariate of death."""
    with (shared_data / "samitrop" / "exams.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["nn_predicted_age"]]
    age, predicted = (np.array([float(r[key]) for r in rows]) for key in ("age", "nn_predicted_age"))
    found = AgeFigures.of(age_sums(predicted, age))
    assert found.mae == pytest.approx(mean_absolute_error(age, predicted), abs=1e-9)
    intercept, slope, _ = gap_line(gap_sums(predicted, age))
    gap = predicted - age - intercept - slope * age
    import pandas as pd

    frame = pd.DataFrame(
        {
            "years": [float(r["timey"]) for r in rows],
            "died": [r["death"] == "True" for r in rows],
            **{"age": age, "male": [float(r["is_male"] == "True") for r in rows], "gap": gap},
        }
    )
    fit = CoxPHFitter().fit(frame, "years", "died")
    low, high = np.exp(10 * fit.confidence_intervals_.loc["gap"])
    print(
        f"SaMi-Trop, {len(rows)} patients: MAE {found.mae:.2f}, bias {found.bias:.2f}, SD {found.sd:.2f}, "
        f"R2 {found.r2:.3f}; gap = predicted - age - ({intercept:.1f} {slope:+.3f} age); hazard ratio of death per ten "
        f"years of gap beside age and sex {np.exp(10 * fit.params_['gap']):.2f} ({low:.2f} to {high:.2f})"
    )
    assert 5 < found.mae < 15
    assert slope < 0
