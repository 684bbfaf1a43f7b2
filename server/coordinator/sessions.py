"""Which session of each site's daemon is the last: a copy of a site's state is told from the site it was copied from.

A site whose folder of state was copied (a virtual machine restored beside its original, a second pod) would answer
twice under one key, with two ledgers that each hold half of what was spent. So every start of a daemon opens a session:
a number one higher than before, and a token that names the token before it. Two copies cannot both follow the same
session. What follows on another machine is let in only where its predecessor has fallen silent.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ecgshared.errors import ConfigError
from ecgshared.service.files import now, write_atomically

FILE = "sessions.json"
SILENT_SECONDS = 20.0
"""A living daemon is heard more often than that."""

Verdict = Literal["open", "wait", "forked"]


@dataclass(frozen=True)
class Opening:
    """What a daemon says when it starts: its number and token, the token before, and the place it runs at."""

    number: int
    token: str
    before: str
    place: str

    @classmethod
    def read(cls, content: Any) -> Opening | None:
        """Return what a site sent; None where it is no such thing."""
        if not isinstance(content, dict) or set(content) != {"number", "token", "before", "place"}:
            return None
        words = [content[name] for name in ("token", "before", "place")]
        if type(content["number"]) is not int or not 1 <= content["number"] < 10**9:
            return None
        if not all(isinstance(word, str) and len(word) <= 64 and word.isalnum() | (word == "") for word in words):
            return None
        return cls(content["number"], *words) if content["token"] else None


class Sessions:
    """The sessions of a coordinator's sites, in its folder; the SuperLink's process alone opens any."""

    def __init__(self, home: Path) -> None:
        self._path, self._read_at = home / FILE, -1
        self._held: dict[str, dict[str, Any]] = {}
        self._heard: dict[str, float] = {}
        self._waiting: dict[str, tuple[str, float]] = {}

    def open(self, site: str, asked: Opening) -> Verdict:
        """Let a session in, have it wait until its predecessor is known to be silent, or refuse it as a fork."""
        with self._changing() as held:
            last = held.get(site)
            if last is None or asked.number > last["number"] + 1:
                # A coordinator that was restored from a backup knows less than the site: nobody is ahead of the truth.
                return self._let_in(held, site, asked)
            follows = asked.number == last["number"] + 1 and asked.before == last["token"]
            again = asked.number == last["number"] and asked.token == last["token"]
            if not follows and not again:
                self._note_fork(last, asked)
                return "forked"
            if asked.place == last["place"]:
                return self._let_in(held, site, asked)
            token, since = self._waiting.get(site, ("", 0.0))
            if token != asked.token:
                self._waiting[site] = asked.token, time.monotonic()
                return "wait"
            if self._heard.get(site, 0.0) > since:
                self._note_fork(last, asked)
                return "forked"
            if time.monotonic() - since < SILENT_SECONDS:
                return "wait"
            return self._let_in(held, site, asked)

    def is_current(self, site: str, token: str) -> bool:
        """Tell whether a request is of a site's last session, and note that it was heard.

        A site that never opened one (Flower's own SuperNode does not) is believed.
        """
        last = self._current().get(site)
        if last is None:
            return True
        if last["token"] != token:
            return False
        self._heard[site] = time.monotonic()
        return True

    def accept(self, site: str) -> None:
        """Forget which session was the last: whichever comes next is taken for the site.

        Raises
        ------
        ConfigError : no session of the site is known.
        """
        with self._changing() as held:
            if held.pop(site, None) is None:
                raise ConfigError("no session of this site is known", value=site, allowed=", ".join(held) or "none")

    def forks(self) -> dict[str, dict[str, Any]]:
        """Return what was refused as a copy, by site: when last, how often, its number beside the last session's."""
        held = self._current()
        return {
            site: entry["refused"] | {"beside": entry["number"]} for site, entry in held.items() if "refused" in entry
        }

    def _let_in(self, held: dict[str, dict[str, Any]], site: str, asked: Opening) -> Verdict:
        kept = {key: value for key, value in held.get(site, {}).items() if key == "refused"}
        held[site] = {"number": asked.number, "token": asked.token, "place": asked.place, "since": now(), **kept}
        self._waiting.pop(site, None)
        self._heard.pop(site, None)
        return "open"

    def _note_fork(self, last: dict[str, Any], asked: Opening) -> None:
        times = int(last.get("refused", {}).get("times", 0)) + 1
        last["refused"] = {"at": now(), "times": times, "number": asked.number}

    def _current(self) -> dict[str, dict[str, Any]]:
        """Return the sessions, read again where a command changed them."""
        try:
            written = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            written = 0
        if written != self._read_at:
            try:
                self._held = dict(json.loads(self._path.read_text(encoding="utf-8"))) if written else {}
            except ValueError:
                # As after the loss of the file: who comes next is taken.
                self._held = {}
            self._read_at = written
        return self._held

    @contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, Any]]]:
        with self._path.with_name(".sessions.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = {site: dict(entry) for site, entry in self._current().items()}
            yield held
            if held != self._held:
                write_atomically(self._path, json.dumps(held, indent=1, sort_keys=True).encode(), private=True)
                self._held, self._read_at = held, self._path.stat().st_mtime_ns
