"""The health service: the standard protocol as any client sees it, on loopback only, and its prober."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ecgshared.errors import ConfigError, RunError
from ecgshared.health import is_serving, main, serve_health


@pytest.fixture
def health():
    server = serve_health(0)
    yield server
    server.close()


def probe(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ecgshared.health", *arguments],
        capture_output=True, text=True, timeout=30, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_client_of_the_protocol_sees_each_change(health):
    """Check and Watch, with the stub and not with our prober."""
    with grpc.insecure_channel(f"127.0.0.1:{health.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        ask = health_pb2.HealthCheckRequest(service="")
        watched = stub.Watch(ask, timeout=10)
        status = health_pb2.HealthCheckResponse
        assert stub.Check(ask).status == next(watched).status == status.NOT_SERVING
        health.set(True)
        assert stub.Check(ask).status == next(watched).status == status.SERVING
        health.set(False)
        assert stub.Check(ask).status == next(watched).status == status.NOT_SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="no-such"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        watched.cancel()


def test_it_listens_on_loopback_alone(health):
    """Every other address of this machine refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, health.port), timeout=5)
    socket.create_connection(("127.0.0.1", health.port), timeout=5).close()


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "192.168.1.4", "localhost", "", "hospital.example", "127.0.0.1:1"]
)
def test_any_other_address_is_refused(address):
    with pytest.raises(ConfigError, match="loopback only"):
        serve_health(0, address=address)
    with pytest.raises(ConfigError, match="loopback only"):
        is_serving(50051, address=address)


@pytest.mark.parametrize("port", [-1, 65536, True, "80"])
def test_a_port_is_a_port(port):
    with pytest.raises(ConfigError, match="no such port"):
        serve_health(port)


def test_a_taken_port_is_told(health):
    with pytest.raises(RunError, match="taken"):
        serve_health(health.port)


def test_a_closed_service_is_not_serving():
    server = serve_health(0)
    server.set(True)
    assert is_serving(server.port)
    server.close()
    assert is_serving(server.port) is None


def test_a_port_that_never_answers_is_not_serving():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert is_serving(silent.getsockname()[1], timeout_seconds=0.2) is None


def test_the_prober(health):
    """Exit status 1 and 0, also with a proxy in the environment that leads nowhere."""
    assert probe(str(health.port)).returncode == 1
    assert main(["--alive", str(health.port)]) == 0
    health.set(True)
    assert probe(str(health.port), http_proxy="http://127.0.0.1:9", no_proxy="").returncode == 0


def test_nobody_is_not_alive(health):
    port = health.port
    health.close()
    assert main(["--alive", str(port)]) == main([str(port)]) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--alive"], ["--live", "1"], ["x"], ["1", "2"], ["-1"], ["0"], ["70000"], ["²"]]
)
def test_a_wrong_call_of_the_prober(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_the_prober_loads_nothing_heavy():
    script = "import sys, ecgshared.health; sys.exit(bool({'torch', 'flwr', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
