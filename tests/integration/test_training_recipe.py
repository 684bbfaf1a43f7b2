"""Training that stops when validation says so, and training that begins with the weights of another one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ecgshared.errors import ConfigError, EcgFedError
from ecgshared.study.study import load_study
from server.report.html import render
from server.report.model_cli import app
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

COUNTS = {"id": "cohorts", "stage": "describe"}
# A rate at which the loss of so small a net soon rises: what the shipped studies did with gentler ones.
OVERFITS = {
    "rounds": 12,
    "local": {"epochs": 2, "batch_size": 16},
    "optimiser": {"name": "adam", "lr": 0.05},
    "early_stopping": {"patience": 2},
}


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def export(run, step, file):
    done = CliRunner().invoke(app, ["export", str(run), step, "--out", str(file)])
    assert done.exit_code == 0, done.output
    return done.output


def history(run, phase):
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == phase]


def test_training_stops_after_its_patience_and_keeps_the_best_round(federation):
    study = federation.study(steps=[COUNTS, federation.train(**OVERFITS)])
    run = simulate(study, federation.sites(), federation.folder / "run")
    trained = artefact(run, "risk")
    r = trained.result
    losses = {line.round: line.loss for line in r.validation}
    assert r.stopped_early
    assert r.rounds < 12
    assert r.planned_rounds == 12
    assert losses[r.kept_round] == min(losses.values())
    assert r.rounds == r.kept_round + 2 == max(losses)
    assert len(r.learning_rate) == r.rounds
    assert len(history(run, "fit")) == r.rounds + 1
    assert not history(run, "validate")
    assert "training ended after" in render(run).read_text(encoding="utf-8")


def test_a_run_that_stopped_early_stays_stopped_when_it_is_resumed(federation):
    judged = {"id": "abroad", "stage": "evaluate", "uses": ["risk"], "score": "risk.death_2y"}
    study = federation.study(steps=[COUNTS, federation.train(**OVERFITS), judged])
    run = simulate(study, federation.sites(), federation.folder / "run")
    before = artefact(run, "risk")
    for kept in (run / "steps").glob("risk*"):
        if kept.is_file():
            kept.unlink()
    simulate(study, federation.sites(), run, resume=True)
    np.testing.assert_array_equal(artefact(run, "risk").arrays["weights"], before.arrays["weights"])


@pytest.mark.parametrize("trainable", ["all", "head", "last", "lora"])
def test_a_step_begins_with_the_weights_of_another(federation, trainable):
    first = federation.train(id="first")
    onward = federation.train(
        id="onward", uses=["first"], heads=["male"], start_from={"step": "first", "trainable": trainable}
    )
    for step in (first, onward):
        step["model"] = {**step["model"], "covariates": ["age"]}
    study = federation.study(steps=[COUNTS, first, onward])
    run = simulate(study, federation.sites(), federation.folder / "run")
    source, result = artefact(run, "first"), artefact(run, "onward")
    loaded = load_study(study)
    shared, changed = _parts(loaded, "first", source), _parts(loaded, "onward", result)
    trunk = [name for name in shared if not name.startswith(("hidden", "output"))]
    same = [name for name in trunk if np.array_equal(shared[name], changed[name])]
    weights = [name for name in trunk if "norm" not in name and name.endswith("weight")]
    changes = {"all": trunk, "lora": weights}.get(trainable, [])
    assert same == [name for name in trunk if name not in changes]
    assert np.array_equal(shared["hidden.weight"], changed["hidden.weight"]) == (trainable == "last")
    assert changed["output.weight"].shape == (1, 8)
    assert result.result.started_from == "first"
    assert "weights began as those of" in render(run).read_text(encoding="utf-8")
    sent = [max(line["bytes_in"].values()) for line in history(run, "fit")]
    assert (sent[-1] < 0.6 * sent[0]) == (trainable != "all")


def _parts(study, step, found):
    from ecgshared.learning.layout import Layout
    from ecgshared.stages.train_net import built

    model = built(study.step(step), study)
    Layout.of(model).load(model, found.arrays["weights"])
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def test_an_imported_model_is_trained_on(federation):
    run = simulate(federation.study(), federation.sites(), federation.folder / "run")
    printed = export(run, "risk", federation.folder / "risk.ecgfed")
    sha = printed.split("sha256: ")[1].split("}")[0]
    imported = {key: federation.train()[key] for key in ("id", "stage", "heads", "model")}
    imported |= {"import": {"file": "risk.ecgfed", "sha256": sha}}
    onward = federation.train(id="onward", uses=["cohorts", "risk"], start_from={"step": "risk", "trainable": "head"})
    study = federation.study(steps=[COUNTS, imported, onward])
    after = artefact(simulate(study, federation.sites(), federation.folder / "onward"), "onward")
    before = artefact(run, "risk")
    changed = before.arrays["weights"] != after.arrays["weights"]
    assert 0 < changed.sum() <= after.result.trained_parameters < after.result.parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stopping": {"patience": 2}, "keep": "last"}, "keep must be best"),
        ({"start_from": {"step": "first"}, "uses": ["cohorts"]}, "must be among `uses`"),
        ({"start_from": {"step": "cohorts"}}, "is no train step"),
        (
            {"start_from": {"step": "first", "trainable": "head"}, "model": {"norm": "batch"}, "uses": ["first"]},
            "needs model.norm group",
        ),
        (
            {
                **{"start_from": {"step": "first", "trainable": "lora"}, "uses": ["first"], "local": {"steps": 2}},
                "privacy": {"epsilon": 8, "delta": 1.0e-5, "max_grad_norm": 1.0, "expected_batch_size": 16},
            },
            "no gradients per patient",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(federation, changes, message):
    steps = [COUNTS, federation.train(id="first"), federation.train(id="onward", **changes)]
    with pytest.raises(ConfigError, match=message):
        load_study(federation.study(steps=steps))


def test_another_trunk_is_named(federation):
    wider = federation.train(id="onward", uses=["first"], start_from={"step": "first"})
    wider["model"] = {**wider["model"], "width": 16}
    study = federation.study(steps=[COUNTS, federation.train(id="first"), wider])
    with pytest.raises(EcgFedError, match="another trunk"):
        simulate(study, federation.sites(), federation.folder / "run")
