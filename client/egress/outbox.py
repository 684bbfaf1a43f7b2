"""What a site is about to send, kept on its disk: asked again, it sends the same bytes and spends nothing twice."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from client.egress.gate import Release
from ecgshared.errors import RefusalCode, Refused
from ecgshared.service.files import write_atomically
from ecgshared.wire.bytes import encode_request
from ecgshared.wire.protocol import Request

_KEPT_ROUNDS = 3


class Outbox:
    """Answers by (run, step, phase, round), each bound to the digest of the request it answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, request: Request, *, once: bool) -> Release | None:
        """Return the answer already given to this very request, or None.

        One that is damaged is none.

        Parameters
        ----------
        once : under differential privacy a round is paid for once: the same round with OTHER content, or one whose
            answer was dropped since, is refused. Elsewhere it is a new question (a step begun again after a site was
            lost asks other ones), and is answered anew.
        """
        path = self._path(request)
        if not path.exists():
            return None
        line, _, body = path.read_bytes().partition(b"\n")
        head = _head(line, body)
        if not once and (head is None or head["request"] != _digest(request)):
            return None
        if not line:
            raise Refused(RefusalCode.BAD_REQUEST, f"round {request.round} was answered long ago")
        if head is None:
            raise Refused(
                RefusalCode.DATA_UNAVAILABLE,
                "the answer that was kept is damaged, and is made once only",
                where=path,
                remedy="restore it from your backup; without it this site takes no part in the round",
            )
        if head["request"] != _digest(request):
            raise Refused(RefusalCode.BAD_REQUEST, "this round was answered to a request of other content")
        return Release(body, head["log"])

    def forget_old(self, days: float) -> int:
        """Drop answers older than ``days``; return how many. That one was given that is given once stays known."""
        before, dropped = time.time() - days * 86400, 0
        for path in self._folder.glob("*/*/*.answer"):
            found = path.stat()
            if found.st_size and found.st_mtime < before:
                with path.open("rb") as file:
                    head = _head(file.readline().removesuffix(b"\n"), None)
                _drop(path, once=head is None or head.get("once", True))
                dropped += 1
        return dropped

    def keep(self, request: Request, release: Release, *, once: bool = True) -> None:
        """Write and sync an answer before it leaves; drop those of rounds long past.

        Parameters
        ----------
        once : as of :meth:`find`: of an answer that may be made anew nothing stays.
        """
        path = self._path(request)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        head = json.dumps({"request": _digest(request), "log": release.log_line, "once": once}).encode()
        write_atomically(path, head + b"\n" + release.body, private=True)
        for old in path.parent.glob(f"{request.phase}-*.answer"):
            number = int(old.stem.rpartition("-")[2])
            if number <= request.round - _KEPT_ROUNDS and (old.stat().st_size or not once):
                _drop(old, once=once)

    def _path(self, request: Request) -> Path:
        run = hashlib.sha256(f"{request.study_hash}/{request.run}".encode()).hexdigest()[:24]
        return self._folder / run / request.step / f"{request.phase}-{request.round}.answer"


def _digest(request: Request) -> str:
    return hashlib.sha256(encode_request(request)).hexdigest()


def _drop(path: Path, *, once: bool) -> None:
    if once:
        write_atomically(path, b"", private=True)  # an empty file still says that the round was answered
    else:
        path.unlink()


def _head(line: bytes, body: bytes | None) -> dict[str, Any] | None:
    """Return the first line of a kept answer; None where it is none, or ``body`` is not what was kept."""
    try:
        head = json.loads(line)
        told, log = head["request"], head["log"]
        whole = body is None or "sha256" not in log or hashlib.sha256(body).hexdigest() == log["sha256"]
    except (ValueError, KeyError, TypeError):
        return None
    return head if isinstance(told, str) and whole else None
