"""What an operator's machine does to a living site or coordinator: told to end, state damaged, read-only, study edited.

For each: what is lost (nothing: the weights are those of the undisturbed run), and what the operator reads. Slow: about
half a minute a fault on a quiet machine of two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trial import KINDS, TRAIN, Trial, check_history, read, result, send, weights

from server.coordinator import background

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SITE = TRAIN[0]


@pytest.mark.parametrize("kind", KINDS)
def test_told_to_end_in_training(federation: Trial, undisturbed: Path, kind: str) -> None:
    """SIGTERM, as an init system or a person sends it; what an init system starts again is started again."""
    run = federation.network.run(federation.folder / "first.yaml", f"ended-{kind}")
    federation.wait_training(run, 2)
    send(federation.pids(kind), signal.SIGTERM)
    if kind == "site":
        federation.network.daemons[SITE].wait(30)
        federation.network.start(SITE)
    if kind == "supervisor":
        federation.wait(lambda: not background.is_up(federation.network.home))
        background.start(federation.network.home)
    _went_on(federation, run, undisturbed)


def test_a_damaged_inbox_is_asked_again(federation: Trial, undisturbed: Path) -> None:
    run = federation.network.run(federation.folder / "first.yaml", "damaged-inbox")
    federation.wait_training(run, 2)
    federation.kill("site", again=False)
    (parcel, *_) = [path for path in (federation.state(SITE) / "inbox").iterdir() if path.is_dir()]
    for part in parcel.iterdir():
        if part.is_file():
            part.write_bytes(b"\xff" * 64)
    federation.network.start(SITE)
    _went_on(federation, run, undisturbed)


def test_a_lost_outbox_costs_a_computation_and_no_answer(federation: Trial, undisturbed: Path) -> None:
    run = federation.network.run(federation.folder / "first.yaml", "lost-outbox")
    federation.wait_training(run, 3)
    shutil.rmtree(federation.state(SITE) / "outbox")
    _went_on(federation, run, undisturbed)


def test_damaged_approvals_close_the_site_until_they_are_restored(federation: Trial, undisturbed: Path) -> None:
    approvals = federation.state(SITE) / "approvals.jsonl"
    before = approvals.read_bytes()
    run = federation.network.run(federation.folder / "first.yaml", "damaged-approvals")
    federation.wait_training(run, 2)
    approvals.write_bytes(before.replace(b'"study"', b'"stady"'))
    try:
        federation.wait(lambda: read(run / "run.json").get("status") == "waiting", 90, run)
        assert f"{SITE}: " in read(run / "run.json")["waiting_for"]
        assert "not-approved" in read(run / "run.json")["waiting_for"]
        told = _command("site", "audit", str(federation.network.site_files[SITE]), status=1)
        assert "NOT TO BE RELIED ON: approvals" in told
    finally:
        approvals.write_bytes(before)
    _went_on(federation, run, undisturbed)


def test_a_study_edited_in_the_run_is_told_and_restored_it_goes_on(federation: Trial, undisturbed: Path) -> None:
    run = federation.network.run(federation.folder / "first.yaml", "edited-study")
    federation.wait_training(run, 2)
    before = (run / "study.yaml").read_bytes()
    (run / "study.yaml").write_bytes(before.replace(b"0.003", b"0.004"))
    assert (run / "study.yaml").read_bytes() != before
    federation.kill("serverapp")
    federation.wait(lambda: "study.yaml was changed" in _said(federation), 120, run)
    (run / "study.yaml").write_bytes(before)
    federation.wait(lambda: federation.status(run) in ("done", "failed"), 180, run)
    if federation.status(run) == "failed":
        background.resume_run(federation.network.home, run.name)
    _went_on(federation, run, undisturbed)


def _said(federation: Trial) -> str:
    logs = sorted((federation.network.home.path / "logs").glob("*.log"))
    return "\n".join(log.read_text(errors="replace") for log in logs)


def _went_on(federation: Trial, run: Path, undisturbed: Path) -> None:
    assert federation.end_of(run, 300) == "done", federation.words(run)
    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    check_history(federation, run, rounds=5, quorum=3)
    federation.network.wait_connected(TRAIN)


def _command(*words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ecgshared", *words],
        capture_output=True, text=True, timeout=90, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == status, json.dumps([done.stdout[-2000:], done.stderr[-2000:]])
    return done.stdout
