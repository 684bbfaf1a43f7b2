"""A hospital's daemon: it holds the connection, checks what may be run, and has the worker answer.

It loads neither torch nor a recording, opens no port but health and metrics on loopback, and tries for ever. A message
is on the site's disk before it is confirmed and stays there until its answer was sent, so a daemon that is killed at
any moment answers after its restart. Three threads: this one fetches and refuses, one has the worker compute and
sends, one says that the site is alive.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from client.network.admission import Gate
from client.network.answering import Answering
from client.network.enrol import in_use, not_after
from client.network.fleet import FleetLink
from client.network.fleet_failures import (
    CertificateRefused,
    LinkError,
    NotAdmitted,
    RunOver,
    StateForked,
    Unreachable,
)
from client.network.fleet_messages import Head, peek
from client.network.inbox import Inbox, Parcel, answer_of
from client.network.journal import Journal
from client.network.renewal import Renewal
from client.network.session import Session, next_session, note_shown, place_of
from client.network.site_watch import SiteWatch
from client.network.status import StatusFile, is_paused, remember_node, remembered_node, room_below
from client.site.current import SiteFile
from client.site.settings import SiteSettings
from ecgshared.errors import EcgFedError, RefusalCode, Refused
from ecgshared.service.files import now
from ecgshared.wire.bytes import MESSAGE_TYPE_HELLO, WireError

_TURN_SECONDS, _LOOK_SECONDS = 0.25, 0.5
_POLL_ACTIVE, _POLL_IDLE, _ACTIVE_SECONDS = 0.1, 1.0, 60.0
_GRACE_SECONDS = 20.0
_BEATS_AT_REST = 3
_SKEW_TOLD = 30.0


class _Polling(threading.Thread):
    """One poll; a thread that is given up when the daemon ends."""

    def __init__(self, link: FleetLink) -> None:
        super().__init__(name="poll", daemon=True)
        self._link = link
        self.head: bytes | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Ask."""
        try:
            self.head = self._link.pull()
        except BaseException as error:
            self.error = error


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
        self._settings, self._state, self._journal = settings, settings.link_state, journal
        self._network = in_use(settings)
        self._link = FleetLink(self._network)
        self._session: Session | None = None
        self._inbox = Inbox(self._state / "inbox")
        self._gate = Gate(settings, version)
        self._stop = threading.Event()
        self._troubles = 0
        self._last_message = self._look_due = 0.0
        self._room = ""
        self._status = StatusFile(self._state)
        self._watch = SiteWatch(SiteFile(site_file, settings), journal, self._status)
        self._renewal = Renewal(self._link, journal, self._status)
        self._answering = Answering(
            site_file,
            settings,
            self._gate.code,
            self._watch,
            self._link,
            self._inbox,
            self._status,
            journal,
            self._stop,
        )
        self._health: Any = None
        self._metrics: Any = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._end)
        self._open_ports()
        self._status.set(code_sha256=self._gate.code)
        self._journal.tell("started", f"site {self._settings.site}: connecting to {self._network.coordinator}")
        computing = threading.Thread(target=self._answering.run, name="compute", daemon=True)
        beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        computing.start()
        beating.start()
        try:
            self._fetch_all()
        finally:
            self._stop.set()
            self._answering.close()
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
            from client.network.metrics import SiteMetrics

            self._metrics = self._answering.metrics = SiteMetrics(self._network.metrics_port)
            self._metrics.build(self._gate.version, self._gate.code)
        self._tell_certificate()

    def _tell_certificate(self) -> None:
        expires = not_after(self._network.certificate)
        self._status.set(certificate_not_after=expires)
        if self._metrics is not None and expires is not None:
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
                head = self._pull()
                if not self._stop.is_set():
                    self._well()
                if head is not None:
                    self._last_message = time.monotonic()
                    self._receive(head, pending)
                    continue
                seconds = _POLL_ACTIVE if self._active else _POLL_IDLE
            except LinkError as error:
                seconds = self._trouble(error)
            self._stop.wait(seconds)

    @property
    def _active(self) -> bool:
        """Whether anything was asked or answered lately, or is being answered."""
        lately = time.monotonic() - max(self._last_message, self._answering.last) < _ACTIVE_SECONDS
        return lately or self._status.get("work") is not None

    def _pull(self) -> bytes | None:
        """Poll; a coordinator holds the call where it has nothing, and that must not keep this daemon from ending."""
        polling = _Polling(self._link)
        polling.start()
        while polling.is_alive() and not self._stop.is_set():
            polling.join(_TURN_SECONDS)
            self._look_around()
        polling.join(_TURN_SECONDS)
        if polling.error is not None:
            raise polling.error
        return polling.head

    def _connect(self) -> None:
        self._open_session()
        node_id = self._link.activate(remembered_node(self._state))
        remember_node(self._state, node_id)
        self._gate.forget_runs()
        self._status.set(connected_since=now(), node_id=node_id, last_error=None)
        self._journal.tell("connected", "connected to the coordinator", node_id=node_id)

    def _open_session(self) -> None:
        """Show the coordinator that this is the site's one state, and not a copy of it."""
        if self._session is not None and self._session.shown:
            return
        try:
            self._session = self._session or next_session(self._state)
            told = {key: getattr(self._session, key) for key in ("number", "token", "before")}
            self._link.open_session({**told, "place": place_of(self._state)})
            self._session = note_shown(self._state, self._session)
            self._status.set(session=self._session.number)
        except OSError as error:
            raise Unreachable(
                f"the state cannot be written ({error.strerror}); nothing is answered until it can"
            ) from None

    def _well(self) -> None:
        """The coordinator answered."""
        self._troubles = 0
        with suppress(Refused):  # a site file that cannot be used is told by the watch
            self._renewal.look(self._watch.require())
        self._look_around()
        if self._status.get("connected_since") is None:
            self._status.set(connected_since=now())
            self._journal.tell("connected", "the coordinator answers again")
        skew = self._link.skew_seconds
        self._status.set(last_error=None, clock_skew_seconds=None if skew is None else round(skew))
        if skew is not None and abs(skew) > _SKEW_TOLD and not self._status.get("skew_told"):
            self._status.set(skew_told=True)
            text = f"this machine's clock differs from the coordinator's by {skew:.0f} s; beyond 300 s nothing works"
            self._journal.tell("clock-skew", text, warn=True, skew_seconds=round(skew, 1))
        if self._metrics is not None:
            self._metrics.connected(True)

    def _look_around(self) -> None:
        """Notice what changed on this machine: certificates, the site file, the operator's pause, room on the disk."""
        if time.monotonic() < self._look_due:
            return
        self._look_due = time.monotonic() + _LOOK_SECONDS
        self._take_up_certificate()
        self._watch.look()
        paused = is_paused(self._state)
        if paused != bool(self._status.get("paused")):
            self._journal.tell("paused", "paused: questions are refused" if paused else "goes on", paused=paused)
        self._status.set(paused=paused)
        if self._metrics is not None:
            self._metrics.paused(paused)
        room = room_below(self._state)
        if room.trouble != self._room:
            self._room = room.trouble
            self._journal.tell("disk", room.trouble or "there is room on the disk again", warn=bool(room.trouble))
        self._status.set(disk_trouble=room.trouble or None)
        if self._health is not None:
            self._health.set(self._status.get("connected_since") is not None and not room.trouble)
        if self._metrics is not None:
            self._metrics.disk(room.free_bytes)

    def _take_up_certificate(self) -> None:
        """Go on with a certificate that was put in the place of this one's, by whomever."""
        if not self._watch.certificate_changed():
            return
        try:
            self._network = in_use(self._settings)
            self._link.use_certificate(self._network)
        except EcgFedError as error:
            self._journal.tell("certificate-unusable", f"the new certificate cannot be used: {error}", warn=True)
            return
        self._tell_certificate()
        self._journal.tell("certificate-in-use", "a new certificate is in use")

    def _trouble(self, error: LinkError) -> float:
        """Tell a failure once, and return how long to wait."""
        self._take_up_certificate()  # it may be what mends this
        if isinstance(error, NotAdmitted | StateForked):
            self._link.node_id = None
        if isinstance(error, StateForked):
            self._session = None  # as it is on the disk: a backup may have been put there
        if self._status.get("last_error") != error.what:
            self._journal.tell("connection-lost", str(error), warn=True, error=type(error).__name__)
        self._status.set(connected_since=None, last_error=error.what)
        if self._health is not None:
            self._health.set(False)
        if self._metrics is not None:
            self._metrics.connected(False)
        self._troubles += 1
        # What passes by itself is over within a minute; what people must mend need not be asked often.
        lasting = isinstance(error, CertificateRefused | StateForked) or (
            isinstance(error, NotAdmitted) and self._troubles > 20
        )
        longest = 60.0 if lasting else 5.0
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
            self._answering.refuse_unwritten(head, error)

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
                self._answering.put(parcel)
        except RunOver as over:
            self._journal.tell("dropped", f"a message was dropped: {over.what}", run_id=head.run_id)
            self._inbox.remove(parcel)
        except LinkError:
            raise
        except Exception as unknown:
            # Whatever a message sets off must not end the daemon, nor come again at its next start.
            self._journal.tell("failed", f"a message set off a {type(unknown).__name__}", warn=True)
            self._answering.refuse(head, parcel, RefusalCode.INTERNAL)

    def _check(self, head: Head, parcel: Parcel) -> None:
        try:
            if head.seconds_left <= 0:
                raise RunOver("nobody waits for the answer any more")
            self._link.pull_objects(head, parcel.lacks(head.object_ids), self._limited(parcel))
            self._link.confirm(head)
            self._watch.require()
            self._gate.check_run(head, self._link)
            asked = peek(head, parcel)
            if head.kind == MESSAGE_TYPE_HELLO:
                self._answering.send_small(head, parcel, self._gate.hello(asked))
            else:
                self._gate.check_request(head, asked)
                self._answering.put(parcel)
        except Refused as refusal:
            self._answering.refuse(head, parcel, refusal.code)
        except WireError:
            self._answering.refuse(head, parcel, RefusalCode.BAD_REQUEST)
        except OSError as error:
            self._inbox.remove(parcel)
            self._answering.refuse_unwritten(head, error)

    def _limited(self, parcel: Parcel) -> Any:
        left = [self._network.max_message_mb * 2**20]

        def keep(object_id: str, content: bytes) -> None:
            left[0] -= len(content)
            if left[0] < 0:
                raise Refused(RefusalCode.BAD_REQUEST, "a request over the limit of max_message_mb")
            parcel.keep(object_id, content)
            self._troubles = 0  # a line that is cut now and then carries on at once

        return keep

    def _beat(self) -> None:
        usual = 0.8 * self._network.heartbeat_seconds
        seconds, beat = usual, 0
        while not self._stop.wait(seconds):
            seconds, beat = usual, beat + 1
            # At rest a third of them: a hundred sites' are what the coordinator is kept busy with.
            beats = 1 if self._active else _BEATS_AT_REST
            if self._link.node_id is None or beat % beats:
                continue
            try:
                self._link.heartbeat(beats)
            except (NotAdmitted, StateForked):
                self._link.node_id = None
            except LinkError:
                seconds = 1.0
