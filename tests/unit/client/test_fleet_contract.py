"""Our link against Flower's own SuperLink, over TLS with client certificates; and the internals of Flower it uses."""

from __future__ import annotations

import hashlib
import inspect
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from site_network import Authority, Coordinator, join

from client.approval.envelope import check_envelope
from client.network.fleet import FleetLink
from client.network.fleet_failures import CertificateRefused, NotAdmitted, RunOver, Unreachable
from client.network.fleet_messages import Head, deflate, inflate, peek
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode
from ecgshared.wire.bytes import (
    WireError,
    body_of,
    decode_request,
    encode_request,
    refusal_of,
    refusal_records,
    to_records,
)
from ecgshared.wire.protocol import Request

STUDY = "ab" * 32


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.stop()


@pytest.fixture
def settings(coordinator, tmp_path) -> SiteSettings:
    return join(coordinator, tmp_path / "site" / "site.yaml")


@pytest.fixture
def link(settings):
    made = FleetLink(settings.network)
    yield made
    made.close()


def fetch(link: FleetLink) -> tuple[Head, dict[str, bytes]]:
    data = link.pull()
    assert data is not None
    head, parts = Head(data), {}
    link.pull_objects(head, head.object_ids, parts.__setitem__)
    return head, parts


@pytest.mark.parametrize(("phase", "may"), [
    ("+keys", True), ("moments+evidence", True), ("fit+", False), ("fit+a b", False), ("fit\x1b[2J", False)
])  # fmt: skip
def test_parts_of_secure_sums_are_phases_and_nothing_that_a_terminal_obeys(coordinator, settings, link, phase, may):
    node = coordinator.register(settings.network.key)
    link.activate(None)
    coordinator.ask(coordinator.run(), node, STUDY, step="risk", phase=phase, round=7)
    head, parts = fetch(link)
    if may:
        assert peek(head, parts)["phase"] == phase
    else:
        with pytest.raises(WireError):
            peek(head, parts)


def test_a_question_comes_and_its_answer_goes_as_flower_moves_them(coordinator, settings, link):
    node = coordinator.register(settings.network.key)
    assert link.activate(None) == node
    link.heartbeat()
    assert link.pull() is None
    run_id = coordinator.run()
    weights = np.arange(3_000_000, dtype=np.float64)  # 24 MB: several pieces
    sent = coordinator.ask(run_id, node, STUDY, step="risk", phase="fit", round=7, weights=weights)
    head, parts = fetch(link)
    assert head.message_id == sent
    assert head.run_id == run_id
    assert 50 < head.seconds_left <= 60
    assert len(head.object_ids) > 5
    assert peek(head, parts) == {"study_hash": STUDY, "run": "r", "step": "risk", "phase": "fit", "round": 7}
    link.confirm(head)
    message = inflate(head, parts)
    np.testing.assert_array_equal(decode_request(body_of(message.content)).arrays["weights"], weights)
    answer = np.random.default_rng(0).bytes(12_000_000)
    data, parts = deflate(Message(to_records(answer), reply_to=message))
    assert link.push(Head(data), parts, 0.1)
    reply = coordinator.answer(run_id, sent)
    assert body_of(reply.content) == answer
    assert reply.metadata.reply_to_message_id == sent
    assert reply.metadata.src_node_id == node
    assert link.skew_seconds is not None
    assert abs(link.skew_seconds) < 5


def test_an_answer_sent_again_is_kept_once_and_another_one_not_at_all(coordinator, settings, link):
    node, run_id = coordinator.register(settings.network.key), coordinator.run()
    link.activate(None)
    sent = coordinator.ask(run_id, node, STUDY)
    head, _ = fetch(link)
    data, parts = head.reply(refusal_records("north", RefusalCode.PAUSED))
    assert link.push(Head(data), parts, 0.0)
    assert not link.push(Head(data), parts, 0.0)
    time.sleep(0.002)
    other, other_parts = head.reply(refusal_records("north", RefusalCode.INTERNAL))
    assert not link.push(Head(other), other_parts, 0.0)
    assert refusal_of(coordinator.answer(run_id, sent).content) == ("north", RefusalCode.PAUSED)


def test_a_push_that_broke_off_is_completed_by_the_same_answer(coordinator, settings, link):
    node, run_id = coordinator.register(settings.network.key), coordinator.run()
    link.activate(None)
    sent = coordinator.ask(run_id, node, STUDY)
    head, _ = fetch(link)
    data, parts = head.reply(refusal_records("north", RefusalCode.PAUSED))
    lost = dict(list(parts.items())[:1])
    with pytest.raises(KeyError):
        link.push(Head(data), lost, 0.0)
    assert coordinator.peek(run_id, sent) is None
    assert link.push(Head(data), parts, 0.0)
    assert refusal_of(coordinator.answer(run_id, sent).content) == ("north", RefusalCode.PAUSED)


def test_a_run_says_its_envelope_and_its_overrides(coordinator, settings, link):
    coordinator.register(settings.network.key)
    link.activate(None)
    run_id = coordinator.run(overrides={"out": "/tmp/x"})
    fab_hash, overrides = link.run(run_id)
    assert fab_hash == settings.network.envelope
    assert overrides == {"out": "/tmp/x"}
    check_envelope(link.envelope(run_id, fab_hash), fab_hash)


def test_a_run_that_ended_or_never_was_is_over(coordinator, settings, link):
    node, run_id = coordinator.register(settings.network.key), coordinator.run()
    link.activate(None)
    coordinator.ask(run_id, node, STUDY)
    head, _ = fetch(link)
    coordinator.finish(run_id)
    data, parts = head.reply(refusal_records("north", RefusalCode.PAUSED))
    with pytest.raises(RunOver):
        link.push(Head(data), parts, 0.0)
    with pytest.raises(RunOver):
        link.run(4711)


def test_a_restarted_coordinator_knows_neither_node_nor_run(tmp_path):
    own = Coordinator(tmp_path / "c")
    try:
        settings = join(own, tmp_path / "site" / "site.yaml")
        link = FleetLink(settings.network)
        node = own.register(settings.network.key)
        link.activate(None)
        run_id = own.run()
        own.ask(run_id, node, STUDY)
        head, _ = fetch(link)
        own.stop()
        with pytest.raises(Unreachable):
            link.heartbeat()
        own.start()
        with pytest.raises(NotAdmitted):
            link.pull()
        with pytest.raises(NotAdmitted):
            link.activate(node)
        anew = own.register(settings.network.key)
        assert link.activate(node) == anew
        data, parts = head.reply(refusal_records("north", RefusalCode.PAUSED))
        with pytest.raises(RunOver):
            link.push(Head(data), parts, 0.0)
        link.close()
    finally:
        own.stop()


def test_a_killed_daemon_goes_on_with_the_node_it_remembers(coordinator, settings, link):
    node = coordinator.register(settings.network.key)
    link.activate(None)
    second = FleetLink(settings.network)
    with pytest.raises(NotAdmitted):
        second.activate(None)  # the coordinator counts the first as connected
    assert second.activate(node) == node
    assert second.pull() is None
    second.close()


def test_an_unregistered_key_is_not_admitted(settings, link):
    with pytest.raises(NotAdmitted, match="not registered"):
        link.activate(None)


def refused(network) -> None:
    # TLS 1.3 tells a client only after its first request, and then not always in time.
    with (
        closing(FleetLink(network)) as link,
        pytest.raises((CertificateRefused, Unreachable), match="refuses this site's certificate"),
    ):
        link.activate(None)


def test_a_wrong_authority_is_refused_by_both_sides(coordinator, settings, tmp_path):
    other = Authority(tmp_path / "other")
    strange = settings.network.model_copy(update={"ca": other.ca})
    with closing(FleetLink(strange)) as link, pytest.raises(CertificateRefused, match="is not accepted here"):
        link.activate(None)
    forged = tmp_path / "forged.crt"
    forged.write_bytes(other.issue(settings.network.key.with_suffix(".csr")))
    refused(settings.network.model_copy(update={"certificate": forged}))


def test_an_expired_certificate_is_refused(coordinator, settings, tmp_path):
    old = tmp_path / "old.crt"
    old.write_bytes(coordinator.authority.issue(settings.network.key.with_suffix(".csr"), days=-1))
    refused(settings.network.model_copy(update={"certificate": old}))


def test_a_part_that_is_not_what_its_name_says_is_refused(coordinator, settings, link):
    node, run_id = coordinator.register(settings.network.key), coordinator.run()
    link.activate(None)
    coordinator.ask(run_id, node, STUDY, phase="spoilt")  # no other message shares its parts
    data = link.pull()
    head = Head(data)
    victim = head.object_ids[0]
    coordinator.link.spoil(victim)
    with pytest.raises(WireError):
        link.pull_objects(head, head.object_ids, lambda *_: None)


@pytest.mark.parametrize("spoil", [lambda p: {}, lambda p: {k: v[:40] for k, v in p.items()}])
def test_what_is_no_request_is_told_apart(spoil):
    request = to_records(encode_request(Request(STUDY, "r", "s", "p", 0, {})))
    message = _message(request)
    data, parts = deflate(message)
    head = Head(data)
    assert peek(head, parts)["study_hash"] == STUDY
    with pytest.raises(WireError):
        peek(head, spoil(parts))


@pytest.mark.parametrize("word", ["\x1b[2J", "two words", "p" * 81, "ä"])
def test_words_of_a_request_cannot_reach_a_terminal(word):
    data, parts = deflate(_message(to_records(encode_request(Request(STUDY, "r", "s", word, 0, {})))))
    with pytest.raises(WireError):
        peek(Head(data), parts)


def _message(records):
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 5, 1
    return Message(records, 2, "query.ask")


def test_our_taking_apart_is_flowers():
    message = _message(to_records(b"\x01" * 6_000_000))
    data, parts = deflate(message)
    proto = PullMessagesResponse.FromString(data)
    assert message.metadata.message_id == message.object_id
    assert proto.message_object_trees[0] == get_object_tree(message)
    assert parts == {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    assert proto.messages_list[0].metadata == message_to_proto(message).metadata
    back = inflate(Head(data), dict(parts))
    assert body_of(back.content) == b"\x01" * 6_000_000


def test_the_internals_we_use_have_the_signatures_we_expect():
    from flwr import supernode
    from flwr.supercore.inflatable import inflatable_protobuf_utils, inflatable_utils
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(inflatable_utils.pull_objects) == [
        "object_ids", "pull_object_fn", "max_concurrent_pulls", "max_time", "max_tries_per_object", "initial_backoff",
        "backoff_cap",
    ]  # fmt: skip
    assert names(inflatable_utils.inflate_object_from_contents)[:2] == ["object_id", "object_contents"]
    assert names(inflatable_protobuf_utils.make_pull_object_fn_protobuf) == ["pull_object_protobuf", "node", "run_id"]
    assert names(inflatable_protobuf_utils.make_push_object_fn_protobuf) == [
        "push_object_protobuf", "node", "run_id", "session_id",
    ]  # fmt: skip
    assert names(NodeAuthHttpInterceptor) == ["private_key", "public_key"]
    for call in ("ActivateNode", "DeactivateNode", "SendNodeHeartbeat", "PullMessages", "PushMessages", "GetRun",
                 "GetFab", "PushObject", "PullObject", "ConfirmMessageReceived"):  # fmt: skip
        assert names(getattr(FleetHttpClient, call)) == ["self", "request"]
    # The calls and their order are those of Flower's own worker loop; a change there is to be read.
    folder = Path(supernode.__file__).parent
    read = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
        for name in ("fleet_http_client.py", "fleet_http_connection.py", "node_auth_http_interceptor.py",
                     "start_client_internal.py")
    }  # fmt: skip
    assert read == {
        "fleet_http_client.py": "9b09bd3e5237f2a9",
        "fleet_http_connection.py": "8b90826f407ab5d3",
        "node_auth_http_interceptor.py": "a4f3f51424039a14",
        "start_client_internal.py": "d6342f743fdf768f",
    }
