"""The session of a daemon: by it a coordinator tells a site's state from a copy of it.

``state/network/session.json`` holds the number and token of the last session; each start makes the next one, which
names the one before. It is on the disk before it is shown, so that a daemon that is killed in between shows it again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ecgshared.service.files import private_folder, write_atomically

_FILE = "session.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Session:
    """One start of a daemon.

    Attributes
    ----------
    number : one more than that of the session before. token, before : of this session and of that one.
    shown : whether the coordinator has let it in.
    """

    number: int
    token: str
    before: str
    shown: bool = False


def next_session(state: Path) -> Session:
    """Return the session of a daemon that starts: the next one, or the one that was not let in before.

    Raises
    ------
    OSError : it cannot be written; a session that is not on the disk must not be shown.
    """
    last = _read(state)
    if last is not None and not last.shown:
        return last
    made = Session(1 if last is None else last.number + 1, secrets.token_hex(16), "" if last is None else last.token)
    _write(state, made)
    return made


def last_token(state: Path) -> str:
    """Return the token of the last session of this folder, which calls beside its daemon's are of; "" before any."""
    last = _read(state)
    return "" if last is None else last.token


def note_shown(state: Path, session: Session) -> Session:
    """Write that the coordinator has let a session in."""
    shown = replace(session, shown=True)
    _write(state, shown)
    return shown


def place_of(state: Path) -> str:
    """Return what tells this folder on this machine, since it was started, from a copy of it elsewhere."""
    try:
        machine = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        machine = f"{uuid.getnode():x}"
    stat = state.stat()
    return hashlib.sha256(f"{machine} {stat.st_dev} {stat.st_ino}".encode()).hexdigest()


def _read(state: Path) -> Session | None:
    try:
        return Session(**json.loads((state / "network" / _FILE).read_text(encoding="ascii")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # Cut off or edited: the coordinator will take it for a copy, and says so.
        return Session(1, secrets.token_hex(16), "", shown=True)


def _write(state: Path, session: Session) -> None:
    path = private_folder(state / "network") / _FILE
    write_atomically(path, json.dumps(asdict(session)).encode(), private=True)
