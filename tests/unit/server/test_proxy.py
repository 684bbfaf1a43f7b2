"""What the proxy lets through, by nginx and by the small one of our own: the same requests, the same answers."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path

import httpx
import pytest
from proxied import Member, Proxied, wait_for

from client.network.fleet import FleetLink
from client.network.fleet_failures import LinkError
from client.site.settings import NetworkConfig
from ecgshared.errors import ConfigError
from server.coordinator import proxy
from server.coordinator.authority import Authority

NGINX = proxy.find_nginx(None) is not None
PULL = "/v1/fleet/pull-messages"


@pytest.fixture(scope="module", params=["nginx", "own"])
def door(request, tmp_path_factory):
    if request.param == "nginx" and not NGINX:
        pytest.skip("nginx is not installed")
    made = Proxied(tmp_path_factory.mktemp(request.param), request.param)
    made.members = {name: Member.of(made.authority, made.folder / "sites", name) for name in ("north", "coast", "gone")}
    made.let_in(made.members["north"], made.members["coast"])
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", proxy.FLEET_PATHS)
def test_an_admitted_site_reaches_each_call_of_the_fleet(door, name):
    with door.client(door.members["north"]) as client:
        answer = client.post(f"/v1/fleet/{name}", content=b"\x00\xffbody")
    assert answer.status_code == (401 if name == "get-run" else 200), "the SuperLink's own status is handed on"
    assert answer.content == b"\x00\xffbody"
    assert answer.headers["x-key"] == door.members["north"].header[proxy.NODE_KEY_HEADER]
    assert door.upstream.seen[-1] == ("POST", f"/v1/fleet/{name}")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/health", "/docs", "/openapi.json", "/v1/control/start-run", "/v1/control/list-nodes",
        "/v1/control/register-node", "/v1/runtime/pull-messages", "/v1/runtime/acquire-task", "/v1/fleet/register-node",
        "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet/pull-messages/", "/v1/fleet/pull-messages.x",
        "/v1/fleet/xpull-messages", "/V1/FLEET/PULL-MESSAGES",
    ],
)  # fmt: skip
def test_nothing_else_exists(door, path):
    before = len(door.upstream.seen)
    with door.client(door.members["north"]) as client:
        assert client.post(path).status_code == 404
    assert len(door.upstream.seen) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_post_passes(door, method):
    before = len(door.upstream.seen)
    with door.client(door.members["north"]) as client:
        assert client.request(method, PULL).status_code == 404
    assert len(door.upstream.seen) == before


@pytest.mark.parametrize(
    "target",
    [
        "/v1/fleet/pull-messages/../../control/start-run", "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet/pull-messages%00", "/v1/fleet/pull-messages%0d%0aX:1",
        "/v1/fleet/pull-messages;/../../control/start-run",
        "//v1/control/start-run", "/v1/control/start-run#/v1/fleet/",
    ],
)  # fmt: skip
def test_no_path_is_walked_out_of(door, target):
    before = len(door.upstream.seen)
    assert door.raw(door.members["north"], target) in (400, 404)
    assert len(door.upstream.seen) == before


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/../fleet/pull-messages", "/v1/fleet/pull%2Dmessages", PULL + "?a=../control",
        PULL + "#/../control/start-run", "//v1//fleet//pull-messages",
    ],
)  # fmt: skip
def test_whatever_was_written_only_the_ten_paths_are_asked(door, target):
    before = len(door.upstream.seen)
    door.raw(door.members["north"], target)
    assert {path.partition("?")[0] for _, path in door.upstream.seen[before:]} <= {PULL}


def test_a_certificate_speaks_for_its_own_node_key_alone(door):
    north, coast = door.members["north"], door.members["coast"]
    before = len(door.upstream.seen)
    with door.client(north) as client:
        assert client.post(PULL, headers=coast.header).status_code == 403
        assert client.post(PULL, headers={proxy.NODE_KEY_HEADER: ""}).status_code == 403
    assert len(door.upstream.seen) == before


@pytest.mark.parametrize("first", [True, False])
def test_of_two_claimed_keys_only_the_certificates_own_is_handed_on(door, first):
    north, coast = door.members["north"], door.members["coast"]
    both = [*north.header.items(), *coast.header.items()]
    with httpx.Client(verify=north.context(door.ca), trust_env=False) as client:
        answer = client.post(f"https://127.0.0.1:{door.port}{PULL}", headers=both if first else both[::-1])
    assert answer.status_code == 403 or answer.headers["x-key"] == north.header[proxy.NODE_KEY_HEADER]


def test_a_site_of_the_authority_that_is_not_let_in(door):
    with door.client(door.members["gone"]) as client:
        assert client.post(PULL).status_code == 403


def test_a_revoked_site_is_out_at_once_even_on_an_open_connection(door):
    north, coast = door.members["north"], door.members["coast"]
    with door.client(coast) as client:
        assert client.post(PULL).status_code == 200
        door.let_in(north)

        def out() -> bool:
            try:
                return client.post(PULL).status_code == 403
            except httpx.TransportError:
                return False  # the old worker closed the connection; the next one is the new worker's

        try:
            wait_for(out, 10)
            with door.client(north) as other:
                assert other.post(PULL).status_code == 200
        finally:
            door.let_in(north, coast)


def _refused(door: Proxied, member: Member | None) -> None:
    before = len(door.upstream.seen)
    with door.client(member) as client:
        if door.kind == "nginx":
            answer = client.post(PULL)
            assert answer.status_code == 400
            assert "certificate" in answer.text, "what the operator sees names the certificate"
        else:
            with pytest.raises(httpx.TransportError):
                client.post(PULL)
    assert len(door.upstream.seen) == before


def test_no_certificate(door):
    _refused(door, None)


def test_a_certificate_of_another_authority(door, tmp_path):
    foreign = Authority.create(tmp_path / "foreign", "test")
    _refused(door, Member.of(foreign, tmp_path, "north"))


def test_an_expired_certificate(door, tmp_path):
    _refused(door, Member.of(door.authority, tmp_path, "north", days=-0.01))


def test_a_servers_certificate_is_no_clients(door, tmp_path):
    door.authority.serve(tmp_path / "north.key", tmp_path / "north.crt", ["127.0.0.1"], days=1)
    member = Member("north", tmp_path, door.members["north"].node_key, "")
    _refused(door, member)


def test_a_site_that_trusts_another_authority_does_not_talk_to_us(door, tmp_path):
    foreign = Authority.create(tmp_path / "foreign", "test")
    with door.client(door.members["north"], ca=foreign.certificate_file) as client, pytest.raises(httpx.ConnectError):
        client.post(PULL)


def test_a_piece_of_a_model_passes_and_more_does_not(door):
    with door.client(door.members["north"]) as client:
        piece = os.urandom(6 << 20)
        assert client.post("/v1/fleet/push-object", content=piece).content == piece
        # It may close the connection while we are still sending.
        with contextlib.suppress(httpx.WriteError):
            assert client.post("/v1/fleet/push-object", content=bytes(9 << 20)).status_code == 413


def test_a_superlink_of_another_authority_is_not_spoken_to(tmp_path):
    """Something else that listens on the SuperLink's port learns nothing from the sites."""
    if not NGINX:
        pytest.skip("nginx is not installed")
    door = Proxied(tmp_path, "nginx")
    try:
        door.upstream.close()
        foreign = Authority.create(tmp_path / "foreign", "test")
        foreign.serve(tmp_path / "loopback.key", tmp_path / "loopback.crt", ["localhost", "127.0.0.1"], days=1)
        from proxied import Upstream

        door.upstream.__init__(tmp_path / "loopback.key", tmp_path / "loopback.crt")  # type: ignore[misc]
        assert isinstance(door.upstream, Upstream)
        north = Member.of(door.authority, tmp_path, "north")
        proxy.write_config(
            door.proxy_folder, listen=f"127.0.0.1:{door.port}", upstream_port=door.upstream.port,
            certificate=tmp_path / "server.crt", key=tmp_path / "server.key", ca=door.ca,
            sites={north.mark: north.node_key},
        )  # fmt: skip
        door.start()
        with door.client(north) as client:
            assert client.post(PULL).status_code == 502
        assert door.upstream.seen == []
    finally:
        door.close()


def test_nginx_writes_below_its_folder_only(door):
    if door.kind != "nginx":
        pytest.skip("of nginx")
    text = (door.proxy_folder / "nginx.conf").read_text()
    assert int((door.proxy_folder / "nginx.pid").read_text()) == door.process.pid
    assert (door.proxy_folder / "access.log").exists()
    assert "/var" not in text
    assert "/tmp/" not in text.replace(str(door.folder), "")


@pytest.mark.parametrize("begun", [b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: a\r\nX: "])
def test_who_does_not_say_what_it_wants_is_not_waited_for(door, begun):
    """A connection that sends a byte now and then would hold its place for ever."""
    member = door.members["north"]
    with (
        socket.create_connection(("127.0.0.1", door.port)) as raw,
        member.context(door.ca).wrap_socket(raw, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(begun)
        tls.settimeout(1.0)
        end, closed = time.monotonic() + 40, False
        while not closed and time.monotonic() < end:
            try:
                # Closed, or told that it took too long and closed.
                closed = tls.recv(4096) == b""
            except TimeoutError:
                if begun:
                    with contextlib.suppress(OSError):
                        tls.sendall(b"x")
            except OSError:
                closed = True
    assert closed, "it was waited for"


def test_the_certificate_a_request_came_with_is_the_proxys_word(door):
    member = door.members["north"]
    with door.client(member) as client:
        client.post(PULL, headers={proxy.CERTIFICATE_HEADER: "forged"})
    assert door.upstream.certificates[-1] == [member.mark]


@pytest.mark.parametrize("name", proxy.OWN_PATHS)
def test_the_coordinators_own_calls_are_passed_to_who_is_let_in(door, name):
    with door.client(door.members["north"]) as client:
        assert client.post(f"/v1/ecgfed/{name}", content=b"{}").status_code == 200
    with door.client(door.members["gone"]) as client:
        assert client.post(f"/v1/ecgfed/{name}", content=b"{}").status_code == 403


def test_a_configuration_that_nginx_refuses_is_told(tmp_path):
    if not NGINX:
        pytest.skip("nginx is not installed")
    proxy.write_config(
        tmp_path, listen="127.0.0.1:1", upstream_port=1, certificate=Path("/none.crt"), key=Path("/none.key"),
        ca=Path("/none"), sites={},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="does not accept"):
        proxy.check(proxy.find_nginx(None), tmp_path)


def test_where_nginx_is_looked_for(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no nginx here"):
        proxy.find_nginx(tmp_path / "nginx")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert proxy.find_nginx(None) is None


def test_a_reload_without_a_proxy_says_so(tmp_path):
    assert proxy.reload(tmp_path) is False
    (tmp_path / "nginx.pid").write_text("999999999")
    assert proxy.reload(tmp_path) is False


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("kind", ["nginx", "own"])
def test_a_site_comes_in_by_ipv6_too(tmp_path, kind):
    if kind == "nginx" and not NGINX:
        pytest.skip("nginx is not installed")
    door = Proxied(tmp_path, kind, host="[::1]")
    member = Member.of(door.authority, tmp_path / "sites", "north")
    (member.folder / "north.key").chmod(0o600)
    door.let_in(member)
    try:
        door.start()
        with door.client(member) as client:
            assert client.post(PULL).status_code == 200
        network = NetworkConfig(
            coordinator=f"[::1]:{door.port}", ca=door.ca, certificate=member.folder / "north.crt",
            key=member.folder / "north.key", envelope="ab" * 32,
        )  # fmt: skip
        link = FleetLink(network)
        link.node_id = 1
        try:
            # Whoever stands where the SuperLink stands answers with what it was asked: it came there.
            with pytest.raises(LinkError):
                link.run(1)
        finally:
            link.close()
        assert ("POST", "/v1/fleet/get-run") in door.upstream.seen
    finally:
        door.close()
