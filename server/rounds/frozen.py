"""Frozen artefacts: what a step of one run gave, as a file that another study imports by its hash.

A file is one safetensors document: the arrays that later steps send to sites, and one line of JSON that says which
step of which study made them and with what result. It holds no code, no figure of a patient, and nothing that did not
already leave the sites of its run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.numpy import save as save_tensors

from ecgshared.applied.file import APART, FORMAT_VERSION, KEY, read_model_file
from ecgshared.errors import ConfigError, RunError
from ecgshared.study.registry import shared_room
from ecgshared.study.score import calibrate_inputs, used_steps
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig
from server.rounds.step_context import Artefact


def frozen_bytes(
    artefact: Artefact[Any], info: dict[str, Any], study: Study, others: Sequence[Artefact[Any]] = ()
) -> bytes:
    """Return a finished step as the bytes of a file; the same artefact gives the same bytes.

    Parameters
    ----------
    info : the run's ``run.json``.
    others : finished steps of the run. Those it rests on are told as well, so that the file can be applied to an ECG;
        of those that rest on it, and of those that counted the cohorts, the results, so that the file says how good it
        is, and on whom.
    """
    step = study.step(artefact.step)
    below = {o.step: o for o in others if o.step in used_steps(step, study) and study.step(o.step).can_be_frozen}
    above = {
        o.step: o
        for o in others
        if o.step not in below and (artefact.step in used_steps(study.step(o.step), study) or o.stage == "describe")
    }
    told = {
        "format_version": FORMAT_VERSION,
        "stage": artefact.stage,
        "step": artefact.step,
        "study": study.name,
        "study_sha256": study.sha256,
        "run": info["run"],
        "made_by": info["versions"],
        "trained_at": list(study.first_members(step)),
        "config": step.model_dump(mode="json"),
        "result": artefact.result.model_dump(mode="json"),
        "endpoints": {name: e.model_dump(mode="json") for name, e in study.endpoints.items()},
        "parts": {name: {**_told(o), "config": study.step(name).model_dump(mode="json")} for name, o in below.items()},
        "judged": {name: _told(o) for name, o in above.items()},
    }
    arrays = dict(artefact.arrays)
    for name, o in below.items():
        arrays |= {f"{name}{APART}{key}": array for key, array in o.arrays.items()}
    # One key: with several the order in the header would change from process to process.
    return bytes(save_tensors(arrays, {KEY: json.dumps(told, sort_keys=True, allow_nan=False)}))


def _told(artefact: Artefact[Any]) -> dict[str, Any]:
    return {"stage": artefact.stage, "result": artefact.result.model_dump(mode="json")}


def read_frozen(file: Path, sha256: str) -> bytes:
    """Return a file's bytes; raise :class:`ConfigError` where it is not there or not what the study approved."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"an imported file cannot be read ({type(error).__name__})",
            where=file,
            remedy="lay it there; `ecgfed model export RUN STEP --out FILE` makes it",
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ConfigError(
            "an imported file is not the one the study names by its hash",
            where=file,
            value=found,
            allowed=sha256,
            remedy="get the right file, or change the study: sites then approve it anew",
        )
    return content


def take_up(step: StepConfig, study: Study, content: bytes) -> Artefact[Any]:
    """Return what an imported step gives.

    Raises
    ------
    ConfigError : the file is of another stage, or was made under a configuration that the study's step contradicts;
        or a hospital that trained it stands among those that never did.
    """
    file = read_model_file(content, step.id)
    told, arrays = file.told, file.arrays
    where = f"step {step.id}"
    if told["stage"] != step.stage:
        raise ConfigError("the imported file is of another stage", where=where, value=told["stage"], allowed=step.stage)
    faults = _differences(step, told["config"])
    if faults:
        raise ConfigError(
            "the imported file was made under another configuration: " + "; ".join(faults),
            where=where,
            remedy="write into the study what the file was made with",
        )
    if (made_for := told["result"].get("input")) is not None and made_for != study.input.model_dump(mode="json"):
        raise ConfigError("the imported model sees another input than the study's", where=where, value=made_for)
    known = sorted(set(told["trained_at"]) & {*study.sites.zero_shot, *study.sites.case_control})
    if known:
        raise ConfigError(
            f"{', '.join(known)} trained what is imported, and stands under sites.zero_shot or sites.case_control",
            where=where,
            remedy="name it under sites.train: its lockbox is judged then, not the patients it trained on",
        )
    try:
        result = shared_room(step.stage).Result.model_validate(told["result"])
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise RunError(
            f"holds a result that is none of {step.stage}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}",
            where=where,
        ) from None
    if (inputs := getattr(result, "inputs", None)) is not None and inputs != calibrate_inputs(step, study):
        raise ConfigError(
            "the imported coefficients are of other inputs than the study's",
            where=where,
            value=", ".join(inputs),
            allowed=", ".join(calibrate_inputs(step, study)),
            remedy="call the steps as the file's study did; `uses` and `inputs` as `ecgfed model export` prints them",
        )
    return Artefact(step.id, step.stage, result, arrays)


_ASIDE = ("id", "uses", "sites", "frozen")
"""Keys of a step that say nothing of what it gave."""


def _differences(step: StepConfig, made_with: dict[str, Any]) -> list[str]:
    """Name the keys that the study sets otherwise than the file was made with.

    One that the study leaves out says nothing, unless later steps read it: then its default counts.
    """
    now = step.model_dump(mode="json")
    said = (step.model_fields_set - set(_ASIDE) - {"stage"}) | set(step.read_later)
    return [f"{key} is {made_with.get(key)!r} there" for key in sorted(said) if now.get(key) != made_with.get(key)]
