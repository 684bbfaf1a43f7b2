"""The SuperLink's control API is the coordinator's alone; other users of the machine reach its port and no more."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from proxied import free_port

from server.coordinator.home import HOME_VARIABLE, Home
from server.coordinator.superlink import GivesSecret


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = Home.create(
        tmp_path_factory.mktemp("superlink") / "home",
        address="127.0.0.1:1", listen="127.0.0.1:1", name="test", superlink_port=free_port(),
    )  # fmt: skip
    tls = made.path / "tls"
    command = [
        sys.executable, "-P", "-m", "server.coordinator.superlink", "--host", "127.0.0.1",
        "--port", str(made.config.superlink_port), "--ssl-ca-certfile", str(made.authority.certificate_file),
        "--ssl-certfile", str(tls / "loopback.crt"), "--ssl-keyfile", str(tls / "loopback.key"),
        "--isolation", "process", "--superexec-auth-secret-file", str(made.path / "superexec.secret"),
        "--enable-supernode-auth", "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    environment = os.environ | {
        HOME_VARIABLE: str(made.path), "FLWR_HOME": str(made.path / "flower"), "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }  # fmt: skip
    with (made.path / "logs" / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + 40
        while not _is_up(made):
            assert process.poll() is None, (made.path / "logs" / "superlink.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        process.wait(20)


def _is_up(home: Home) -> bool:
    try:
        with plain(home) as client:
            return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def plain(home: Home) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(home.authority.certificate_file))
    address = f"https://127.0.0.1:{home.config.superlink_port}"
    return httpx.Client(base_url=address, verify=context, trust_env=False)


def raw(home: Home, target: str) -> int:
    """Send a request line as it is, which no client would write; return the status."""
    context = ssl.create_default_context(cafile=str(home.authority.certificate_file))
    with (
        socket.create_connection(("127.0.0.1", home.config.superlink_port), 10) as line,
        context.wrap_socket(line, server_hostname="localhost") as tls,
    ):
        tls.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        return int(tls.recv(4096).split(b" ")[1])


def control(home: Home, *interceptors: object) -> ControlHttpClient:
    return ControlHttpClient.from_server_address(
        f"127.0.0.1:{home.config.superlink_port}", False, home.authority.certificate_file.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli"), *interceptors],
    )  # fmt: skip


def test_with_the_secret_the_control_api_answers(home):
    client = control(home, GivesSecret(home.control_secret))
    assert list(client.ListNodes(ListNodesRequest()).nodes_info) == []
    client.close()


@pytest.mark.parametrize("given", [None, "", "0" * 64])
def test_without_it_nobody_lets_nodes_in_or_starts_runs(home, given):
    client = control(home, *([] if given is None else [GivesSecret(given)]))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.ListNodes(ListNodesRequest())
    client.close()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/start-run", "/v1/control/register-node", "//v1/control/start-run", "/V1/CONTROL/start-run",
        "/v1/control/../fleet/pull-messages", "/v1/%63ontrol/start-run", "/docs", "/openapi.json", "/",
    ],
)  # fmt: skip
def test_every_other_path_asks_for_it(home, target):
    assert raw(home, target) == 401


@pytest.mark.parametrize(
    "target",
    ["/v1/fleet/../control/list-nodes", "/v1/fleet/%2e%2e/control/list-nodes", "/v1/runtime/..%2fcontrol/list-nodes"],
)
def test_no_path_is_put_together_anew_behind_the_guard(home, target):
    assert raw(home, target) == 404


def test_sites_and_tasks_are_not_asked_for_it(home):
    """They have their own: a signature, a token."""
    with plain(home) as client:
        for path in ("/v1/fleet/pull-messages", "/v1/runtime/acquire-task"):
            answer = client.post(path)
            assert answer.status_code in (400, 401, 403, 415, 422)
            assert "coordinator's alone" not in answer.text
