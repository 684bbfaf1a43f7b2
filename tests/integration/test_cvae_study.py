"""A conditional VAE from hospitals' files to made beats: trained, judged, resumed, private, held against physics."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from client.answer import Site
from client.rows.latents import posterior_means
from ecgshared import cli
from ecgshared.errors import Refused, RunError
from ecgshared.models import config_class
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import Request
from server.report.cli import rebuild
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate
from simulations.generation.checkpoint import load_checkpoint
from simulations.hospitals.make import make_hospitals
from simulations.patients.scenario import load_scenario

CONDITIONS = ["age", "male", "bmi", "heart_vertical_deg", "heart_left_cm", "lv_mass_g"]
ROUNDS = 4


def study(**train):
    beats = {
        "id": "beats",
        "stage": "train",
        "uses": ["cohorts"],
        "model": {"name": "cvae", "conditions": CONDITIONS, "latent": 4, "hidden": 24},
        "rounds": ROUNDS,
        "local": {"epochs": 3, "batch_size": 32},
        "optimiser": {"lr": 5e-3, "between_rounds": "keep"},
    }
    return {
        "name": "beats",
        "seed": 3,
        "sites": {"train": ["centre_north", "centre_west"], "zero_shot": ["centre_south"]},
        "input": {"fs_hz": 125, "seconds": 10, "band_hz": [0.5, 40]},
        "endpoints": {"death": {"kind": "time_to_event", "event": "death", "horizon_years": 5}},
        "covariates": CONDITIONS[2:],
        "split": {"train": 0.7, "validation": 0.3, "lockbox": 0.0},
        "steps": [
            {"id": "cohorts", "stage": "describe"},
            beats | train,
            {"id": "judged", "stage": "generate", "uses": ["beats"]},
        ],
    }


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Three small centres whose anatomy is measured; randomness inside them is fixed."""
    folder = tmp_path_factory.mktemp("centres")
    make_hospitals(load_scenario("uk_biobank_like"), folder, patients_scale=0.025)
    for path in folder.glob("sites/*/site.yaml"):
        settings = yaml.safe_load(path.read_text()) | {"seed": 5}
        path.write_text(yaml.safe_dump(settings))
    return folder


def run_study(hospitals, out, content, **options):
    file = hospitals / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return simulate(file, sorted(hospitals.glob("sites/*/site.yaml")), out, **options)


@pytest.fixture(scope="module")
def run(hospitals, tmp_path_factory):
    return run_study(hospitals, tmp_path_factory.mktemp("run") / "run", study())


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    found = folder.artefact(step)
    assert found is not None
    # As a program reads it in results.json.
    return replace(found, result=found.result.model_dump(mode="json"))


def test_it_learns_and_is_judged_at_every_site(run):
    trained, judged = artefact(run, "beats"), artefact(run, "judged").result
    errors = [v["loss"] for v in trained.result["validation"]]
    assert len(errors) == ROUNDS + 1
    assert errors[-1] < 0.5 * errors[0]
    assert trained.arrays["standardise"].shape == (2 + 4, 2)
    assert trained.result["covariates"] == ["age", "male", *CONDITIONS[2:]]
    north, south = judged["sites"]["centre_north"], judged["sites"]["centre_south"]
    assert north["reconstruction_uv"]["mean"] == pytest.approx(errors[-1], rel=0.5)
    assert south["reconstruction_uv"]["mean"] < south["conditions_only_uv"]
    assert south["nearest_uv"]["made"]["median"] is None
    page = rebuild(run)[0].read_text()
    assert "Reconstruction of beats" in page
    assert "What conditions do to beats" in page


def test_only_weights_and_figures_over_groups_leave(run, hospitals):
    kinds = {}
    for path in hospitals.glob("sites/*/state/releases.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            for name, field in entry["fields"].items():
                kinds.setdefault((entry["kind"], name), set()).add((field["kind"], tuple(field["shape"])))
    assert kinds["Update", "validation_loss"] == {("statistic", (1,))}
    (shape,) = {shape for _, shape in kinds["SiteCounts", "covariate_sums"]}
    assert shape == (4, 3)
    # No field of a judge's answer has a row for each ECG.
    assert all(
        max(shape, default=1) <= 12 for (kind, _), found in kinds.items() if kind == "Judged" for _, shape in found
    )


def test_posterior_means_are_the_models_own_and_stay_cached(run, hospitals):
    content = load_study(run / "study.yaml")
    path = hospitals / "sites/centre_south/site.yaml"
    context = Site(path).context(content, Request(content.sha256, "r", "judged", "judge", 0, {}), ledger=None)
    arrays = {f"beats.{name}": array for name, array in artefact(run, "beats").arrays.items()}
    rows = np.array([3, 0, 7])
    step = content.step("beats")
    z = posterior_means(context, step, arrays, rows)
    assert z.shape == (3, 4)
    assert posterior_means(context, step, arrays, rows) is z
    np.testing.assert_allclose(posterior_means(context, step, arrays, rows[1:]), z[1:], atol=1e-5)
    checkpoint = load_checkpoint(run)
    data = context.data
    from client.dataset.median_beats import MedianBeats

    values = np.column_stack([data.age, data.male, *data.covariates.values()])[rows].astype(np.float64)
    np.testing.assert_allclose(checkpoint.encode(MedianBeats(data).batch(rows), values), z, atol=1e-4)
    with pytest.raises(Refused, match="no latent"):
        posterior_means(context, step.model_copy(update={"model": config_class("resnet1d")()}), arrays, rows)
    with pytest.raises(Refused, match="lacks"):
        posterior_means(context, step, {}, rows)


def test_beats_are_made_swept_and_edited_from_the_command_line(run, hospitals, tmp_path, monkeypatch, capsys):
    def ecgfed(*args):
        monkeypatch.setattr("sys.argv", ["ecgfed", "generate", *map(str, args)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
        return 0

    person = ("--checkpoint", run, "--age", 60, "--sex", "F", "--heart-rotation", "20deg")
    assert ecgfed(*person, "--n", 3, "--out", tmp_path / "a", "--plot") == 0
    assert len(list((tmp_path / "a").glob("*.hea"))) == 3
    assert (tmp_path / "a" / "beats.png").stat().st_size > 10_000
    first = (tmp_path / "a" / "synthetic_00001.dat").read_bytes()
    assert ecgfed(*person, "--n", 1, "--out", tmp_path / "b") == 0
    assert (tmp_path / "b" / "synthetic_00001.dat").read_bytes() == first
    assert ecgfed(*person, "--sweep", "heart-left=-1cm:1cm:3", "--out", tmp_path / "c", "--plot") == 0
    assert len({path.read_bytes() for path in (tmp_path / "c").glob("*.dat")}) == 3
    recording = sorted(hospitals.glob("sites/centre_south/records/**/*.xml"))[0]
    edited = ("--reconstruct", recording, "--edit", "heart-rotation=20", "--out", tmp_path / "d", "--plot")
    assert ecgfed("--checkpoint", run, *edited) == 0
    assert "mean absolute error" in capsys.readouterr().out
    for args, message in (
        (("--checkpoint", run), "--out"),
        (("--checkpoint", tmp_path, "--out", tmp_path / "e"), "no trained cvae"),
        ((*person, "--out", tmp_path / "a"), "already holds"),
        ((*person, "--v1-v2-up", "2cm", "--out", tmp_path / "e"), "not trained with"),
        ((*person, "--sweep", "hart-left=0:1:2", "--out", tmp_path / "e"), "did you mean heart-left"),
        ((*person, "--n", 2, "--reconstruct", recording, "--out", tmp_path / "e"), "drawn anew"),
        ((*person, "--edit", "age=3", "--out", tmp_path / "e"), "--reconstruct"),
        (("--checkpoint", run, "--reconstruct", tmp_path / "no.xml", "--out", tmp_path / "e"), "no.xml"),
    ):
        assert ecgfed(*args) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_moves_are_compared_with_the_forward_model(run, tmp_path, monkeypatch, capsys):
    args = ["--run", run, "--people", "24", "--out", tmp_path]
    monkeypatch.setattr("sys.argv", ["ecgfed", "generate", "consistency", *map(str, args)])
    cli.main()
    found = json.loads((tmp_path / "consistency.json").read_text())
    # Only what the model was told is moved.
    assert {row["move"].split(" ")[1] for row in found["leads"]["own"]} == {"turned", "to"}
    assert set(found["summary"]) == {"own", "drawn"}
    assert (tmp_path / "consistency.png").stat().st_size > 10_000
    assert "median correlation" in capsys.readouterr().out


def test_altered_weights_are_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run / "artefacts", copy / "artefacts")
    assert load_checkpoint(copy / "artefacts" / "beats.json").sha256 == load_checkpoint(run).sha256
    content = bytearray((copy / "artefacts/beats.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "artefacts/beats.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="hash"):
        load_checkpoint(copy)
    with pytest.raises(RunError, match="no trained cvae"):
        load_checkpoint(run / "artefacts" / "cohorts.json")


def test_a_run_that_stopped_ends_with_the_same_weights(run, hospitals, tmp_path, monkeypatch):
    import server.stages.train as training

    save = training._save

    def stop(context, state):
        save(context, state)
        if state.round == 2:
            raise RunError("the power went")

    monkeypatch.setattr(training, "_save", stop)
    with pytest.raises(RunError, match="power"):
        run_study(hospitals, tmp_path / "again", study())
    monkeypatch.setattr(training, "_save", save)
    run_study(hospitals, tmp_path / "again", study(), resume=True)
    np.testing.assert_array_equal(
        artefact(tmp_path / "again", "beats").arrays["weights"], artefact(run, "beats").arrays["weights"]
    )


@pytest.mark.parametrize(
    "train",
    [
        {"strategy": {"name": "fedprox"}, "local": {"epochs": 2, "batch_size": 32, "prox_mu": 0.1}},
        {"strategy": {"name": "fedadam"}},
        {"strategy": {"name": "fedmedian"}},
        {"strategy": {"name": "fedtrimmedavg"}},
        {"strategy": {"name": "krum"}},
        {"strategy": {"name": "fedbn"}, "model": {"name": "cvae", "paper_faithful": True}},
        {"model": {"name": "cvae", "latent": 2, "hidden": 8, "survival": {"event": "death"}}},
    ],
    ids=["fedprox", "fedadam", "fedmedian", "fedtrimmedavg", "krum", "fedbn, published net", "with a Cox head"],
)
def test_it_trains_by_every_strategy(hospitals, tmp_path, train):
    content = study(rounds=1, **train)
    del content["steps"][2]
    result = artefact(run_study(hospitals, tmp_path / "run", content), "beats").result
    assert [v["loss"] > 0 for v in result["validation"]] == [True, True]
    assert result["validation"][0]["loss"] != result["validation"][1]["loss"]


def test_it_trains_privately(hospitals, tmp_path):
    private = {
        "privacy": {"epsilon": 8.0, "delta": 1e-3, "expected_batch_size": 16},
        "local": {"steps": 4, "batch_size": None},
        "rounds": 1,
    }
    result = artefact(run_study(hospitals, tmp_path / "private", study(**private)), "beats").result
    assert result["validation"][-1]["loss"] is None
    assert {a["epsilon_spent"] <= 8.0 for a in result["privacy"]["sites"].values()} == {True}
