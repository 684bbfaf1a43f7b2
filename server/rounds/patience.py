"""How long a federation waits for its sites, and what it tells meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ecgshared.errors import RunError
from ecgshared.service.files import now
from server.rounds.run_folder import RunFolder


@dataclass(frozen=True)
class WaitingPolicy:
    """How long a federation waits, and whom it tells. The default is that of one process: it does not wait.

    Attributes
    ----------
    patience_seconds : how long it goes on asking below the quorum.
    tell : is given what is going on, whenever that changes.
    stopped : whether the coordinator wants the run to end.
    site_of : which site a node is, by the key it was let in with; None where every node is believed.
    revoked : whether the coordinator lets a site in no more: it is not waited for.
    """

    patience_seconds: float = 0.0
    tell: Callable[[dict[str, Any]], None] = lambda _: None
    stopped: Callable[[], bool] = lambda: False
    site_of: Callable[[int], str | None] | None = None
    revoked: Callable[[str], bool] = lambda _: False


class Wait:
    """A wait below the quorum, as the run folder tells of it."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._told, self._since = run, "", 0.0

    def tell(self, why: str) -> None:
        """Say for whom the run waits, where that has changed."""
        self._since = self._since or time.monotonic()
        if why != self._told:
            self._run.update(status="waiting", waiting_for=why)
        self._told = why

    def over(self) -> None:
        """Say that it goes on, or that it has ended, if it ever waited."""
        if self._told:
            self._run.update(status="running", waiting_for=None)
            waited = f"waited {time.monotonic() - self._since:.0f} s"
            self._run.append("events.jsonl", {"at": now(), "what": waited, "why": self._told})


class Stopped(RunError):
    """The coordinator ended the run; its checkpoint is kept."""
