"""The annex of an impact assessment: what leaves, the site's own rules, risks with measured figures, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.approval.annex import annex
from client.operator.cli import app
from client.site.settings import load_site
from ecgshared.privacy.attacked import concerning
from ecgshared.study.registry import shared_room
from ecgshared.study.study import load_study

STUDY = {
    "name": "risk",
    "about": "Whether sudden death can be foreseen",
    "sites": {"train": ["north", "south"], "zero_shot": ["west"]},
    "input": {"fs_hz": 100, "seconds": 10},
    "endpoints": {"scd_2y": {"kind": "time_to_event", "event": "scd", "horizon_years": 2}},
    "steps": [
        {"id": "cohorts", "stage": "describe"},
        {"id": "net", "stage": "train", "uses": ["cohorts"], "heads": ["scd_2y"], "model": {"name": "waves"}},
        {"id": "judged", "stage": "evaluate", "uses": ["net"], "score": "net.scd_2y"},
    ],
}


def written(folder: Path, site: str = "north", **changes) -> tuple[Path, Path]:
    study, file = folder / "study.yaml", folder / f"{site}.yaml"
    study.write_text(yaml.safe_dump(STUDY | changes.pop("study", {})), encoding="utf-8")
    content = {"site": site, "records": {"folder": "secret-archive"}, "state": "state"}
    content |= {"table": {"path": "patients.csv", "columns": {"file": "f", "patient_id": "p", "age": "a"}}} | changes
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file, study


def test_it_says_what_leaves_at_each_step_and_what_protects_it(tmp_path):
    file, study = written(tmp_path, limits={"min_patients": 23, "min_events": 7})
    text = annex(load_site(file), load_study(study))
    assert load_study(study).sha256 in text
    assert "Whether sudden death can be foreseen" in text
    for stage in ("describe", "train", "evaluate"):
        room = shared_room(stage)
        assert all(f"- {phase}: {words}" in text for phase, words in room.LEAVES.items())
        assert room.PROTECTED in text
    assert "fewer than 23 patients, or of fewer than 7 with" in text
    assert "south, west" in text
    assert "NO LIST IS NAMED" in text
    assert str(tmp_path) not in text
    assert "secret-archive" not in text


@pytest.mark.parametrize(
    ("site", "study", "has", "lacks"),
    [
        ({"privacy": {"weights": "plain"}}, {}, ["**This site sends weights in the clear", "is `groups`"], []),
        ({"privacy": {"weights": "secure_sum"}}, {}, ["is `masks`"], ["This site sends weights in the clear"]),
        (
            {"privacy": {"weights": "private", "required": True, "max_epsilon": 3}},
            {"privacy": {"epsilon": 3, "delta": 1e-5}, "local": {"steps": 5}},
            ["is `epsilon 3`", "epsilon 3, delta 1e-05", "without differential privacy nothing is trained"],
            ["This site sends weights in the clear"],
        ),
    ],
    ids=["plain", "masks", "private"],
)
def test_risks_are_those_of_the_policy_with_measured_figures(tmp_path, site, study, has, lacks):
    steps = [STUDY["steps"][0], STUDY["steps"][1] | study, STUDY["steps"][2]]
    file, path = written(tmp_path, study={"steps": steps}, **site)
    text = annex(load_site(file), load_study(path))
    assert all(one in text for one in has)
    assert not any(one in text for one in lacks)
    for one in concerning(["describe", "train", "evaluate"]):
        assert f"| {one.attack} | " in text


def test_a_site_that_is_only_judged_is_told_of_its_own_steps_alone(tmp_path):
    file, study = written(tmp_path, site="west")
    text = annex(load_site(file), load_study(study))
    assert "### judged (evaluate)" in text
    assert "### net (train)" not in text
    assert "none to train" in text
    assert "| membership by loss |" not in text


def test_the_command_writes_a_file(tmp_path):
    file, study = written(tmp_path)
    told = CliRunner().invoke(app, ["annex", str(file), str(study), "--out", str(tmp_path / "annex.md")])
    assert told.exit_code == 0
    assert "complete what stands in [brackets]" in told.output
    assert (tmp_path / "annex.md").read_text(encoding="utf-8").startswith("# Annex to the data protection impact")
    assert "## 7. Residual risks" in CliRunner().invoke(app, ["annex", str(file), str(study)]).output
