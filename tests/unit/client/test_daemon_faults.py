"""What befalls a site's way out: names that are not found, clocks that are wrong, idle connections that are dropped."""

from __future__ import annotations

import datetime
import errno
import os
import socket
import threading
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supernode import node_auth_http_interceptor
from site_network import Coordinator, approve_all, join
from slow_line import SlowLine

from client.network import answering, daemon, worker
from client.network.answering import Answering
from client.network.daemon import Daemon
from client.network.fleet import FleetLink
from client.network.fleet_failures import NotAdmitted, Unreachable
from client.network.journal import Journal
from client.network.status import describe
from client.network.worker import Worker
from ecgshared.errors import RefusalCode, Refused


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.stop()


@pytest.fixture
def network(coordinator, tmp_path):
    settings = join(coordinator, tmp_path / "site" / "site.yaml")
    coordinator.register(settings.network.key)
    return settings.network


def test_a_name_that_is_not_found_for_a_while_is_said_and_found_again(network, monkeypatch):
    real, lost = socket.getaddrinfo, [True]

    def getaddrinfo(host, *arguments, **options):
        if lost[0]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with closing(FleetLink(network)) as link:
        for _ in range(3):
            with pytest.raises(Unreachable, match="the coordinator's name is not found"):
                link.activate(None)
        lost[0] = False
        assert link.activate(None)


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_is_ten_minutes_wrong_is_told_and_mended(network, monkeypatch, minutes):
    """Flower signs the time: beyond five minutes the coordinator refuses what was signed."""
    real, wrong = node_auth_http_interceptor.now, [datetime.timedelta(minutes=minutes)]
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: real() + wrong[0])
    with closing(FleetLink(network)) as link:
        with pytest.raises(NotAdmitted, match="the clocks differ by minutes"):
            link.activate(None)
        # Every answer tells the coordinator's time: an operator reads the difference, not a riddle.
        assert link.skew_seconds is not None
        wrong[0] = datetime.timedelta(0)
        assert link.activate(None)
    assert any("CLOCK: +600 s" in line for line in describe(1, {"clock_skew_seconds": 600}))


def test_connections_that_a_proxy_dropped_while_they_were_idle_are_made_anew(network, coordinator):
    with SlowLine(coordinator.port, 1e7, silent_after=0.4) as line:
        through = network.model_copy(update={"coordinator": f"127.0.0.1:{line.port}"})
        with closing(FleetLink(through)) as link:
            link.activate(None)
            for _ in range(3):
                time.sleep(0.8)
                link.heartbeat()
                assert link.pull() is None


def test_what_the_worker_prints_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_LOG_BYTES", 1000)
    log = tmp_path / "network" / "worker.log"
    log.parent.mkdir()
    made = Worker(tmp_path / "site.yaml", tmp_path, None)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "wb", buffering=0) as printing:
        for number in range(100):
            printing.write(b"%099d\n" % number)
            made._shorten_log()
            assert log.stat().st_size <= 1000
    assert log.with_name("worker.log.1").stat().st_size <= 1000
    assert b"%099d" % 99 in log.read_bytes() + log.with_name("worker.log.1").read_bytes()


def test_code_that_was_changed_under_a_living_daemon_is_not_started(coordinator, tmp_path, monkeypatch):
    """An upgrade in the middle of a run: what runs goes on; a worker that is to be started anew waits for people."""
    settings = join(coordinator, tmp_path / "site" / "site.yaml")
    approve_all(settings)
    watch = SimpleNamespace(require=lambda: settings)
    nobody: Any = None
    made = Answering(
        tmp_path / "site" / "site.yaml", settings, "", watch, nobody, nobody, nobody, nobody, threading.Event()
    )  # type: ignore[arg-type]
    monkeypatch.setattr(answering, "code_sha256", lambda: "0" * 64)
    with pytest.raises(Refused) as refused:
        made._start_worker()
    assert refused.value.code is RefusalCode.CODE_NOT_APPROVED
    assert made._worker.pid is None


def test_a_state_that_cannot_be_written_answers_nothing_and_says_why(coordinator, tmp_path, monkeypatch):
    file = tmp_path / "site" / "site.yaml"
    settings = join(coordinator, file)
    coordinator.register(settings.network.key)
    journal = Journal(settings.link_state)
    made = Daemon(file, settings, journal, "1")
    real = daemon.next_session

    def read_only(state):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(state))

    monkeypatch.setattr(daemon, "next_session", read_only)
    try:
        with pytest.raises(Unreachable, match=r"the state cannot be written \(Read-only file system\)"):
            made._connect()
        assert made._link.node_id is None
        monkeypatch.setattr(daemon, "next_session", real)
        made._connect()
        assert made._link.node_id is not None
    finally:
        made._link.deactivate()
        made._link.close()
        journal.close()
