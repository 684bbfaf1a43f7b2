"""The coordinator's commands against a supervisor that is up, down, dead, somebody else's or not ready."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from proxied import free_port, request_of

from ecgshared.errors import ConfigError, RunError
from server.coordinator import background, proxy
from server.coordinator.home import Home
from server.rounds.run_folder import RunFolder


@pytest.fixture
def home(tmp_path):
    port = free_port()
    made = Home.create(
        tmp_path / "home", address=f"127.0.0.1:{port}", listen=f"127.0.0.1:{port}", name="test",
        superlink_port=free_port(),
    )  # fmt: skip
    for site in ("north", "coast"):
        made.invite(site)
        made.admit(request_of(tmp_path, site)[0])
    return made


@contextmanager
def supervised(home: Home):
    """What holds the lock is a supervisor, to all others."""
    with (home.path / ".supervisor.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def study(tmp_path):
    content = {
        "name": "tiny", "sites": {"train": ["north", "coast"]}, "steps": [{"id": "s", "stage": "describe"}],
        "endpoints": {"male": {"kind": "binary", "column": "male"}},
    }  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def status(home: Home, run: str) -> str:
    return json.loads((home.path / "runs" / run / "run.json").read_text())["status"]


def put(home: Home, run: str, study: Path, value: str) -> Path:
    folder = home.path / "runs" / run
    RunFolder.create(folder, study, backend="flower", status=value).close()
    return folder


def test_up_is_who_holds_the_lock(home):
    assert not background.is_up(home)
    (home.path / "status.json").write_text(json.dumps({"pid": os.getpid(), "serving": True}))
    assert not background.is_up(home), "a status of an earlier life says nothing"
    with supervised(home):
        assert background.is_up(home)
    assert not background.is_up(home)


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_no_status(home, content):
    if content is not None:
        (home.path / "status.json").write_text(content)
    assert background.read_status(home) == {}


def test_a_run_is_queued_for_the_supervisor(home, study):
    with supervised(home):
        name = background.queue_run(home, study, None)
        assert name.startswith("tiny-2")
        assert status(home, name) == "queued"
        assert (home.path / "runs" / name / "study.yaml").read_bytes() == study.read_bytes()
        background.queue_run(home, study, "second")
        with pytest.raises(RunError, match=r"there is a run second already[\s\S]*resume second"):
            background.queue_run(home, study, "second")


def test_nobody_is_there_to_run_it(home, study):
    with pytest.raises(RunError, match=r"is not up[\s\S]*up --detach"):
        background.queue_run(home, study, "never")
    assert not (home.path / "runs" / "never").exists()


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "-rf", "a b", "x" * 61, "a\n"])
def test_a_name_that_no_run_can_have(home, study, name):
    with supervised(home):
        if name == "":
            assert background.queue_run(home, study, name).startswith("tiny-"), "none was given"
            return
        with pytest.raises(ConfigError, match="cannot be a run's name"):
            background.queue_run(home, study, name)
    assert not (home.path / "run.json").exists()


def test_a_study_of_strangers(home, study):
    home.revoke("coast")
    with supervised(home), pytest.raises(ConfigError, match=r"not admitted[\s\S]*'coast'[\s\S]*allowed: north"):
        background.queue_run(home, study, "never")


@pytest.mark.parametrize("ended", ["done", "stopped", "failed", "paused"])
def test_a_run_that_does_not_go_on_is_not_stopped(home, study, ended):
    put(home, "r", study, ended)
    assert f"is {ended}: there is nothing to stop" in background.stop_run(home, "r")


def test_a_run_that_nobody_works_on_is_stopped_here_and_now(home, study):
    put(home, "r", study, "interrupted")
    assert "resume r" in background.stop_run(home, "r")
    assert status(home, "r") == "stopped"


def test_a_run_at_work_is_asked_to_stop(home, study):
    folder = put(home, "r", study, "running")

    def at_work() -> None:
        run = RunFolder.reopen(folder)
        try:
            while not run.stop_asked():
                time.sleep(0.01)
            run.update(status="stopped", stopped_by="the coordinator stopped the run")
        finally:
            run.close()

    thread = threading.Thread(target=at_work)
    thread.start()
    with supervised(home):
        assert "is stopped" in background.stop_run(home, "r")
    thread.join()


def test_a_run_that_does_not_stop_is_told(home, study, monkeypatch):
    monkeypatch.setattr(background, "_DOWN_SECONDS", 0.3)
    put(home, "r", study, "running")
    with supervised(home), pytest.raises(RunError, match=r"does not end[\s\S]*coordinator down"):
        background.stop_run(home, "r")


def test_a_stopped_run_is_resumed(home, study):
    folder = put(home, "r", study, "stopped")
    (folder / "stop").touch()
    with pytest.raises(RunError, match="is not up"):
        background.resume_run(home, "r")
    assert (folder / "stop").exists(), "nothing was begun"
    with supervised(home):
        background.resume_run(home, "r")
        background.resume_run(home, "r")
    assert status(home, "r") == "queued"
    assert not (folder / "stop").exists()


def test_a_run_that_is_done_stays_done(home, study):
    put(home, "r", study, "done")
    with supervised(home), pytest.raises(RunError, match=r"is done[\s\S]*coordinator report r"):
        background.resume_run(home, "r")


def test_a_changed_study_is_not_resumed(home, study):
    folder = put(home, "r", study, "paused")
    (folder / "study.yaml").write_text(study.read_text().replace("tiny", "tinier"))
    with supervised(home), pytest.raises(RunError, match="was changed since the run began"):
        background.resume_run(home, "r")
    assert status(home, "r") == "paused"


def test_what_is_said_of_a_coordinator_that_is_down(home, study):
    put(home, "first", study, "interrupted")
    (put(home, "second", study, "done") / "run.json").write_text("{")
    home.invite("valley")
    (home.path / "status.json").write_text(json.dumps({"sites": {"north": "online"}, "processes": {"proxy": {}}}))
    content, lines = background.describe(home)
    assert content["up"] is False
    assert lines[0] == f"coordinator test, {home.config.address}: DOWN"
    words = [" ".join(line.split()) for line in lines]
    assert f"site north admitted unknown {home.sites['north'].not_after}" in words, "the old status is not believed"
    assert "site valley invited unknown" in words
    assert "run first interrupted" in words
    assert "run second damaged: run.json cannot be read" in words


def test_what_is_said_of_one_that_is_up(home):
    found = {
        "sites": {"north": "online"},
        "processes": {"proxy": {"pid": 12, "restarts": 0}, "superlink": {"pid": None, "restarts": 3}},
    }
    (home.path / "status.json").write_text(json.dumps(found))
    with supervised(home):
        content, lines = background.describe(home)
    words = [" ".join(line.split()) for line in lines]
    assert content["sites"]["north"]["connection"] == "online"
    assert "proxy pid 12" in words
    assert "superlink NOT RUNNING, started again 3 times" in words
    assert json.dumps(content)


def test_certificates_that_end_are_told_in_time(home):
    tls = home.path / "tls"
    home.authority.serve(tls / "server.key", tls / "server.crt", ["127.0.0.1"], days=10)
    home.authority.serve(tls / "loopback.key", tls / "loopback.crt", ["127.0.0.1"], days=-1)
    _, lines = background.describe(home)
    assert "the certificate of the server ends in 10 days; ecgfed coordinator renew" in lines
    assert "the certificate of the loopback HAS EXPIRED; ecgfed coordinator renew" in lines
    assert not any("authority" in line for line in lines)


def test_down_where_nothing_is_up(home):
    (home.path / "status.json").write_text(json.dumps({"pid": os.getpid()}))
    assert background.stop(home) is False


def test_the_process_of_an_earlier_life_is_left_alone(home):
    """A killed supervisor's number may be any other process by now."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        try:
            (home.path / "status.json").write_text(json.dumps({"pid": other.pid}))
            with supervised(home), pytest.raises(RunError, match="has written no status yet"):
                background.stop(home)
            time.sleep(0.1)
            assert other.poll() is None
        finally:
            other.kill()


def test_a_supervisor_that_does_not_end_is_told(home, monkeypatch):
    monkeypatch.setattr(background, "_DOWN_SECONDS", 0.3)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    words = [sys.executable, "-c", script, "coordinator", "up"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as deaf:
        try:
            assert deaf.stdout is not None
            deaf.stdout.readline()
            (home.path / "status.json").write_text(json.dumps({"pid": deaf.pid}))
            with supervised(home), pytest.raises(RunError, match=rf"does not end[\s\S]*kill -9 {deaf.pid}"):
                background.stop(home)
        finally:
            deaf.kill()


def test_up_twice(home):
    with supervised(home), pytest.raises(RunError, match=r"up already[\s\S]*status"):
        background.start(home)


def test_why_it_did_not_come_up_is_told(home):
    file = home.path / "coordinator.yaml"
    file.write_text(file.read_text().replace("nginx: null", "nginx: /nowhere/nginx"))
    with pytest.raises(RunError, match=r"did not come up[\s\S]*no nginx here[\s\S]*/nowhere/nginx"):
        background.start(Home(home.path))
    assert not background.is_up(home)


@pytest.mark.skipif(proxy.find_nginx(None) is None, reason="nginx is not installed")
def test_a_taken_port_is_told(home):
    with socket.socket() as taken:
        host, port = home.config.listen.split(":")
        taken.bind((host, int(port)))
        taken.listen()
        try:
            with pytest.raises(RunError, match=r"did not come up[\s\S]*cannot listen on[\s\S]*ss -ltnp"):
                background.start(home)
        finally:
            background.stop(home)


def test_a_taken_port_of_the_superlink_is_told(home):
    """Two coordinators on one machine have the same by default."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.config.superlink_port))
        taken.listen()
        try:
            with pytest.raises(RunError, match=r"did not come up[\s\S]*superlink_port: cannot listen on"):
                background.start(home)
        finally:
            background.stop(home)
