"""The fleet API of Flower 1.41, spoken over HTTPS with a client certificate: the only module that knows its internals.

Flower's own SuperNode presents no client certificate, ends on many failures and starts a process per message. Here the
same calls are made with the same messages (``flwr.supernode.fleet_http_connection``), one at a time, and every
failure is one of four that a daemon can act on. A contract test holds the used internals to what is expected of them.
"""

from __future__ import annotations

import io
import json
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import fab_from_proto, message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
    get_object_head_values_from_object_content,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.settings import NetworkConfig
from ecgshared.errors import ConfigError, EcgFedError
from ecgshared.wire import WireError

_TIMEOUT = httpx.Timeout(15.0, write=60.0)
"""Seconds without a byte. A partition that swallows packets is noticed after the first of them."""
_PULL_SECONDS = 600.0
_MOVERS = 2
_GATEWAY = (502, 503, 504)
_RUN_OVER = (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, ApiErrorCode.FLEET_GET_RUN_FAILED)
ResultT = TypeVar("ResultT")


class LinkError(EcgFedError):
    """A call to the coordinator failed; the text is plain words for the operator."""


class Unreachable(LinkError):
    """Nobody answered, or only a proxy did: try again soon."""


class NotAdmitted(LinkError):
    """The coordinator answers but does not know this site's key or node: activate again."""


class CertificateRefused(LinkError):
    """One side refused the other's certificate: only people can mend that."""


class RunOver(LinkError):
    """The run has ended or is not known any more."""


class Objects(Protocol):
    """Where the parts of a message lie, by the sha256 of their content."""

    def __getitem__(self, object_id: str) -> bytes: ...


class FleetLink:
    """One site's calls to one coordinator. Safe to be used by several threads.

    Attributes
    ----------
    node_id : the number Flower gave this site, or None before :meth:`activate`.
    skew_seconds : this machine's clock minus the coordinator's at the last answer, or None.
    """

    def __init__(self, network: NetworkConfig) -> None:
        key = _private_key(network)
        self.node_id: int | None = None
        self.skew_seconds: float | None = None
        self._heartbeat_seconds = network.heartbeat_seconds
        self._public_key = public_key_to_bytes(key.public_key())
        tls = tls_context(network)
        self._client = FleetHttpClient(
            f"https://{network.coordinator}", interceptors=[NodeAuthHttpInterceptor(key, key.public_key())], verify=tls
        )
        self._client._client.close()
        # Flower's own client takes no client certificate and would follow a redirect to anywhere.
        self._client._client = _Client(
            verify=tls,
            timeout=_TIMEOUT,
            follow_redirects=False,
            headers=dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()),
            event_hooks={"response": [self._note_clock]},
        )

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

    def heartbeat(self) -> None:
        """Say that this site is alive."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=self._heartbeat_seconds)
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
        """Return the head of the next message, its content still at the coordinator, or None where none waits."""
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
            return b""

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
        try:
            with ThreadPoolExecutor(_MOVERS) as movers:
                # Each mover reads its part when it sends it, so that few parts are in memory at once.
                list(movers.map(lambda object_id: send(object_id, objects[object_id]), wanted))
        except ObjectPushError:
            raise Unreachable("the coordinator did not keep a part of the answer") from None
        return bool(wanted)

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
            failure = _failure(error.response)
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


class _Client(httpx.Client):
    """A client whose responses are freed when they were read: httpx ties each to its stream in a ring."""

    def send(self, *arguments: Any, **options: Any) -> httpx.Response:
        response = super().send(*arguments, **options)
        response.stream = httpx.ByteStream(b"")
        return response


class Head:
    """A message without its content: whose it is, what it answers, and the names of its parts."""

    def __init__(self, data: bytes) -> None:
        self.proto = PullMessagesResponse.FromString(data)
        if len(self.proto.messages_list) != 1 or len(self.proto.message_object_trees) != 1:
            raise WireError("not one message")
        self.message = message_from_proto(self.proto.messages_list[0])
        self.message_id = self.proto.message_object_trees[0].object_id
        if self.message.metadata.message_id != self.message_id:
            raise WireError("a message whose id is not that of its content")

    @property
    def run_id(self) -> int:
        """The run, a number of Flower's."""
        return int(self.message.metadata.run_id)

    @property
    def kind(self) -> str:
        """The message's type: "query.hello", say."""
        return str(self.message.metadata.message_type)

    @property
    def object_ids(self) -> list[str]:
        """The names of all parts, children first."""
        return list(dict.fromkeys(tree.object_id for tree in iterate_object_tree(self.proto.message_object_trees[0])))

    @property
    def seconds_left(self) -> float:
        """How long an answer would still be wanted."""
        metadata = self.message.metadata
        return float(metadata.created_at + metadata.ttl - time.time())

    def reply(self, records: RecordDict) -> tuple[bytes, dict[str, bytes]]:
        """Return (head, parts) of the answer that holds ``records``."""
        return deflate(Message(records, reply_to=self.message))


def inflate(head: Head, objects: dict[str, bytes]) -> Message:
    """Put a message together from its parts, which are taken out of ``objects`` as they are used."""
    message = inflate_object_from_contents(head.message_id, objects)
    if not isinstance(message, Message):
        raise WireError("not a message")
    # The id is no part of the content it is the hash of.
    message.metadata.__dict__["_message_id"] = head.message_id
    return message


def deflate(message: Message) -> tuple[bytes, dict[str, bytes]]:
    """Take a message apart: its head, and its parts by their names."""
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        tree: ObjectTree = get_object_tree(message)
        proto = message_to_proto(remove_content_from_message(message))
        head = PullMessagesResponse(messages_list=[proto], message_object_trees=[tree]).SerializeToString()
        return head, {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


def peek(head: Head, objects: Objects) -> dict[str, Any]:
    """Return the scalars of a request (study hash, run, step, phase, round) from its first part of data alone.

    Nothing is put together and no app is loaded; what the app makes of the message later is checked there again.
    """
    try:
        records = json.loads(get_object_body(objects[_children(objects, head.message_id)[0]], RecordDict))
        record = json.loads(_body(objects[records["body"]]))
        array = objects[record["body"]]
        children = get_object_head_values_from_object_content(array)[1]
        first = _body(objects[children[json.loads(_body(array))["arraychunk_ids"][0]]])
        stream = io.BytesIO(first)
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        size = int.from_bytes(stream.read(8), "little")
        request = json.loads(json.loads(stream.read(min(size, len(first))))["__metadata__"]["header"])
        return {key: request[key] for key in ("study_hash", "run", "step", "phase", "round")}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, UnicodeDecodeError):
        raise WireError("not a request") from None


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


def clock_skew(response: httpx.Response) -> float | None:
    """Return this machine's clock minus the answering one's, seconds; None where the answer has no date."""
    try:
        return time.time() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def transport_failure(error: httpx.TransportError) -> LinkError:
    """Say in plain words why a connection failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"the coordinator's certificate is not accepted here: {cause.verify_message}",
                remedy="is the address right, is the kit's authority the coordinator's, is a proxy in between?",
            )
        if isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason or ""):
            return CertificateRefused(
                "the coordinator refuses this site's certificate", remedy="has it expired, or was it revoked?"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ProxyError):
        return Unreachable("the proxy of HTTPS_PROXY does not let this site through", remedy="ask its administrators")
    if isinstance(error, httpx.TimeoutException):
        return Unreachable("the coordinator did not answer in time")
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return Unreachable("the connection was cut; so does a coordinator that refuses this site's certificate")
    return Unreachable(f"the coordinator cannot be reached ({type(error).__name__})")


def _failure(response: httpx.Response) -> LinkError:
    known = FlowerError.from_json(response.text)
    if known is not None and known.code in _RUN_OVER:
        return RunOver("the run has ended at the coordinator")
    if known is not None and known.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return NotAdmitted(
            "the coordinator does not let this site in: its key is not registered, or it counts it as connected still",
            remedy="a site that was just killed waits some seconds; else ask whether it was admitted or revoked",
        )
    if response.status_code == 401:
        return NotAdmitted(
            "the coordinator does not know this site's key, or the clocks differ by minutes",
            remedy="was the site admitted? compare the clocks: `ecgfed site check`",
        )
    if response.status_code in (400, 403, 495, 496) and known is None:
        return CertificateRefused(
            "the coordinator refuses this site's certificate: revoked, expired, or not that of its key",
            remedy="see its dates with `ecgfed site check`; ask the coordinator for a new one",
        )
    if response.status_code in _GATEWAY:
        return Unreachable("the coordinator's proxy answers, the coordinator behind it does not")
    return Unreachable(f"the coordinator answered with status {response.status_code}")


def _children(objects: Objects, object_id: str) -> list[str]:
    return list(get_object_head_values_from_object_content(objects[object_id])[1])


def _body(content: bytes) -> bytes:
    return content.partition(b"\x00")[2]


def _private_key(network: NetworkConfig) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(network.key.read_bytes(), password=None)
    except FileNotFoundError:
        raise ConfigError("there is no such key", where=network.key, remedy="see `ecgfed site init`") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"is no private key ({type(error).__name__})", where=network.key) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("is no elliptic-curve key", where=network.key, allowed="ECDSA P-384")
    return key
