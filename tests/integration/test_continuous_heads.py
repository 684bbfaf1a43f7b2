"""A net that tells a number beside a yes or no: its step equals the pooled one, and later steps read it in its unit."""

from __future__ import annotations

import numpy as np

from server.rounds.run_folder import RunFolder
from simulations.federation.pooled import pooled_twin
from simulations.federation.run import simulate

ENDPOINTS = {
    "male": {"kind": "binary", "column": "male"},
    "years": {"kind": "continuous", "column": "age", "range": [20, 100], "unit": "years"},
    "death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2},
}
HEADS = ["male", "years"]
MODEL = {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0, "covariates": []}


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def test_one_full_batch_step_with_a_number_equals_the_pooled_step(federation):
    """fp64, SGD; a site that lacks ages offers sex alone: equal to 1e-10."""
    step = federation.train(
        heads=HEADS,
        model=MODEL,
        rounds=1,
        precision="fp64",
        local={"steps": 1, "batch_size": None},
        optimiser={"name": "sgd", "lr": 0.5},
    )
    study = federation.study(endpoints=ENDPOINTS, steps=[{"id": "cohorts", "stage": "describe"}, step])
    sites = federation.sites(compute={"precision": "fp64"})
    twin = pooled_twin(study, sites, federation.folder / "twin")
    found = artefact(simulate(study, sites, federation.folder / "federated"), "risk")
    pooled = artefact(simulate(twin.study, twin.sites, federation.folder / "pooled", held=twin.held), "risk")
    np.testing.assert_allclose(found.arrays["weights"], pooled.arrays["weights"], rtol=0, atol=1e-10)
    first, last = found.result.validation[0], found.result.validation[-1]
    assert set(first.auc) == set(HEADS)
    assert first.auc["years"] is None
    assert first.auc["male"] is not None
    assert first.loss is not None
    assert last.loss != first.loss


def test_a_later_step_reads_it_in_years(federation):
    """A logistic calibration on the predicted age alone: its coefficient is per year."""
    step = federation.train(heads=HEADS, model=MODEL, rounds=3, optimiser={"name": "adam", "lr": 0.01})
    score = {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "death_2y", "inputs": ["risk.years"]}
    study = federation.study(endpoints=ENDPOINTS, steps=[{"id": "cohorts", "stage": "describe"}, step, score])
    run = simulate(study, federation.sites(), federation.folder / "run")
    calibrated = artefact(run, "score").result
    assert calibrated.inputs == ("risk.years",)
    # A predicted age lies within some decades of 60: a coefficient on the net's scale would be forty times as large.
    assert abs(artefact(run, "score").arrays["coef"][1]) < 1
