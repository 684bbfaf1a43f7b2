"""Polls that have nothing to fetch are held until there is something: 100 sites at rest ask a few times a second.

Flower answers an empty poll at once, and it costs the SuperLink's one process as much as a full one, 5 to 10 ms of its
processor. So a poll is held here, before Flower, where the one before it by the same asker came back empty and nothing
was pushed to it since. A push lets its receiver's poll go; what there is to fetch is Flower's to say, as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.responses import Response

from server.rounds.flower_insides import TASK_TOKEN_HEADER, PullMessagesRequest, PushAppMessagesRequest

SITES_SECONDS, RUNS_SECONDS = 20.0, 0.5
"""How long a site's poll is held, and a run's, which has more to look after than answers."""

_SITE_POLL, _RUN_POLL = "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
_TO_SITES, _TO_RUNS = "/v1/runtime/push-messages", ("/v1/fleet/push-messages", "/v1/fleet/push-object")
_LARGEST_HEAD = 64 << 20
"""Of messages without their content, however many."""


@dataclass
class _Asker:
    """Who polls: how often something was pushed to it, and how often when its last poll came back empty."""

    pushed: int = 0
    empty_at: int = -1
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.pushed += 1
        event, self.woken = self.woken, asyncio.Event()
        event.set()


class HeldPolls:
    """The polls of one SuperLink.

    Attributes
    ----------
    held, passed : how many were held, and how many came to Flower.
    """

    def __init__(self) -> None:
        self._sites: dict[int, _Asker] = {}
        self._runs: dict[bytes, _Asker] = {}
        self.held = self.passed = 0

    async def handle(self, app: Any, scope: Any, receive: Any, send: Any, still: Callable[[], bool] = bool) -> None:
        """Pass a call on to ``app``; a poll perhaps later, unless ``still`` says that the asker may ask no more."""
        path = scope["path"]
        if path == _SITE_POLL:
            body = await _whole(receive)
            asker = self._sites.setdefault(_node_of(body or b""), _Asker())
            await self._poll(app, scope, body, receive, send, asker, SITES_SECONDS, still)
        elif path == _RUN_POLL:
            token = dict(scope["headers"]).get(TASK_TOKEN_HEADER.lower().encode(), b"")
            asker = self._runs.setdefault(token, _Asker())
            await self._poll(app, scope, await _whole(receive), receive, send, asker, RUNS_SECONDS, lambda: True)
        elif path == _TO_SITES:
            body = await _whole(receive)
            if body is not None:
                await app(scope, _again(body, receive), send)
                self._wake_sites(body)
        else:
            await app(scope, receive, send)
            if path in _TO_RUNS:
                for asker in self._runs.values():
                    asker.wake()

    def _wake_sites(self, pushed: bytes) -> None:
        try:
            nodes = {
                message.metadata.dst_node_id for message in PushAppMessagesRequest.FromString(pushed).messages_list
            }
        except DecodeError:
            nodes = set(self._sites)
        for node in nodes:
            self._sites.setdefault(node, _Asker()).wake()

    async def _poll(
        self,
        app: Any,
        scope: Any,
        body: bytes | None,
        receive: Any,
        send: Any,
        asker: _Asker,
        seconds: float,
        still: Callable[[], bool],
    ) -> None:
        if body is None:
            return
        if asker.empty_at == asker.pushed:
            self.held += 1
            if not await _wait(asker.woken, receive, seconds):
                return  # nobody is there any more: what Flower handed out now would be lost
            if not still():
                await Response(b'{"session":"forked"}', 409)(scope, receive, send)
                return
        before, size = asker.pushed, 0
        self.passed += 1

        async def counted(event: Any) -> None:
            nonlocal size
            size += len(event.get("body", b""))
            await send(event)

        await app(scope, _again(body, receive), counted)
        asker.empty_at = -1 if size else before


def _node_of(body: bytes) -> int:
    try:
        return int(PullMessagesRequest.FromString(body).node.node_id)
    except DecodeError:
        return 0


async def _whole(receive: Callable[[], Awaitable[Any]]) -> bytes | None:
    """Return a request's body; None where whoever asked is gone, or it is larger than any."""
    body: bytes = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += bytes(event.get("body", b""))
        if len(body) > _LARGEST_HEAD:
            return None
        if not event.get("more_body", False):
            return body


async def _wait(woken: asyncio.Event, receive: Callable[[], Awaitable[Any]], seconds: float) -> bool:
    """Wait until there may be something; return whether the asker still waits for it."""
    tasks = {asyncio.ensure_future(woken.wait()), asyncio.ensure_future(receive())}
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return not any(isinstance(task.result(), dict) for task in done)
    finally:
        for task in tasks:
            task.cancel()


def _again(body: bytes, receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Return what hands a body out that was read already."""
    given = False

    async def hand_out() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return hand_out
