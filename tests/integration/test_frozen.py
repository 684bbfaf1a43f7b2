"""A model exported from one run is judged at a hospital that was in no study before; a changed byte is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml
from typer.testing import CliRunner

from client.approval.show import show_study
from client.operator.preview import preview_study
from client.site.settings import load_site
from ecgshared.errors import ConfigError
from ecgshared.study.study import load_study
from server.report.model_cli import app
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

JUDGED = {"stage": "evaluate", "uses": ["risk"], "score": "risk.death_2y"}


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def export(run, step, file):
    done = CliRunner().invoke(app, ["export", str(run), step, "--out", str(file)])
    assert done.exit_code == 0, done.output
    return done.output


def imported(federation, file, **changes):
    """A study that trains nothing: the model of ``file``, judged at the island."""
    train = {key: federation.train()[key] for key in ("id", "stage", "heads", "model")}
    train |= {"import": {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}
    return federation.study(
        **{"sites": {"zero_shot": ["island"]}, "steps": [train | changes, {"id": "abroad", **JUDGED}]}
    )


@pytest.fixture(scope="module")
def trained(hospitals, tmp_path_factory):
    """A run that trained at three sites and judged the model at the fourth."""
    from federation import SmallFederation

    small = SmallFederation(hospitals, tmp_path_factory.mktemp("trained"))
    (small.folder / "twin").mkdir()
    score = {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "death_2y", "inputs": ["risk.death_2y"]}
    judged = {"id": "abroad", "sites": ["island"], **JUDGED}
    steps = [{"id": "cohorts", "stage": "describe"}, small.train(), score, judged]
    return simulate(small.study(steps=steps), small.sites(), small.folder / "run")


def test_a_frozen_model_gives_the_figures_it_gave(trained, federation):
    told = export(trained, "risk", federation.folder / "risk.ecgfed")
    study = imported(federation, federation.folder / "risk.ecgfed")
    assert hashlib.sha256((federation.folder / "risk.ecgfed").read_bytes()).hexdigest() in told
    run = simulate(study, federation.sites(("island",)), federation.folder / "week3")
    here, there = artefact(run, "abroad").result, artefact(trained, "abroad").result
    assert here.model_dump() == there.model_dump()
    assert (artefact(run, "risk").arrays["weights"] == artefact(trained, "risk").arrays["weights"]).all()
    # Nobody was asked about the imported step.
    asked = [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert set(asked) <= {"abroad", "hello", ""}


def test_a_hospital_reads_that_nothing_leaves_for_an_imported_step(trained, federation):
    export(trained, "risk", federation.folder / "risk.ecgfed")
    study = load_study(imported(federation, federation.folder / "risk.ecgfed"))
    file = federation.sites(("island",))[0]
    lines = "\n".join(show_study(load_site(file), study))
    step = lines[lines.index("1. risk") : lines.index("2. abroad")]
    assert study.step("risk").frozen.sha256 in step
    assert "no site is asked about it: nothing leaves" in step
    assert "leaves when asked" not in step
    assert {message.step for message in preview_study(file, load_site(file), study)} == {"abroad"}


def test_the_printed_lines_are_all_that_an_importing_study_needs(trained, federation):
    steps = []
    for step in ("risk", "score"):
        told = export(trained, step, federation.folder / f"{step}.ecgfed")
        steps += yaml.safe_load(told.split("steps:\n", 1)[1])
    steps.append({"id": "abroad", "stage": "evaluate", "uses": ["score"]})
    study = federation.study(sites={"zero_shot": ["island"]}, steps=steps)
    run = simulate(study, federation.sites(("island",)), federation.folder / "pasted")
    there = artefact(trained, "score").result
    assert artefact(run, "score").result.model_dump() == there.model_dump()
    assert artefact(run, "abroad").result.sites["island"].heads["death_2y"].auc.value is not None


def test_the_same_step_gives_the_same_bytes(trained, tmp_path):
    for name in ("a", "b"):
        export(trained, "risk", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_changed_byte_is_refused(trained, federation):
    file = federation.folder / "risk.ecgfed"
    export(trained, "risk", file)
    study = imported(federation, file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not the one the study names by its hash"):
        simulate(study, federation.sites(("island",)), federation.folder / "run")
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        simulate(study, federation.sites(("island",)), federation.folder / "run")


def test_another_configuration_is_named(trained, federation):
    file = federation.folder / "risk.ecgfed"
    export(trained, "risk", file)
    study = imported(federation, file, model=federation.train()["model"] | {"width": 16})
    with pytest.raises(ConfigError, match=r"model is .*'width': 8"):
        simulate(study, federation.sites(("island",)), federation.folder / "run")


def test_who_trained_it_is_not_among_those_who_never_did(trained, federation):
    file = federation.folder / "risk.ecgfed"
    export(trained, "risk", file)
    study = imported(federation, file)
    study.write_text(study.read_text().replace("- island", "- north"))
    with pytest.raises(ConfigError, match="north trained what is imported"):
        simulate(study, federation.sites(("north",)), federation.folder / "run")


def test_what_cannot_be_exported_is_said(trained, tmp_path):
    done = CliRunner().invoke(app, ["export", str(trained), "abroad", "--out", str(tmp_path / "x")])
    assert done.exit_code != 0
    assert "risk" in str(done.exception)
    assert not (tmp_path / "x").exists()


def test_a_step_that_only_judges_cannot_be_imported(federation):
    from ecgshared.study.study import load_study

    judged = {"id": "abroad", **JUDGED, "import": {"file": "x", "sha256": "0" * 64}}
    study = federation.study(steps=[{"id": "cohorts", "stage": "describe"}, federation.train(), judged])
    with pytest.raises(ConfigError, match="a step of stage evaluate cannot be imported"):
        load_study(study)
    outside = federation.train() | {"import": {"file": "../x", "sha256": "0" * 64}}
    with pytest.raises(ConfigError, match="below the study's folder"):
        load_study(federation.study(steps=[outside]))
