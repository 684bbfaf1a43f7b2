"""A site's daemon on a bad way to the coordinator: a proxy, a partition, restarts, a full disk, a large message."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from site_network import AskedSite, Coordinator

from ecgshared.errors import RefusalCode
from ecgshared.health import is_serving


class ConnectProxy:
    """A tiny HTTP proxy that knows CONNECT alone; ``refusing`` cuts everything, as a partition does."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refusing = False
        self._pairs: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections and accept no more."""
        self.refusing = True
        for end in self._pairs:
            _end(end)

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            line = request.split(b"\r\n")[0].decode()
            self.asked.append(line)
            host, port = line.split()[1].split(":")
            try:
                remote = socket.create_connection((host, int(port)))
            except OSError:
                client.sendall(b"HTTP/1.1 502 nobody there\r\n\r\n")
                client.close()
                continue
            client.sendall(b"HTTP/1.1 200 ok\r\n\r\n")
            self._pairs += [client, remote]
            for a, b in ((client, remote), (remote, client)):
                threading.Thread(target=_pipe, args=(a, b), daemon=True).start()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        _end(end)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[ConnectProxy]:
    made = ConnectProxy()
    yield made
    made.close()


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(hospitals, tmp_path_factory, coordinator, proxy) -> Iterator[AskedSite]:
    address = f"http://127.0.0.1:{proxy.port}"
    proxied = {"HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": ""}
    made = AskedSite(hospitals, tmp_path_factory.mktemp("site"), coordinator, ports=True, **proxied)
    made.start()
    yield made
    assert made.daemon.end() == 0


def test_everything_goes_through_the_proxy_of_the_environment(site, proxy, coordinator):
    assert site.counts(coordinator.run(), 0)
    assert proxy.asked
    assert set(proxy.asked) == {f"CONNECT 127.0.0.1:{coordinator.port} HTTP/1.1"}


def test_health_and_metrics_are_served_on_loopback(site, coordinator):
    site.wait(lambda: is_serving(site.settings.network.health_port))

    def metrics() -> str:
        return httpx.get(f"http://127.0.0.1:{site.settings.network.metrics_port}/metrics", trust_env=False).text

    def answered() -> float:
        found = re.search(r'ecgfed_site_answer_seconds_count{phase="counts",stage="describe"} (\S+)', metrics())
        return float(found[1]) if found else 0.0

    before = answered()
    assert site.counts(coordinator.run(), 72)
    site.wait(lambda: answered() == before + 1)
    site.wait(lambda: "ecgfed_site_connected 1.0" in metrics())


def test_a_partition_is_told_and_an_answer_waits_for_its_end(site, proxy, coordinator):
    run_id = coordinator.run()
    os.kill(site.worker(), signal.SIGSTOP)
    message = site.ask(run_id, 1)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 1)
    proxy.cut()
    os.kill(site.worker(), signal.SIGCONT)
    site.wait(lambda: site.status.get("connected_since") is None)
    site.wait(lambda: not is_serving(site.settings.network.health_port))
    assert "proxy" in site.status["last_error"] or "cut" in site.status["last_error"]
    assert len(site.inbox()) == 1
    assert coordinator.peek(run_id, message) is None
    proxy.refusing = False
    assert coordinator.answer(run_id, message).has_content()
    site.wait(lambda: not site.inbox())
    site.wait(lambda: site.status.get("last_error") is None)


def test_a_restarted_coordinator_is_found_again(site, coordinator):
    old = coordinator.run()
    os.kill(site.worker(), signal.SIGSTOP)
    site.ask(old, 2)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 2)
    coordinator.stop()
    os.kill(site.worker(), signal.SIGCONT)
    site.wait(lambda: site.status.get("connected_since") is None)
    coordinator.start()
    site.wait(lambda: "not registered" in (site.status.get("last_error") or ""))
    site.node = coordinator.register(site.settings.network.key)
    site.wait(lambda: site.status.get("node_id") == site.node)
    # The answer of the lost run is dropped; asked in a new run of the same name, it is the same bytes.
    site.wait(lambda: not site.inbox())
    assert site.counts(coordinator.run(), 2)


def test_a_large_message_passes_and_costs_the_daemon_little(site, coordinator):
    run_id = coordinator.run()
    before = _peak_mb(site.daemon.process.pid)
    weights = np.random.default_rng(0).random(9_000_000)  # 72 MB
    assert site.coordinator.answer(run_id, site.ask(run_id, 3, weights=weights), 60).has_content()
    assert _peak_mb(site.daemon.process.pid) - before < 72


def test_a_full_disk_refuses_without_a_promise(site, coordinator, tmp_path):
    import resource

    pid, run_id = site.daemon.process.pid, coordinator.run()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    try:
        assert site.refusal(run_id, 4, weights=np.random.default_rng(1).random(500_000)) is RefusalCode.DATA_UNAVAILABLE
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    site.wait(lambda: not site.inbox())
    assert "the inbox cannot be written" in site.log.read_text()
    assert site.counts(run_id, 5)


def test_a_question_nobody_waits_for_is_dropped(site, coordinator):
    run_id = coordinator.run()
    os.kill(site.worker(), signal.SIGSTOP)
    first = site.ask(run_id, 6)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 6)
    coordinator.ask(run_id, site.node, site.study.sha256, step="cohorts", phase="counts", round=7, ttl=2.0)
    site.wait(lambda: len(site.inbox()) == 2)
    time.sleep(2.0)
    os.kill(site.worker(), signal.SIGCONT)
    assert coordinator.answer(run_id, first).has_content()
    site.wait(lambda: not site.inbox())
    assert "nobody waits for the answer any more" in site.log.read_text()


def _peak_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
