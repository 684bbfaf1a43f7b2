"""The study file: what it may say, and how it is told what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ecgshared.errors import ConfigError
from ecgshared.study.registry import STAGES, room
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import StepConfig, phases

ROOT = Path(__file__).resolve().parents[3]


def content(**changes: Any) -> dict[str, Any]:
    return {
        "name": "s",
        "sites": {"train": ["a", "b"], "zero_shot": ["c"]},
        "endpoints": {"y": {"kind": "binary", "column": "label"}, "male": {"kind": "binary", "column": "male"}},
        "steps": [
            {"id": "d", "stage": "describe"},
            {"id": "t", "stage": "train", "uses": ["d"], "heads": ["y"]},
            {"id": "c", "stage": "calibrate", "uses": ["t"], "target": "y"},
            {"id": "e", "stage": "evaluate", "uses": ["c"]},
        ],
    } | changes


def load(tmp_path: Path, data: dict[str, Any]):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_study(path)


def steps(index: int, **changes: Any) -> list[dict[str, Any]]:
    found = content()["steps"]
    found[index] = found[index] | changes
    return found


def test_the_hash_follows_values_and_not_their_order(tmp_path):
    one = load(tmp_path, content())
    two = load(tmp_path, dict(reversed(content().items())))
    other = load(tmp_path, content(seed=1))
    assert one.sha256 == two.sha256
    assert one.sha256 != other.sha256
    assert all(isinstance(step, StepConfig) for step in one.steps)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stepps": []}, "did you mean 'steps'"),
        ({"steps": steps(1, heads=["z"])}, "names no endpoint; allowed: y, male"),
        ({"steps": steps(1, uses=[])}, "must use a describe step"),
        ({"steps": steps(1, heads=["male"])}, "the model would read its answer"),
        ({"steps": steps(1, sites=["a", "c"])}, "c would train, but is no training site"),
        ({"steps": steps(1, strategy={"name": "fedprox"})}, "needs local.prox_mu above 0"),
        ({"steps": steps(1, strategy={"name": "fedbn"})}, "fedbn keeps normalisation at the sites that trained"),
        ({"steps": steps(1, rouns=3)}, "did you mean 'rounds'"),
        ({"steps": steps(1, privacy={"epsilon": 1, "delta": 1e-5})}, "privacy needs local.steps"),
        ({"steps": steps(2, uses=["later"])}, "uses 'later', which is no earlier step"),
        ({"steps": steps(2, id="t")}, "two steps are called 't'"),
        ({"steps": steps(0, stage="palpate")}, "is not one of describe, train"),
        ({"steps": steps(0, stage="trian")}, "; did you mean 'train'?"),
        ({"sites": {"train": ["a", "b"], "zero_shot": ["b"]}}, "cannot both train and be zero-shot"),
        ({"input": {"fs_hz": 100, "band_hz": [0.5, 80]}}, "high < fs_hz / 2 = 50"),
        ({"records": "/data"}, "unknown key"),
    ],
)
def test_a_fault_is_said_with_its_place_and_what_is_allowed(tmp_path, changes, said):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, content(**changes))
    assert said in str(error.value)
    assert "study.yaml" in str(error.value)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_three_rooms_and_answers_what_it_declares(stage):
    shared, client, server = (room(package, stage) for package in ("ecgshared", "client", "server"))
    assert issubclass(shared.Config, StepConfig)
    assert set(client.PHASES) == set(phases(stage))
    assert callable(server.run)
    assert callable(server.report)


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "examples").rglob("*.yaml")), ids=lambda p: p.stem)
def test_the_examples_are_valid(path):
    from client.site.settings import load_site

    is_study = "steps" in yaml.safe_load(path.read_text())
    loaded = load_study(path) if is_study else load_site(path)
    assert loaded.format_version == 1


def test_a_site_file_holds_nothing_of_a_study_and_a_study_nothing_of_a_site():
    from client.site.settings import SiteSettings
    from ecgshared.study.study import Study

    private = {"records", "table", "state", "limits", "exclude"}
    assert private <= set(SiteSettings.model_fields)
    assert not private & set(Study.model_fields)
