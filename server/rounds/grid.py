"""Replies as the coordinator takes them from Flower's grid: without waiting for any, within a size, and not on trust.

Flower's own grid waits for the parts of a reply, one reply after the other, so that a site which hangs while it sends
would make all others late; it takes a reply of any size; and it ends the run where a site sends what is no message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, Error, Message, Metadata
from flwr.serverapp import Grid

from server.rounds.flower_insides import (
    ConfirmMessageReceivedRequest,
    ErrorCode,
    HttpGrid,
    ObjectPullError,
    ObjectUnavailableError,
    PullAppMessagesRequest,
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
    inflate_object_from_contents,
    iterate_object_tree,
    make_message,
    make_pull_object_fn_protobuf,
)

_TOO_LARGE, _NO_MESSAGE, _GONE = "too-large", "no-message", "gone"
_MIB = 2**20
_SMALL_PARTS_BYTES = _MIB
"""Room for what is no array: the parts that name and describe it."""
_MOVERS = 4
_GIVEN_UP_SECONDS = 60.0
_OF_CONTENT = (ValueError, TypeError, LookupError, AttributeError, RecursionError, AssertionError)
"""What Flower raises where parts cannot be put together; a broken connection is another thing."""


def tune(grid: Grid, max_reply_mb: int) -> None:
    """Have ``grid`` hand out a reply once all its parts are there, if it is one and of at most ``max_reply_mb``.

    What is not comes back as an error that :func:`fault_of` names. Either way the SuperLink, which holds replies in its
    memory, is told to drop it.
    """
    if isinstance(grid, HttpGrid):
        grid.pull_messages = _Replies(grid, max_reply_mb * _MIB + _SMALL_PARTS_BYTES).pull  # type: ignore[method-assign]


def fault_of(error: Error) -> str | None:
    """Return why a reply was not taken: "too-large" or "no-message"; None for an error of Flower's or a site's."""
    ours = error.code == ErrorCode.MESSAGE_UNAVAILABLE and error.reason in (_TOO_LARGE, _NO_MESSAGE)
    return error.reason if ours else None


@dataclass
class _Arriving:
    """A reply whose parts are on the way."""

    head: Any
    wanted: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    asked_for: float = field(default_factory=time.monotonic)

    @property
    def missing(self) -> list[str]:
        return [name for name in self.wanted if name not in self.contents]


class _TooLarge(Exception):
    pass


class _Replies:
    def __init__(self, grid: HttpGrid, max_bytes: int) -> None:
        self._grid, self._max_bytes = grid, max_bytes
        self._arriving: dict[str, _Arriving] = {}
        self._movers = ThreadPoolExecutor(_MOVERS, thread_name_prefix="replies")

    def pull(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to ``message_ids`` that are complete; the parts of others are fetched as they come."""
        asked = list(message_ids)
        self._forget_given_up(asked)
        open_ids = [name for name in asked if name not in self._arriving]
        if open_ids:
            found = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=open_ids))
            for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                names = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
                self._arriving[head.metadata.reply_to_message_id] = _Arriving(head, names)
        complete = []
        for asked_id in asked:
            reply = self._arriving.get(asked_id)
            message = None if reply is None else self._take(reply)
            if reply is not None and message is not None:
                del self._arriving[asked_id]
                self._drop(reply)
                complete.append(message)
        return complete

    def _forget_given_up(self, asked: list[str]) -> None:
        now = time.monotonic()
        for asked_id, reply in list(self._arriving.items()):
            if asked_id in asked:
                reply.asked_for = now
            elif now - reply.asked_for > _GIVEN_UP_SECONDS:
                self._drop(self._arriving.pop(asked_id))

    def _take(self, reply: _Arriving) -> Message | None:
        """Return a reply or what is wrong with it; None while parts are missing."""
        try:
            self._fetch(reply)
            if reply.missing:
                return None
            self._check_size(_unfolded(reply.contents))
            return _assembled(reply)
        except _TooLarge:
            return _refused(reply, _TOO_LARGE)
        except ObjectPullError:
            return _refused(reply, _GONE)  # it was not sent to its end in time
        except _OF_CONTENT:
            # Whatever a site sends must not end the run of the others.
            return _refused(reply, _NO_MESSAGE)

    def _fetch(self, reply: _Arriving) -> None:
        pull = make_pull_object_fn_protobuf(
            self._grid._runtime_client.PullObject, self._grid.node, self._grid.run.run_id
        )

        def fetch(name: str) -> bytes | None:
            try:
                return pull(name)
            except ObjectUnavailableError:
                return None

        # A site sends its parts in some order: where one of a few is missing, more are not asked for now.
        missing = reply.missing
        for start in range(0, len(missing), _MOVERS):
            names = missing[start : start + _MOVERS]
            got = dict(zip(names, self._movers.map(fetch, names), strict=True))
            reply.contents |= {name: content for name, content in got.items() if content is not None}
            self._check_size(sum(map(len, reply.contents.values())))
            if None in got.values():
                return

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise _TooLarge

    def _drop(self, reply: _Arriving) -> None:
        self._grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node,
                run_id=self._grid.run.run_id,
                message_object_id=reply.head.metadata.message_id,
            )
        )


def _unfolded(contents: dict[str, bytes]) -> int:
    """Return the bytes of all arrays put together: one piece may stand in an array any number of times."""
    size = 0
    for content in contents.values():
        if get_object_type_from_object_content(content) == Array.__name__:
            pieces = get_object_children_ids_from_object_content(content)
            size += sum(len(contents[pieces[i]]) for i in json.loads(get_object_body(content, Array))["arraychunk_ids"])
    return size


def _assembled(reply: _Arriving) -> Message:
    asked = reply.head.metadata.reply_to_message_id
    message = inflate_object_from_contents(reply.head.metadata.message_id, reply.contents)
    if not isinstance(message, Message) or message.metadata.reply_to_message_id != asked:
        raise ValueError("not the reply it was announced as")
    # The id is no part of the content it is the hash of.
    message.metadata.__dict__["_message_id"] = reply.head.metadata.message_id
    return message


def _refused(reply: _Arriving, reason: str) -> Message:
    told = reply.head.metadata
    metadata = Metadata(
        run_id=told.run_id,
        message_id="",
        src_node_id=told.src_node_id,
        dst_node_id=told.dst_node_id,
        reply_to_message_id=told.reply_to_message_id,
        group_id=told.group_id,
        created_at=told.created_at,
        ttl=told.ttl,
        message_type=told.message_type,
    )
    return make_message(metadata, error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=reason))
