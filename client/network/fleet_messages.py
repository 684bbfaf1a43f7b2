"""Flower's messages as a site keeps them: a head, and parts named by the sha256 of their content.

Made and read with Flower's own functions, so that ids and trees are exactly its own (``start_client_internal``,
``run_clientapp``). A contract test holds them to that.
"""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any, Protocol

import numpy as np
from flwr.app import Message, RecordDict
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from client.network.flower_insides import (
    ObjectTree,
    PullMessagesResponse,
    get_all_nested_objects,
    get_object_body,
    get_object_head_values_from_object_content,
    get_object_tree,
    inflate_object_from_contents,
    iterate_object_tree,
    message_from_proto,
    message_to_proto,
    no_object_id_recompute,
    remove_content_from_message,
)
from ecgshared.wire.bytes import WireError

_WORD = re.compile(r"[A-Za-z0-9_.-]{0,80}(\+[a-z]{1,16})?")
"""The parts of a secure sum follow a phase after a plus."""


class Objects(Protocol):
    """Where the parts of a message lie, by the sha256 of their content."""

    def __getitem__(self, object_id: str) -> bytes: ...


class Head:
    """A message without its content: whose it is, what it answers, and the names of its parts."""

    def __init__(self, data: bytes) -> None:
        try:
            self.proto = PullMessagesResponse.FromString(data)
        except DecodeError:
            # As a damaged disk may leave it in the inbox: it is dropped there, and asked again.
            raise WireError("not a message") from None
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

    Where the run goes on under an amendment, that too.
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
        named = ("study_hash", "run", "step", "phase", *(["amendment"] if "amendment" in request else []))
        words = {key: request[key] for key in named}
        # They are shown on a terminal and written to logs: no control characters, no sentences.
        if not all(_WORD.fullmatch(word) for word in words.values()) or type(request["round"]) is not int:
            raise ValueError
        return {**words, "round": request["round"]}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, UnicodeDecodeError):
        raise WireError("not a request") from None


def _children(objects: Objects, object_id: str) -> list[str]:
    return list(get_object_head_values_from_object_content(objects[object_id])[1])


def _body(content: bytes) -> bytes:
    return content.partition(b"\x00")[2]
