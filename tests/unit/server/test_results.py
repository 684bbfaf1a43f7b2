"""results.json: what goes in comes out, the schema is the published one, and faults are named."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ecgshared.errors import EcgFedError, RunError
from ecgshared.stages.results.base import StageResult
from ecgshared.study.registry import STAGES, shared_room
from server.report.results import (
    SCHEMA_FILE,
    Results,
    RunInfo,
    StepResult,
    read_results,
    results_schema,
    schema_text,
    typed_result,
    write_results,
)
from server.rounds.run_folder import _result

INFO: dict[str, Any] = {
    "run": "tiny-1",
    "study": "tiny",
    "study_sha256": "ab" * 32,
    "status": "done",
    "started": "2026-11-21T06:00:00Z",
    "ended": "2026-11-21T06:05:00Z",
    "versions": {"ecgfed": "0.1.0"},
    "sites": ["north", "south"],
    "backend": "inprocess",
    "a_key_of_a_later_version": 1,
}
PLAN = """
name: tiny
steps:
  - {id: b, stage: describe, a_key: kept by the stage}
  - {id: a, stage: of_tomorrow, uses: [b]}
"""


def make_run(folder: Path, results: dict[str, Any], **info: Any) -> Path:
    (folder / "artefacts").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(INFO | info))
    (folder / "study.yaml").write_text(PLAN)
    for step, stage in (("a", "of_tomorrow"), ("b", "describe")):
        if step in results:
            content = {"step": step, "stage": stage, "arrays_sha256": "cd" * 32, "result": results[step]}
            (folder / "artefacts" / f"{step}.json").write_text(json.dumps(content))
    return folder


def test_the_committed_schema_is_the_generated_one() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()


def test_the_schema_names_its_dialect_and_every_key_written(tmp_path: Path) -> None:
    schema = results_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    written = json.loads(write_results(make_run(tmp_path, {"b": {}})).read_text())
    assert set(written) == set(schema["properties"])
    assert set(written["run"]) == set(schema["$defs"]["RunInfo"]["properties"])
    assert set(written["steps"]["b"]) == set(schema["$defs"]["StepResult"]["properties"])


def test_steps_stand_in_the_order_of_the_study(tmp_path: Path) -> None:
    path = write_results(make_run(tmp_path, {"a": {"auc": 0.8}, "b": {"n": 3}}))
    assert path == tmp_path / "results.json"
    assert list(json.loads(path.read_text())["steps"]) == ["b", "a"]


def test_an_unfinished_step_is_missing_not_empty(tmp_path: Path) -> None:
    results = read_results(make_run(tmp_path, {"b": {"n": 3}}, status="running", ended=None))
    assert results.missing == ("a",)
    assert list(results.steps) == ["b"]


def test_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {"b": {"auc": float("nan"), "slope": [1.0, float("inf")]}})

    def no_such_thing(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    text = write_results(folder).read_text()
    assert json.loads(text, parse_constant=no_such_thing)["steps"]["b"]["result"] == {"auc": None, "slope": [1.0, None]}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_result_comes_out_as_it_went_in(result: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        text = write_results(make_run(Path(name), {"b": result})).read_text(encoding="utf-8")
    assert json.loads(text)["steps"]["b"]["result"] == result
    assert Results.model_validate_json(text).steps["b"].result == result


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.json"):
        write_results(tmp_path)
    with pytest.raises(RunError, match="no such run folder"):
        write_results(tmp_path / "absent")


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("run.json", "{", "run.json"),
        ("run.json", json.dumps(INFO | {"status": "happy"}), "status"),
        ("run.json", json.dumps({k: v for k, v in INFO.items() if k != "study_sha256"}), "study_sha256"),
        ("artefacts/b.json", json.dumps({"step": "b", "stage": "describe", "result": [1]}), "result"),
        ("artefacts/b.json", "no JSON", "b.json"),
        ("study.yaml", "steps: 3", "study.yaml"),
        ("study.yaml", "steps: [{id: a}]", "stage"),
        ("study.yaml", "steps: [", "study.yaml"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, file: str, content: str, named: str) -> None:
    folder = make_run(tmp_path, {"b": {}})
    (folder / file).write_text(content)
    with pytest.raises(EcgFedError, match=named):
        write_results(folder)
    assert not (folder / "results.json").exists()


def test_every_stage_gives_the_model_of_its_result_and_the_schema_holds_it() -> None:
    schema = results_schema()
    for stage in STAGES:
        model = shared_room(stage).Result
        assert issubclass(model, StageResult)
        assert model.model_config["frozen"]
        assert set(schema["$defs"][f"{stage}.Result"]["properties"]) == set(model.model_fields)
    shapes = schema["properties"]["steps"]["additionalProperties"]["oneOf"]
    assert len(shapes) == len(STAGES) + 1, "one a stage, and one for stages this version does not know"


CALIBRATED: dict[str, Any] = {
    "target": "event",
    "split": "validation",
    "inputs": ["age"],
    "coef": {"intercept": -2.0, "age": 0.04},
    "se": {"intercept": 0.1, "age": None},
    "se_patient_clustered": None,
    "covariance": [[0.01, None], [None, None]],
    "ecgs": 90.0,
    "patients": 45.0,
    "events": None,
    "iterations": 4,
    "log_likelihood": -30.5,
    "ridge": 0.0,
    "sites": {"a": {"ecgs": 90.0, "patients": 45.0, "events": None, "left_out": 0.0, "took_part": True}},
    "withheld": [],
    "absent": {"b": {"newton": "deadline"}},
}


def document(stage: str, result: dict[str, Any]) -> dict[str, Any]:
    step = StepResult(stage=stage, arrays_sha256="cd" * 32, result=result)
    info = RunInfo.model_validate(INFO)
    return Results(run=info, study="tiny", steps={"a": step}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("stage", "changes", "fits"),
    [
        ("calibrate", {}, True),
        ("calibrate", {"a_key_of_a_later_version": 1}, True),
        ("calibrate", {"coef": {"age": "much"}}, False),
        ("calibrate", {"sites": {"a": {}}}, False),
        ("evaluate", {}, False),
        ("of_tomorrow", {}, True),
    ],
)
def test_the_schema_tells_a_stages_result_from_another(stage: str, changes: dict[str, Any], fits: bool) -> None:
    validator = jsonschema.Draft202012Validator(results_schema())
    assert validator.is_valid(document(stage, CALIBRATED | changes)) is fits


def test_a_result_comes_back_from_disk_as_its_stages_model_and_out_again_the_same() -> None:
    step = StepResult(stage="calibrate", result=CALIBRATED)
    found = typed_result(step)
    assert found.model_dump(mode="json") == CALIBRATED
    with pytest.raises(ValidationError):
        typed_result(StepResult(stage="calibrate", result={**CALIBRATED, "iterations": "four"}))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_has_not_is_no_result(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        shared_room("calibrate").Result.model_validate(CALIBRATED | {"ecgs": number})


def test_a_stored_result_that_is_none_of_its_stage_is_named() -> None:
    with pytest.raises(RunError, match=r"calibration\.json: holds a result that is none of calibrate: iterations"):
        _result({"stage": "calibrate", "result": CALIBRATED | {"iterations": "four"}}, Path("calibration.json"))
