"""The site's own log: JSON lines without identifiers or values, readable by its owner only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def log_event(state: Path, event: str, **fields: str | int | float | list[str]) -> None:
    """Append one event. Callers pass codes, counts and places in the code, never a patient's value or a path."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **fields}
    descriptor = os.open(state / "site.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
    finally:
        os.close(descriptor)
