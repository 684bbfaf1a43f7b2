"""survival over sites, through the gate, against lifelines on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from federated_stages import Federation, site_data, study
from lifelines import CoxPHFitter
from lifelines.statistics import proportional_hazard_test

from ecgshared.endpoints import EventTimes
from ecgshared.stats.cox import coarsen

FIT = {
    "id": "cox",
    "stage": "survival",
    "event": "death",
    "models": {"demographics": ["age", "male"], "both": ["age", "male", "bmi", "lvef"]},
    "horizon_years": 2,
    "max_rounds": 20,
}
NAMES = ("age", "male", "bmi", "lvef")
TIGHT = {"precision": 1e-12}


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def followed(seed, patients, *, split=None, shift=0.0, strength=1.0, rate=0.25):
    """A site whose hazard follows age, sex, BMI and LVEF; days of death are whole, so that many are tied."""
    data = site_data(seed, patients, split=split, shift=shift)
    rng = np.random.default_rng(1000 + seed)
    eta = 0.04 * (data.age - 60) + 0.4 * data.male + 0.05 * np.nan_to_num(data.covariates["bmi"] - 27)
    eta = eta - 3.0 * np.nan_to_num(data.covariates["lvef"] - 0.5)
    patient_eta = np.array([eta[data.patient == p].mean() for p in range(data.n_patients)])
    death = rng.exponential(size=data.n_patients) / (rate * np.exp(strength * patient_eta))
    end = rng.uniform(0.5, 5, data.n_patients)
    earlier = rng.integers(0, 400, len(data.patient)) / 365.25
    days = np.floor(365.25 * np.minimum(death, end)[data.patient]) + np.round(365.25 * earlier)
    years = days / 365.25
    years[rng.random(len(years)) < 0.03] = np.nan
    observed = (death < end)[data.patient] & np.isfinite(years)
    return replace(
        data,
        event_times={"death": EventTimes(years, observed)},
        chronology=np.argsort(np.argsort(-earlier, kind="stable")).astype(np.int64),
    )


def three_sites():
    return {"a": followed(1, 300), "b": followed(2, 220, shift=1.0, rate=0.4), "c": followed(3, 250, split="lockbox")}


def usable(data, split, site, *, one=True):
    """The rows a survival step takes, as a frame: complete, timed, the most recent of each patient."""
    frame = pd.DataFrame(
        {
            "age": data.age,
            "male": data.male,
            **data.covariates,
            "years": data.event_times["death"].years,
            "event": data.event_times["death"].observed,
            "patient": data.patient,
            "when": data.chronology,
        }
    ).astype(np.float64)
    frame = frame.iloc[data.rows(split)].dropna()
    if one:
        frame = frame.sort_values("when").groupby("patient").tail(1)
    return frame.assign(site=site, patient=frame["patient"] + 1e6 * ord(site))


def pooled(data, *, one=True):
    return pd.concat([usable(data[s], "train", s, one=one) for s in ("a", "b")], ignore_index=True)


def lifelines_fit(frame, names, **keys):
    fitter = CoxPHFitter(penalizer=keys.pop("penalizer", 0.0), l1_ratio=0.0)
    fitter.fit(frame[[*names, "years", "event", *keys.get("strata", [])]], "years", "event", fit_options=TIGHT, **keys)
    return fitter


def coefficients(model, what="coef"):
    return [c[what] for c in model["coefficients"].values()]


def test_stratified_equals_lifelines_with_strata_of_sites():
    data = three_sites()
    result = Federation(study([{**FIT, "robust": False}]), data).run()["cox"].result
    frame = pooled(data)
    for model, names in (("demographics", NAMES[:2]), ("both", NAMES)):
        found, fit = result["models"][model], lifelines_fit(frame, names, strata=["site"])
        np.testing.assert_allclose(coefficients(found), fit.params_, atol=1e-8)
        np.testing.assert_allclose(coefficients(found, "se"), fit.standard_errors_, atol=1e-6)
        assert found["log_likelihood"] == pytest.approx(fit.log_likelihood_, abs=1e-8)
        assert (found["ecgs"], found["events"]) == (len(frame), frame["event"].sum())
        test = proportional_hazard_test(fit, frame[[*names, "years", "event", "site"]], time_transform="identity")
        np.testing.assert_allclose(
            [h["p"] for h in found["proportional_hazards"].values()], test.summary["p"].loc[list(names)], rtol=1e-5
        )


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_exact_equals_lifelines_on_the_coarsened_pooled_times(ties):
    data = three_sites()
    step = {**FIT, "mode": "exact", "ties": ties, "robust": False, "follow_up_years": 5, "grid_years": 0.25}
    result = Federation(study([step]), data).run()["cox"].result
    assert len(result["grid"]) > 10
    frame = pooled(data)
    frame["years"], frame["event"] = coarsen(frame["years"].clip(upper=5), frame["event"], np.array(result["grid"]))
    if ties == "efron":
        fit = lifelines_fit(frame, NAMES)
        np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)
        np.testing.assert_allclose(coefficients(result["models"]["both"], "se"), fit.standard_errors_, atol=1e-6)
        test = proportional_hazard_test(fit, frame[[*NAMES, "years", "event"]], time_transform="identity")
        found = [h["p"] for h in result["models"]["both"]["proportional_hazards"].values()]
        np.testing.assert_allclose(found, test.summary["p"].loc[list(NAMES)], rtol=1e-5)
    else:
        import statsmodels.duration.api as duration

        fit = duration.PHReg(frame["years"], frame[list(NAMES)], status=frame["event"], ties="breslow").fit(tol=1e-12)
        np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params, atol=1e-7)


def test_a_penalty_is_lifelines_penalty():
    data = three_sites()
    result = Federation(study([{**FIT, "robust": False, "penalizer": 0.1}]), data).run()["cox"].result
    fit = lifelines_fit(pooled(data), NAMES, strata=["site"], penalizer=0.1)
    np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)


def test_errors_are_clustered_by_patient_where_several_ecgs_count():
    data = {
        s: replace(d, event_times={"death": EventTimes(_untied(d.event_times["death"].years), d.event_times["death"].observed)})
        for s, d in three_sites().items()
    }
    result = Federation(study([{**FIT, "one_ecg_per_patient": False}]), data).run()["cox"].result["models"]["both"]
    frame = pooled(data, one=False)
    fit = CoxPHFitter().fit(
        frame[[*NAMES, "years", "event", "site", "patient"]],
        "years",
        "event",
        strata=["site"],
        cluster_col="patient",
        fit_options=TIGHT,
    )
    np.testing.assert_allclose(coefficients(result), fit.params_, atol=1e-8)
    np.testing.assert_allclose(coefficients(result, "se"), fit.standard_errors_, rtol=1e-5)
    assert result["robust"] is True


def _untied(years):
    return years + np.arange(len(years)) * 1e-7


def test_the_forest_holds_the_fit_of_each_site_alone():
    data = three_sites()
    result = Federation(study([{**FIT, "robust": False}]), data).run()["cox"].result
    for site in ("a", "b"):
        fit = lifelines_fit(usable(data[site], "train", site), NAMES)
        found = [f["sites"][site] for f in result["models"]["both"]["forest"].values()]
        np.testing.assert_allclose([f["coef"] for f in found], fit.params_, atol=1e-8)
        np.testing.assert_allclose([f["se"] for f in found], fit.standard_errors_, atol=1e-6)
    local = Federation(study([{**FIT, "robust": False, "mode": "local"}]), data).run()["cox"].result
    forest = local["models"]["both"]["forest"]
    assert coefficients(local["models"]["both"]) == [f["fixed"]["value"] for f in forest.values()]
