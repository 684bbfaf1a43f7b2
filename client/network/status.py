"""What a running daemon says of itself on the site's disk, and what its operator tells it there."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecgshared.errors import RunError
from ecgshared.service.files import now, private_folder, write_atomically

_STATUS, _LOCK, _PAUSED, _NODE = "status.json", "daemon.lock", "paused", "node.json"


LEAST_ROOM_MB = 64
"""Below it a message, an answer or the ledger may not find room."""


@dataclass(frozen=True)
class Room:
    """What is free for a site's state, and what is wrong with it, in words; "" where nothing is."""

    free_bytes: int
    trouble: str


def room_below(state: Path) -> Room:
    """Look at the disk of a site's state."""
    try:
        found = os.statvfs(state)
    except OSError as error:
        return Room(0, f"the folder of state cannot be read ({error.strerror})")
    free = found.f_bavail * found.f_frsize
    if found.f_flag & os.ST_RDONLY or not os.access(state, os.W_OK):
        return Room(free, "the folder of state is read-only: nothing can be answered")
    if free < LEAST_ROOM_MB << 20:
        return Room(free, f"the disk is full ({free >> 20} MiB free): questions are refused until there is room")
    return Room(free, "")


class StatusFile:
    """The daemon's status, written whole whenever it changes; any thread may change it.

    A disk that is full must not stop the daemon: what could not be written is written with the next change.
    """

    def __init__(self, state: Path) -> None:
        self._path = private_folder(state / "network") / _STATUS
        self._lock = threading.Lock()
        self._fields: dict[str, Any] = {"pid": os.getpid(), "started": now()}
        self.set()

    def set(self, **changes: Any) -> None:
        """Change fields and write the file if anything differs."""
        with self._lock:
            fields = {**self._fields, **changes}
            if fields == self._fields and self._path.exists() and changes:
                return
            self._fields = fields
            text = json.dumps(fields, indent=1, sort_keys=True)
            with suppress(OSError):
                write_atomically(self._path, text.encode(), private=True, sync=False)

    def get(self, key: str) -> Any:
        """Return one field, or None."""
        with self._lock:
            return self._fields.get(key)


class DaemonLock:
    """One daemon to a site's state: held from :meth:`__enter__` until the process ends, whatever ends it."""

    def __init__(self, state: Path) -> None:
        self._path = private_folder(state / "network") / _LOCK
        self._handle = -1

    def __enter__(self) -> DaemonLock:
        # Opened files are not inherited by the worker, so the lock goes with this process alone.
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise RunError(
                "another daemon of this site is running",
                where=self._path,
                remedy="ecgfed site status; ecgfed site stop",
            ) from None
        os.ftruncate(self._handle, 0)
        os.write(self._handle, str(os.getpid()).encode())
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def running_pid(state: Path) -> int | None:
    """Return the process of the daemon that holds the lock, or None where none runs."""
    try:
        handle = os.open(state / "network" / _LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(handle, 32) or b"0") or None
    else:
        return None
    finally:
        os.close(handle)


def read_status(state: Path) -> dict[str, Any]:
    """Return the last status a daemon wrote; empty where none ever ran or the file is damaged."""
    try:
        found = json.loads((state / "network" / _STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(pid: int | None, found: dict[str, Any], room: Room | None = None) -> list[str]:
    """Return a daemon's status in plain words; of a full disk ``room`` knows, where the daemon can write no more."""
    full = [f"DISK: {room.trouble}"] if room is not None and room.trouble else []
    if pid is None:
        ended = found.get("stopped")
        trouble = [f"last trouble: {found['last_error']}"] if found.get("last_error") else []
        return [f"not running; it ended at {ended}" if ended else "not running", *full, *trouble]
    lines = [*full, f"running since {found.get('started', '?')}, process {pid}"]
    if found.get("connected_since"):
        lines.append(f"connected since {found['connected_since']}")
    else:
        lines.append(f"not connected: {found.get('last_error') or 'connecting'}")
    if found.get("site_file_fault"):
        lines.append(f"SITE FILE: nothing is answered: {found['site_file_fault']}")
    if found.get("restart_for"):
        lines.append(f"RESTART NEEDED: changed since it started: {', '.join(found['restart_for'])}")
    work = found.get("work")
    if work:
        where = f"step {work['step']}, {work['phase']}, round {work['round']}"
        lines.append(f"at work since {work['since']}: run {work['run']}, {where}")
    lines.append(f"last answer: {found.get('last_answer') or 'none yet'}")
    if found.get("paused"):
        lines.append("PAUSED: questions are refused until `ecgfed site resume`")
    if found.get("certificate_not_after"):
        until = datetime.fromtimestamp(found["certificate_not_after"], UTC)
        lines.append(f"certificate valid until {until:%Y-%m-%d %H:%M} UTC")
        if found.get("certificate_ends"):
            lines.append(f"CERTIFICATE: {found['certificate_ends']}")
    skew = found.get("clock_skew_seconds")
    if skew is not None and abs(skew) > 30:
        lines.append(f"CLOCK: {skew:+d} s from the coordinator's")
    return lines


def stop_daemon(state: Path, seconds: float) -> bool:
    """Ask a running daemon to end and wait for it; return False where none runs.

    Raises
    ------
    RunError : it has not ended in time, or belongs to somebody else.
    """
    pid = running_pid(state)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise RunError("the daemon belongs to another user", value=pid) from None
    end = time.monotonic() + seconds
    while running_pid(state) is not None:
        if time.monotonic() > end:
            raise RunError("the daemon has not ended yet", value=pid, remedy=f"wait, or end it by: kill -9 {pid}")
        time.sleep(0.1)
    return True


def pause(state: Path, paused: bool) -> None:
    """Tell the daemon, running or to come, to answer no question; it stays connected."""
    path = private_folder(state / "network") / _PAUSED
    if paused:
        write_atomically(path, f"{now()}\n".encode(), private=True)
    else:
        path.unlink(missing_ok=True)


def is_paused(state: Path) -> bool:
    """Whether the operator has paused the site."""
    return (state / "network" / _PAUSED).exists()


def remembered_node(state: Path) -> int | None:
    """Return the number Flower gave this site in an earlier life of the daemon."""
    try:
        return int(json.loads((state / "network" / _NODE).read_text(encoding="ascii"))["node_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_node(state: Path, node_id: int) -> None:
    """Keep the number Flower gave this site; where the disk is full it is asked for again in the next life."""
    with suppress(OSError):
        write_atomically(state / "network" / _NODE, json.dumps({"node_id": node_id}).encode(), private=True)
