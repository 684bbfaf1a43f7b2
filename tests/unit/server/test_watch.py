"""What the coordinator sees of a run: lines where there is no terminal, one table where there is."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from server.coordinator import watch
from server.coordinator.watch import watch_run

HISTORY = [
    {
        "at": "2026-11-21T10:00:01Z", "step": "cohorts", "phase": "counts", "round": 0, "seconds": 2.25,
        "answered": ["coast", "north"], "absent": {}, "lost": {}, "bytes_in": {"coast": 2900, "north": 2800},
        "bytes_out": {"coast": 384, "north": 384}, "metrics": {},
    },
    {
        "at": "2026-11-21T10:00:09Z", "step": "risk", "phase": "fit", "round": 1, "seconds": 7.5, "answered": ["north"],
        "absent": {"coast": "deadline"}, "lost": {"coast": ["deadline"]}, "bytes_in": {"north": 1_500_000},
        "bytes_out": {"coast": 1, "north": 1}, "metrics": {"train_loss": 0.123456, "auc": None},
    },
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_TURN_SECONDS", 0.01)
    monkeypatch.setattr(watch, "_REPORT_SECONDS", 0.1)
    (tmp_path / "report.html").write_text("")
    tell(tmp_path, status="done")
    return tmp_path


def tell(folder: Path, **info: Any) -> None:
    content = {"run": "tiny-1", "sites": ["north", "coast"], "waiting_for": None, "stopped_by": None} | info
    (folder / "run.json.part").write_text(json.dumps(content))
    (folder / "run.json.part").rename(folder / "run.json")


def add(folder: Path, name: str, *lines: dict[str, Any]) -> None:
    with (folder / name).open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def seen(folder: Path, *, terminal: bool = False, width: int = 160) -> tuple[str, str]:
    """Watch to the end; return (status, what was printed)."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    return watch_run(folder, console), out.getvalue()


def test_every_answered_question_is_one_line(folder):
    add(folder, "history.jsonl", *HISTORY)
    status, text = seen(folder, width=40)
    assert status == "done"
    lines = text.splitlines()
    assert lines[0] == ("2026-11-21T10:00:01Z cohorts counts 0: 2 answered in 2.2 s, 6 kB in, 768 B out"), (
        "not broken, however narrow"
    )
    assert lines[1] == (
        "2026-11-21T10:00:09Z risk fit 1: 1 answered in 7.5 s, 2 MB in, 2 B out; train_loss 0.1235; "
        "absent: coast deadline"
    )
    assert lines[2:] == ["run tiny-1: done", f"report: {folder / 'report.html'}"]


def test_what_befell_and_whom_it_waits_for_is_told_once(folder):
    tell(folder, status="waiting", waiting_for="1 of 2 needed sites answered (coast: paused)")
    add(folder, "events.jsonl", {"at": "2026-11-21T10:00:00Z", "what": "submitted again", "why": "the SuperLink ended"})

    def later() -> None:
        time.sleep(0.2)
        tell(folder, status="running")
        time.sleep(0.1)
        tell(folder, status="waiting", waiting_for="1 of 2 needed sites answered (coast: paused)")
        time.sleep(0.1)
        add(folder, "history.jsonl", HISTORY[0])
        tell(folder, status="stopped", stopped_by="the coordinator stopped the run")

    thread = threading.Thread(target=later)
    thread.start()
    status, text = seen(folder)
    thread.join()
    assert status == "stopped"
    assert text.count("2026-11-21T10:00:00Z submitted again the SuperLink ended") == 1
    assert text.count("waiting: 1 of 2 needed sites answered (coast: paused)") == 2, "once each time it begins"
    assert "cohorts counts 0" in text, "the last line counts too"
    assert text.endswith("run tiny-1: stopped\nthe coordinator stopped the run\n")


@pytest.mark.parametrize("status", ["paused", "failed", "stopped"])
def test_a_run_that_did_not_end_well_says_why_and_has_no_report(folder, status):
    tell(folder, status=status, stopped_by="step 'risk', fit 1: 1 of 2 needed sites answered")
    found, text = seen(folder)
    assert found == status
    assert "1 of 2 needed sites answered" in text
    assert "report" not in text


def test_a_report_that_could_not_be_written_is_not_promised(folder):
    (folder / "report.html").unlink()
    _, text = seen(folder)
    assert f"there is no report yet; ecgfed report {folder}" in text


def test_half_a_line_is_waited_for_and_a_broken_one_passed_over(folder):
    whole = json.dumps(HISTORY[0])
    (folder / "history.jsonl").write_text(f'{{"at": "20\n{whole}\n{whole[:30]}')
    _, text = seen(folder)
    assert text.count("cohorts counts 0") == 1
    tail = watch.Tail(folder / "history.jsonl")
    assert len(tail.fresh()) == 1
    assert tail.fresh() == []
    with (folder / "history.jsonl").open("a") as file:
        file.write(whole[30:] + "\n")
    assert tail.fresh() == [HISTORY[0]]


def test_on_a_terminal_a_table_of_the_sites(folder):
    add(folder, "history.jsonl", *HISTORY)
    live = {
        "progress": {"step": "risk", "done": 1, "total": 5, "text": "auc 0.61"}, "step": "risk", "phase": "fit",
        "round": 2, "asked": ["north", "coast"], "late": ["coast"], "since": "2026-11-21T10:00:10Z",
    }  # fmt: skip
    (folder / "live.json").write_text(json.dumps(live))
    status, text = seen(folder, terminal=True)
    assert status == "done"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "step risk: 1 of 5 auc 0.61" in lines
    assert "asking: risk fit 2, since 2026-11-21T10:00:10Z" in lines
    assert "north answered 2 0 2 MB 7.5" in lines
    assert "coast LATE or working 1 1 3 kB 2.2 deadline" in lines


def test_the_table_follows_the_run(folder):
    tell(folder, status="running")

    def later() -> None:
        time.sleep(0.6)
        add(folder, "history.jsonl", HISTORY[0])
        tell(folder, status="waiting", waiting_for="coast: not-connected")
        time.sleep(0.6)
        tell(folder, status="done")

    thread = threading.Thread(target=later)
    thread.start()
    status, text = seen(folder, terminal=True)
    thread.join()
    assert status == "done"
    assert "run tiny-1: running" in text
    assert "waiting: coast: not-connected" in text
    assert text.index("run tiny-1: running") < text.index("waiting: coast") < text.rindex("run tiny-1: done")


def test_a_run_of_which_nothing_is_written_yet(folder):
    """Between its making and its first answer there is run.json alone, and for a moment not even that."""
    (folder / "run.json").unlink()
    out = io.StringIO()
    assert watch._picture({}, {}, []) is not None
    tell(folder, status="queued")
    thread = threading.Timer(0.1, lambda: tell(folder, status="done"))
    thread.start()
    assert watch_run(folder, Console(file=out, force_terminal=True, width=100)) == "done"
    thread.join()
