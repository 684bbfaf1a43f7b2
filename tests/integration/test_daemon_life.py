"""A site's daemon as a process, against Flower's SuperLink over TLS: what it answers, refuses and survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_network import AskedSite, Coordinator

from client.approval import register as approvals
from client.network.status import pause, running_pid
from ecgshared.errors import RefusalCode
from ecgshared.service.fingerprint import code_sha256
from ecgshared.wire.bytes import body_of, refusal_of


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(hospitals, tmp_path_factory, coordinator) -> Iterator[AskedSite]:
    made = AskedSite(hospitals, tmp_path_factory.mktemp("site"), coordinator)
    made.start()
    yield made
    assert made.daemon.end() == 0


@pytest.fixture(scope="module")
def run_id(coordinator) -> int:
    return coordinator.run()


def test_it_says_hello_and_gives_the_same_bytes_to_the_same_question(site, run_id):
    hello = site.coordinator.answer(run_id, site.ask(run_id, 0, kind="query.hello"))
    assert dict(hello.content.config_records["hello"]) == {
        "site": "north", "study": site.study.sha256, "version": hello.content.config_records["hello"]["version"],
    }  # fmt: skip
    log = site.settings.state / "releases.jsonl"
    before = len(log.read_text().splitlines()) if log.exists() else 0
    run_id = site.coordinator.run()
    first = site.counts(run_id, 71)
    assert len(first) > 1000
    time.sleep(0.01)
    assert site.counts(run_id, 71) == first
    lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    assert [line["replayed"] for line in lines] == [False, True]
    assert len({line["sha256"] for line in lines}) == 1
    site.wait(lambda: not site.inbox())


def test_it_listens_on_no_port_and_loads_no_torch(site):
    assert running_pid(site.settings.state) == site.daemon.process.pid
    for pid in (site.daemon.process.pid, site.worker()):
        assert _listening(pid) == []
    assert "torch" not in Path(f"/proc/{site.daemon.process.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{site.worker()}/maps").read_text()


def test_the_worker_has_no_network_where_the_machine_lets_it(site):
    daemon, worker = (Path(f"/proc/{pid}/ns/net").readlink() for pid in (site.daemon.process.pid, site.worker()))
    assert (daemon != worker) == (site.status["worker_has_network"] is False)
    may = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    assert (daemon != worker) == may
    if may:
        links = Path(f"/proc/{site.worker()}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in links] == ["lo"]


def test_the_worker_inherits_neither_lock_nor_sockets(site):
    names = [str(link.readlink()) for link in Path(f"/proc/{site.worker()}/fd").iterdir()]
    assert not [name for name in names if "daemon.lock" in name or name.startswith("socket:")]


def test_a_paused_site_refuses_and_stays_connected(site, run_id):
    pause(site.settings.state, True)
    assert site.refusal(run_id, 1) is RefusalCode.PAUSED
    assert site.coordinator.answer(run_id, site.ask(run_id, 1, kind="query.hello")).content.config_records["hello"]
    assert site.status["connected_since"]
    pause(site.settings.state, False)
    assert site.counts(run_id, 1)


@pytest.mark.parametrize("kind", ["study", "code", "envelope"])
def test_what_is_withdrawn_is_refused_at_once(site, kind):
    run_id = site.coordinator.run()
    sha256 = {"study": site.study.sha256, "code": code_sha256(), "envelope": site.settings.network.envelope}[kind]
    approvals.record(site.settings.state, kind, sha256, "test", withdrawn=True)
    assert site.refusal(run_id, 2) is RefusalCode(f"{kind}-not-approved")
    approvals.record(site.settings.state, kind, sha256, "test")
    assert site.counts(run_id, 2)


def test_overrides_and_a_modified_envelope_are_refused(site):
    overriding = site.coordinator.run(overrides={"out": "elsewhere"})
    assert site.refusal(overriding, 3) is RefusalCode.OVERRIDES
    modified = site.coordinator.fab + b"\0"
    assert site.refusal(site.coordinator.run(fab=modified), 3) is RefusalCode.ENVELOPE_NOT_APPROVED
    disguised = site.coordinator.run(fab=modified, fab_hash=site.settings.network.envelope)
    assert site.refusal(disguised, 3) is RefusalCode.ENVELOPE_NOT_APPROVED
    assert site.counts(site.coordinator.run(), 3)


def test_an_unknown_step_and_an_unknown_kind_are_refused(site, run_id):
    message = site.coordinator.ask(run_id, site.node, site.study.sha256, step="nowhere")
    assert refusal_of(site.coordinator.answer(run_id, message).content) == ("north", RefusalCode.UNKNOWN_STEP)
    assert site.refusal(run_id, 4, kind="train") is RefusalCode.BAD_REQUEST


def test_a_worker_that_dies_is_started_again_and_asked_once_more(site, run_id):
    first = site.worker()
    os.kill(first, signal.SIGSTOP)
    message = site.ask(run_id, 5)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 5)
    os.kill(first, signal.SIGKILL)
    assert body_of(site.coordinator.answer(run_id, message).content)
    assert site.worker() != first
    assert "the worker ended (status -9)" in site.log.read_text()


def test_a_worker_that_dies_twice_is_a_refusal_and_the_next_question_finds_a_new_one(site, run_id):
    first = site.worker()
    os.kill(first, signal.SIGSTOP)
    message = site.ask(run_id, 8)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 8)
    os.kill(first, signal.SIGKILL)
    second = site.wait(lambda: _children(site.daemon.process.pid) - {first}).pop()
    os.kill(second, signal.SIGKILL)
    reply = site.coordinator.answer(run_id, message)
    assert refusal_of(reply.content) == ("north", RefusalCode.WORKER_LOST)
    assert site.counts(run_id, 8)


def test_a_daemon_killed_in_the_middle_answers_after_its_restart(site, run_id):
    worker = site.worker()
    os.kill(worker, signal.SIGSTOP)
    message = site.ask(run_id, 6)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 6)
    os.kill(site.daemon.process.pid, signal.SIGKILL)
    site.daemon.process.wait()
    assert len(site.inbox()) == 1
    site.wait(lambda: not Path(f"/proc/{worker}").exists() or _state(worker) == "Z")
    assert running_pid(site.settings.state) is None
    site.restart()
    assert body_of(site.coordinator.answer(run_id, message).content)
    site.wait(lambda: not site.inbox())
    # Same node: the coordinator still counted it as connected.
    assert site.status["node_id"] == site.node


def test_a_second_daemon_of_the_same_site_is_refused(site):
    command = [sys.executable, "-m", "ecgshared", "site", "start", str(site.file)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 2
    assert "another daemon of this site is running" in second.stderr
    assert "Traceback" not in second.stderr


def test_sigterm_ends_it_cleanly_and_says_goodbye(site, run_id):
    os.kill(site.worker(), signal.SIGSTOP)
    message = site.ask(run_id, 7)
    site.wait(lambda: (site.status.get("work") or {}).get("round") == 7)
    started = time.monotonic()
    assert site.daemon.end() == 0
    assert time.monotonic() - started < 20
    assert site.coordinator.link.node_status(site.node) == "offline"
    assert site.status["stopped"]
    assert len(site.inbox()) == 1
    site.restart()
    assert body_of(site.coordinator.answer(run_id, message).content)


def _listening(pid: int) -> list[str]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()))
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in inodes:
                found.append(cells[1])
    return found


def _children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
