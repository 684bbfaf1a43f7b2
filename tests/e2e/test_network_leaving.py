"""A hospital leaves a running study for good: the run pauses with that reason, and goes on once the others approve."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trial import TRAIN, Trial, fits, lines, read, result, weights

from server.coordinator import background

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

GONE, STAY = TRAIN[1], (TRAIN[0], TRAIN[2])


@pytest.fixture
def trial(nginx: None, hospitals: Path, tmp_path: Path) -> Iterator[Trial]:
    """Three hospitals, all of which are needed."""
    with Trial(hospitals, tmp_path / "trial") as made:
        made.up()
        yield made


def ecgfed(*words: object) -> str:
    """Run a command as its user would; return what it said."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ecgshared", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_others_approve_to_go_on_without_it(trial: Trial) -> None:
    home = trial.network.home
    run = trial.network.run(trial.folder / "first.yaml", "left")
    trial.wait_training(run, 3)
    trial.network.end(GONE)
    ecgfed("coordinator", "revoke", GONE, "--home", home.path)
    assert trial.end_of(run, 500) == "paused", trial.words(run)
    assert f"{GONE}: revoked" in read(run / "run.json")["stopped_by"]
    before = list(fits(run))

    said = ecgfed("coordinator", "amend", "left", "--without", GONE, "--why", "it moved", "--home", home.path)
    file = run / "amendments" / "1.yaml"
    assert f"send it to {', '.join(STAY)}" in said
    background.resume_run(home, "left")
    trial.wait(lambda: "amendment-not-approved" in (read(run / "run.json").get("waiting_for") or ""), 300, run)
    assert all(f"{site}: amendment-not-approved" in read(run / "run.json")["waiting_for"] for site in STAY)
    for site in STAY:
        assert f"leaves:   {GONE}" in ecgfed("site", "show", trial.network.site_files[site], file)
        ecgfed("site", "approve", trial.network.site_files[site], file, "--yes")
    assert trial.end_of(run, 500) == "done", trial.words(run)

    told = list(fits(run))
    assert told[: len(before) - 1] == before[:-1]
    done = [line for line in told if len(line["answered"]) >= 2 and not line["absent"]]
    assert [line["round"] for line in done] == [1, 2, 3, 4, 5]
    assert {tuple(line["answered"]) for line in done[2:]} == {tuple(sorted(STAY))}
    assert result(run)["absent"] == {GONE: {"left-the-run": 3}}
    assert np.isfinite(weights(run)).all()
    assert "left-the-run" in (run / "report.html").read_text(encoding="utf-8")
    for site in STAY:
        approved = [line for line in lines(trial.state(site) / "approvals.jsonl") if line["kind"] == "amendment"]
        assert len(approved) == 1
        trail = json.loads(ecgfed("site", "audit", trial.network.site_files[site], "--json"))
        assert trail["holds"] is True
