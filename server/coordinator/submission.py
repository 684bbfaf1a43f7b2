"""Which runs should be going on, and their submission to Flower: first, and again whenever nobody works on them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgshared.errors import RunError
from ecgshared.service.files import append_line, now, rename, write_atomically
from server.coordinator.flower import Control
from server.coordinator.home import Home
from server.rounds.run_folder import RunFolder, is_held

GOING = ("queued", "running", "waiting", "interrupted")
"""Statuses of a run that should go on without anybody's doing."""

RESUMED, RESUMED_BY = "resumed", "the coordinator resumed it"
_STARTING_SECONDS = 90.0
_VAIN_ATTEMPTS = 5


@dataclass
class _Submitted:
    run_id: int
    at: float
    seen_at_work: bool = False
    ended_by: str = ""


class Submissions:
    """The runs of one coordinator, as its supervisor keeps them going."""

    def __init__(self, home: Home, say: Callable[[str], Any]) -> None:
        self._home, self._say = home, say
        self._current: dict[str, _Submitted] = {}
        self._vain: dict[str, tuple[int, int]] = {}
        self._damaged: set[str] = set()
        self._why = "the coordinator came up"

    def clear_notes(self) -> None:
        """Remove the notes of an earlier life: no SuperLink knows those numbers any more."""
        for note in (self._home.path / "flower-runs").glob("*.json"):
            note.unlink(missing_ok=True)

    def keep(self, control: Control) -> None:
        """Submit what should be going on and is not."""
        for folder in sorted(path.parent for path in (self._home.path / "runs").glob("*/run.json")):
            name = folder.name
            status = self._status(folder)
            if status is None:
                continue
            held = is_held(folder)
            current = self._current.get(name)
            if current is not None and held:
                current.seen_at_work = True
            if held:
                continue
            if (folder / "stop").exists() and status in GOING:
                self._end(folder, "stopped", "the coordinator stopped the run")
                status = "stopped"
            if status not in GOING:
                self._vain.pop(name, None)  # whoever resumes it has mended something
                if current is not None:
                    self._say(f"run {name} is {status}{reason_of(folder)}")
                    control.stop_run(current.run_id)
                    del self._current[name]
                continue
            why = self._why_again(folder, current, control)
            if why is not None:
                self._submit(folder, control, why)

    def forget(self, why: str) -> None:
        """Know no more of what was submitted: the SuperLink that knew of it is gone."""
        self._current.clear()
        self._why = why

    def excuse(self, why: str) -> None:
        """Know that the processes of all runs were ended from outside: no fault of theirs."""
        for current in self._current.values():
            current.ended_by = why

    def described(self) -> dict[str, int]:
        """Return Flower's number of each run that was submitted."""
        return {name: current.run_id for name, current in self._current.items()}

    def _status(self, folder: Path) -> str | None:
        try:
            status = str(json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"])
        except (OSError, ValueError, KeyError, TypeError):
            if folder.name not in self._damaged:
                self._say(f"run {folder.name} is left alone: its run.json cannot be read")
            self._damaged.add(folder.name)
            return None
        self._damaged.discard(folder.name)
        return status

    def _why_again(self, folder: Path, current: _Submitted | None, control: Control) -> str | None:
        """Return why a run that nobody works on is to be submitted, or None where it may be starting."""
        if current is None:
            return RESUMED_BY if _last_event(folder) == RESUMED else self._why
        if current.ended_by:
            return current.ended_by
        if current.seen_at_work:
            return "its process ended"
        if time.monotonic() - current.at > _STARTING_SECONDS or control.run_is_over(current.run_id):
            return "its process did not start"
        return None

    def _submit(self, folder: Path, control: Control, why: str) -> None:
        name = folder.name
        done = (folder / "history.jsonl").stat().st_size if (folder / "history.jsonl").exists() else 0
        attempts, before = self._vain.get(name, (0, -1))
        old = self._current.pop(name, None)
        if old is not None:
            control.stop_run(old.run_id)
            (self._home.path / "flower-runs" / f"{old.run_id}.json").unlink(missing_ok=True)
        own_fault = old is not None and not old.ended_by
        attempts = max(attempts + own_fault, 1) if done == before else 1
        self._vain[name] = attempts, done
        if attempts > _VAIN_ATTEMPTS:
            self._end(folder, "failed", f"{_VAIN_ATTEMPTS} attempts in a row came to nothing: {why}; see logs/")
            return
        # Written before Flower is asked: on a full disk nothing is started that would find no folder.
        note = self._home.path / "flower-runs" / f"{name}.next"
        write_atomically(note, json.dumps({"run": name, "at": now()}).encode())
        run_id = control.start_run()
        rename(note, note.with_name(f"{run_id}.json"))
        self._current[name] = _Submitted(run_id, time.monotonic())
        first = not (folder / "events.jsonl").exists()
        note_event(folder, "submitted" if first else "submitted again", "" if first else why)
        self._say(f"run {name} was submitted{'' if first else f' again: {why}'}")

    def _end(self, folder: Path, status: str, why: str) -> None:
        try:
            run = RunFolder.reopen(folder)
        except RunError as error:
            self._say(str(error))
            return
        try:
            run.update(status=status, stopped_by=why, ended=now())
        finally:
            run.close()
        note_event(folder, status, why)
        self._say(f"run {folder.name}: {status}, {why}")


def reason_of(folder: Path) -> str:
    """Return why a run does not go on, or for whom it waits, after a colon; "" where nothing was noted."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        why = info["waiting_for"] if info["status"] == "waiting" else info["stopped_by"]
        return f": {why}" if why else ""
    return ""


def _last_event(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        return str(json.loads((folder / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1])["what"])
    return ""


def note_event(folder: Path, what: str, why: str) -> None:
    """Append to a run's ``events.jsonl``; the report tells it."""
    append_line(folder / "events.jsonl", json.dumps({"at": now(), "what": what, "why": why}), private=False)
