"""``results.json``: every step's result in one file for programs. The schema lies beside this module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model
from pydantic.json_schema import models_json_schema

from ecgshared.config import load_yaml
from ecgshared.errors import RunError
from ecgshared.service.files import write_atomically
from ecgshared.stages.results.base import StageResult
from ecgshared.study.blocks import expand
from ecgshared.study.registry import STAGES, shared_room

SCHEMA_FILE = Path(__file__).with_name("results.schema.json")
RESULTS_NAME = "results.json"


ModelT = TypeVar("ModelT", bound=BaseModel)


class Record(BaseModel):
    """Frozen, and tolerant of keys a later version adds to a run folder."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RunInfo(Record):
    """What ``run.json`` says of a run: its identity, its state, and with what it was done."""

    run: str = Field(description="identifier of the run")
    study: str = Field(description="name of the study")
    study_sha256: str = Field(description="hash of the study's canonical content; travels with every message")
    status: Literal["queued", "running", "waiting", "interrupted", "stopped", "paused", "failed", "done"] = Field(
        description="waiting: for sites, below the quorum; interrupted: its process ended, it goes on by itself; "
        "stopped and paused: by the coordinator, or by an error that can be mended, until it is resumed"
    )
    started: str = Field(description="ISO 8601 time")
    ended: str | None = Field(default=None, description="ISO 8601 time; null while it runs")
    versions: dict[str, str | None] = Field(default={}, description="versions of the software that ran")
    sites: tuple[str, ...] = Field(default=(), description="sites of the study, those that train first")
    left_out: dict[str, str] = Field(
        default={},
        description="steps that no hospital was large enough for, and those that needed one, with the reason",
    )
    backend: str | None = Field(default=None, description="the grid: inprocess, ray or flower")


class StepPlan(Record):
    """One step as the study file has it."""

    id: str
    stage: str
    uses: tuple[str, ...] = ()
    sites: str | tuple[str, ...] | None = None


class StepResult(Record):
    """What one finished step produced; the shape of ``result`` is its stage's.

    It is kept as it lies on disk, so that what another version of ecgfed wrote comes out as it went in;
    :func:`typed_result` reads it.
    """

    stage: str
    arrays_sha256: str | None = Field(default=None, description="content hash of the step's arrays (weights)")
    result: dict[str, JsonValue] = Field(description="null stands for a number that was withheld or is undefined")


class Results(Record):
    """All results of one run."""

    format_version: Literal[1] = 1
    run: RunInfo
    study: str
    steps: dict[str, StepResult] = Field(description="finished steps by id, in the order of the study")
    missing: tuple[str, ...] = Field(default=(), description="steps of the study that have no result (yet)")


class _ArtefactFile(Record):
    step: str
    stage: str
    arrays_sha256: str | None = None
    result: dict[str, Any]


def typed_result(step: StepResult) -> StageResult:
    """Return a step's result as its stage's own model.

    Raises
    ------
    ConfigError : this version has no such stage.
    ValidationError : the result does not fit the stage's model.
    """
    model: type[StageResult] = shared_room(step.stage).Result
    return model.model_validate(step.result)


def results_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``results.json``, made from the stages' own results.

    A step of a stage that this version does not know is a StepResult like any other; a known stage's result has
    the shape of its model.
    """
    schema = Results.model_json_schema(mode="serialization")
    definitions = schema["$defs"]
    shapes = []
    for stage in STAGES:
        name = f"{stage.title().replace('_', '')}Step"
        only: Any = Literal[stage]
        made = create_model(name, __base__=StepResult, stage=(only, ...), result=(shared_room(stage).Result, ...))
        made.__doc__ = f"What a {stage} step produced."
        _, found = models_json_schema([(made, "serialization")], ref_template=f"#/$defs/{stage}.{{model}}")
        definitions |= {f"{stage}.{key}": value for key, value in found["$defs"].items()}
        shapes.append({"$ref": f"#/$defs/{stage}.{name}"})
    other = {"allOf": [{"$ref": "#/$defs/StepResult"}, {"properties": {"stage": {"not": {"enum": list(STAGES)}}}}]}
    schema["properties"]["steps"]["additionalProperties"] = {"oneOf": [*shapes, other]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """Return the schema as it is committed beside this module."""
    return json.dumps(results_schema(), indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file; NaN and infinities, which JSON does not have, become None.

    Raises
    ------
    RunError : the file is absent, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise RunError("there is no such file", where=path, remedy="give the folder of a run") from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read as JSON ({type(error).__name__})", where=path) from None


def read_run_info(run_folder: Path) -> RunInfo:
    """Read ``run.json``; raise :class:`RunError` where the folder is no run."""
    if not run_folder.is_dir():
        raise RunError("there is no such run folder", where=run_folder, remedy="list the folders under runs/")
    path = run_folder / "run.json"
    if not path.is_file():
        raise RunError(
            "this is no run folder: it holds no run.json",
            where=run_folder,
            remedy="give the folder that a run wrote, such as runs/demo",
        )
    return checked(RunInfo, read_json(path), path)


def read_plan(run_folder: Path) -> tuple[StepPlan, ...]:
    """Read the steps of ``study.yaml`` as written, its blocks as the steps they stand for.

    Stages this version does not know are no fault here, nor blocks it cannot read: they are left out.
    """
    path = run_folder / "study.yaml"
    written = load_yaml(path, aliases=True)
    try:
        steps = expand(written).get("steps")
    except ValueError:
        steps = written.get("steps")
    if not isinstance(steps, list):
        raise RunError("holds no list of steps", where=path, value=type(steps).__name__)
    return tuple(checked(StepPlan, step, path) for step in steps)


def read_results(run_folder: Path) -> Results:
    """Gather ``run.json``, the plan and all artefacts that exist into one validated :class:`Results`."""
    info, plan = read_run_info(run_folder), read_plan(run_folder)
    steps: dict[str, StepResult] = {}
    for step in plan:
        path = run_folder / "artefacts" / f"{step.id}.json"
        if path.is_file():
            found = checked(_ArtefactFile, read_json(path), path)
            steps[step.id] = checked(StepResult, found.model_dump(exclude={"step"}), path)
    missing = tuple(step.id for step in plan if step.id not in steps)
    return Results(run=info, study=info.study, steps=steps, missing=missing)


def write_results(run_folder: Path) -> Path:
    """Write ``results.json`` into the run folder and return its path."""
    results = read_results(run_folder)
    path = run_folder / RESULTS_NAME
    text = json.dumps(results.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
    return path


def checked(model: type[ModelT], data: Any, where: object) -> ModelT:
    """Validate ``data``; raise :class:`RunError` that lists every fault by key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(map(str, fault['loc'])) or '(whole file)'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise RunError(f"does not fit its format:\n{faults}", where=where) from None
