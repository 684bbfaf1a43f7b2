"""The demo as `make demo` runs it, whole: what it must show for its one seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from ecgshared.study.study import load_study
from server.report.results import read_json, write_results
from simulations.federation.run import simulate
from simulations.hospitals.demo import prepare
from simulations.hospitals.make import true_hazard_auc, truth_table
from simulations.judging.baselines import amplitude_regression, true_risk

HEAD = "scd_2y"


@pytest.mark.slow
def test_the_demo_finds_the_planted_risk_at_a_hospital_that_never_trained(tmp_path: Path):
    study_file, sites = prepare(tmp_path, None)
    results = read_json(write_results(simulate(study_file, sites, tmp_path)))
    found = results["steps"]["judged"]["result"]["sites"]["island"]["heads"][HEAD]
    truth = truth_table(tmp_path / "hospitals")
    assert 0.80 <= true_hazard_auc(truth[truth["site"] == "island"]) <= 0.90
    assert found["events"] >= 100
    study = load_study(study_file)
    true = true_risk(study, tmp_path / "hospitals", sites[-1], HEAD)
    plain = amplitude_regression(study, sites[:-1], sites[-1], HEAD)
    assert len(true.event) == found["ecgs"]
    assert true.event.sum() == found["events"]
    assert found["auc"]["value"] >= 0.95 * roc_auc_score(true.event, true.risk)
    assert found["auc"]["value"] > roc_auc_score(plain.event, plain.risk)
