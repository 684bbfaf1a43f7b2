"""The site's own log: JSON lines without identifiers or values, readable by its owner only."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from client.site.lockbox import LOCKBOX_FILE
from client.site.logs import chained
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.service.files import append_line


def log_event(state: Path, event: str, **fields: str | int | float | list[str]) -> None:
    """Append one event. Callers pass codes, counts and places in the code, never a patient's value or a path."""
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **fields}
    append_line(state / "site.log", json.dumps(line, sort_keys=True))


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
