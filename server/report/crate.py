"""A run as an RO-Crate, by the profile of workflow runs: what ran, on what, when, by which software, and what came out.

The study is the workflow and each of its steps a tool's action. The hospitals' cohorts are named as inputs that are
not in the crate: they never left. Weights are left out unless asked for, and named by their hash.
"""

from __future__ import annotations

import mimetypes
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgshared.errors import ConfigError, RunError
from ecgshared.study.registry import shared_room
from server.report.files import FOLDER as REPORT_FILES
from server.report.folder import Run, read_run
from server.report.results import RESULTS_NAME

if TYPE_CHECKING:
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

PROFILES = (
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)
_RECORDS = ("run.json", "history.jsonl", "releases.jsonl", "events.jsonl")
_ABOUT = {
    "run.json": "what ran, with which versions, and how it ended",
    "history.jsonl": "each question to the hospitals: who answered, when, how many bytes",
    "releases.jsonl": "what left each hospital: kinds of fields, withheld cells, bytes",
    "events.jsonl": "what befell the run from outside",
    "report.html": "the report for people",
    RESULTS_NAME: "every step's result, for programs",
}


def write_crate(run_folder: Path, out: Path, *, models: bool = False, licence: str | None = None) -> int:
    """Write a finished run as an RO-Crate: a folder, or a ZIP archive where ``out`` ends in .zip.

    Parameters
    ----------
    models : put the weights of trained steps into the crate too.
    licence : under which the crate is given away, as a URL; a crate that names none may not be handed on.

    Returns
    -------
    int : how many files it holds.

    Raises
    ------
    RunError : the run is not over. ConfigError : ``out`` is there already, or rocrate is not installed.
    """
    if out.exists():
        raise ConfigError("there is something of this name already", where=out, remedy="choose another name")
    run = read_run(run_folder)
    if run.results.run.ended is None:
        raise RunError("the run is not over", where=run_folder, value=run.results.run.status)
    try:
        crate = _crate(run, models, licence)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed", where="--crate", remedy="pip install 'ecgfed[provenance]'"
        ) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".zip":
        crate.write_zip(out)
    else:
        crate.write(out)
    return len(crate.data_entities)


def _crate(run: Run, models: bool, licence: str | None) -> ROCrate:
    from rocrate.rocrate import ROCrate

    info = run.results.run
    crate = ROCrate(gen_preview=False, version="1.1")
    crate.name = f"Run of the study {info.study}"
    crate.description = run.about or f"A federated run over {', '.join(info.sites)}, by ecgfed."
    crate.datePublished = datetime.fromisoformat(info.ended or info.started)
    if licence is not None:
        crate.license = _entity(crate, licence, "CreativeWork", name=licence)
    profiles = [_entity(crate, url, "CreativeWork", name=name, version=version) for url, name, version in PROFILES]
    crate.root_dataset["conformsTo"] = profiles
    software = _software(crate, run)
    workflow, tools = _workflow(crate, run, software)
    made = _results(crate, run, models)
    agent = _entity(crate, "#coordinator", "Organization", name="coordinator of the federation")
    sites = [_cohort(crate, site) for site in info.sites]
    action = _entity(
        crate,
        f"#run-{info.run}",
        "CreateAction",
        name=f"run {info.run}",
        agent=agent,
        startTime=_time(info.started),
        endTime=_time(info.ended or info.started),
        instrument=workflow,
        object=sites,
        result=list(made.values()),
        actionStatus=f"http://schema.org/{'CompletedActionStatus' if info.status == 'done' else 'FailedActionStatus'}",
        description=f"status {info.status}; study sha256 {info.study_sha256}; backend {info.backend}",
    )
    actions = [action, *_steps(crate, run, tools, made, agent)]
    crate.root_dataset["mentions"] = actions
    return crate


def _software(crate: ROCrate, run: Run) -> ContextEntity:
    versions = run.results.run.versions
    parts = [
        _entity(crate, _home(name), "SoftwareApplication", name=name, softwareVersion=version, url=_home(name))
        for name, version in sorted(versions.items())
        if name != "ecgfed" and version
    ]
    return _entity(
        crate,
        "#software-ecgfed",
        "SoftwareApplication",
        name="ecgfed",
        softwareVersion=versions.get("ecgfed"),
        softwareRequirements=parts,
    )


def _workflow(crate: ROCrate, run: Run, software: ContextEntity) -> tuple[Any, dict[str, Any]]:
    """Add the study as the main workflow, with a step and a tool for each of the study's steps."""
    from rocrate.model.computerlanguage import ComputerLanguage

    language = crate.add(ComputerLanguage(crate, "#study-language", properties={"name": "ecgfed study file (YAML)"}))
    workflow = crate.add_workflow(run.folder / "study.yaml", "study.yaml", main=True, lang=language)
    workflow["name"] = f"study {run.results.run.study}"
    workflow["encodingFormat"] = "application/yaml"
    workflow["version"] = run.results.run.study_sha256[:12]
    workflow["identifier"] = f"sha256:{run.results.run.study_sha256}"
    workflow["softwareRequirements"] = software
    tools: dict[str, Any] = {}
    steps = []
    for position, step in enumerate(run.plan, start=1):
        meaning = (shared_room(step.stage).__doc__ or "").strip().split("\n")[0]
        tools[step.id] = _entity(
            crate,
            f"#tool-{step.stage}",
            "SoftwareApplication",
            name=step.stage,
            description=meaning,
            softwareVersion=run.results.run.versions.get("ecgfed"),
        )
        steps.append(
            _entity(
                crate,
                f"study.yaml#{step.id}",
                "HowToStep",
                position=str(position),
                name=step.id,
                workExample=tools[step.id],
            )
        )
    workflow["step"] = steps
    workflow["hasPart"] = list({tool.id: tool for tool in tools.values()}.values())
    return workflow, tools


def _results(crate: ROCrate, run: Run, models: bool) -> dict[str, Any]:
    """Add the run's files; return those that came out, by name."""
    folder = run.folder
    names = [name for name in (*_RECORDS, "report.html", RESULTS_NAME) if (folder / name).is_file()]
    if (folder / REPORT_FILES).is_dir():
        names += sorted(f"{REPORT_FILES}/{path.name}" for path in (folder / REPORT_FILES).iterdir() if path.is_file())
    names += [f"artefacts/{step}.json" for step in run.results.steps]
    if models:
        names += [f"artefacts/{step}.safetensors" for step in run.results.steps]
    made = {}
    for name in names:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        told = {"name": Path(name).name, "encodingFormat": kind, "contentSize": str((folder / name).stat().st_size)}
        if name in _ABOUT:
            told["description"] = _ABOUT[name]
        file = crate.add_file(folder / name, name, properties=told)
        if name not in _RECORDS:
            made[name] = file
    return made


def _cohort(crate: ROCrate, site: str) -> ContextEntity:
    return _entity(
        crate,
        f"#cohort-{site}",
        "Dataset",
        name=f"cohort of {site}",
        description="recordings and table of this hospital; they never left it, and are not in this crate",
    )


def _steps(
    crate: ROCrate, run: Run, tools: dict[str, Any], made: dict[str, Any], agent: ContextEntity
) -> list[ContextEntity]:
    """Add an action for each step that came to its end, with who answered and the hash of its weights."""
    actions = []
    for step in run.plan:
        result = run.results.steps.get(step.id)
        if result is None:
            continue
        asked = [line for line in run.history if line.step == step.id]
        answered = sorted({site for line in asked for site in line.answered})
        ended = next((line.at for line in reversed(asked) if line.at), None)
        hashed = f"; weights sha256 {result.arrays_sha256}" if result.arrays_sha256 else ""
        outputs = [made[name] for name in (f"artefacts/{step.id}.{e}" for e in ("json", "safetensors")) if name in made]
        actions.append(
            _entity(
                crate,
                f"#step-{step.id}",
                "CreateAction",
                name=f"step {step.id}",
                agent=agent,
                endTime=None if ended is None else _time(ended),
                instrument=tools[step.id],
                object=[{"@id": f"#cohort-{site}"} for site in answered]
                + [{"@id": f"artefacts/{used}.json"} for used in step.uses if f"artefacts/{used}.json" in made],
                result=outputs if len(outputs) > 1 else outputs[0],
                description=f"answered: {', '.join(answered) or 'nobody was asked'}{hashed}",
            )
        )
    return actions


def _entity(crate: ROCrate, identifier: str, kind: str, /, **told: Any) -> ContextEntity:
    from rocrate.model.contextentity import ContextEntity

    found = crate.dereference(identifier)
    if found is not None:
        return found
    plain = {key: value for key, value in told.items() if value is not None and not _refers(value)}
    entity: ContextEntity = crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **plain}))
    for key, value in told.items():
        if _refers(value):
            entity[key] = value
    return entity


def _refers(value: Any) -> bool:
    return not isinstance(value, str | int | float | None) and value is not None


def _home(package: str) -> str:
    return "https://www.python.org/" if package == "python" else f"https://pypi.org/project/{package}/"


def _time(text: str) -> str:
    """Return a time with its offset in figures, as the profile's checks want it."""
    return datetime.fromisoformat(text).isoformat()
