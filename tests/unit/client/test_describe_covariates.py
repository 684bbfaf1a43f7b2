"""describe's moments of covariates: those of all training ECGs together, and none of a group that is too small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from federated_stages import UNGATED, Federation, site_data, study
from pydantic import ValidationError

from client.rows.inputs import ModelRows
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.study.study import Study

STEPS = [{"id": "cohorts", "stage": "describe"}]


def described(data, limits=UNGATED, covariates=("bmi", "diabetes")):
    for site in data.values():
        site.covariates.pop("lvef")
    federation = Federation(study(STEPS, covariates=covariates), data, limits=limits)
    return federation.run()["cohorts"]


def with_diabetes(data, ill):
    """``ill`` patients have it, all others not; of every tenth ECG nobody knows."""
    flag = (data.patient < ill).astype(np.float32)
    flag[::10] = np.nan
    return replace(data, covariates={**data.covariates, "diabetes": flag})


def test_moments_are_those_of_all_training_ecgs_with_a_known_value():
    data = {"a": with_diabetes(site_data(1, 80), 30), "b": with_diabetes(site_data(2, 50), 20), "c": site_data(3, 40)}
    data["c"] = with_diabetes(data["c"], 9)
    found = described(data).arrays["standardise"]
    assert found.shape == (4, 2)
    for row, name in ((2, "bmi"), (3, "diabetes")):
        known = np.concatenate([data[s].covariates[name][data[s].rows("train")] for s in "ab"]).astype(np.float64)
        known = known[~np.isnan(known)]
        np.testing.assert_allclose(found[row], [known.mean(), known.std()], rtol=1e-9)
    ages = np.concatenate([data[s].age[data[s].rows("train")] for s in "ab"]).astype(np.float64)
    np.testing.assert_allclose(found[0], [ages.mean(), ages.std()], rtol=1e-9)


def test_a_rare_answer_takes_its_site_out_of_the_moments():
    data = {"a": with_diabetes(site_data(1, 200), 100), "b": with_diabetes(site_data(2, 200), 4), "c": site_data(3, 40)}
    data["c"] = with_diabetes(data["c"], 9)
    found = described(data, DisclosureLimits(min_patients=10, min_events=5)).arrays["standardise"]
    known = data["a"].covariates["diabetes"][data["a"].rows("train")].astype(np.float64)
    np.testing.assert_allclose(found[3, 0], known[~np.isnan(known)].mean(), rtol=1e-9)


def test_what_no_site_knows_is_left_as_it_is_and_missing_for_the_model():
    data = {s: site_data(i, 40) for i, s in enumerate("abc")}
    for site in data.values():
        site.covariates["diabetes"] = np.full(len(site), np.nan, dtype=np.float32)
    artefact = described(data)
    np.testing.assert_array_equal(artefact.arrays["standardise"][3], [0, 1])
    rows = np.arange(5)
    order = ("diabetes", "age", "bmi")
    seen = ModelRows(data["a"], rows, covariates=order, standardise=artefact.arrays["standardise"], heads=())
    _, covariates, _ = seen.fetch(rows)
    assert np.isnan(covariates[:, 0]).all()
    mean, sd = artefact.arrays["standardise"][0]
    np.testing.assert_allclose(covariates[:, 1], (data["a"].age[:5] - mean) / sd, rtol=1e-6)


def test_a_study_names_covariates_that_exist():
    assert study(STEPS, covariates=("lv_mass_g", "electrode_V1_superior_cm")).covariates[0] == "lv_mass_g"
    for names, message in ((("lv_mas_g",), "did you mean lv_mass_g"), (("bmi", "bmi"), "twice"), (("zzz",), "allowed")):
        with pytest.raises(ValidationError, match=message):
            Study.model_validate(study(STEPS).model_dump() | {"covariates": names})
