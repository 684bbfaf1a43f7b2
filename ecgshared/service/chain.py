"""A log of JSON lines in which no line can be changed, taken out, put in or cut off unnoticed.

Each line carries an HMAC over its own text and the HMAC of the line before; an anchor beside the keys holds how many
there were and the newest. Lines written before there was a chain stand at the start, and are under its first HMAC. An
older copy of log AND anchor cannot be told from the truth, nor can what is forged by somebody who reads the key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgshared.errors import PrivacyError
from ecgshared.service.files import append_lines, private_folder, write_atomically

MAC = "mac"


@dataclass(frozen=True)
class _Read:
    """Lines as they stand: their content, how many are chained, the newest HMAC, and the bytes they take."""

    lines: list[dict[str, Any]]
    chained: int
    mac: str
    size: int
    inode: int


class ChainedLog:
    """One log; any number of processes may append to it.

    Parameters
    ----------
    path : of the log. anchor : of its anchor, in another folder.
    key : gives the key, 32 bytes, when it is needed.
    """

    def __init__(self, path: Path, anchor: Path, key: Callable[[], bytes]) -> None:
        self.path, self._anchor, self._key = path, anchor, key
        self._seen: _Read | None = None

    def lines(self) -> list[dict[str, Any]]:
        """Return every line, the oldest first, without its HMAC; what is no JSON is ``{"damaged": its number}``.

        A crash can cut a line: what it tells of had not happened yet.

        Raises
        ------
        PrivacyError : a line was changed, taken out or put in, or lines are missing from the end.
        OSError : the log cannot be read.
        """
        return self._read().lines

    def append(
        self, lines: Sequence[dict[str, Any]] | Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]]]
    ) -> None:
        """Append lines and wait until they are on the disk, then the anchor: all of them, or none.

        Parameters
        ----------
        lines : or what makes them of the lines there are, while no other process appends.

        Raises
        ------
        PrivacyError : as :meth:`lines`; nothing is appended to a log that was tampered with.
        """
        private_folder(self.path.parent)
        newest: list[tuple[int, str]] = []

        def made() -> list[str]:
            before = self._read()
            key, mac, found = self._key(), before.mac, []
            for content in lines(before.lines) if callable(lines) else lines:
                body = json.dumps(content, sort_keys=True, allow_nan=False)
                mac = _mac(key, mac, body)
                found.append(f'{body[:-1]}{", " if len(body) > 2 else ""}"{MAC}": "{mac}"}}')
            newest[:] = [(before.chained + len(found), mac)]
            return found

        append_lines(self.path, made)
        if newest:
            self._write_anchor(*newest[0])

    def whole(self, lines: Sequence[dict[str, Any]]) -> tuple[bytes, bytes]:
        """Return a log that holds ``lines`` in the place of this one's, all chained, and its anchor; nothing is
        written."""
        key, text = self._key(), b""
        mac = _start(key, b"")
        for content in lines:
            body = json.dumps(content, sort_keys=True, allow_nan=False)
            mac = _mac(key, mac, body)
            text += f'{body[:-1]}{", " if len(body) > 2 else ""}"{MAC}": "{mac}"}}\n'.encode()
        return text, json.dumps({"lines": len(lines), "mac": mac}).encode()

    def _read(self) -> _Read:
        # The anchor first: another process writes a line before it anchors it.
        anchored = self._read_anchor()
        found = self._grown()
        if anchored is not None and found.chained < anchored:
            raise _tampered(self.path, f"{anchored - found.chained} line(s) are missing from its end")
        self._seen = found
        return found

    def _grown(self) -> _Read:
        """Return all lines; of a log that only grew since it was last read here, only what is new is checked."""
        seen = self._seen
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if seen is None or stat.st_ino != seen.inode or stat.st_size < seen.size:
                    seen = _Read([], 0, "", 0, stat.st_ino)
                file.seek(seen.size)
                content = file.read()
        except FileNotFoundError:
            return _Read([], 0, _start(self._key(), b""), 0, -1)
        return _verified(self.path, seen, content, self._key())

    def _read_anchor(self) -> int | None:
        try:
            return int(json.loads(self._anchor.read_text(encoding="ascii"))["lines"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise _tampered(self._anchor, "it is no anchor") from None

    def _write_anchor(self, lines: int, mac: str) -> None:
        private_folder(self._anchor.parent)
        held = self._read_anchor()
        if held is None or held < lines:
            write_atomically(self._anchor, json.dumps({"lines": lines, "mac": mac}).encode(), private=True)


def _verified(path: Path, seen: _Read, content: bytes, key: bytes) -> _Read:
    whole = content.rfind(b"\n") + 1  # a line that another process is writing is read the next time
    lines, chained, mac = list(seen.lines), seen.chained, seen.mac
    before = b""
    for raw in content[:whole].split(b"\n"):
        if not raw.strip():
            continue
        entry = _entry(raw, len(lines) + 1)
        given = entry.pop(MAC, None)
        if given is not None:
            mac = mac if chained else _start(key, before)
            mac = _mac(key, mac, json.dumps(entry, sort_keys=True, allow_nan=False))
            if not hmac.compare_digest(mac.encode(), str(given).encode()):
                raise _tampered(path, f"line {len(lines) + 1} was changed, or a line before it was taken out")
            chained += 1
        elif not chained:
            before += raw + b"\n"
        elif "damaged" not in entry:
            raise _tampered(path, f"line {len(lines) + 1} was put in by hand")
        lines.append(entry)
    if not chained:
        # Nothing is chained yet: what stands here is read again, to go under the first HMAC.
        return _Read(lines, 0, _start(key, before), 0, -1)
    return _Read(lines, chained, mac, seen.size + whole, seen.inode)


def _entry(raw: bytes, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(raw)
    except ValueError:
        return {"damaged": number}
    return entry if isinstance(entry, dict) else {"damaged": number}


def _start(key: bytes, before: bytes) -> str:
    return _mac(key, "", "ecgfed log v1" + hashlib.sha256(before).hexdigest())


def _mac(key: bytes, before: str, body: str) -> str:
    return hmac.digest(key, f"{before}\0{body}".encode(), hashlib.sha256).hex()


def _tampered(path: Path, what: str) -> PrivacyError:
    return PrivacyError(
        f"this log is not what was written: {what}",
        where=path,
        remedy="restore it with its anchor from a backup; what happened at this site is no longer on record",
    )
