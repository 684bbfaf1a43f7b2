"""The site's own log: JSON lines without identifiers or values, readable by its owner only."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.site.logs import chained
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.service.files import append_line


def log_event(state: Path, event: str, **fields: str | int | float | list[str]) -> None:
    """Append one event. Callers pass codes, counts and places in the code, never a patient's value or a path."""
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **fields}
    append_line(state / "site.log", json.dumps(line, sort_keys=True))


LOCKBOX_FILE = "lockbox.jsonl"


def record_lockbox_opening(
    settings: SiteSettings, *, study_hash: str, step: str, run: str = "", study_name: str = ""
) -> None:
    """Write down, before it happens, that a step sees the lockbox: one line in ``state/lockbox.jsonl``."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"time": now, "study": study_hash, "name": study_name, "run": run, "step": step}
    try:
        chained(settings.state / LOCKBOX_FILE).append([entry])
    except PrivacyError as error:
        raise Refused(RefusalCode.GATE_CLOSED, f"the lockbox stays closed: {error.what}", where=error.where) from error


@dataclass(frozen=True)
class LockboxOpening:
    """A step of a run that saw the lockbox, and when first."""

    time: str
    study: str
    name: str
    run: str
    step: str

    @property
    def by(self) -> tuple[str, str]:
        """The run that opened it: hash of the study, and name of the run."""
        return self.study, self.run


def lockbox_openings(state: Path) -> tuple[LockboxOpening, ...]:
    """Return who opened the lockbox, over all studies, the first first; each step of a run once.

    Raises
    ------
    PrivacyError : the record was changed, cut or lost.
    """
    found: dict[tuple[str, ...], LockboxOpening] = {}
    for entry in chained(state / LOCKBOX_FILE).lines():
        if "damaged" in entry:
            continue  # cut by a crash: what it tells of had not happened yet
        opening = LockboxOpening(*(str(entry.get(key, "")) for key in ("time", "study", "name", "run", "step")))
        found.setdefault((*opening.by, opening.step), opening)
    return tuple(found.values())


def lockbox_lines(state: Path) -> list[str]:
    """Return the openings as lines for a terminal, and how many runs of how many studies they were."""
    found = lockbox_openings(state)
    if not found:
        return ["the lockbox was never opened"]
    rows = [("first at", "study", "", "run", "step")]
    rows += [(o.time, o.name or "?", o.study[:12], o.run, o.step) for o in found]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    runs, studies = len({o.by for o in found}), len({o.study for o in found})
    return [*lines, f"opened by {runs} run(s) of {studies} study version(s)"]
