"""The site's own log: JSON lines without identifiers or values, readable by its owner only."""

from __future__ import annotations

import json
import time
from pathlib import Path

from client.keys import append_line


def log_event(state: Path, event: str, **fields: str | int | float | list[str]) -> None:
    """Append one event. Callers pass codes, counts and places in the code, never a patient's value or a path."""
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **fields}
    append_line(state / "site.log", json.dumps(line, sort_keys=True))
