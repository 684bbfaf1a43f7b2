"""The Flower ServerApp, thin: finds the run folder that the coordinator made for this run of Flower's, and works on it.

Nothing comes from the run's configuration. ``ECGFED_COORDINATOR`` names the coordinator's home, where
``flower-runs/<run id>.json`` names the folder.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ecgshared.errors import RunError
from server.coordinator.home import HOME_VARIABLE, Home
from server.rounds.grid import tune
from server.rounds.patience import WaitingPolicy
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import run_study

_WAIT_SECONDS = 30.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run (or resume) the study of this run's folder, and write its report."""
    home = Home(Path(os.environ.get(HOME_VARIABLE, "")))
    tune(grid, home.config.max_reply_mb)
    folder = RunFolder.reopen(_folder(home, context.run_id))
    policy = WaitingPolicy(
        patience_seconds=folder.study.federation.patience_seconds,
        tell=folder.tell,
        stopped=folder.stop_asked,
        site_of=home.site_of,
        revoked=home.is_revoked,
    )
    try:
        run_study(grid, folder, lambda step, done, total, text: folder.tell_progress(step, done, total, text), policy)
        # Imported late: figures are heavy, and a run should begin soon.
        from server.report.cli import rebuild

        rebuild(folder.path)
    finally:
        folder.close()


def _folder(home: Home, run_id: int) -> Path:
    note = home.path / "flower-runs" / f"{run_id}.json"
    end = time.monotonic() + _WAIT_SECONDS
    while not note.exists():
        if time.monotonic() > end:
            raise RunError("nobody said which run folder this run is of", where=note)
        time.sleep(0.05)
    return home.run_folder(str(json.loads(note.read_text(encoding="utf-8"))["run"]))
