"""TensorBoard event files beside the report, from the same history of rounds."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from ecgshared.errors import RunError
from server.report.folder import Run, read_run

FOLDER_NAME = "tensorboard"


def write_events(run_folder: Path) -> Path:
    """Write one event file for a run, in place of an earlier one, and return the folder it lies in.

    Tags are ``<step>/<phase>/<metric>`` and, for what the rounds took, ``rounds/<step>/<phase>/seconds``,
    ``.../answered`` and ``.../bytes``; the step of a point is its round, its time the run's start plus
    the seconds of all requests before it. A withheld metric is no point.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    run = read_run(run_folder)
    folder = run_folder / FOLDER_NAME
    folder.mkdir(exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = EventFileWriter(str(folder))
    try:
        for tag, round_number, wall_time, value in scalars(run):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=wall_time, step=round_number, summary=summary))
    finally:
        writer.close()
    return folder


def scalars(run: Run) -> list[tuple[str, int, float, float]]:
    """Return (tag, round, wall time in Unix seconds, value) of every point, in order of time."""
    wall_time = unix_seconds(run.results.run.started)
    points: list[tuple[str, int, float, float]] = []
    for line in run.history:
        wall_time += line.seconds
        place = f"{line.step}/{line.phase}"
        took = {
            f"rounds/{place}/seconds": line.seconds,
            f"rounds/{place}/answered": float(len(line.answered)),
            f"rounds/{place}/bytes": float(sum(line.bytes_in.values()) + sum(line.bytes_out.values())),
        }
        metrics = {f"{place}/{name}": value for name, value in line.metrics.items()}
        for tag, value in {**metrics, **took}.items():
            if value is not None and math.isfinite(value):
                points.append((tag, line.round, wall_time, value))
    return points


def unix_seconds(time: str) -> float:
    """Return an ISO 8601 time, in UTC where it names no zone, as Unix seconds."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise RunError("is no ISO 8601 time", where="run.json: started", value=time) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
