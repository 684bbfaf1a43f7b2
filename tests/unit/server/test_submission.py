"""Which runs are given to Flower, when again, and when no more: a control API that only counts."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from flwr.supercore.run import RunNotRunningException

from ecgshared.errors import RunError
from server.coordinator import background, submission
from server.coordinator.submission import Submissions
from server.rounds.run_folder import RunFolder, _locked
from server.rounds.study_run import run_study

STUDY = {
    "name": "tiny",
    "sites": {"train": ["north"]},
    "endpoints": {"male": {"kind": "binary", "column": "male"}},
    "steps": [{"id": "s", "stage": "describe"}],
}


class Flower:
    """Numbers runs from 1; ``over`` are those it thinks have ended."""

    def __init__(self) -> None:
        self.started, self.stopped, self.over = 0, [], set()  # type: int, list[int], set[int]

    def start_run(self) -> int:
        self.started += 1
        return self.started

    def stop_run(self, run_id: int) -> None:
        self.stopped.append(run_id)

    def run_is_over(self, run_id: int) -> bool:
        return run_id in self.over


class SmallFederation:
    """A home with runs, and the submissions that are kept of it."""

    def __init__(self, path: Path) -> None:
        self.home: Any = SimpleNamespace(path=path)
        for name in ("runs", "flower-runs"):
            (path / name).mkdir()
        (path / "study.yaml").write_text(yaml.safe_dump(STUDY))
        self.said: list[str] = []
        self.flower: Any = Flower()
        self.kept = Submissions(self.home, self.said.append)

    def add(self, name: str, status: str = "queued") -> Path:
        folder = self.home.path / "runs" / name
        RunFolder.create(folder, self.home.path / "study.yaml", backend="flower", status=status).close()
        return folder

    def keep(self) -> None:
        self.kept.keep(self.flower)

    def status(self, name: str) -> str:
        return str(json.loads((self.home.path / "runs" / name / "run.json").read_text())["status"])

    def note(self, run_id: int) -> str:
        return str(json.loads((self.home.path / "flower-runs" / f"{run_id}.json").read_text())["run"])

    def work(self, name: str, **changes: Any) -> None:
        """Do as a ServerApp: hold the run while the supervisor looks, then let go of it."""
        folder = RunFolder.reopen(self.home.path / "runs" / name)
        folder.update(status="running")
        self.keep()
        if changes:
            folder.update(**changes)
        folder.close()


@pytest.fixture
def federation(tmp_path):
    return SmallFederation(tmp_path)


def events(folder: Path) -> list[tuple[str, str]]:
    return [(e["what"], e["why"]) for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines())]


def test_a_queued_run_is_submitted_once_and_its_folder_noted(federation):
    folder = federation.add("first")
    for _ in range(5):
        federation.keep()
    assert federation.flower.started == 1
    assert federation.note(1) == "first"
    assert events(folder) == [("submitted", "")]
    assert sorted(p.name for p in (federation.home.path / "flower-runs").iterdir()) == ["1.json"]


def test_of_the_notes_for_flower_only_those_that_count_are_kept(federation):
    federation.add("first")
    for number in range(1, 4):
        federation.keep()
        federation.work("first")
        assert [p.name for p in (federation.home.path / "flower-runs").iterdir()] == [f"{number}.json"]
    federation.kept.clear_notes()
    assert not list((federation.home.path / "flower-runs").iterdir())


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "paused"])
def test_a_run_that_ended_is_never_submitted(federation, status):
    federation.add("ended", status)
    for _ in range(3):
        federation.keep()
    federation.kept.forget("the SuperLink ended")
    federation.keep()
    assert federation.flower.started == 0


@pytest.mark.parametrize("status", ["queued", "running", "waiting", "interrupted"])
def test_a_run_that_should_go_on_is_submitted_by_a_new_supervisor(federation, status):
    federation.add("going", status)
    federation.keep()
    assert federation.flower.started == 1


def test_a_killed_process_is_followed_by_another(federation):
    folder = federation.add("first")
    federation.keep()
    federation.work("first")
    federation.keep()
    assert federation.flower.started == 2
    assert federation.flower.stopped == [1], "Flower would take it for alive for another minute"
    assert events(folder)[-1] == ("submitted again", "its process ended")


def test_a_run_that_is_worked_on_is_left_alone(federation):
    path = federation.add("first")
    federation.keep()
    folder = RunFolder.reopen(path)
    federation.flower.over.add(1)
    for _ in range(3):
        federation.keep()
    folder.close()
    assert federation.flower.started == 1


def test_after_the_superlink_ended_it_is_submitted_again_and_says_why(federation):
    folder = federation.add("first")
    federation.keep()
    federation.kept.forget("the SuperLink ended")
    federation.keep()
    assert federation.flower.started == 2
    assert events(folder)[-1] == ("submitted again", "the SuperLink ended")


def test_a_fault_of_its_own_ends_a_run(federation):
    federation.add("first")
    federation.keep()
    federation.work("first", status="failed", stopped_by="ZeroDivisionError")
    for _ in range(3):
        federation.keep()
    assert federation.flower.started == 1
    assert federation.status("first") == "failed"


def test_attempts_that_come_to_nothing_end(federation):
    folder = federation.add("first")
    for attempt in range(1, 30):
        federation.keep()
        federation.flower.over.add(attempt)
    assert federation.flower.started == submission._VAIN_ATTEMPTS
    assert federation.status("first") == "failed"
    assert "attempts in a row came to nothing" in events(folder)[-1][1]
    assert "see logs/" in json.loads((folder / "run.json").read_text())["stopped_by"]


def test_what_is_ended_from_outside_is_no_fault_of_the_run(federation):
    folder = federation.add("first")
    for _ in range(4 * submission._VAIN_ATTEMPTS):
        federation.keep()
        federation.kept.excuse("the executor ended")
        federation.keep()
        federation.kept.forget("the SuperLink ended")
    assert federation.status("first") == "queued"
    assert ("submitted again", "the executor ended") in events(folder)


def test_attempts_that_get_on_do_not_count_together(federation):
    folder = federation.add("first")
    for attempt in range(1, 12):
        federation.keep()
        with (folder / "history.jsonl").open("a") as file:
            file.write("{}\n")
        federation.flower.over.add(attempt)
    assert federation.status("first") == "queued"
    assert federation.flower.started >= 10


def test_a_run_to_be_stopped_that_nobody_works_on_is_stopped(federation):
    folder = federation.add("first", "interrupted")
    (folder / "stop").touch()
    federation.keep()
    assert federation.status("first") == "stopped"
    assert federation.flower.started == 0


def test_a_damaged_run_costs_no_other_and_is_told_once(federation):
    (federation.add("broken") / "run.json").write_text('{"status"')
    federation.add("whole")
    for _ in range(3):
        federation.keep()
    assert federation.flower.started == 1
    assert [text for text in federation.said if "broken" in text] == [
        "run broken is left alone: its run.json cannot be read"
    ]


def test_on_a_full_disk_nothing_is_started_that_would_find_no_folder(federation, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    federation.add("first")
    with monkeypatch.context() as patched:
        patched.setattr(submission, "write_atomically", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                federation.keep()
    assert federation.flower.started == 0
    federation.keep()
    assert federation.flower.started == 1


class Broken:
    """A grid whose SuperLink does something."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def get_node_ids(self) -> list[int]:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (httpx.ConnectError("EOF occurred in violation of protocol (_ssl.c:1000)"), "interrupted"),
        (httpx.ReadTimeout(""), "interrupted"),
        (RunNotRunningException(), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
        (RunError("no"), "paused"),
        (ConnectionResetError(), "interrupted"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_only_a_fault_of_the_software_fails_a_run(federation, error, status):
    """What the SuperLink's end does to its run must not keep it from being submitted again."""
    folder = RunFolder.reopen(federation.add("first"))
    broken: Any = Broken(error)
    with pytest.raises(type(error)):
        run_study(broken, folder, lambda *_: None)
    folder.close()
    assert federation.status("first") == status
    assert (status in submission.GOING) == (status == "interrupted")


def test_whoever_only_looks_does_not_keep_a_run_from_beginning(federation):
    path = federation.add("first")
    looking = _locked(path)
    threading.Timer(0.1, lambda: os.close(looking)).start()
    held = RunFolder.reopen(path)
    with pytest.raises(RunError, match="another process"):
        RunFolder.reopen(path)
    held.close()


def test_what_was_resumed_says_so_and_its_vain_attempts_are_forgotten(federation, monkeypatch):
    """The command itself; only that a supervisor lives is taken for granted."""
    folder = federation.add("first")
    federation.home.run_folder = lambda name: federation.home.path / "runs" / name
    monkeypatch.setattr(background, "is_up", lambda _: True)
    for attempt in range(1, 30):
        federation.keep()
        federation.flower.over.add(attempt)
    federation.kept.forget("the SuperLink ended")
    background.resume_run(federation.home, "first")
    started = federation.flower.started
    for attempt in range(started + 1, started + 4):
        federation.keep()
        federation.flower.over.add(attempt)
    assert federation.status("first") == "queued"
    assert federation.flower.started == started + 3
    told = events(folder)
    assert told[-4][0] == "resumed"
    assert told[-4][1].startswith("it was failed: 5 attempts in a row came to nothing")
    assert told[-3:] == [
        ("submitted again", "the coordinator resumed it"),
        ("submitted again", "its process did not start"),
        ("submitted again", "its process did not start"),
    ]


def test_the_supervisor_says_why_a_run_of_its_own_does_not_go_on(federation):
    folder = federation.add("first")
    federation.keep()
    federation.work("first", status="paused", stopped_by="the disk is full")
    federation.keep()
    assert federation.said[-1] == "run first is paused: the disk is full"
    assert submission.reason_of(folder) == ": the disk is full"


_RUN_ON_A_FULL_DISK = """
import json, subprocess, sys
from pathlib import Path
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import run_study

class Full:
    def get_node_ids(self):
        (place / "fill").open("wb").write(bytes(10_000_000))

study, place = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(place)], check=True)
folder = RunFolder.create(place / "run", study, backend="flower")
try:
    run_study(Full(), folder, lambda *_: None)
except Exception as error:
    print(json.dumps({"raised": str(error), **folder.info}))
"""


def test_on_a_disk_that_is_truly_full_the_run_is_paused_with_the_reason(federation, tmp_path):
    """A file system of 400 kB in a namespace of its own, filled to the last byte while the run asks its sites."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", _RUN_ON_A_FULL_DISK]
    ran = subprocess.run(
        [*command, str(federation.home.path / "study.yaml"), str(place)], capture_output=True, text=True, check=False
    )
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("this user may not mount a file system")
    found = json.loads(ran.stdout)
    assert found["status"] == "paused"
    assert "No space left on device" in found["stopped_by"]
    assert "resume" in found["stopped_by"]
    assert found["raised"] == found["stopped_by"]
