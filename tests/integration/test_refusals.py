"""Who and what is not let in, by a real coordinator behind nginx, and what the site's operator reads of it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from federation import SmallFederation
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.constant import FLEET_HTTP_SIGNATURE_HEADER, NOOP_FEDERATION_ID
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import sign_message

from client.approval import register as approvals
from client.network import enrol
from client.network.fleet import FleetLink, tls_context
from client.network.status import describe, read_status, running_pid
from client.site.settings import SiteSettings, load_site
from ecgshared.service.files import write_atomically
from server.coordinator import background, proxy
from server.coordinator.authority import Authority, read_request
from server.coordinator.envelope import FOLDER, envelope
from server.coordinator.flower import Control
from server.coordinator.home import Home
from server.rounds.run_folder import RunFolder
from simulations.federation.network import LocalNetwork

pytestmark = [
    pytest.mark.story,
    pytest.mark.skipif(proxy.find_nginx(None) is None, reason="nginx is not installed"),
]
PRESENT, LEAVING = ("north", "coast"), "valley"
HEARTBEAT = "/v1/fleet/send-node-heartbeat"
REFUSED = "the coordinator refuses this site's certificate: revoked, expired, or not that of its key"


class Federation:
    """Three admitted sites that work, and four that must not get in, all with a daemon of their own."""

    def __init__(self, hospitals: Path, folder: Path) -> None:
        (folder / "twin").mkdir()
        self.folder, self.federation = folder, SmallFederation(hospitals, folder)
        names = (*PRESENT, LEAVING)
        self.study = self.federation.study(
            sites={"train": list(names)},
            steps=[{"id": "cohorts", "stage": "describe"}, self.federation.train(rounds=4)],
            federation={"quorum": 2, "deadline_seconds": 10},
        )
        self.network = LocalNetwork(folder, dict(zip(names, self.federation.sites(names), strict=True)))
        self.home: Home = self.network.home
        self.network.enrol([self.study])
        self.foreign = Authority.create(folder / "foreign", "somebody else")
        for name in ("stranger", "expired", "misled", "forged"):
            self._join(name)

    def _join(self, name: str) -> None:
        """Enrol a site with something wrong about it; nothing is approved there, so that its worker is not loaded."""
        file = self.folder / f"{name}.site" / "site.yaml"
        file.parent.mkdir()
        request = enrol.start(self.home.invite(name), file).request
        network = enrol.network_of(load_site(file))
        authority = self.foreign if name == "forged" else self.home.authority
        if name in ("stranger", "forged"):
            signed = authority.admit(read_request(request), days=1).public_bytes(enrol.Encoding.PEM)
        else:
            signed = self.home.admit(request, days=-1 if name == "expired" else None)[1].read_bytes()
        network.certificate.write_bytes(signed)
        if name == "misled":
            shutil.copyfile(self.foreign.certificate_file, network.ca)
        self.network.site_files[name] = file

    def start(self) -> None:
        self.network.up()
        for name in self.network.site_files:
            self.network.start(name)
        self.network.wait_connected((*PRESENT, LEAVING))

    def settings(self, site: str) -> SiteSettings:
        return load_site(self.network.site_files[site])

    def words(self, site: str) -> str:
        """What ``ecgfed site status`` prints there."""
        state = self.settings(site).state
        return "\n".join(describe(running_pid(state), read_status(state)))

    def log(self, site: str) -> str:
        return (self.folder / f"{site}.log").read_text()

    def client(self, site: str | None) -> httpx.Client:
        """A client that holds a site's certificate."""
        network = self.settings(site or "north").network
        assert network is not None
        verify = ssl.create_default_context(cafile=str(network.ca)) if site is None else tls_context(network)
        return httpx.Client(base_url=f"https://{self.home.config.address}", verify=verify, timeout=20, trust_env=False)

    def session(self, site: str) -> str:
        """The token of the daemon that runs at a site: beside it, a link without one is taken for that of a copy."""
        return str(json.loads((self.settings(site).link_state / "network" / "session.json").read_text())["token"])

    def recorded(self, site: str) -> httpx.Request:
        """A heartbeat of a site, as it went over the line."""
        network = self.settings(site).network
        assert network is not None
        link, seen = FleetLink(network), []  # type: FleetLink, list[httpx.Request]
        link.node_id = read_status(self.settings(site).state)["node_id"]
        link.session = self.session(site)
        link._client._client.event_hooks["request"].append(seen.append)
        try:
            link.heartbeat()
        finally:
            link.close()
        return seen[0]

    def submit(self, name: str, fab: bytes, overrides: dict[str, Any]) -> Path:
        """Start a run as somebody would who took over the coordinator's machine, by the control API on loopback."""
        run = self.home.path / "runs" / name
        RunFolder.create(run, self.study, backend="flower", status="paused").close()
        control = Control(self.home)
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})),
            override_config=user_config_to_proto(overrides),
            federation=NOOP_FEDERATION_ID,
        )
        try:
            run_id = control._client.StartRun(request).run_id
        finally:
            control.close()
        note = self.home.path / "flower-runs" / f"{run_id}.json"
        write_atomically(note, json.dumps({"run": name}).encode())
        return run


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command that an operator types."""
    line = [sys.executable, "-P", "-m", "ecgshared", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def federation(hospitals, tmp_path_factory) -> Iterator[Federation]:
    made = Federation(hospitals, tmp_path_factory.mktemp("federation"))
    with made.network:
        made.start()
        yield made


@pytest.mark.parametrize(
    ("site", "told"),
    [
        ("stranger", REFUSED),
        ("expired", REFUSED),
        ("forged", REFUSED),
        ("misled", "the coordinator's certificate is not accepted here"),
    ],
)
def test_a_site_that_may_not_come_in_is_told_why(federation, site, told):
    wait_for(lambda: f"not connected: {told}" in federation.words(site))
    assert told in federation.log(site)
    assert "connected to the coordinator" not in federation.log(site)
    assert background.read_status(federation.home)["sites"].get(site) != "online"
    assert federation.network.daemons[site].poll() is None, "it tries again; people may mend it meanwhile"


def test_the_dates_of_an_expired_certificate_are_shown(federation):
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    assert f"certificate valid until {yesterday:%Y-%m-%d}" in federation.words("expired")


def test_a_daemon_without_a_certificate_does_not_start(federation, tmp_path):
    file = tmp_path / "site.yaml"
    shutil.copyfile(federation.home.invite("late"), tmp_path / "late.kit.yaml")
    enrol.start(tmp_path / "late.kit.yaml", file)
    done = command("site", "start", file)
    assert done.returncode == 2
    assert "late.crt: there is no such file" in done.stderr


def test_a_certificate_speaks_for_its_own_key_alone(federation):
    sent = federation.recorded("north")
    with federation.client("coast") as coast:
        answer = coast.post(HEARTBEAT, content=sent.content, headers=_signed_headers(sent))
    assert answer.status_code == 403


def test_no_certificate_no_answer(federation):
    with federation.client(None) as nobody:
        answer = nobody.post(HEARTBEAT)
    assert answer.status_code == 400
    assert "certificate" in answer.text


def test_a_site_cannot_act_as_another_node(federation):
    """Certificate and key are its own; the node it names is another's: fetching its messages, say."""
    link = FleetLink(federation.settings("north").network)
    link.node_id, link.session = read_status(federation.settings("coast").state)["node_id"], federation.session("north")
    try:
        for call in (link.pull, link.heartbeat, lambda: link.run(0)):
            with pytest.raises(Exception, match="does not know this site's key"):
                call()
    finally:
        link.close()


def test_a_replayed_request_changes_nothing_and_helps_nobody_else(federation):
    """Flower signs the time only. Who could replay needs the site's certificate, and then gets what the site got."""
    sent = federation.recorded("north")
    before = background.read_status(federation.home)["sites"]
    with federation.client("north") as itself, federation.client("coast") as other, federation.client(None) as nobody:
        assert nobody.post(HEARTBEAT, content=sent.content, headers=_signed_headers(sent)).status_code == 400
        assert other.post(HEARTBEAT, content=sent.content, headers=_signed_headers(sent)).status_code == 403
        again = [itself.post(HEARTBEAT, content=sent.content, headers=_signed_headers(sent)) for _ in range(2)]
        assert [a.status_code for a in again] == [200, 200]
        assert again[0].content == again[1].content
        stale = itself.post(HEARTBEAT, content=sent.content, headers=_signed_headers(sent) | _stamp(federation, 600))
        assert stale.status_code == 401
        fresh = itself.post(HEARTBEAT, content=sent.content, headers=_signed_headers(sent) | _stamp(federation, 0))
        assert fresh.status_code == 200, "so it was the age that was refused"
    assert background.read_status(federation.home)["sites"] == before


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/start-run", "/v1/control/list-nodes", "/v1/control/register-node", "/v1/runtime/pull-messages",
        "/health", "/docs", "/openapi.json", "/v1/fleet/register-node", "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/..%2fcontrol/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes", "//v1/control/list-nodes", "/v1/fleet/pull-messages%00",
    ],
)  # fmt: skip
def test_nothing_but_the_fleet_api_is_outside(federation, target):
    """Through nginx to the real SuperLink, by an admitted site, the path as it is written here."""
    sent = federation.recorded("north")

    def status(written: str) -> int:
        network = federation.settings("north").network
        assert network is not None
        with (
            socket.create_connection(("127.0.0.1", federation.network.port), 10) as plain,
            tls_context(network).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            lines = [f"POST {written} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(sent.content)}"]
            lines += [f"{name}: {value}" for name, value in _signed_headers(sent).items()]
            tls.sendall("\r\n".join([*lines, "", ""]).encode() + sent.content)
            return int(tls.recv(4096).split(b" ")[1])

    assert status(HEARTBEAT) == 200, "asked so, what exists answers"
    assert status(target) in (400, 404)


def test_get_and_large_bodies_are_refused(federation):
    headers = _signed_headers(federation.recorded("north"))
    with federation.client("north") as north:
        assert north.get("/v1/fleet/pull-messages", headers=headers).status_code == 404
        try:
            answer = north.post("/v1/fleet/push-object", headers=headers, content=bytes(9 << 20))
            assert answer.status_code == 413
        except httpx.WriteError:
            pass  # closed while we were still sending


def test_flower_itself_listens_on_loopback_only(federation):
    """The only address that is not 127.0.0.1's is the proxy's ``listen``, which here is on loopback too."""
    pids = {p["pid"] for p in background.read_status(federation.home)["processes"].values()}
    found = [line for line in _listening() if line[0] in pids]
    assert {port for _, _, port in found} >= {federation.home.config.superlink_port}
    assert {address for _, address, _ in found} == {"127.0.0.1"}


def test_another_envelope_is_refused_before_anything_is_loaded(federation, tmp_path):
    run = federation.submit("modified", _changed(tmp_path, "more = 1"), {})
    try:
        for site in PRESENT:
            wait_for(lambda site=site: "refused: envelope-not-approved" in federation.log(site))
        assert not (run / "releases.jsonl").exists()
        told = wait_for(lambda: json.loads((run / "run.json").read_text())["waiting_for"])
        assert "envelope-not-approved" in told, "the coordinator is told the code, not that nobody is there"
    finally:
        (run / "stop").touch()
    wait_for(lambda: json.loads((run / "run.json").read_text())["status"] == "stopped")


def test_a_run_with_overrides_is_refused(federation, tmp_path):
    """The envelope holds no key to override, so Flower itself does not start such a run; with another, sites refuse."""
    with pytest.raises(httpx.HTTPStatusError, match="412"):
        federation.submit("overridden", envelope(), {"rounds": 1})
    run = federation.submit("overridden-too", _changed(tmp_path, "rounds = 3"), {"rounds": 1})
    try:
        for site in PRESENT:
            wait_for(lambda site=site: "refused: overrides" in federation.log(site))
        assert not (run / "releases.jsonl").exists()
    finally:
        (run / "stop").touch()
    wait_for(lambda: json.loads((run / "run.json").read_text())["status"] == "stopped")


def test_a_site_that_withdrew_the_code_says_so(federation):
    """Approval is asked at every message: taken back while the daemon runs, it holds from the next question."""
    settings = federation.settings("coast")
    code = read_status(settings.state)["code_sha256"]
    approvals.record(settings.state, "code", code, "test", withdrawn=True)
    run = federation.network.run(federation.study, "withdrawn")
    try:
        wait_for(lambda: "refused: code-not-approved" in federation.log("coast"))
    finally:
        approvals.record(settings.state, "code", code, "test")
        (run / "stop").touch()
    wait_for(lambda: json.loads((run / "run.json").read_text())["status"] in ("stopped", "done"))


def test_a_site_that_is_revoked_is_out_within_seconds_and_the_others_go_on(federation):
    run = federation.network.run(federation.study, "revoking")
    wait_for(lambda: (run / "history.jsonl").exists())
    assert "connected since" in federation.words(LEAVING)
    at = time.monotonic()
    done = command("coordinator", "revoke", LEAVING, "--home", federation.home.path)
    assert done.returncode == 0, done.stderr
    assert f"{LEAVING} is revoked" in done.stdout
    wait_for(lambda: f"not connected: {REFUSED}" in federation.words(LEAVING), 20)
    assert time.monotonic() - at < 20
    wait_for(lambda: json.loads((run / "run.json").read_text())["status"] == "done", 200)
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert all(set(PRESENT) <= set(line["answered"]) for line in lines)
    assert LEAVING in lines[-1]["absent"]
    assert LEAVING not in background.read_status(federation.home)["sites"]
    assert federation.network.daemons[LEAVING].poll() is None


def test_one_supervisor_to_a_home(federation):
    done = command("coordinator", "up", "--home", federation.home.path)
    assert done.returncode == 2
    assert "this coordinator is up already" in done.stderr
    assert "ecgfed coordinator status" in done.stderr


def test_a_run_of_sites_that_are_not_admitted(federation, tmp_path):
    (tmp_path / "twin").mkdir()
    study = SmallFederation(federation.federation.hospitals, tmp_path).study(
        sites={"train": ["north", "atlantis", "stranger"]}
    )
    done = command("coordinator", "run", study, "--home", federation.home.path, "--name", "never", "--detach")
    assert done.returncode == 2
    assert "the study names sites that are not admitted" in done.stderr
    assert "atlantis, stranger" in done.stderr
    assert "coordinator invite" in done.stderr
    assert not (federation.home.path / "runs" / "never").exists()


def test_a_coordinator_that_is_down_or_elsewhere(federation, tmp_path):
    study = federation.study
    home = tmp_path / "second"
    made = command("coordinator", "init", "--home", home, "--address", "127.0.0.1:7443")
    assert made.returncode == 0, made.stderr
    shutil.copyfile(federation.home.path / "sites.json", home / "sites.json")
    Home(home)
    sites = command("coordinator", "run", federation.federation.study(sites={"train": ["north"]}), "--home", home)
    assert sites.returncode == 2
    assert "the coordinator is not up" in sites.stderr
    assert "ecgfed coordinator up --detach" in sites.stderr
    typo = command("coordinator", "run", study, "--home", tmp_path / "sceond")
    assert typo.returncode == 2
    assert "no coordinator was set up here" in typo.stderr
    status = command("coordinator", "status", "--home", home)
    assert status.returncode == 1
    assert "DOWN" in status.stdout


def _changed(folder: Path, line: str) -> bytes:
    """Return an envelope with one more line of configuration."""
    from flwr.cli.build import build_fab_from_disk

    shutil.copytree(FOLDER, folder / "ecgfed-envelope")
    with (folder / "ecgfed-envelope" / "pyproject.toml").open("a") as file:
        file.write(f"\n[tool.flwr.app.config]\n{line}\n")
    made = bytes(build_fab_from_disk(folder / "ecgfed-envelope"))
    assert made != envelope()
    return made


def _signed_headers(sent: httpx.Request) -> dict[str, str]:
    return {k: v for k, v in sent.headers.items() if k not in ("host", "content-length", "connection")}


def _stamp(federation: Federation, age_seconds: float) -> dict[str, str]:
    """A time of the past, rightly signed by north's key."""
    network = federation.settings("north").network
    assert network is not None
    at = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_seconds)).isoformat()
    signature = base64.b64encode(sign_message(enrol.read_key(network.key), at.encode())).decode()
    return {TIMESTAMP_HEADER: at, FLEET_HTTP_SIGNATURE_HEADER: signature}


def _listening() -> list[tuple[int, str, int]]:
    """Return (process, address, port) of every listening TCP socket, from /proc."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                address, port = words[1].split(":")
                plain = ".".join(str(int(address[i : i + 2], 16)) for i in (6, 4, 2, 0)) if name == "tcp" else address
                sockets[words[9]] = plain, int(port, 16)
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                links = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
            except OSError:
                continue
            for link in links:
                if link.startswith("socket:[") and link[8:-1] in sockets:
                    found.append((int(process.name), *sockets[link[8:-1]]))
    return found
