"""What the demo is judged against: the truth of exactly the selected ECGs, and a regression on amplitudes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.errors import ConfigError
from ecgshared.study.study import load_study
from simulations.judging.baselines import amplitude_regression, amplitudes, true_risk


def test_amplitudes_are_those_of_a_known_signal():
    """A spike of 1.5 mV and one of -0.4 mV in every second, on one lead; nothing on the others."""
    signal = np.zeros((1, 12, 1000))
    signal[0, 3, 50::100], signal[0, 3, 54::100] = 1.5, -0.4
    found = amplitudes(signal, 100.0).reshape(4, 12)
    np.testing.assert_allclose(found[:, 3], [1.5, -0.4, 1.9, np.sqrt((1.5**2 + 0.4**2) / 100)])
    assert not np.delete(found, 3, axis=1).any()


def test_one_artefact_moves_r_and_s_little():
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 0.1, (1, 12, 1000))
    spiked = signal.copy()
    spiked[:, :, 500] = 9.0
    before, after = amplitudes(signal, 100.0)[:, :36], amplitudes(spiked, 100.0)[:, :36]
    assert np.abs(after - before).max() < 0.05


def test_the_truth_is_that_of_the_selected_ecgs(federation):
    """A study of patients under 70 selects fewer; outcome and truth still belong together, row by row."""
    study = load_study(
        federation.study(covariates=["bmi"], eligibility={"max_age": 70, "known_age": True, "known_sex": True})
    )
    site = federation.sites(("island",))[0]
    found = true_risk(study, federation.hospitals, site, "scd_2y")
    truth = pd.read_csv(federation.hospitals / "truth" / "island.csv")
    table = pd.read_csv(federation.hospitals / "sites" / "island" / "cohort.csv", sep=";")
    young = truth[(table["years"] < 70).to_numpy()]
    assert 20 < len(found.risk) < len(truth)
    planted = young["true_scd_probability"].to_numpy()
    assert max(np.abs(planted - risk).min() for risk in found.risk) < 1e-6
    assert len(np.unique(found.risk)) > 20
    data = open_site(load_site(site), study)
    y = data.labels[:, data.heads.index("scd_2y")]
    np.testing.assert_array_equal(found.event, y[~np.isnan(y)])
    assert roc_auc_score(found.event, found.risk) > 0.6


def test_a_study_without_the_carrying_covariate_is_told_so(federation):
    study = load_study(federation.study())
    with pytest.raises(ConfigError, match="covariate"):
        true_risk(study, federation.hospitals, federation.sites(("island",))[0], "scd_2y")


def test_the_regression_ranks_the_planted_sex(federation):
    """The label `male` is among its own inputs: a regression that fits must find it."""
    study = load_study(federation.study())
    files = federation.sites()
    found = amplitude_regression(study, files[:3], files[3], "male")
    assert roc_auc_score(found.event, found.risk) > 0.99
