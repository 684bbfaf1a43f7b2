"""The site's logs that must not be edited: each a chain under a key of the site, anchored beside its keys."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from client.site.keys import log_key
from ecgshared.service.chain import ChainedLog


def from_its_start(path: Path) -> ChainedLog:
    """Return the log at ``<state>/<name>.jsonl``, which is checked whole."""
    state, name = path.parent, path.stem
    return ChainedLog(path, state / "keys" / f"{name}.anchor", lambda: log_key(state, name))


@lru_cache(maxsize=256)
def chained(path: Path) -> ChainedLog:
    """Return the log; what this process read of it once is not read again while it only grows."""
    return from_its_start(path)
