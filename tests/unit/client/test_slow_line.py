"""A slow line that is cut: what was moved stays moved, and the pieces are as small as the line needs them."""

from __future__ import annotations

import os
import threading
import time

import pytest
from flwr.app import Message
from flwr.app.message import array as flower_array
from site_network import Coordinator, join
from slow_line import SlowLine

from client.network.fleet import FleetLink
from client.network.fleet_failures import LinkError
from client.network.fleet_messages import Head, deflate, inflate
from client.network.flower_insides import cut_into
from client.network.sending import LARGEST_PIECE, SMALLEST_PIECE, piece_bytes, send_until_there
from ecgshared.wire.bytes import body_of, to_records

SIZE, RATE, CUT_EVERY, PIECE = 4_000_000, 2_000_000.0, 0.8, 200_000


@pytest.fixture
def coordinator(tmp_path):
    made = Coordinator(tmp_path / "coordinator")
    yield made
    made.stop()


@pytest.fixture
def pieces(monkeypatch):
    monkeypatch.setattr(flower_array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", PIECE)


def test_chunks_resume_where_they_stopped(coordinator, tmp_path, pieces):
    """Each way takes 2 s, and the line is cut after each 0.8 s: whole messages would never arrive."""
    settings = join(coordinator, tmp_path / "site" / "site.yaml")
    node, run_id = coordinator.register(settings.network.key), coordinator.run()
    direct = FleetLink(settings.network)
    direct.activate(None)
    direct.close()
    sent = coordinator.ask(run_id, node, "ab" * 32, ttl=120.0)
    answer = os.urandom(SIZE)
    with SlowLine(coordinator.port, RATE, cut_every=CUT_EVERY) as line:
        link = FleetLink(settings.network.model_copy(update={"coordinator": f"127.0.0.1:{line.port}"}))
        try:
            head, parts = _fetched(link, node)
            data, answer_parts = deflate(Message(to_records(answer), reply_to=inflate(head, dict(parts))))
            up, cuts = line.up, line.cuts
            assert send_until_there(link, Head(data), answer_parts, 0.1, threading.Event())
            assert line.cuts - cuts >= 2, "it was not cut"
            # Of each of two movers a piece is lost with a cut, at most.
            assert line.up - up < 1.1 * SIZE + (line.cuts - cuts + 1) * 2 * (PIECE + 100_000)
            assert link.bytes_per_second is None or link.bytes_per_second < 1.5 * RATE
        finally:
            link.close()
    assert body_of(coordinator.answer(run_id, sent).content) == answer


def _fetched(link: FleetLink, node: int) -> tuple[Head, dict[str, bytes]]:
    parts: dict[str, bytes] = {}
    head, end = None, time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if link.node_id is None:
                link.activate(node)
            if head is None:
                data = link.pull()
                head = None if data is None else Head(data)
                continue
            link.pull_objects(head, [name for name in head.object_ids if name not in parts], parts.__setitem__)
            return head, parts
        except LinkError:
            time.sleep(0.05)
    raise AssertionError("the question did not come")


def test_pieces_are_what_the_line_carries_in_two_seconds_within_limits():
    assert piece_bytes(None) == LARGEST_PIECE
    assert piece_bytes(1e9) == LARGEST_PIECE
    assert piece_bytes(250_000) == SMALLEST_PIECE
    assert piece_bytes(1_000_000) == 2_000_000


def test_flower_cuts_arrays_into_the_pieces_it_is_told(monkeypatch):
    monkeypatch.setattr(flower_array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1)
    cut_into(SMALLEST_PIECE)
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    _, parts = deflate(Message(to_records(os.urandom(SMALLEST_PIECE * 7 // 2)), 2, "query.ask"))
    assert SMALLEST_PIECE < max(map(len, parts.values())) < SMALLEST_PIECE + 1000
    assert len([content for content in parts.values() if len(content) > 1000]) == 4
