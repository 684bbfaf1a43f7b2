"""Lines that are only ever added, on the disk before they count, and noticed when anybody changes one.

SQLite (WAL, synchronous=FULL) in ``state/privacy/ledger.sqlite``. Each line carries an HMAC, under a key derived from
the site's, over its own text and the HMAC of the line before; ``state/keys/ledger.anchor`` holds the newest one. A line
edited, taken out or put in by hand, and a database that is gone or older than its anchor, close the store. An older
copy of database AND anchor cannot be told from the truth, nor can what is forged by somebody who reads the site's key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.site.keys import ledger_key
from ecgshared.errors import PrivacyError
from ecgshared.service.files import link_once, private_folder, write_atomically, write_once

FOLDER, FILE, ANCHOR = "privacy", "ledger.sqlite", "ledger.anchor"
BUSY_SECONDS = 60.0
"""How long a process waits for another one's transaction."""

_FORMAT = 1
_SCHEMA = "CREATE TABLE line (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, mac TEXT NOT NULL)"
_REMEDY = "see 'The privacy ledger does not open' in deploy/README.md; do not delete it: what is lost counts as spent"


class Lines:
    """The lines of a store inside a transaction."""

    def __init__(self, key: bytes, macs: list[str], read: list[dict[str, Any]]) -> None:
        self._key, self._macs, self.read = key, macs, read
        self.added: list[tuple[int, str, str]] = []

    def add(self, content: dict[str, Any]) -> None:
        """Put a line behind the last one."""
        body = json.dumps(content, allow_nan=False)
        self._macs.append(_mac(self._key, self._macs[-1], body))
        self.added.append((len(self._macs) - 1, body, self._macs[-1]))


class LedgerStore:
    """The store below a site's ``state`` folder; any number of processes may use it at once.

    Both methods raise :class:`PrivacyError` where it is damaged, gone or edited, and :class:`OSError` or
    :class:`sqlite3.OperationalError` where the disk or another process stands in the way.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self.path, self._anchor = state / FOLDER / FILE, state / "keys" / ANCHOR

    def lines(self) -> list[dict[str, Any]]:
        """Return every line, the oldest first; none where there never was a store."""
        anchor = _read_anchor(self._anchor)
        if not self.path.exists() and (anchor is None or anchor.lines == 0):
            return []
        with self._connection() as database:
            return self._verified(database, anchor).read

    @contextmanager
    def transaction(self) -> Iterator[Lines]:
        """Hold the store alone; what the body adds is committed and synced, then anchored, or nothing is."""
        self._create_once()
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            lines = self._verified(database, _read_anchor(self._anchor))
            yield lines
            if lines.added:
                database.executemany("INSERT INTO line VALUES (?, ?, ?)", lines.added)
                database.execute("COMMIT")
                # Alone again, so that a slower process never puts an older anchor in the place of a newer one.
                database.execute("BEGIN IMMEDIATE")
                newest = database.execute("SELECT seq, mac FROM line ORDER BY seq DESC LIMIT 1").fetchone()
                _write_anchor(self._anchor, _Anchor(*newest))
            database.execute("ROLLBACK")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database; closing it ends whatever was not committed."""
        if not self.path.exists():
            raise PrivacyError("the privacy ledger is gone", where=self.path, remedy=_REMEDY)
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        try:
            database = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous = FULL")
                yield database
            finally:
                database.close()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise PrivacyError("the privacy ledger is damaged", where=self.path, remedy=_REMEDY) from error

    def _create_once(self) -> None:
        """Make an empty store where there never was one: the anchor first, so that no crash looks like a loss."""
        # Read before the path is looked at: another process anchors a line only after the database is there.
        anchor = _read_anchor(self._anchor)
        if self.path.exists():
            return
        if anchor is not None and anchor.lines:
            raise PrivacyError("the privacy ledger is gone", where=self.path, remedy=_REMEDY)
        if anchor is None:
            _write_anchor(self._anchor, _Anchor(0, _first_mac(ledger_key(self._state))), replace=False)
        folder = private_folder(self.path.parent)
        draft = folder / f"{FILE}.{os.getpid()}.draft"
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            database = sqlite3.connect(draft, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA journal_mode = WAL")
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA user_version = {_FORMAT}")
            finally:
                database.close()
            link_once(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)

    def _verified(self, database: sqlite3.Connection, anchor: _Anchor | None) -> Lines:
        """Read every line and check the chain; ``anchor`` must have been read before the lines are."""
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != _FORMAT:
            raise PrivacyError(
                "the privacy ledger is of another version", where=self.path, value=version, allowed=str(_FORMAT)
            )
        try:
            rows = database.execute("SELECT seq, body, mac FROM line ORDER BY seq").fetchall()
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise PrivacyError("the privacy ledger lacks its table", where=self.path, remedy=_REMEDY) from error
            raise
        key = ledger_key(self._state)
        macs = [_first_mac(key)]
        for number, (seq, body, mac) in enumerate(rows, start=1):
            expected = _mac(key, macs[-1], str(body))
            if seq != number or not hmac.compare_digest(expected.encode(), str(mac).encode()):
                raise PrivacyError(
                    "the privacy ledger was edited, or the site's key is another one",
                    where=f"{self.path}, line {number}",
                    remedy=_REMEDY,
                )
            macs.append(expected)
        if anchor is None:
            raise PrivacyError("the anchor of the privacy ledger is gone", where=self._anchor, remedy=_REMEDY)
        if anchor.lines >= len(macs) or anchor.mac != macs[anchor.lines]:
            raise PrivacyError("the privacy ledger is older than its anchor", where=self.path, remedy=_REMEDY)
        return Lines(key, macs, [json.loads(body) for _, body, _ in rows])


@dataclass(frozen=True)
class _Anchor:
    """How many lines there were at least, and the HMAC of the last of them."""

    lines: int
    mac: str


def _first_mac(key: bytes) -> str:
    return _mac(key, "", f"ecgfed privacy ledger v{_FORMAT}")


def _mac(key: bytes, before: str, body: str) -> str:
    return hmac.digest(key, f"{before}\0{body}".encode(), hashlib.sha256).hex()


def _read_anchor(path: Path) -> _Anchor | None:
    """Return the anchor; None where there never was one."""
    try:
        held = json.loads(path.read_text(encoding="ascii"))
        return _Anchor(int(held["lines"]), str(held["mac"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise PrivacyError("the anchor of the privacy ledger is damaged", where=path, remedy=_REMEDY) from error


def _write_anchor(path: Path, anchor: _Anchor, *, replace: bool = True) -> None:
    private_folder(path.parent)
    content = json.dumps({"format_version": _FORMAT, "lines": anchor.lines, "mac": anchor.mac}).encode()
    if replace:
        write_atomically(path, content, private=True)
    else:
        write_once(path, content)
