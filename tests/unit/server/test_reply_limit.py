"""Replies that are large, slow, folded up or no message at all: none holds up or ends what the other sites do."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from server.rounds.grid import fault_of, tune

MEGABYTE = 2**20


class SuperLink:
    """Holds replies and their parts, and notes what it is told to drop."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {}
        self.parts: dict[str, bytes] = {}
        self.announced: set[str] = set()
        self.fetched: list[str] = []
        self.dropped: list[str] = []

    def add(self, content: RecordDict, question: Message) -> list[str]:
        """Store a reply; return the names of its parts."""
        reply = Message(content, reply_to=question)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            self.replies[question.metadata.message_id] = (
                message_to_proto(remove_content_from_message(reply)),
                get_object_tree(reply),
            )
            parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        self.parts |= parts
        self.announced |= parts.keys()
        return list(parts)

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        found = [self.replies.pop(name) for name in list(request.message_ids) if name in self.replies]
        return PullAppMessagesResponse(
            messages_list=[proto for proto, _ in found], message_object_trees=[tree for _, tree in found]
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        self.fetched.append(request.object_id)
        content = self.parts.get(request.object_id)
        return PullObjectResponse(
            object_found=request.object_id in self.announced,
            object_available=content is not None,
            object_content=content or b"",
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.dropped.append(request.message_object_id)


class Tuned(HttpGrid):
    """A grid whose SuperLink is the one above."""

    def __init__(self, superlink: SuperLink) -> None:
        self.superlink, self.node = superlink, Node(node_id=SUPERLINK_NODE_ID)

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=7)

    @property
    def _runtime_client(self) -> Any:
        return self.superlink

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def superlink() -> SuperLink:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    return SuperLink()


@pytest.fixture
def grid(superlink: SuperLink) -> Tuned:
    tuned = Tuned(superlink)
    tune(tuned, 10)
    return tuned


def question(number: int) -> Message:
    asked = Message(RecordDict(), number, "query")
    asked.metadata.__dict__["_message_id"] = f"{number:064x}"
    return asked


def answer(values: Any) -> RecordDict:
    return RecordDict({"body": ArrayRecord({"data": Array(np.asarray(values))})})


def pulled(grid: Tuned, *asked: Message) -> dict[str, Message]:
    found = list(grid.pull_messages([q.metadata.message_id for q in asked]))
    return {reply.metadata.reply_to_message_id: reply for reply in found}


def test_a_reply_within_the_limit_is_what_was_sent(grid: Tuned, superlink: SuperLink) -> None:
    values = np.random.default_rng(0).random(9 * MEGABYTE // 8)
    asked = question(1)
    superlink.add(answer(values), asked)
    (reply,) = pulled(grid, asked).values()
    assert np.array_equal(reply.content.array_records["body"]["data"].numpy(), values)
    assert superlink.dropped == [reply.metadata.message_id]


def test_a_reply_whose_parts_do_not_come_holds_up_nobody(grid: Tuned, superlink: SuperLink) -> None:
    slow, quick = question(1), question(2)
    names = superlink.add(answer(np.random.default_rng(0).random(9 * MEGABYTE // 8)), slow)
    superlink.add(answer([1.0]), quick)
    held = {name: superlink.parts.pop(name) for name in names[:2]}
    for _ in range(3):
        found = pulled(grid, slow, quick)
        if quick.metadata.message_id in found:
            break
    assert found.keys() == {quick.metadata.message_id}
    assert not pulled(grid, slow)
    assert not pulled(grid, question(3)), "a question about others does not lose what has arrived"
    superlink.parts |= held
    fetched_before = len(superlink.fetched)
    assert pulled(grid, slow).keys() == {slow.metadata.message_id}
    assert len(superlink.fetched) - fetched_before < len(names), "what was there is not fetched again"


@pytest.mark.parametrize("values", [
    pytest.param(np.random.default_rng(0).random(40 * MEGABYTE // 8), id="large"),
    pytest.param(np.zeros(400 * MEGABYTE // 8), id="one piece, eighty times"),
])  # fmt: skip
def test_too_large_a_reply_is_dropped(grid: Tuned, superlink: SuperLink, values: Any) -> None:
    asked = question(1)
    superlink.add(answer(values), asked)
    (reply,) = pulled(grid, asked).values()
    assert not reply.has_content()
    assert fault_of(reply.error) == "too-large"
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
    assert len(superlink.dropped) == 1
    assert sum(len(superlink.parts[name]) for name in superlink.fetched) < 40 * MEGABYTE


@pytest.mark.parametrize("kind", ["noise", "other type", "other question", "index"])
def test_what_is_no_message_is_called_so(grid: Tuned, superlink: SuperLink, kind: str) -> None:
    asked = question(1)
    names = superlink.add(answer([1.0]), asked)
    if kind == "noise":
        superlink.parts[names[-1]] = b"noise"
    elif kind == "other type":
        superlink.parts[names[-1]] = superlink.parts[names[0]]
    elif kind == "index":
        (array,) = [name for name in names if b"arraychunk_ids" in superlink.parts[name]]
        superlink.parts[array] = superlink.parts[array].replace(b'"arraychunk_ids": [0]', b'"arraychunk_ids": [9]')
        assert get_object_id(superlink.parts[array]) != array
    else:
        other = question(2)
        superlink.add(answer([1.0]), other)
        proto, tree = superlink.replies.pop(other.metadata.message_id)
        proto.metadata.reply_to_message_id = asked.metadata.message_id
        superlink.replies[asked.metadata.message_id] = proto, tree
    (reply,) = pulled(grid, asked).values()
    assert fault_of(reply.error) == "no-message"
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id
    assert superlink.dropped


def test_a_reply_the_superlink_no_longer_holds_is_lost(grid: Tuned, superlink: SuperLink) -> None:
    asked = question(1)
    superlink.add(answer([1.0]), asked)
    superlink.announced.clear()
    superlink.parts.clear()
    (reply,) = pulled(grid, asked).values()
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert fault_of(reply.error) is None


@pytest.mark.parametrize("error", [
    Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=json.dumps("too-large")),
    Error(code=ErrorCode.MESSAGE_UNAVAILABLE),
    Error(code=ErrorCode.NODE_UNAVAILABLE, reason="too-large"),
])  # fmt: skip
def test_another_error_is_not_taken_for_one_of_these(error: Error) -> None:
    assert fault_of(error) is None
