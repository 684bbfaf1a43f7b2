"""The Flower ServerApp, thin: a run folder named by the run's configuration, and a Grid, given to the study loop."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ecgshared.errors import RunError
from server.runs import RunFolder
from server.study_run import run_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run (or resume) the study whose path and folder the coordinator's run configuration names."""
    study, out = (str(context.run_config.get(key, "")) for key in ("study", "out"))
    if not out:
        raise RunError(
            "the run's configuration names no folder", remedy="flwr run ... --run-config 'study=... out=...'"
        )
    folder = (
        RunFolder.reopen(Path(out))
        if (Path(out) / "run.json").exists()
        else RunFolder.create(Path(out), Path(study), backend="flower")
    )
    try:
        run_study(grid, folder, lambda step, done, total, text: print(f"{step}: {done}/{total} {text}", flush=True))
    finally:
        folder.close()
