"""`ecgfed simulate pooled`: a study as if its training hospitals' ECGs lay under one roof."""

from __future__ import annotations

import numpy as np

from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.rounds.run_folder import RunFolder
from simulations.federation.pooled import POOLED, approving, pooled_twin, run_pooled

MODEL = {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0, "covariates": []}
TRAIN = {"heads": ["male"], "model": MODEL, "rounds": 2, "local": {"steps": 2, "batch_size": 12}}


def test_a_study_runs_under_one_roof_without_what_is_about_single_hospitals(federation, tmp_path):
    alone = {**TRAIN, "id": "alone", "sites": ["coast"]}
    steps = [
        {"id": "cohorts", "stage": "describe"},
        federation.train(id="net", **TRAIN),
        federation.train(**alone),
        {"id": "judged", "stage": "age_sex", "uses": ["net"], "sex": "net.male"},
        {
            **{"id": "beside", "stage": "age_sex", "sites": ["coast"], "uses": ["net", "alone"], "sex": "net.male"},
            "against": {"sex": "alone.male"},
        },
    ]
    study_file = federation.study(steps=steps, labels={"north": "North", "island": "Island"})
    sites = federation.sites()
    out = run_pooled(study_file, sites, tmp_path / "pooled")
    folder = RunFolder.reopen(out)
    try:
        study = folder.study
        assert [step.id for step in study.steps] == ["cohorts", "net", "judged"]
        assert study.sites.train == (POOLED,)
        # As many steps, each with what the three hospitals' steps saw together.
        assert (study.step("net").local.steps, study.step("net").local.batch_size) == (2, 36)
        judged = folder.artefact("judged").result
        assert set(judged.pooled) == {"training", "zero_shot"}
        assert np.isfinite(judged.pooled["training"].sex["all"].accuracy.value)
    finally:
        folder.close()


def test_a_copy_of_a_site_file_approves_another_study_with_the_same_data(federation, tmp_path):
    study = federation.study()
    path = federation.sites()[0]
    copy = load_site(approving(path, study, tmp_path / "copies"))
    original = load_site(path)
    assert copy.studies == (study.resolve(),)
    assert copy.records == original.records
    assert copy.table == original.table
    assert copy.state != original.state


def test_epochs_stay_as_they_are(federation, tmp_path):
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(id="net", **TRAIN | {"local": {"epochs": 1}})]
    twin = pooled_twin(federation.study(steps=steps), federation.sites(), tmp_path / "twin")
    assert load_study(twin.study).step("net").local.batch_size == 64  # the default
