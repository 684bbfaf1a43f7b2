"""A hospital's daemon: it holds the connection, checks what may be run, and has the worker answer.

It loads neither torch nor a recording, opens no port but health and metrics on loopback, and tries for ever. A message
is on the site's disk before it is confirmed and stays there until its answer was sent, so a daemon that is killed at
any moment answers after its restart. Three threads: this one fetches and refuses, one has the worker compute and
sends, one says that the site is alive.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from client.approval import require_approved
from client.enrol import network_of, not_after
from client.envelope import check_envelope
from client.fleet import CertificateRefused, FleetLink, Head, LinkError, NotAdmitted, Objects, RunOver, peek
from client.inbox import Inbox, Parcel, answer_of
from client.journal import Journal
from client.settings import SiteSettings
from client.status import StatusFile, is_paused, now, remember_node, remembered_node
from client.worker import Worker, WorkerLost
from ecgshared.errors import EcgFedError, RefusalCode, Refused
from ecgshared.fingerprint import code_sha256
from ecgshared.wire import MESSAGE_TYPE_ASK, MESSAGE_TYPE_HELLO, WireError, hello_records, refusal_records

_POLL_ACTIVE, _POLL_IDLE, _ACTIVE_SECONDS = 0.1, 1.0, 60.0
_GRACE_SECONDS = 20.0
_SKEW_TOLD = 30.0


class Daemon:
    """One site's daemon.

    Parameters
    ----------
    version : of the installed software, told in answers to hello.

    Raises
    ------
    ConfigError : no ``network:`` section, or key and certificate cannot be used.
    """

    def __init__(self, site_file: Path, settings: SiteSettings, journal: Journal, version: str) -> None:
        self._settings, self._state, self._journal, self._version = settings, settings.state, journal, version
        self._network = network_of(settings)
        self._link = FleetLink(self._network)
        self._inbox = Inbox(self._state / "inbox")
        self._worker = Worker(site_file, self._state, settings.compute.threads)
        self._code = code_sha256()
        self._queue: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._runs: dict[int, Refused | None] = {}
        self._troubles = 0
        self._last_message = 0.0
        self._status = StatusFile(self._state)
        self._health: Any = None
        self._metrics: Any = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._end)
        self._open_ports()
        self._status.set(certificate_not_after=not_after(self._network.certificate), code_sha256=self._code)
        self._journal.tell("started", f"site {self._settings.site}: connecting to {self._network.coordinator}")
        computing = threading.Thread(target=self._compute_all, name="compute", daemon=True)
        beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        computing.start()
        beating.start()
        try:
            self._fetch_all()
        finally:
            self._stop.set()
            # Whatever is not answered yet stays in the inbox; what is being sent is sent to its end.
            self._worker.kill()
            self._queue.put(None)
            computing.join(_GRACE_SECONDS)
            self._link.deactivate()
            self._link.close()
            self._status.set(stopped=now(), connected_since=None, work=None)
            self._journal.tell("stopped", "stopped")
            for port in (self._health, self._metrics):
                if port is not None:
                    port.close()

    def _end(self, *_: object) -> None:
        if not self._stop.is_set():
            self._stop.set()
            # A call that hangs must not keep the machine from shutting down: all that matters is on the disk.
            last_resort = threading.Timer(2 * _GRACE_SECONDS, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()

    def _open_ports(self) -> None:
        if self._network.health_port is not None:
            from ecgshared.health import serve_health

            self._health = serve_health(self._network.health_port)
        if self._network.metrics_port is not None:
            from client.metrics import SiteMetrics

            self._metrics = SiteMetrics(self._network.metrics_port)
            expires = not_after(self._network.certificate)
            if expires is not None:
                self._metrics.certificate(expires)

    # Fetching -------------------------------------------------------------------------------------------------

    def _fetch_all(self) -> None:
        pending = deque(self._inbox.waiting())
        if pending:
            self._journal.tell(
                "inbox", f"{len(pending)} message(s) of an earlier life to answer", messages=len(pending)
            )
        while not self._stop.is_set():
            try:
                if self._link.node_id is None:
                    self._connect()
                while pending and not self._stop.is_set():
                    self._take(pending[0])
                    pending.popleft()
                head = self._link.pull()
                self._well()
                if head is not None:
                    self._last_message = time.monotonic()
                    self._receive(head, pending)
                    continue
                active = time.monotonic() - self._last_message < _ACTIVE_SECONDS
                seconds = _POLL_ACTIVE if active else _POLL_IDLE
            except LinkError as error:
                seconds = self._trouble(error)
            self._stop.wait(seconds)

    def _connect(self) -> None:
        node_id = self._link.activate(remembered_node(self._state))
        remember_node(self._state, node_id)
        self._runs.clear()
        self._status.set(connected_since=now(), node_id=node_id, last_error=None)
        self._journal.tell("connected", "connected to the coordinator", node_id=node_id)

    def _well(self) -> None:
        """The coordinator answered."""
        self._troubles = 0
        paused, skew = is_paused(self._state), self._link.skew_seconds
        if paused != bool(self._status.get("paused")):
            self._journal.tell("paused", "paused: questions are refused" if paused else "goes on", paused=paused)
        self._status.set(paused=paused, last_error=None, clock_skew_seconds=None if skew is None else round(skew))
        if skew is not None and abs(skew) > _SKEW_TOLD and not self._status.get("skew_told"):
            self._status.set(skew_told=True)
            text = f"this machine's clock differs from the coordinator's by {skew:.0f} s; beyond 300 s nothing works"
            self._journal.tell("clock-skew", text, warn=True, skew_seconds=round(skew, 1))
        if self._health is not None:
            self._health.set(True)
        if self._metrics is not None:
            self._metrics.connected(True)
            self._metrics.paused(paused)

    def _trouble(self, error: LinkError) -> float:
        """Tell a failure once, and return how long to wait."""
        if isinstance(error, NotAdmitted):
            self._link.node_id = None
        if self._status.get("last_error") != error.what:
            self._journal.tell("connection-lost", str(error), warn=True, error=type(error).__name__)
        self._status.set(connected_since=None, last_error=error.what)
        if self._health is not None:
            self._health.set(False)
        if self._metrics is not None:
            self._metrics.connected(False)
        self._troubles += 1
        longest = 60.0 if isinstance(error, CertificateRefused) else 5.0
        return float(min(longest, 0.25 * 2 ** min(self._troubles, 10)) * random.uniform(0.8, 1.2))

    def _receive(self, data: bytes, pending: deque[Parcel]) -> None:
        try:
            head = Head(data)
        except WireError:
            self._journal.tell("malformed", "a message that is none was dropped", warn=True)
            return
        try:
            pending.append(self._inbox.open(head.message_id, data))
        except OSError as error:
            self._no_room(head, error)

    def _take(self, parcel: Parcel) -> None:
        """Bring a message into the inbox whole, check it, and answer it or have it answered."""
        try:
            head = Head(parcel.head() or b"")
        except (WireError, ValueError):
            self._inbox.remove(parcel)
            return
        try:
            if answer_of(parcel).head() is None:
                self._check(head, parcel)
            else:
                self._queue.put(parcel)
        except RunOver as over:
            self._journal.tell("dropped", f"a message was dropped: {over.what}", run_id=head.run_id)
            self._inbox.remove(parcel)

    def _check(self, head: Head, parcel: Parcel) -> None:
        try:
            if head.seconds_left <= 0:
                raise RunOver("nobody waits for the answer any more")
            self._link.pull_objects(head, parcel.lacks(head.object_ids), self._limited(parcel))
            self._link.confirm(head)
            self._check_run(head)
            asked = peek(head, parcel)
            if head.kind == MESSAGE_TYPE_HELLO:
                self._send_small(head, parcel, self._hello(asked["study_hash"]))
            else:
                self._check_request(head, asked)
                self._queue.put(parcel)
        except Refused as refusal:
            self._refuse(head, parcel, refusal.code)
        except WireError:
            self._refuse(head, parcel, RefusalCode.BAD_REQUEST)
        except OSError as error:
            self._inbox.remove(parcel)
            self._no_room(head, error)

    def _limited(self, parcel: Parcel) -> Any:
        left = [self._network.max_message_mb * 2**20]

        def keep(object_id: str, content: bytes) -> None:
            left[0] -= len(content)
            if left[0] < 0:
                raise Refused(RefusalCode.BAD_REQUEST, "a request over the limit of max_message_mb")
            parcel.keep(object_id, content)

        return keep

    # What may be run ------------------------------------------------------------------------------------------

    def _check_run(self, head: Head) -> None:
        """Refuse a run whose envelope or configuration is not what the site approved; once a run."""
        if head.run_id not in self._runs:
            fab_hash, overrides = self._link.run(head.run_id)
            try:
                if overrides:
                    raise Refused(RefusalCode.OVERRIDES, "the run overrides its configuration")
                require_approved(self._settings, "envelope", fab_hash)
                check_envelope(self._link.envelope(head.run_id, fab_hash), fab_hash)
                self._runs[head.run_id] = None
            except Refused as refusal:
                self._runs[head.run_id] = refusal
        found = self._runs[head.run_id]
        if found is not None:
            # Not kept: the operator may approve meanwhile.
            del self._runs[head.run_id]
            raise found

    def _check_request(self, head: Head, asked: dict[str, Any]) -> None:
        if head.kind != MESSAGE_TYPE_ASK:
            raise Refused(RefusalCode.BAD_REQUEST, "a message of another type")
        if is_paused(self._state):
            raise Refused(RefusalCode.PAUSED, "the operator has paused the site")
        require_approved(self._settings, "code", self._code)
        require_approved(self._settings, "study", str(asked["study_hash"]))

    def _hello(self, study_hash: str) -> Any:
        require_approved(self._settings, "code", self._code)
        try:
            require_approved(self._settings, "study", str(study_hash))
        except Refused:
            study_hash = ""
        return hello_records(self._settings.site, study_hash, self._version)

    # Answering ------------------------------------------------------------------------------------------------

    def _refuse(self, head: Head, parcel: Parcel, code: RefusalCode) -> None:
        self._journal.tell("refused", f"refused: {code.value}", warn=True, code=code.value, run_id=head.run_id)
        if self._metrics is not None:
            self._metrics.refused(code.value)
        self._send_small(head, parcel, refusal_records(self._settings.site, code))

    def _send_small(self, head: Head, parcel: Parcel, records: Any) -> None:
        self._link.push(*self._put_beside(head, parcel, records), 0.0)
        self._inbox.remove(parcel)

    def _put_beside(self, head: Head, parcel: Parcel, records: Any) -> tuple[Head, Objects]:
        """Put an answer beside its question, so that it is the same when it is sent again; return it."""
        data, parts = head.reply(records)
        answer = answer_of(parcel)
        try:
            answer.folder.mkdir(mode=0o700, exist_ok=True)
            for name, content in parts.items():
                answer.keep(name, content, sync=False)
            answer.write_head(data, sync=False)
        except OSError:
            pass  # the disk is full: it is sent from memory
        return Head(data), parts

    def _no_room(self, head: Head, error: OSError) -> None:
        """Refuse without a promise: nothing was confirmed, and nothing can be written."""
        self._journal.tell("no-room", f"the inbox cannot be written: {error.strerror}", warn=True, run_id=head.run_id)
        data, parts = head.reply(refusal_records(self._settings.site, RefusalCode.DATA_UNAVAILABLE))
        with suppress(RunOver):
            self._link.push(Head(data), parts, 0.0)

    def _compute_all(self) -> None:
        self._warm_up()
        while not self._stop.is_set():
            parcel = self._queue.get()
            if parcel is None:
                return
            try:
                self._compute(parcel)
            except RunOver as over:
                self._journal.tell("dropped", f"an answer was dropped: {over.what}")
                self._inbox.remove(parcel)
            except (EcgFedError, WireError, OSError, ValueError) as error:
                # The message stays in the inbox for the next life; this one goes on with the next message.
                self._journal.tell("failed", f"a message could not be answered ({type(error).__name__})", warn=True)
            self._status.set(work=None)

    def _warm_up(self) -> None:
        """Load everything before the first question comes, if the code may be run at all."""
        try:
            require_approved(self._settings, "code", self._code)
            self._start_worker()
            self._status.set(worker_pid=self._worker.pid)
        except EcgFedError as error:
            if not self._stop.is_set():
                self._journal.tell("worker", f"the worker is not started: {error.what}", warn=True)

    def _start_worker(self) -> None:
        if self._worker.pid is None:
            require_approved(self._settings, "code", code_sha256())
        loaded = self._worker.start()
        try:
            require_approved(self._settings, "code", loaded)
        except Refused:
            self._worker.kill()
            raise

    def _compute(self, parcel: Parcel) -> None:
        head = Head(parcel.head() or b"")
        seconds = 0.0
        if answer_of(parcel).head() is None:
            if head.seconds_left <= 0:
                raise RunOver("nobody waits for the answer any more")
            asked = peek(head, parcel)
            work = {key: asked[key] for key in ("run", "step", "phase", "round")}
            self._status.set(work={**work, "since": now()})
            start = time.monotonic()
            done = self._ask_worker(parcel)
            if done is None:
                return
            seconds = time.monotonic() - start
            code = done["code"]
            if self._metrics is not None and code is not None:
                self._metrics.refused(code)
            elif self._metrics is not None:
                self._metrics.answered(done["stage"], str(asked["phase"]), seconds, done["bytes"])
            if done["made"]:
                answer: Objects = answer_of(parcel)
                reply = Head(answer_of(parcel).head() or b"")
            else:
                reply, answer = self._put_beside(head, parcel, refusal_records(self._settings.site, RefusalCode(code)))
            where = f"{work['step']} {work['phase']} {work['round']}"
            text = f"{where}: answered in {seconds:.1f} s" if code is None else f"{where}: refused, {code}"
            fields = {**work, "seconds": round(seconds, 3), "bytes_out": done.get("bytes", 0)}
            self._journal.tell("answered" if code is None else "refused", text, warn=code is not None, **fields)
        else:
            answer, reply = answer_of(parcel), Head(answer_of(parcel).head() or b"")
        self._send_for_ever(reply, answer, seconds)
        self._inbox.remove(parcel)
        self._last_message = time.monotonic()
        self._status.set(last_answer=now())

    def _ask_worker(self, parcel: Parcel) -> dict[str, Any] | None:
        """Return what the worker did; None where the daemon is ending. A worker that dies is asked once more."""
        limit = self._network.max_message_mb * 2**20
        for attempt in (1, 2):
            try:
                self._start_worker()
                self._status.set(worker_pid=self._worker.pid)
                return self._worker.ask(parcel.folder, self._link.node_id or 0, limit)
            except WorkerLost as lost:
                if self._stop.is_set():
                    return None
                self._worker.kill()
                self._journal.tell(
                    "worker-lost", f"the worker ended (status {lost.value})", warn=True, attempts=attempt
                )
            except Refused as refusal:
                return {"made": False, "code": refusal.code.value}
        return {"made": False, "code": RefusalCode.WORKER_LOST.value}

    def _send_for_ever(self, head: Head, objects: Objects, seconds: float) -> None:
        wait = 0.25
        while True:
            try:
                if not self._link.push(head, objects, seconds):
                    self._journal.tell("too-late", "an answer came too late, or twice", run_id=head.run_id)
                return
            except RunOver:
                raise
            except LinkError:
                # The fetching thread tells the trouble and mends the connection.
                if head.seconds_left <= 0:
                    raise RunOver("nobody waits for the answer any more") from None
                if self._stop.wait(wait):
                    raise
                wait = min(5.0, 2 * wait)

    def _beat(self) -> None:
        usual = 0.8 * self._network.heartbeat_seconds
        seconds = usual
        while not self._stop.wait(seconds):
            seconds = usual
            if self._link.node_id is None:
                continue
            try:
                self._link.heartbeat()
            except NotAdmitted:
                self._link.node_id = None
            except LinkError:
                seconds = 1.0
