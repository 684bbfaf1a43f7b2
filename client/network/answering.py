"""Answers: small ones made by the daemon, the others by the worker; all are sent until the coordinator has them."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from client.approval.required import require_approved
from client.network.fleet import FleetLink
from client.network.fleet_failures import RunOver
from client.network.fleet_messages import Head, Objects, peek
from client.network.inbox import Inbox, Parcel, answer_of
from client.network.journal import Journal
from client.network.sending import piece_bytes, send_until_there
from client.network.site_watch import SiteWatch
from client.network.status import StatusFile
from client.network.worker import Worker, WorkerLost
from client.site.settings import SiteSettings, network_of
from ecgshared.errors import EcgFedError, RefusalCode, Refused
from ecgshared.service.files import now
from ecgshared.service.fingerprint import code_sha256
from ecgshared.wire.bytes import refusal_records


class Answering:
    """The daemon's hand that answers. :meth:`run` is a thread of its own; the other methods are the fetching thread's.

    Parameters
    ----------
    code : sha256 of the installed code when the daemon started.
    watch : of the site file; the worker reads that itself, at each message.
    stop : set when the daemon ends.

    Attributes
    ----------
    metrics : the site's metrics, or None where none are served.
    last : the monotonic time of the last answer.
    """

    def __init__(
        self,
        site_file: Path,
        settings: SiteSettings,
        code: str,
        watch: SiteWatch,
        link: FleetLink,
        inbox: Inbox,
        status: StatusFile,
        journal: Journal,
        stop: threading.Event,
    ) -> None:
        self._settings, self._code, self._watch, self._link = settings, code, watch, link
        self._inbox, self._status, self._journal, self._stop = inbox, status, journal, stop
        self._worker = Worker(site_file, settings.link_state, settings.compute.threads, settings.compute.device)
        self._max_bytes = network_of(settings).max_message_mb * 2**20
        self._queue: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._made_again: set[Path] = set()
        self.metrics: Any = None
        self.last = 0.0

    def put(self, parcel: Parcel) -> None:
        """Have the worker answer a message, after those before it."""
        self._queue.put(parcel)

    def close(self) -> None:
        """End the worker; what is being sent is sent to its end, what is not answered yet stays in the inbox."""
        self._worker.close()
        self._queue.put(None)

    def refuse(self, head: Head, parcel: Parcel, code: RefusalCode) -> None:
        """Send a fixed code."""
        self._journal.tell("refused", f"refused: {code.value}", warn=True, code=code.value, run_id=head.run_id)
        if self.metrics is not None:
            self.metrics.refused(code.value)
        self.send_small(head, parcel, refusal_records(self._settings.site, code))

    def send_small(self, head: Head, parcel: Parcel, records: RecordDict) -> None:
        """Send an answer that needs no worker."""
        self._link.push(*self._put_beside(head, parcel, records), 0.0)
        self._inbox.remove(parcel)

    def _put_beside(self, head: Head, parcel: Parcel, records: RecordDict) -> tuple[Head, Objects]:
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

    def refuse_unwritten(self, head: Head, error: OSError) -> None:
        """Refuse without a promise: nothing was confirmed, and nothing can be written."""
        self._journal.tell("no-room", f"the inbox cannot be written: {error.strerror}", warn=True, run_id=head.run_id)
        data, parts = head.reply(refusal_records(self._settings.site, RefusalCode.DATA_UNAVAILABLE))
        with suppress(RunOver):
            self._link.push(Head(data), parts, 0.0)

    def run(self) -> None:
        """Answer what was put, one message after the other, until the daemon ends."""
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
            except Exception as error:
                # The message stays in the inbox for the next life; this one goes on with the next message.
                self._journal.tell("failed", f"a message could not be answered ({type(error).__name__})", warn=True)
            self._status.set(work=None)

    def _warm_up(self) -> None:
        """Load everything before the first question comes, if the code may be run at all."""
        try:
            require_approved(self._settings, "code", self._code)
            self._start_worker()
            self._status.set(worker_pid=self._worker.pid, worker_has_network=not self._worker.alone)
        except EcgFedError as error:
            if not self._stop.is_set():
                self._journal.tell("worker", f"the worker is not started: {error.what}", warn=True)

    def _start_worker(self) -> None:
        # What a library takes from its environment only a new process learns.
        self._worker.use_threads(self._watch.require().compute.threads)
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
            if self.metrics is not None and code is not None:
                self.metrics.refused(code)
            elif self.metrics is not None:
                self.metrics.answered(done["stage"], str(asked["phase"]), seconds, done["bytes"])
                self._tell_budget(str(asked["study_hash"]))
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
        try:
            if not send_until_there(self._link, reply, answer, seconds, self._stop):
                self._journal.tell("too-late", "an answer came too late, or twice", run_id=reply.run_id)
        except KeyError:
            if parcel.folder in self._made_again:
                raise
            # A crash of the machine left an answer that is not whole; the outbox has it.
            self._made_again.add(parcel.folder)
            shutil.rmtree(answer_of(parcel).folder)
            return self._compute(parcel)
        self._inbox.remove(parcel)
        self.last = time.monotonic()
        self._status.set(last_answer=now())

    def _tell_budget(self, study_hash: str) -> None:
        from client.egress.ledger import Ledger

        with suppress(EcgFedError):  # a ledger that cannot be read refuses the next private round, and says so
            ledger = Ledger(self._settings.state)
            names = {charge.study: charge.study_name for charge in ledger.entries()}
            if study_hash in names:
                self.metrics.budget(names[study_hash], ledger.spent(study_hash)[0])

    def _ask_worker(self, parcel: Parcel) -> dict[str, Any] | None:
        """Return what the worker did; None where the daemon is ending. A worker that dies is asked once more."""
        for attempt in (1, 2):
            try:
                self._start_worker()
                self._status.set(worker_pid=self._worker.pid, worker_has_network=not self._worker.alone)
                return self._worker.ask(
                    parcel.folder,
                    node_id=self._link.node_id or 0,
                    max_bytes=self._max_bytes,
                    piece_bytes=piece_bytes(self._link.bytes_per_second),
                )
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
