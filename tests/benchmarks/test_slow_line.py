"""70 MB each way over a line of 2 Mbit/s that is cut every minute, against what the line carries in that time.

    python -m pytest -m benchmark -s tests/benchmarks/test_slow_line.py

Eleven minutes, nearly all of them waiting. ``MEGABYTES``, ``MBIT`` and ``CUT_EVERY`` (seconds) change the line,
``PIECE`` (bytes) what the coordinator sends at once.
"""

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
from client.network.sending import LARGEST_PIECE, piece_bytes, send_until_there
from ecgshared.wire.bytes import body_of, to_records

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

SIZE = int(float(os.environ.get("MEGABYTES", "70")) * 1e6)
RATE = float(os.environ.get("MBIT", "2")) * 1e6 / 8
CUT_EVERY = float(os.environ.get("CUT_EVERY", "60"))


def test_an_update_over_a_slow_line_that_is_cut(tmp_path, monkeypatch, capsys):
    import numpy as np

    monkeypatch.setattr(flower_array, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", LARGEST_PIECE)
    # As `piece_kb` of coordinator.yaml does: what is sent to the site is cut by the coordinator's processes.
    monkeypatch.setenv("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", os.environ.get("PIECE", str(piece_bytes(RATE))))
    coordinator = Coordinator(tmp_path / "coordinator")
    try:
        settings = join(coordinator, tmp_path / "site" / "site.yaml")
        node, run_id = coordinator.register(settings.network.key), coordinator.run()
        direct = FleetLink(settings.network)
        direct.activate(None)
        direct.close()
        weights = np.frombuffer(os.urandom(SIZE), np.uint8)
        sent = coordinator.ask(run_id, node, "ab" * 32, ttl=3000.0, weights=weights)
        with SlowLine(coordinator.port, RATE, cut_every=CUT_EVERY) as line:
            link = FleetLink(settings.network.model_copy(update={"coordinator": f"127.0.0.1:{line.port}"}))
            begun = time.monotonic()
            head, parts = _fetched(link, node)
            down = time.monotonic() - begun
            cut_into(piece_bytes(link.bytes_per_second))
            answer = os.urandom(SIZE)
            data, pieces = deflate(Message(to_records(answer), reply_to=inflate(head, dict(parts))))
            begun, cuts = time.monotonic(), line.cuts
            assert send_until_there(link, Head(data), pieces, 0.1, threading.Event())
            up = time.monotonic() - begun
            link.close()
        assert body_of(coordinator.answer(run_id, sent).content) == answer
    finally:
        coordinator.stop()
    least = SIZE / RATE
    with capsys.disabled():
        print(
            f"\n{SIZE / 1e6:.0f} MB at {RATE * 8e-6:g} Mbit/s, cut every {CUT_EVERY:g} s: the line allows {least:.0f} s"
        )
        print(f"down: {down:.0f} s, {down / least:.3f} x; {cuts} cuts; passed on {line.down / 1e6:.1f} MB")
        print(f"up:   {up:.0f} s, {up / least:.3f} x; {line.cuts - cuts} cuts; passed on {line.up / 1e6:.1f} MB")


def _fetched(link: FleetLink, node: int) -> tuple[Head, dict[str, bytes]]:
    parts: dict[str, bytes] = {}
    head = None
    while True:
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
            time.sleep(0.25)
