"""What a daemon tells: plain lines for who watches its output, JSON lines of known fields for its log."""

from __future__ import annotations

import sys
from pathlib import Path

from ecgshared.service.files import now, private_folder
from ecgshared.service.logs import json_log


class Journal:
    """Tells everything twice: on standard output, and in ``state/network/daemon.log`` (rotated).

    Parameters
    ----------
    as_json : standard output gets the JSON lines too, for a collector of logs.
    """

    def __init__(self, state: Path, *, as_json: bool = False) -> None:
        self._log = json_log(private_folder(state / "network") / "daemon.log")
        self._as_json = as_json

    def tell(self, event: str, text: str, *, warn: bool = False, **fields: object) -> None:
        """Say that something happened: ``text`` for people, ``event`` and ``fields`` for machines."""
        written = (self._log.warning if warn else self._log.info)(event, **fields)
        line = written if self._as_json else f"{now()} {text}"
        try:
            print(line, flush=True)
        except (OSError, ValueError):
            sys.stdout = None  # who watched went away; the log goes on

    def close(self) -> None:
        """Close the log."""
        self._log.close()
