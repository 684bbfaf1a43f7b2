"""Polls without anything to fetch are held until there is something, for whom it is, and for nobody who has gone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest

from server.coordinator import waiting
from server.coordinator.waiting import HeldPolls

PULL, PUSH, RUN_PULL, ANSWER = (
    "/v1/fleet/pull-messages", "/v1/runtime/push-messages", "/v1/runtime/pull-messages", "/v1/fleet/push-messages",
)  # fmt: skip


class Flower:
    """Stands where Flower stands: hands every node what was pushed to it, once."""

    def __init__(self) -> None:
        self.waiting: dict[int, int] = {}
        self.polls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        answer = b""
        if scope["path"] == PUSH:
            for message in PushAppMessagesRequest.FromString(body).messages_list:
                node = message.metadata.dst_node_id
                self.waiting[node] = self.waiting.get(node, 0) + 1
        elif scope["path"] == PULL:
            self.polls += 1
            node = PullMessagesRequest.FromString(body).node.node_id
            if self.waiting.get(node, 0):
                self.waiting[node] -= 1
                answer = PullMessagesResponse(messages_list=[Message(metadata=Metadata(run_id=1))]).SerializeToString()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})


class Call:
    """One request, whose client may go away."""

    def __init__(self, polls: HeldPolls, app: Flower, path: str, body: bytes, still: bool = True) -> None:
        self.gone, self.sent, self._given = asyncio.Event(), list[Any](), False
        scope = {"type": "http", "path": path, "headers": [(b"flwr-task-token", b"t")]}
        self._body = body
        self.task = asyncio.ensure_future(polls.handle(app, scope, self._receive, self._send, lambda: still))

    async def _receive(self) -> Any:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Any) -> None:
        self.sent.append(event)

    async def answer(self) -> bytes:
        await asyncio.wait_for(self.task, 5)
        return b"".join(event.get("body", b"") for event in self.sent)


def poll(node: int) -> bytes:
    return PullMessagesRequest(node=Node(node_id=node)).SerializeToString()


def push(*nodes: int) -> bytes:
    return PushAppMessagesRequest(
        messages_list=[Message(metadata=Metadata(dst_node_id=node)) for node in nodes]
    ).SerializeToString()


@pytest.fixture
def polls(monkeypatch):
    monkeypatch.setattr(waiting, "SITES_SECONDS", 3.0)
    monkeypatch.setattr(waiting, "RUNS_SECONDS", 0.3)
    return HeldPolls()


def test_a_poll_is_held_until_a_message_for_its_node_comes(polls):
    async def play() -> None:
        flower = Flower()
        assert await Call(polls, flower, PULL, poll(1)).answer() == b"", "the first one is Flower's to answer"
        held, other = Call(polls, flower, PULL, poll(1)), Call(polls, flower, PULL, poll(2))
        await other.answer()
        other = Call(polls, flower, PULL, poll(2))
        await asyncio.sleep(0.1)
        assert not held.task.done()
        assert flower.polls == 2
        await Call(polls, flower, PUSH, push(1)).answer()
        assert await held.answer() != b""
        assert not other.task.done(), "what is pushed to one wakes nobody else"
        assert flower.polls == 3
        other.gone.set()
        await other.answer()

    asyncio.run(play())


def test_two_messages_are_fetched_one_after_the_other_without_a_wait(polls):
    async def play() -> None:
        flower = Flower()
        await Call(polls, flower, PULL, poll(1)).answer()
        await Call(polls, flower, PUSH, push(1, 1)).answer()
        begun = time.monotonic()
        assert await Call(polls, flower, PULL, poll(1)).answer()
        assert await Call(polls, flower, PULL, poll(1)).answer()
        assert await Call(polls, flower, PULL, poll(1)).answer() == b""
        assert time.monotonic() - begun < 2

    asyncio.run(play())


def test_what_was_pushed_while_nobody_polled_is_fetched_at_once(polls):
    async def play() -> None:
        flower = Flower()
        await Call(polls, flower, PUSH, push(7)).answer()
        assert await Call(polls, flower, PULL, poll(7)).answer()

    asyncio.run(play())


def test_a_held_poll_ends_by_itself_and_nothing_is_handed_to_who_has_gone(polls):
    async def play() -> None:
        flower = Flower()
        await Call(polls, flower, PULL, poll(1)).answer()
        assert await Call(polls, flower, PULL, poll(1)).answer() == b""
        dead = Call(polls, flower, PULL, poll(1))
        await asyncio.sleep(0.05)
        dead.gone.set()
        await asyncio.sleep(0.05)
        assert dead.task.done()
        await Call(polls, flower, PUSH, push(1)).answer()
        assert dead.sent == []
        assert await Call(polls, flower, PULL, poll(1)).answer(), "it was kept for who comes next"

    asyncio.run(play())


def test_who_may_ask_no_more_is_refused_after_the_wait(polls):
    async def play() -> None:
        flower = Flower()
        await Call(polls, flower, PULL, poll(1)).answer()
        late = Call(polls, flower, PULL, poll(1), still=False)
        await asyncio.sleep(0.05)
        await Call(polls, flower, PUSH, push(1)).answer()
        await late.answer()
        assert late.sent[0]["status"] == 409
        assert flower.waiting[1] == 1

    asyncio.run(play())


def test_a_run_is_woken_by_an_answer(polls):
    async def play() -> None:
        flower = Flower()
        await Call(polls, flower, RUN_PULL, b"").answer()
        held = Call(polls, flower, RUN_PULL, b"")
        await asyncio.sleep(0.05)
        assert not held.task.done()
        await Call(polls, flower, ANSWER, b"").answer()
        await asyncio.wait_for(held.task, 0.2)

    asyncio.run(play())
