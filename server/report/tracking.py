"""A run on an MLflow server, beside the event files of TensorBoard: its figures by round, its study, its report.

What stands there already is not written twice; so a run can be written again, and followed while it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgshared.errors import ConfigError, RunError
from server.report.folder import Run, read_run
from server.report.results import RESULTS_NAME
from server.report.tensorboard import scalars, unix_seconds, write_events

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_OVER = ("done", "failed", "stopped", "paused")
_BATCH = 500
_TURN_SECONDS = 5.0


def follow(run_folder: Path, uri: str | None, said: Callable[[str], None], turn_seconds: float = _TURN_SECONDS) -> None:
    """Write event files, and to MLflow where ``uri`` names it, whenever a round came, until the run is over."""
    seen = -1
    while True:
        run = read_run(run_folder)
        if len(run.history) != seen:
            seen = len(run.history)
            write_events(run_folder)
            if uri is not None:
                track(run_folder, uri)
            said(f"{seen} answered question(s), run {run.results.run.status}")
        if run.results.run.status in _OVER:
            return
        time.sleep(turn_seconds)


def track(run_folder: Path, uri: str) -> str:
    """Write a run to the MLflow server or store at ``uri``; return MLflow's id of it.

    Its experiment is the study's name; a metric is ``step/phase/name`` by round; report and results are artefacts.

    Raises
    ------
    ConfigError : mlflow is not installed. RunError : the server does not answer or does not take it.
    """
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed", where="--mlflow", remedy="pip install 'ecgfed[mlflow]'"
        ) from None
    run = read_run(run_folder)
    try:
        client = MlflowClient(tracking_uri=uri)
        identifier = _run_of(client, run)
        _log(client, identifier, run, run_folder)
    except MlflowException as error:
        raise RunError(
            "the MLflow server does not take the run", where=uri, value=str(error).split("\n")[0][:700]
        ) from None
    return identifier


def _run_of(client: MlflowClient, run: Run) -> str:
    """Return the id of the MLflow run of this run, made where there is none."""
    info = run.results.run
    found = client.get_experiment_by_name(info.study)
    experiment = client.create_experiment(info.study) if found is None else found.experiment_id
    same = client.search_runs([experiment], filter_string=f"tags.`ecgfed.run` = '{info.run}'")
    if same:
        return str(same[0].info.run_id)
    made = client.create_run(
        experiment,
        start_time=_milliseconds(info.started),
        run_name=info.run,
        tags={"ecgfed.run": info.run, "ecgfed.study_sha256": info.study_sha256, "ecgfed.sites": ", ".join(info.sites)},
    )
    identifier = str(made.info.run_id)
    for name, version in info.versions.items():
        client.log_param(identifier, f"version.{name}", version)
    for step in run.plan:
        client.log_param(identifier, f"step.{step.id}", step.stage)
    return identifier


def _log(client: MlflowClient, identifier: str, run: Run, run_folder: Path) -> None:
    from mlflow.entities import Metric

    there: dict[str, set[int]] = {}
    new: list[Any] = []
    for tag, number, wall_time, value in scalars(run):
        if tag not in there:
            known = tag in client.get_run(identifier).data.metrics
            there[tag] = {one.step for one in client.get_metric_history(identifier, tag)} if known else set()
        if number not in there[tag]:
            there[tag].add(number)
            new.append(Metric(tag, value, int(wall_time * 1000), number))
    for start in range(0, len(new), _BATCH):
        client.log_batch(identifier, metrics=new[start : start + _BATCH])
    info = run.results.run
    for name in ("study.yaml", "report.html", RESULTS_NAME):
        if (run_folder / name).is_file():
            client.log_artifact(identifier, str(run_folder / name))
    if info.status in _OVER:
        status = {"done": "FINISHED", "failed": "FAILED"}.get(info.status, "KILLED")
        client.set_terminated(identifier, status, _milliseconds(info.ended) if info.ended else None)


def _milliseconds(moment: str) -> int:
    return int(unix_seconds(moment) * 1000)
