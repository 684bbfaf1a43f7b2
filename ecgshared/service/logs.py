"""A daemon's own log: JSON lines of codes, counts and times, rotated by size, readable by its owner only.

Nothing is cleaned up here. A line is made of the fields of :data:`FIELDS` alone, each of a fixed kind; what is of no
known field, or not of its field's kind, is left out and the line says so under ``dropped``. A sentence, a path, a
patient's number or the text of an exception has no field it could stand in.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any

_WORDS = re.compile(r"[a-z]{1,20}(-[a-z]{1,20}){0,5}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_RUN = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPE = re.compile(r"[A-Z][A-Za-z]{0,59}")
_PLACE = re.compile(r"[a-z_]{1,40}\.py:[0-9]{1,5}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6


def _size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15


def _wire_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


_WIRE_IDS = ("node_id", "run_id")
"""Written as text: they have more digits than most readers of JSON keep of a number."""


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _text(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


_WHOLE = (
    "attempts", "exit_status", "http_status", "lost", "messages", "port", "queued", "replies", "restarts", "retries",
    "round", "rounds", "signal", "sites", "withheld",
)  # fmt: skip
_SIZES = ("bytes_in", "bytes_out", "free_bytes", "pid")
_NUMBERS = ("days_left", "delta", "epsilon", "seconds", "skew_seconds", "wait_seconds")
_CODES = ("action", "code", "phase", "process", "reason", "stage", "status")

FIELDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(_WHOLE, _whole),
    **dict.fromkeys(_SIZES, _size),
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_CODES, _text(_WORDS)),
    # Names a study or an administrator gave, never names found in the data.
    "site": _text(_NAME),
    "step": _text(_NAME),
    "run": _text(_RUN),
    "study": _text(_DIGEST),
    "sha256": _text(_DIGEST),
    # Numbers Flower gives to a node and to a run.
    **dict.fromkeys(_WIRE_IDS, _wire_id),
    "error": _text(_TYPE),
    "at_code": _text(_PLACE),
    "library": _text(_RUN),
    "paused": _flag,
    "connected": _flag,
    "replayed": _flag,
}
"""Every field a line may have, and what its value must be."""


class JsonLog:
    """The log of ONE process; use :func:`json_log`. Two processes that rotate one file would lose lines."""

    def __init__(self, handler: _OwnerOnlyFile) -> None:
        self._handler = handler

    def info(self, event: str, **fields: object) -> str:
        """Write that something happened. ``event`` is words joined by hyphens. Returns the line."""
        return self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> str:
        """Write that something needs an eye; return the line."""
        return self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write that something failed."""
        self._write(logging.ERROR, event, fields)

    def failure(self, event: str, error: BaseException, **fields: object) -> None:
        """Write that something failed with an exception: its type and place, never what it says."""
        trace, place = error.__traceback__, {}
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None:
            place = {"at_code": f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"}
        self._write(logging.ERROR, event, {"error": type(error).__name__, **place, **fields})

    def follow(self, name: str, *, level: int = logging.WARNING) -> logging.Handler:
        """Write a line for what a library logs: which library, how serious and where in its code, never its text.

        Returns the handler, to be removed from ``logging.getLogger(name)`` by who wants no more of it.
        """
        handler = _Follower(self)
        handler.setLevel(level)
        logging.getLogger(name).addHandler(handler)
        return handler

    def close(self) -> None:
        """Close the file."""
        self._handler.close()

    def _write(self, level: int, event: str, fields: dict[str, object]) -> str:
        lost = self._handler.lost
        line = {"at": _now(), "level": logging.getLevelName(level).lower(), **clean(event, fields)}
        if lost:
            line["lost_lines"] = lost
        text = json.dumps(line)
        self._handler.handle(logging.LogRecord("ecgfed", level, "", 0, text, None, None))
        if self._handler.lost == lost:
            self._handler.lost = 0
        return text


def json_log(path: Path, *, max_bytes: int = 10_000_000, backups: int = 5) -> JsonLog:
    """Open a log, made owner-only on first use.

    Parameters
    ----------
    max_bytes : a file that would pass this is put aside as ``PATH.1`` first, the older ones moving up.
    backups : files put aside that are kept, at least 1.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return JsonLog(_OwnerOnlyFile(path, maxBytes=max_bytes, backupCount=max(1, backups), encoding="utf-8"))


def clean(event: str, fields: dict[str, object]) -> dict[str, Any]:
    """Return the line's permitted part. ``dropped`` names known fields of a wrong kind, and counts unknown ones."""
    line: dict[str, Any] = {"event": event if _text(_WORDS)(event) else "unnamed"}
    wrong = sorted(name for name, value in fields.items() if name in FIELDS and not FIELDS[name](value))
    unknown = sum(name not in FIELDS for name in fields)
    for name, value in fields.items():
        if name in FIELDS and name not in wrong:
            # str(): a member of an enum is written as its value.
            line[name] = str(value) if isinstance(value, str) or name in _WIRE_IDS else value
    if wrong or unknown:
        line["dropped"] = wrong + ([f"{unknown} unknown"] if unknown else [])
    return line


class _OwnerOnlyFile(RotatingFileHandler):
    """A rotating file that only its owner can read, and that never stops the daemon it tells of."""

    lost = 0

    def _open(self) -> IO[Any]:  # type: ignore[override]
        def opener(path: str, flags: int) -> int:
            return os.open(path, flags & ~os.O_WRONLY | os.O_RDWR, 0o600)

        stream = open(self.baseFilename, self.mode, encoding=self.encoding, opener=opener)  # noqa: SIM115
        if os.name == "posix":
            os.fchmod(stream.fileno(), 0o600)
            size = os.fstat(stream.fileno()).st_size
            # A process that was killed, or a full disk, may have left half a line.
            if size and os.pread(stream.fileno(), 1, size - 1) != b"\n":
                stream.write("\n")
        return stream

    def handleError(self, record: logging.LogRecord) -> None:
        """Count a line that could not be written (a full disk): the next one tells how many are missing."""
        self.lost += 1
        stream, self.stream = self.stream, None
        # What is still in its buffer goes with it; the next line opens the file again.
        with suppress(OSError):
            if stream is not None:
                stream.close()


class _Follower(logging.Handler):
    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        fields: dict[str, object] = {} if error is None else {"error": error}
        self._log._write(
            record.levelno,
            "library-message",
            {"library": record.name, "at_code": f"{record.filename}:{record.lineno}", **fields},
        )


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
