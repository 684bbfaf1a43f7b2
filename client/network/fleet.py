"""The fleet API of Flower 1.41, spoken over HTTPS with a client certificate.

Flower's own SuperNode presents no client certificate, ends on many failures and starts a process per message. Here the
same calls are made with the same messages (``flwr.supernode.fleet_http_connection``), one at a time, and every
failure is one of four that a daemon can act on. Only this module, ``fleet_messages`` and ``fleet_failures`` know
Flower's internals; a contract test holds them to what is expected.
"""

from __future__ import annotations

import base64
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import httpx

from client.network.closing_client import ClosingClient
from client.network.enrol import read_key
from client.network.fleet_failures import (
    LinkError,
    NotAdmitted,
    RunOver,
    Unreachable,
    answer_failure,
    clock_skew,
    session_failure,
    transport_failure,
)
from client.network.fleet_messages import Head, Objects
from client.network.flower_insides import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    FleetHttpClient,
    GetFabRequest,
    GetRunRequest,
    Node,
    NodeAuthHttpInterceptor,
    ObjectPullError,
    ObjectPushError,
    PullMessagesRequest,
    PushMessagesRequest,
    RuntimeVersionMetadata,
    SendNodeHeartbeatRequest,
    fab_from_proto,
    get_object_id,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
    public_key_to_bytes,
    pull_objects,
    run_from_proto,
)
from client.site.settings import NetworkConfig
from ecgshared.errors import ConfigError
from ecgshared.wire.bytes import WireError

_TIMEOUT = httpx.Timeout(15.0, write=60.0)
"""Seconds without a byte. A partition that swallows packets is noticed after the first of them."""
_WAITS = {"pull-messages": 30.0, "push-object": 60.0}
"""The same for a poll, which the coordinator holds for 20 where it has nothing; and for a part, of which megabytes may
lie in this machine's own buffers when it counts as sent."""
_TELLING_BYTES = 1 << 18
"""Fewer say nothing of a line."""
_PULL_SECONDS = 600.0
_MOVERS = 2
_KEY_HEADER, _SESSION_HEADER = "flwr-public-key", "ecgfed-session"
ResultT = TypeVar("ResultT")


class FleetLink:
    """One site's calls to one coordinator. Safe to be used by several threads.

    Attributes
    ----------
    node_id : the number Flower gave this site, or None before :meth:`activate`.
    skew_seconds : this machine's clock minus the coordinator's at the last answer, or None.
    bytes_per_second : what the line carried when parts were last moved, or None.
    session : the token that calls are sent under; "" before :meth:`open_session`.
    """

    def __init__(self, network: NetworkConfig) -> None:
        key = read_key(network.key)
        self.session = ""
        self.node_id: int | None = None
        self.skew_seconds: float | None = None
        self.bytes_per_second: float | None = None
        self._heartbeat_seconds = network.heartbeat_seconds
        self._public_key = public_key_to_bytes(key.public_key())
        self._own_calls = f"https://{network.coordinator}/v1/ecgfed/"
        tls = tls_context(network)
        self._client = FleetHttpClient(
            f"https://{network.coordinator}", interceptors=[NodeAuthHttpInterceptor(key, key.public_key())], verify=tls
        )
        self._client._client.close()
        # Flower's own client takes no client certificate and would follow a redirect to anywhere.
        self._client._client = self._made(tls)

    def _made(self, tls: ssl.SSLContext) -> ClosingClient:
        return ClosingClient(
            verify=tls,
            timeout=_TIMEOUT,
            follow_redirects=False,
            headers=dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()),
            event_hooks={"request": [self._sign_in], "response": [self._note_clock]},
        )

    def use_certificate(self, network: NetworkConfig) -> None:
        """Go on with the certificates that the files hold now: new calls take them, those under way end as they began.

        Raises
        ------
        ConfigError : they cannot be used; the link goes on with the old ones.
        """
        made = self._made(tls_context(network))
        old, self._client._client = self._client._client, made
        if isinstance(old, ClosingClient):
            old.retire()

    def open_session(self, opening: dict[str, Any]) -> None:
        """Show the session of this daemon, see :mod:`client.network.session`; later calls are of it.

        Raises
        ------
        StateForked : the coordinator knows a later session, or one beside it: this state is a copy, or an old one.
        SessionWaits : an earlier session was heard a moment ago; it is asked again whether that one is silent.
        """
        answer = self._own("session", opening)
        if answer is None or answer.status_code == 200:
            # A coordinator that knows no sessions lets everybody in, as it always did.
            self.session = opening["token"] if answer is not None else ""
            return
        raise session_failure(answer)

    def renew(self, request: str) -> dict[str, str] | None:
        """Send a request for the next certificate, or none; return ``certificate`` and ``authority``, "" where none.

        None where the coordinator does not renew over the connection.
        """
        answer = self._own("renew", {"request": request})
        if answer is None:
            return None
        if answer.status_code != 200:
            raise answer_failure(answer)
        content = answer.json()
        return {key: str(content[key]) for key in ("certificate", "authority") if isinstance(content.get(key), str)}

    def _own(self, call: str, content: dict[str, Any]) -> httpx.Response | None:
        """Ask the coordinator itself; None where it knows no such call."""
        key = base64.b64encode(self._public_key).decode()
        try:
            answer = self._client._client.post(self._own_calls + call, json=content, headers={_KEY_HEADER: key})
        except httpx.TransportError as error:
            raise transport_failure(error) from None
        except RuntimeError as error:
            raise Unreachable(f"the coordinator was not asked ({type(error).__name__})") from None
        return None if answer.status_code == 404 else answer

    def _sign_in(self, request: httpx.Request) -> None:
        if self.session:
            request.headers[_SESSION_HEADER] = self.session
        seconds = _WAITS.get(request.url.path.rpartition("/")[2])
        if seconds is not None:
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": seconds}

    def activate(self, remembered: int | None) -> int:
        """Tell the coordinator that this site is there; return the node's id.

        Parameters
        ----------
        remembered : the id of an earlier life. A node that was killed is "online" for a while and cannot be activated
            again; if the id is still this key's, the site goes on with it.
        """
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=self._heartbeat_seconds)
        try:
            self.node_id = int(self._call(self._client.ActivateNode, request).node_id)
        except NotAdmitted as refused:
            if remembered is None:
                raise
            self.node_id = remembered
            try:
                self.heartbeat()
            except NotAdmitted:
                self.node_id = None
                raise refused from None
        return self.node_id

    def heartbeat(self, beats: int = 1) -> None:
        """Say that this site is alive, and will say so again ``beats`` heartbeats from now."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=beats * self._heartbeat_seconds)
        if not self._call(self._client.SendNodeHeartbeat, request).success:
            raise NotAdmitted("the coordinator does not know this site any more")

    def deactivate(self) -> None:
        """Say goodbye; a coordinator that cannot be reached will miss the heartbeats."""
        if self.node_id is None:
            return
        with suppress(LinkError):
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
        self.node_id = None

    def pull(self) -> bytes | None:
        """Return the head of the next message, its content still at the coordinator, or None where none waits.

        The coordinator holds the call a while where there is none.
        """
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        return response.SerializeToString() if response.messages_list else None

    def pull_objects(self, head: Head, wanted: Iterable[str], keep: Callable[[str, bytes], None]) -> None:
        """Fetch parts of a message, two at a time, and hand each to ``keep`` as it comes, its hash checked."""
        fetch = make_pull_object_fn_protobuf(
            lambda request: self._call(self._client.PullObject, request, run_id=head.run_id), self._node, head.run_id
        )

        def fetch_and_keep(object_id: str) -> bytes:
            content = fetch(object_id)
            if get_object_id(content) != object_id:
                raise WireError("a part of a message that is not what its name says")
            keep(object_id, content)
            moved.add(len(content))
            return b""

        moved = _Moved()
        try:
            # Parts are announced before they are uploaded: without a short first wait every message costs a second.
            pull_objects(
                list(wanted),
                fetch_and_keep,
                max_concurrent_pulls=_MOVERS,
                max_time=_PULL_SECONDS,
                max_tries_per_object=None,
                initial_backoff=0.05,
                backoff_cap=1.0,
            )
        except ObjectPullError:
            raise RunOver("the coordinator no longer holds this message") from None
        finally:
            self._note_rate(moved)

    def confirm(self, head: Head) -> None:
        """Tell the coordinator that the message is safely here; it forgets the content."""
        request = ConfirmMessageReceivedRequest(node=self._node, run_id=head.run_id, message_object_id=head.message_id)
        self._call(self._client.ConfirmMessageReceived, request, run_id=head.run_id)

    def run(self, run_id: int) -> tuple[str, dict[str, Any]]:
        """Return (hash of the run's envelope, its overridden configuration)."""
        request = GetRunRequest(node=self._node, run_id=run_id)
        run = run_from_proto(self._call(self._client.GetRun, request, run_id=run_id, probe=False).run)
        return run.fab_hash, dict(run.override_config)

    def envelope(self, run_id: int, fab_hash: str) -> bytes:
        """Return the bytes of a run's envelope (a zip)."""
        request = GetFabRequest(node=self._node, hash_str=fab_hash, run_id=run_id)
        return bytes(fab_from_proto(self._call(self._client.GetFab, request, run_id=run_id).fab).content)

    def push(self, head: Head, objects: Objects, seconds: float) -> bool:
        """Send an answer; repeat it as often as it takes, the parts already there are not sent again.

        Returns False where the coordinator has no use for it (it gave up on the question, or has an answer).
        """
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[head.proto.messages_list[0]],
            message_object_trees=[head.proto.message_object_trees[0]],
            clientapp_runtime_list=[seconds],
        )
        response = self._call(self._client.PushMessages, request, run_id=head.run_id)
        wanted = list(response.objects_to_push)
        send = make_push_object_fn_protobuf(
            lambda part: self._call(self._client.PushObject, part, run_id=head.run_id),
            self._node,
            head.run_id,
            response.session_id,
        )
        moved = _Moved()

        def read_and_send(object_id: str) -> None:
            # Each mover reads its part when it sends it, so that few parts are in memory at once.
            content = objects[object_id]
            send(object_id, content)
            moved.add(len(content))

        try:
            with ThreadPoolExecutor(_MOVERS) as movers:
                list(movers.map(read_and_send, wanted))
        except ObjectPushError:
            raise Unreachable("the coordinator did not keep a part of the answer") from None
        finally:
            self._note_rate(moved)
        return bool(wanted)

    def _note_rate(self, moved: _Moved) -> None:
        if moved.bytes >= _TELLING_BYTES:
            self.bytes_per_second = moved.bytes / max(moved.seconds, 1e-3)

    def close(self) -> None:
        """Close all connections."""
        self._client._client.close()

    @property
    def _node(self) -> Node:
        if self.node_id is None:
            raise NotAdmitted("this site is not connected")
        return Node(node_id=self.node_id)

    def _call(
        self, call: Callable[[Any], ResultT], request: Any, *, run_id: int | None = None, probe: bool = True
    ) -> ResultT:
        try:
            return call(request)
        except httpx.HTTPStatusError as error:
            failure = answer_failure(error.response)
        except httpx.TransportError as error:
            failure = transport_failure(error)
        except (ValueError, RuntimeError) as error:  # a body that is not protobuf, or a client that was closed
            failure = Unreachable(f"the coordinator's answer could not be read ({type(error).__name__})")
        if run_id is not None and probe and type(failure) is Unreachable:
            # Flower answers 500 about a run it has forgotten; about the run itself it says so.
            self.run(run_id)
        raise failure

    def _note_clock(self, response: httpx.Response) -> None:
        self.skew_seconds = clock_skew(response)


class _Moved:
    """Bytes that came or went since it was made, until the last of them."""

    def __init__(self) -> None:
        self._begun, self._adding = time.monotonic(), threading.Lock()
        self.bytes, self.seconds = 0, 0.0

    def add(self, size: int) -> None:
        """Count a part; several threads may."""
        with self._adding:
            self.bytes += size
            self.seconds = time.monotonic() - self._begun


def tls_context(network: NetworkConfig) -> ssl.SSLContext:
    """Return what both sides' certificates are checked with: the kit's authority only, TLS 1.2 at least."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=network.ca)
        context.load_cert_chain(network.certificate, network.key)
    except (OSError, ssl.SSLError) as error:
        missing = next((p for p in (network.ca, network.certificate, network.key) if not p.exists()), None)
        if missing is not None:
            raise ConfigError("there is no such file", where=missing, remedy="see `ecgfed site init`") from None
        raise ConfigError(
            f"certificate and key cannot be used ({type(error).__name__})",
            where=network.certificate,
            remedy="they must be PEM files, and the certificate that of the key",
        ) from None
    return context
