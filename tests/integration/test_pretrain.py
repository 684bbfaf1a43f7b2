"""`ecgfed simulate pretrain`: weights from made ECGs, what they are told by, and a study that starts from them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import yaml

from ecgshared.ecg.input import InputConfig
from ecgshared.errors import ConfigError
from server.rounds.export import run_model
from server.rounds.run_folder import RunFolder
from simulations.federation.pretrain import STUDY, made_site, pretrain
from simulations.federation.run import simulate
from simulations.patients.scenario import load_scenario

SMALL = {"name": "resnet1d", "blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0}
INPUT = {"fs_hz": 100, "seconds": 4, "band_hz": [0.5, 40]}
HEADS = (("frontal", "heart_frontal_deg"), ("pr", "pr_ms"), ("af", "fibrillation"))


def test_made_ecgs_are_the_same_from_one_process_and_from_two():
    scenario, config = load_scenario("pretraining"), InputConfig(**INPUT)
    one, two = (made_site(scenario, 200, config, 3, processes, HEADS) for processes in (1, 2))
    np.testing.assert_array_equal(one.signals, two.signals)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.signals.shape == (200, 12, 400)
    assert (len(one.rows("train")), len(one.rows("validation"))) == (160, 40)
    # No PR interval where the atria fibrillate, and one everywhere else.
    np.testing.assert_array_equal(np.isnan(one.labels[:, 1]), one.labels[:, 2] == 1)
    assert 0 < one.labels[:, 2].mean() < 0.3
    with pytest.raises(ConfigError, match="nobody makes such a label"):
        made_site(scenario, 200, config, 3, 1, (("x", "potassium"),))


def test_a_study_starts_from_weights_made_so(federation, tmp_path):
    user = tmp_path / "user.yaml"
    model = {**SMALL, "covariates": ["age"]}
    user.write_text(yaml.safe_dump({"input": INPUT, "steps": [{"id": "n", "stage": "train", "model": model}]}))
    run = pretrain(tmp_path / "pre", ecgs=256, model=user, rounds=1, device="cpu", processes=1)
    folder = RunFolder.reopen(run)
    try:
        content, step = run_model(folder, "made"), folder.study.step("made")
        weights = folder.artefact("made").arrays["weights"]
        assert step.model.covariates == ()
        assert folder.artefact("made").result.validation[-1].auc["made_male"] is not None
    finally:
        folder.close()
    (federation.folder / "made.ecgfed").write_bytes(content)
    shipped = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    imported = {
        **{"id": "made", "stage": "train", "model": step.model.model_dump(mode="json"), "heads": list(step.heads)},
        "import": {"file": "made.ecgfed", "sha256": hashlib.sha256(content).hexdigest()},
    }
    net = federation.train(
        **{"id": "net", "heads": ["male"], "model": model, "rounds": 1, "uses": ["cohorts", "made"]},
        start_from={"step": "made", "trainable": "head"},
    )
    male = {"kind": "binary", "column": "male"}
    study = federation.study(
        input=INPUT,
        columns=shipped["columns"],
        endpoints={**shipped["endpoints"], "male_here": male},
        steps=[{"id": "cohorts", "stage": "describe"}, imported, {**net, "heads": ["male_here"]}],
    )
    folder = RunFolder.reopen(simulate(study, federation.sites(), tmp_path / "run"))
    try:
        found = folder.artefact("net")
        assert found.result.started_from == "made"
        # The trunk's first numbers are still those of the made ECGs.
        np.testing.assert_array_equal(found.arrays["weights"][:64], weights[:64])
    finally:
        folder.close()


def test_too_few_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="too few ECGs"):
        pretrain(tmp_path / "x", ecgs=10)
