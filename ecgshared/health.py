"""The standard gRPC health protocol (grpc.health.v1), on loopback only, for orchestrators.

A daemon calls :func:`serve_health` and tells it when it can work. An orchestrator asks with any client of the
protocol, or with ``python -m ecgshared.health PORT``: exit status 0 is healthy, 1 is not, 2 is a wrong call. With
``--alive`` a daemon that answers NOT_SERVING counts too: it lives, and a restart would not help it.
The port speaks plain text and is open to everybody on the machine; it tells one bit.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from ecgshared.errors import ConfigError, RunError

LOOPBACK = "127.0.0.1"
_OVERALL = ""
"""The protocol's name for a server as a whole."""


class HealthServer:
    """A running health service; use :func:`serve_health`.

    Attributes
    ----------
    port : the port it listens on.
    """

    def __init__(self, server: grpc.Server, servicer: HealthServicer, port: int) -> None:
        self._server, self._servicer, self.port = server, servicer, port

    def set(self, serving: bool) -> None:
        """Say whether the daemon can work: True is SERVING, False is NOT_SERVING."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self._servicer.set(_OVERALL, status)

    def close(self) -> None:
        """Tell those who watch that the service ends, and free the port."""
        self._servicer.enter_graceful_shutdown()
        self._server.stop(grace=1).wait()


def serve_health(port: int, *, address: str = LOOPBACK) -> HealthServer:
    """Serve the health protocol on ``address:port``, NOT_SERVING until told otherwise; port 0 picks a free one.

    Raises
    ------
    ConfigError : the address is not a loopback one, or the port is out of range.
    RunError : the port is taken.
    """
    where = f"{_loopback(address)}:{_port(port, least=0)}"
    # Without so_reuseport=0 two daemons could share a port, and one would answer for the other.
    # Nobody watches more than a few streams; each holds a thread while it is open.
    server = grpc.server(ThreadPoolExecutor(4, thread_name_prefix="health"), options=[("grpc.so_reuseport", 0)])
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        bound = server.add_insecure_port(where)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise RunError(
            "the health port is taken", where=where, remedy="choose another health_port, or 0 for a free one"
        )
    health = HealthServer(server, servicer, int(bound))
    health.set(False)
    server.start()
    return health


def is_serving(port: int, *, address: str = LOOPBACK, timeout_seconds: float = 3.0) -> bool | None:
    """Ask a health service on this machine; None where nobody answers in time.

    Raises
    ------
    ConfigError : the address is not a loopback one, or the port is out of range.
    """
    where = f"{_loopback(address)}:{_port(port, least=1)}"
    # A hospital's http_proxy must not see, or break, a question to this machine.
    with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=_OVERALL), timeout=timeout_seconds
            )
        except grpc.RpcError:
            return None
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: Sequence[str]) -> int:
    """Probe ``[--alive] PORT``; return the exit status."""
    *flags, port = arguments or [""]
    if flags not in ([], ["--alive"]) or not port.isascii() or not port.isdigit():
        print("usage: python -m ecgshared.health [--alive] PORT", file=sys.stderr)
        return 2
    try:
        serving = is_serving(int(port))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print({True: "serving", False: "not serving", None: "no answer"}[serving])
    return 0 if serving or (serving is False and flags) else 1


def _loopback(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
        if parsed.is_loopback:
            return f"[{address}]" if parsed.version == 6 else address
    except ValueError:
        pass
    raise ConfigError("health is served on loopback only", value=address, allowed="127.0.0.1 or ::1")


def _port(port: int, *, least: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not least <= port <= 65535:
        raise ConfigError("no such port", value=port, allowed=f"{least} to 65535")
    return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
