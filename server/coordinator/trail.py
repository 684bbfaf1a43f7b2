"""What a coordinator's people and its supervisor did, in a log that cannot be edited unnoticed.

``actions.jsonl``, chained under ``audit.key`` and anchored in ``authority/``: who was invited, admitted, renewed and
revoked, which run was started, stopped and resumed, by which user of the machine. Runs tell their own events.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ecgshared.errors import EcgFedError, PrivacyError, RunError
from ecgshared.service.chain import ChainedLog
from ecgshared.service.files import now, write_once

FILE, KEY, ANCHOR = "actions.jsonl", "audit.key", "authority/actions.anchor"


def note(home: Path, action: str, **about: str) -> None:
    """Write down what is about to be done.

    Raises
    ------
    RunError : the log was edited, or lines are missing: it cannot be gone on with.
    """
    try:
        _chain(home).append([{"at": now(), "by": _user(), "action": action, **about}])
    except PrivacyError as error:
        raise RunError(
            f"the trail of actions cannot be gone on with: {error.what}",
            where=home / FILE,
            remedy="find out who edited it; then move it and authority/actions.anchor away together, and keep both",
        ) from error


def note_always(home: Path, action: str, **about: str) -> None:
    """Write down what must be done even where the log cannot be gone on with: to let a site in no more, say."""
    with suppress(EcgFedError, OSError):
        note(home, action, **about)


def read_trail(home: Path) -> tuple[list[dict[str, Any]], str]:
    """Return (actions, and the events of runs among them, the oldest first; what is wrong with the log, or "")."""
    try:
        actions, fault = _chain(home).lines(), ""
    except EcgFedError as error:
        actions, fault = [], error.what
    entries = [{"log": "actions", **line} for line in actions]
    for file in sorted((home / "runs").glob("*/events.jsonl")):
        for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                entries.append({"log": f"run {file.parent.name}", **json.loads(text)})
    return sorted(entries, key=lambda entry: str(entry.get("at", ""))), fault


def trail_lines(entries: list[dict[str, Any]], fault: str) -> list[str]:
    """Return a trail for reading."""
    lines = []
    for entry in entries:
        told = ", ".join(
            f"{k} {v}" for k, v in entry.items() if k not in ("at", "log", "damaged") and v not in ("", None)
        )
        lines.append(f"{entry.get('at', '?'):<21} {entry['log']:<24} {told}")
    return [*lines, f"NOT TO BE RELIED ON: {fault}" if fault else "the log of actions is what was written"]


def _chain(home: Path) -> ChainedLog:
    return ChainedLog(home / FILE, home / ANCHOR, lambda: _key(home))


def _key(home: Path) -> bytes:
    path = home / KEY
    if not path.exists() and not (home / ANCHOR).exists():
        write_once(path, secrets.token_hex(32).encode())
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise PrivacyError(f"the key of the trail cannot be read ({type(error).__name__})", where=path) from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
