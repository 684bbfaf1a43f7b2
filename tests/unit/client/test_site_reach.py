"""What the operator sees: checks of the network stage by stage, the status of the daemon, and what has left."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
import yaml
from hospital import make_hospital
from site_network import Coordinator, approve_all, free_port, join
from typer.testing import CliRunner

from client.approval import register as approvals
from client.network.fleet import FleetLink
from client.network.fleet_failures import (
    CertificateRefused,
    NotAdmitted,
    RunOver,
    Unreachable,
    answer_failure,
    clock_skew,
)
from client.network.journal import Journal
from client.network.reach import check_network
from client.network.session import last_token, next_session, note_shown
from client.network.status import DaemonLock, StatusFile, describe, is_paused, read_status, running_pid, stop_daemon
from client.operator.cli import app
from client.operator.releases import as_table, read_releases
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import RunError
from ecgshared.service.fingerprint import code_sha256


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    made = Coordinator(tmp_path_factory.mktemp("coordinator"))
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path, coordinator) -> tuple[Path, SiteSettings]:
    rows = [{"file": f"r{i}", "patient_id": f"p{i}", "age": "60", "sex": "m"} for i in range(3)]
    make_hospital(tmp_path / "north", rows)
    site_file = tmp_path / "north" / "site.yaml"
    settings = join(coordinator, site_file)
    approve_all(settings)
    return site_file, settings


def test_all_is_well_on_the_network(site, coordinator):
    site_file, settings = site
    done = CliRunner().invoke(app, ["check", str(site_file)])
    assert done.exit_code == 0, done.output
    for said in ("certificate: valid until", "approved code", "approved envelope", "MiB free", "proxy: none",
                 "TCP: the coordinator answers", "TLS and certificate accepted", "clock: "):  # fmt: skip
        assert said in done.output, said
    coordinator.register(settings.network.key)
    link = FleetLink(settings.network)
    (settings.state / "network").mkdir(exist_ok=True)
    (settings.state / "network" / "node.json").write_text(json.dumps({"node_id": link.activate(None)}))
    link.close()
    assert "this site is known" in CliRunner().invoke(app, ["check", str(site_file)]).output


def test_beside_a_running_daemon_it_asks_in_that_daemons_session(site, monkeypatch):
    """Else the coordinator takes the check for a copy of the site's state."""
    site_file, settings = site
    session = note_shown(settings.link_state, next_session(settings.link_state))
    sent: list[str] = []
    monkeypatch.setattr(FleetLink, "run", lambda link, run_id: sent.append(link.session))
    assert CliRunner().invoke(app, ["check", str(site_file)]).exit_code == 0
    assert sent == [session.token]
    assert last_token(settings.link_state) == session.token


def changed(site_file: Path, **network: object) -> SiteSettings:
    data = yaml.safe_load(site_file.read_text())
    data["network"] |= network
    site_file.write_text(yaml.safe_dump(data))
    return load_site(site_file)


def test_each_stage_of_the_way_that_fails_is_named(site, monkeypatch):
    site_file, _ = site
    nobody = free_port()
    faults, _ = check_network(changed(site_file, coordinator=f"127.0.0.1:{nobody}"), offline=False)
    assert len(faults) == 1
    assert faults[0].startswith(f"TCP: 127.0.0.1:{nobody} (coordinator) cannot be reached")
    faults, _ = check_network(changed(site_file, coordinator="no-such-host.invalid:443"), offline=False)
    assert faults[0].startswith("DNS: the name of the coordinator, no-such-host.invalid")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{nobody}")
    faults, notes = check_network(load_site(site_file), offline=False)
    assert faults[0].startswith(f"TCP: 127.0.0.1:{nobody} (proxy)")
    assert f"proxy: 127.0.0.1:{nobody}, from HTTPS_PROXY" in notes


def test_offline_asks_nobody_and_still_finds_what_is_here(site, coordinator):
    site_file, settings = site
    approvals.record(settings.state, "code", code_sha256(), "test", withdrawn=True)
    old = coordinator.authority.issue(settings.network.key.with_suffix(".csr"), days=-1)
    settings.network.certificate.write_bytes(old)
    unreachable = changed(site_file, coordinator="no-such-host.invalid:443")
    faults, notes = check_network(unreachable, offline=True)
    assert [fault for fault in faults if "it expired on" in fault]
    assert [fault for fault in faults if fault.startswith("the code (")]
    assert len(faults) == 2
    assert not [note for note in notes if note.startswith(("proxy", "TCP", "clock"))]
    done = CliRunner().invoke(app, ["check", str(site_file), "--offline"])
    assert done.exit_code == 2
    assert "it expired on" in done.output


def answered(status: int, text: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, text=text, headers=headers, request=httpx.Request("POST", "https://x"))


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (403, "<html>403 Forbidden</html>", CertificateRefused),
        (400, "<html>The SSL certificate error</html>", CertificateRefused),
        (401, '{"detail": "Invalid SuperNode authentication"}', NotAdmitted),
        (412, '{"code": 2004, "detail": "could not be activated"}', NotAdmitted),
        (412, '{"code": 2007, "detail": "run is not running"}', RunOver),
        (404, '{"code": 2008, "detail": "no such run"}', RunOver),
        (502, "<html>bad gateway</html>", Unreachable),
        (500, "Internal Server Error", Unreachable),
        (404, "<html>not found</html>", Unreachable),
    ],
)
def test_every_answer_of_the_coordinators_proxy_has_its_plain_words(status, text, kind):
    failure = answer_failure(answered(status, text))
    assert type(failure) is kind
    assert failure.what
    assert "Traceback" not in str(failure)


def test_the_clock_is_read_from_the_answers_date_in_any_time_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        sent = datetime.now(UTC) - timedelta(seconds=90)
        assert clock_skew(answered(200, Date=format_datetime(sent, usegmt=True))) == pytest.approx(90, abs=2)
        assert clock_skew(answered(200)) is None
        assert clock_skew(answered(200, Date="yesterday")) is None
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_status_is_whole_at_any_moment_and_says_if_the_daemon_lives(tmp_path):
    assert running_pid(tmp_path) is None
    assert describe(None, read_status(tmp_path)) == ["not running"]
    assert not stop_daemon(tmp_path, 1)
    with DaemonLock(tmp_path):
        status = StatusFile(tmp_path)
        status.set(connected_since="2026-01-01T00:00:00Z", paused=True, clock_skew_seconds=-95)
        status.set(work={"run": "r", "step": "s", "phase": "fit", "round": 3, "since": "now"})
        assert running_pid(tmp_path) == os.getpid()
        text = "\n".join(describe(os.getpid(), read_status(tmp_path)))
        for said in ("connected since 2026-01-01", "step s, fit, round 3", "PAUSED", "CLOCK: -95 s"):
            assert said in text
        with pytest.raises(RunError, match="another daemon"), DaemonLock(tmp_path):
            pass
    assert running_pid(tmp_path) is None
    assert not list((tmp_path / "network").glob("*.part"))


def test_a_full_disk_does_not_stop_the_status(tmp_path, monkeypatch):
    status = StatusFile(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        status.set(last_error="x")
    assert read_status(tmp_path).get("last_error") is None
    status.set(last_error="x", paused=False)
    assert read_status(tmp_path)["last_error"] == "x"


def test_pause_and_resume_outlive_the_daemon(site):
    site_file, settings = site
    assert CliRunner().invoke(app, ["pause", str(site_file)]).exit_code == 0
    assert is_paused(settings.state)
    assert CliRunner().invoke(app, ["resume", str(site_file)]).exit_code == 0
    assert not is_paused(settings.state)
    assert CliRunner().invoke(app, ["status", str(site_file)]).exit_code == 1
    assert "no daemon is running" in CliRunner().invoke(app, ["stop", str(site_file)]).output


def test_releases_are_listed_and_a_cut_line_is_said_to_be_one(tmp_path):
    assert as_table(read_releases(tmp_path)) == ["nothing has left this site"]
    line = {"at": "2026-01-01T00:00:00Z", "run": "r", "step": "s", "phase": "fit", "round": 2, "kind": "Update",
            "bytes": 1000, "replayed": True, "fields": {"a": {"withheld": 3}, "b": {"withheld": 4}}}  # fmt: skip
    (tmp_path / "releases.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line)[:50] + "\n")
    table = as_table(read_releases(tmp_path))
    assert table[1].split() == ["2026-01-01T00:00:00Z", "r", "s", "fit", "2", "Update", "1000", "7", "again"]
    assert "line 2 is damaged" in table[2]


def test_the_journal_tells_people_in_words_and_machines_in_known_fields(tmp_path, capsys):
    for as_json in (False, True):
        journal = Journal(tmp_path, as_json=as_json)
        journal.tell("refused", "refused: paused", warn=True, code="paused", secret="p42")
        journal.close()
    plain, machine = capsys.readouterr().out.splitlines()
    assert plain.endswith("refused: paused")
    assert "p42" not in machine
    assert json.loads(machine)["code"] == "paused"
    logged = (tmp_path / "network" / "daemon.log").read_text()
    assert logged.count('"event": "refused"') == 2
    assert "p42" not in logged
