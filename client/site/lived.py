"""Whether a site has lived: what stands in its state must not be gone on with under another key.

Another key draws another split, so that former lockbox patients would go into training, and knows nobody of those who
were forgotten. So a key is made for a folder of state that is new, and for no other; what a lost one costs is said
before ``ecgfed site rekey`` sets the old state aside.
"""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path

from ecgshared.errors import ConfigError
from ecgshared.service.files import private_folder, rename, write_atomically

RETIRED = "retired-studies.json"
"""In the new state: studies that were answered under the old key, and may not be answered under the new one."""

_MARKS = (
    "approvals.jsonl", "releases.jsonl", "lockbox.jsonl", "opt-out.txt", "outbox", "privacy", "groups", "questions",
    "ingest", "cache", "runs", "federations", "network/session.json",
)  # fmt: skip
"""What only a site that had its key can have made, seen from the folder of state."""

COST = (
    "The split of patients is drawn anew: some of the former lockbox go into training, so no study that was answered "
    "here may go on, or be asked anew.",
    "What patients have paid for private training is forgotten; approvals are void; the old logs cannot be verified.",
    "Who was taken out by `ecgfed site forget` comes back, unless on the list of `exclude:`; forget them again.",
)
"""What a lost key costs, in words."""


def marks_of_life(state: Path) -> list[str]:
    """Return what in a folder of state shows that its site lived before; anchors of its logs among it."""
    found = [name for name in _MARKS if _holds_something(state / name)]
    return found + sorted(f"keys/{path.name}" for path in (state / "keys").glob("*.anchor"))


def retired_studies(state: Path) -> frozenset[str]:
    """Return the hashes of studies that were answered here under a key that was lost.

    Raises
    ------
    ConfigError : the list cannot be read; then nothing can be told to be free of it.
    """
    path = state / RETIRED
    try:
        return frozenset(str(sha256) for sha256 in json.loads(path.read_text(encoding="ascii")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError):
        raise ConfigError(
            "the list of studies from before the key was lost cannot be read", where=path, remedy="restore it"
        ) from None


def set_aside(state: Path, key: Path) -> tuple[Path, frozenset[str]]:
    """Move the state of a lost key aside and begin another one; return where it is now, and which studies are over.

    Raises
    ------
    ConfigError : the key is there, or nothing shows that the site lived.
    """
    if key.exists():
        raise ConfigError("the site's key is there: nothing was lost", where=key, remedy="go on with it")
    if not marks_of_life(state):
        raise ConfigError("nothing here is of a lost key", where=state, remedy="ecgfed site start makes a key")
    over = retired_studies(state) | _answered(state)
    day = time.strftime("%Y%m%d", time.gmtime())
    names = (state.with_name(f"{state.name}-before-{day}" + (f"-{n}" if n > 1 else "")) for n in count(1))
    aside = next(path for path in names if not path.exists())
    rename(state, aside)
    write_atomically(private_folder(state) / RETIRED, json.dumps(sorted(over)).encode(), private=True)
    return aside, over


def _answered(state: Path) -> frozenset[str]:
    """Return the studies of the old logs, as far as they can be read: nothing vouches for them any more."""
    found = set()
    for name in ("releases.jsonl", "lockbox.jsonl"):
        path = state / name
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found |= {str(entry[key]) for key in ("study", "study_hash", "study_sha256") if key in entry}
    return frozenset(found)


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0
