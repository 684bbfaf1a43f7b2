"""A run as it goes, from its folder alone: which step and round, who is late, figures, bytes, what went wrong."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server.coordinator.submission import GOING

_TURN_SECONDS = 0.5
_REPORT_SECONDS = 60.0
_SILENCE_SECONDS = 10.0
"""Where no terminal shows it, who is waited for is said this often."""


def watch_run(folder: Path, console: Console | None = None) -> str:
    """Show a run until it is over; return its last status.

    On a terminal one table is kept up to date; elsewhere every answered question is one line.
    """
    console = console or Console()
    history = Tail(folder / "history.jsonl")
    events = Tail(folder / "events.jsonl")
    if not console.is_terminal:
        return _lines(folder, history, events, console)
    seen: list[dict[str, Any]] = []
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            info = _read(folder / "run.json")
            seen += history.fresh()
            live.update(_picture(info, _read(folder / "live.json"), seen))
            if info.get("status") not in GOING:
                break
            time.sleep(_TURN_SECONDS)
    _last_words(info, folder, console)
    return str(info["status"])


def _lines(folder: Path, history: Tail, events: Tail, console: Console) -> str:
    said, spoke = "", time.monotonic()
    while True:
        info = _read(folder / "run.json")
        for event in events.fresh():
            console.print(f"{event['at']} {event['what']} {event['why']}".rstrip(), highlight=False)
        for line in history.fresh():
            console.print(one_line(line), highlight=False, soft_wrap=True)
            spoke = time.monotonic()
        if time.monotonic() - spoke >= _SILENCE_SECONDS:
            spoke = time.monotonic()
            if words := _asking(_read(folder / "live.json")):
                console.print(words, highlight=False, soft_wrap=True)
        state = str(info.get("waiting_for") or "")
        if state and state != said:
            console.print(f"waiting: {state}", highlight=False, soft_wrap=True)
        said = state
        if info.get("status") not in GOING:
            break
        time.sleep(_TURN_SECONDS)
    _last_words(info, folder, console)
    return str(info["status"])


def _asking(live: dict[str, Any]) -> str:
    """Return what is asked at the moment and who is still at it; a site's first question has it read its recordings."""
    if not live.get("step"):
        return ""
    late = ", ".join(live.get("late", [])) or "nobody"
    return f"asking: {live['step']} {live['phase']} {live['round']}, since {live['since']}; still at it: {late}"


def one_line(line: dict[str, Any]) -> str:
    """Return one answered question as a line."""
    absent = "; ".join(f"{site} {why}" for site, why in line["absent"].items())
    figures = ", ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items() if value is not None)
    return (
        f"{line['at']} {line['step']} {line['phase']} {line['round']}: {len(line['answered'])} answered in "
        f"{line['seconds']:.1f} s, {_size(line['bytes_in'])} in, {_size(line['bytes_out'])} out"
        + (f"; {figures}" if figures else "")
        + (f"; absent: {absent}" if absent else "")
    )


def _picture(info: dict[str, Any], live: dict[str, Any], seen: list[dict[str, Any]]) -> Group:
    parts: list[Any] = [Text(f"run {info.get('run', '')}: {info.get('status', '')}", style="bold")]
    if info.get("waiting_for"):
        parts.append(Text(f"waiting: {info['waiting_for']}", style="yellow"))
    progress = live.get("progress")
    if progress:
        parts.append(Text(f"step {progress['step']}: {progress['done']} of {progress['total']} {progress['text']}"))
    if live.get("step"):
        parts.append(Text(f"asking: {live['step']} {live['phase']} {live['round']}, since {live['since']}"))
    table = Table("site", "now", "answers", "missed", "received", "last seconds", "last reason", box=None)
    for row in of_sites(info, live, seen):
        table.add_row(*(str(value) for value in row.values()))
    parts.append(table)
    parts += [Text(one_line(line), overflow="ellipsis", no_wrap=True) for line in seen[-5:]]
    return Group(*parts)


def of_sites(info: dict[str, Any], live: dict[str, Any], seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is known of each site of a run: what it does, what it gave, why it gave nothing."""
    late, asked = set(live.get("late", [])), set(live.get("asked", []))
    rows = []
    for site in info.get("sites", []):
        answers = [line for line in seen if site in line["answered"]]
        missed = [line for line in seen if site in line["absent"]]
        rows.append(
            {
                "site": site,
                "now": "LATE or working" if site in late else "answered" if site in asked else "",
                "answers": len(answers),
                "missed": len(missed),
                "received": _size({site: sum(line["bytes_in"].get(site, 0) for line in seen)}),
                "seconds": f"{answers[-1]['seconds']:.1f}" if answers else "",
                "reason": str(missed[-1]["absent"][site]) if missed else "",
            }
        )
    return rows


def _last_words(info: dict[str, Any], folder: Path, console: Console) -> None:
    console.print(f"run {info.get('run')}: {info.get('status')}", highlight=False)
    if info.get("stopped_by"):
        console.print(str(info["stopped_by"]), highlight=False, soft_wrap=True)
    for step, why in (info.get("left_out") or {}).items():
        console.print(f"step {step} was left out: {why}", highlight=False, soft_wrap=True)
    if info.get("status") == "done":
        report = folder / "report.html"
        end = time.monotonic() + _REPORT_SECONDS
        while not report.exists() and time.monotonic() < end:
            time.sleep(_TURN_SECONDS)
        words = f"report: {report}" if report.exists() else f"there is no report yet; ecgfed report {folder}"
        console.print(words, highlight=False, soft_wrap=True)


def _size(by_site: dict[str, int]) -> str:
    total = float(sum(by_site.values()))
    for unit in ("B", "kB", "MB"):
        if total < 1000:
            return f"{total:.0f} {unit}"
        total /= 1000
    return f"{total:.1f} GB"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


class Tail:
    """The whole lines that were appended to a file since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def fresh(self) -> list[dict[str, Any]]:
        """Return the new lines, parsed."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.splitlines():
            # What was cut off by a full disk is passed over; the report names it.
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found
