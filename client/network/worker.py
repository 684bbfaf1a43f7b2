"""The process that computes: it has torch and the cohort loaded, and runs the very same ClientApp as Flower would.

It is started afresh (never forked), is told of a message by the folder it lies in, and leaves the answer there. Its
standard output goes to a log of the site's, so that nothing a library prints can disturb or leave. It ends when the
daemon ends, and the daemon may end it at any time: whatever it promised is on the disk.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from client.network.alone import leave_network
from ecgshared.errors import EcgFedError, RefusalCode
from ecgshared.service.files import private_folder, write_atomically

_LOG, _LOG_BYTES = "worker.log", 10_000_000
_PR_SET_PDEATHSIG = 1


class WorkerLost(EcgFedError):
    """The process that computes ended, or never started."""


class Worker:
    """A worker process as the daemon sees it. For one thread; any other may call :meth:`kill` and :meth:`close`.

    Attributes
    ----------
    alone : whether the process has no network.
    """

    def __init__(self, site_file: Path, state: Path, threads: int | None, device: str = "cpu") -> None:
        self._site_file, self._state, self._threads = site_file.resolve(), state, threads
        self._device, self.alone = device, False
        self._process: subprocess.Popen[str] | None = None
        self._code = ""
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process, or None where none lives."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def use_threads(self, threads: int | None) -> None:
        """Have the process use so many threads; one that was started with others is ended."""
        if threads != self._threads:
            self._threads = threads
            self.kill()

    def start(self) -> str:
        """Start the process unless it lives, wait until all is loaded, and return the hash of the code it loaded."""
        if self.pid is not None:
            return self._code
        self.kill()
        log = private_folder(self._state / "network") / _LOG
        environment = dict(os.environ)
        if self._threads is not None:
            environment |= {"OMP_NUM_THREADS": str(self._threads), "OPENBLAS_NUM_THREADS": str(self._threads)}
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                # -P: a folder named `client` where the daemon was started must not be taken for ours.
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "client.network.worker",
                    str(self._site_file),
                    str(self._state),
                    str(os.getpid()),
                    self._device,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
                start_new_session=True,
            )
        if self._closed:
            self.kill()
            raise WorkerLost("the daemon is ending")
        ready = self._read()
        self._code, self.alone = str(ready.get("code", "")), bool(ready.get("alone"))
        return self._code

    def ask(self, folder: Path, *, node_id: int, max_bytes: int, piece_bytes: int) -> dict[str, Any]:
        """Have the message in ``folder`` answered in pieces of so many bytes; return what was done.

        ``code`` is the refusal, or None; ``made`` says whether an answer lies in the folder; ``bytes`` and ``stage``
        describe it.

        Raises
        ------
        WorkerLost : the process ended meanwhile.
        """
        process = self._process
        if process is None or process.stdin is None:
            raise WorkerLost("the worker is not running")
        self._shorten_log()
        try:
            command = {
                "folder": str(folder),
                "node_id": node_id,
                "max_bytes": max_bytes,
                "piece_bytes": piece_bytes,
            }
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        except (OSError, ValueError):
            raise WorkerLost("the worker ended", value=process.poll()) from None
        return self._read()

    def _shorten_log(self) -> None:
        """Put what the process printed aside as ``.1`` once it is long; it appends, so that the file may be cut."""
        log = self._state / "network" / _LOG
        with suppress(OSError):
            if log.stat().st_size > _LOG_BYTES:
                write_atomically(log.with_name(f"{_LOG}.1"), log.read_bytes()[-_LOG_BYTES:], private=True)
                os.truncate(log, 0)

    def close(self) -> None:
        """End the process for good: none is started any more."""
        self._closed = True
        self.kill()

    def kill(self) -> None:
        """End the process and whatever it started; any thread may call this."""
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _read(self) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = json.loads(line) if line else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            process.wait()
            raise WorkerLost(
                "the worker ended",
                value=process.returncode,
                remedy=f"see {self._state / 'network' / _LOG}; -9 is mostly too little memory",
            )
        return found


def main(arguments: list[str]) -> int:
    """Answer messages named on standard input until it closes."""
    site_file, state = Path(arguments[0]), Path(arguments[1])
    alone = leave_network(as_user=arguments[3] == "cpu")
    _die_with(int(arguments[2]))
    # Who answers keeps the real standard output to itself; all else that is printed goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    # A worker whose daemon was killed ends by itself; until then the next one waits for it.
    lock = os.open(state / "network" / "worker.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)

    code = _load_everything()
    _say(answers, {"code": code, "alone": alone})
    while True:
        command = commands.get()
        _say(answers, _answer_or_refuse(site_file, **command))


def _die_with(daemon: int) -> None:
    """End with the daemon however it ends, even while this process is stopped (Linux; elsewhere by `_listen`)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon:
        os._exit(0)


def _load_everything() -> str:
    # The first optimiser loads dynamo else, two seconds into the first round.
    import torch._dynamo

    import client.app
    from ecgshared.service.fingerprint import code_sha256
    from ecgshared.study.registry import STAGES, room

    loaded = (torch._dynamo, client.app, *(room("client", stage) for stage in STAGES))
    assert all(loaded)
    return code_sha256()


def _answer_or_refuse(site_file: Path, **command: Any) -> dict[str, Any]:
    from ecgshared.wire.bytes import WireError

    try:
        return _answer(site_file, **command)
    except OSError:
        traceback.print_exc()
        code = RefusalCode.DATA_UNAVAILABLE  # the disk is full, mostly
    except (WireError, KeyError, ValueError):
        traceback.print_exc()
        code = RefusalCode.BAD_REQUEST
    return {"made": False, "code": code.value}


def _answer(site_file: Path, folder: str, node_id: int, max_bytes: int, piece_bytes: int) -> dict[str, Any]:
    from flwr.app import Context, RecordDict

    from client.app import app
    from client.network.fleet_messages import Head, deflate, inflate, peek
    from client.network.flower_insides import TaskIdentity, cut_into
    from client.network.inbox import Parcel, answer_of
    from ecgshared.wire.bytes import refusal_of

    parcel = Parcel(Path(folder))
    head = Head(parcel.head() or b"")
    message = inflate(head, {name: parcel[name] for name in head.object_ids})
    # Flower stamps messages with the identity of the task it runs them in; here the process is that task.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, head.run_id, node_id
    context = Context(head.run_id, node_id, {"site": str(site_file)}, RecordDict(), {})
    reply = app(message, context)
    del message
    refusal = refusal_of(reply.content)
    cut_into(piece_bytes)
    data, parts = deflate(reply)
    size = sum(len(content) for content in parts.values())
    if size > max_bytes:
        return {"made": False, "code": RefusalCode.GATE_CLOSED.value}
    answer = answer_of(parcel)
    private_folder(answer.folder)
    for name in list(parts):
        answer.keep(name, parts.pop(name), sync=False)
    answer.write_head(data, sync=False)
    asked = peek(head, parcel)
    return {
        "made": True,
        "code": None if refusal is None else refusal[1].value,
        "bytes": size,
        "stage": _stage_told(site_file, asked["study_hash"], asked["step"]) if refusal is None else "",
    }


def _stage_told(site_file: Path, study_hash: str, step: str) -> str:
    try:
        return _stage(site_file, study_hash, step)
    except EcgFedError:
        return ""  # withdrawn since it was answered: only a metric lacks its label


@lru_cache(maxsize=64)
def _stage(site_file: Path, study_hash: str, step: str) -> str:
    """Return the stage of a step; the study's hash says all of it, so that it never changes."""
    from client.approval.required import approved_study
    from client.site.settings import load_site

    return approved_study(load_site(site_file), study_hash).step(step).stage


def _listen(commands: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)  # the daemon is gone


def _say(stream: Any, line: dict[str, Any]) -> None:
    stream.write(json.dumps(line) + "\n")
    stream.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
