"""Flower's SuperLink and SuperExec as the coordinator runs them: the only module that knows their commands and API.

The SuperLink keeps its state in memory: sites, runs and checkpoints are the coordinator's own files, so that nothing
grows and a SuperLink that was killed is made again from them. Both listen on 127.0.0.1 only, behind TLS.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx

from ecgshared.errors import RunError
from server.coordinator.envelope import envelope, envelope_sha256
from server.coordinator.home import HOME_VARIABLE, Home
from server.coordinator.superlink import GivesSecret
from server.rounds.flower_insides import (
    NOOP_FEDERATION_ID,
    ControlHttpClient,
    Fab,
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    RuntimeVersionHttpInterceptor,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
    fab_to_proto,
)

AnswerT = TypeVar("AnswerT")


def environment(home: Home) -> dict[str, str]:
    """Return the environment of Flower's processes: no telemetry, no update check, its files below the home."""
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        HOME_VARIABLE: str(home.path),
        "FLWR_HOME": str(home.path / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(home.config.piece_kb << 10),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
        # Flower starts the ServerApp in a folder of its own and must not find our packages anywhere but installed.
        "PYTHONSAFEPATH": "1",
    }


def superlink_command(home: Home) -> list[str]:
    """Return the SuperLink's command: TLS, node keys, executor's secret, no database, nothing installed at run time."""
    tls = home.path / "tls"
    return [
        *(sys.executable, "-P", "-m", "server.coordinator.superlink"),
        *("--host", "127.0.0.1", "--port", str(home.config.superlink_port)),
        *("--ssl-ca-certfile", str(home.authority.certificate_file)),
        *("--ssl-certfile", str(tls / "loopback.crt"), "--ssl-keyfile", str(tls / "loopback.key")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.path / "superexec.secret")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def superexec_command(home: Home) -> list[str]:
    """Return the command of the executor that starts the ServerApp of each run."""
    return [
        _program("flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{home.config.superlink_port}"),
        *("--root-certificates", str(home.authority.certificate_file)),
        *("--superexec-auth-secret-file", str(home.path / "superexec.secret")),
        *("--parent-pid", str(os.getpid())),
    ]


class Control:
    """The SuperLink's control API, on loopback. Every call raises :class:`RunError` where it does not answer."""

    def __init__(self, home: Home) -> None:
        # A proxy of the network must not see, or break, what stays on this machine.
        os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost"]))
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{home.config.superlink_port}",
            False,
            home.authority.certificate_file.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-cli"),
                GivesSecret(home.control_secret),
            ],
        )

    def register(self, public_key: bytes, name: str) -> int:
        """Let a node in; return its id, or that of the node which has this key."""
        try:
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)).node_id)
        except httpx.HTTPStatusError:
            for node_id, (key, _) in self.nodes().items():
                if key == public_key:
                    return node_id
            raise RunError("the SuperLink does not accept a site's key", where=name) from None
        except httpx.HTTPError as error:
            raise _unreachable(error) from None

    def unregister(self, node_id: int) -> None:
        """Let a node in no more."""
        self._call(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def nodes(self) -> dict[int, tuple[bytes, str]]:
        """Return (key, status) by node id; status is "registered", "online" or "offline"."""
        found = self._call(lambda: self._client.ListNodes(ListNodesRequest()))
        return {int(n.node_id): (bytes(n.public_key), str(n.status)) for n in found.nodes_info}

    def start_run(self) -> int:
        """Have the ServerApp started with our envelope and nothing overridden; return Flower's number of the run."""
        fab = fab_to_proto(Fab(envelope_sha256(), envelope(), {}))
        answer = self._call(lambda: self._client.StartRun(StartRunRequest(fab=fab, federation=NOOP_FEDERATION_ID)))
        if not answer.HasField("run_id"):
            raise RunError("the SuperLink did not start the run")
        return int(answer.run_id)

    def stop_run(self, run_id: int) -> None:
        """End a run of Flower's; one that is over or unknown is left as it is."""
        with contextlib.suppress(httpx.HTTPError):
            self._client.StopRun(StopRunRequest(run_id=run_id))

    def run_is_over(self, run_id: int) -> bool:
        """Whether Flower thinks that a run has ended (it notices a killed ServerApp after a minute only)."""
        try:
            found = self._client.ListRuns(ListRunsRequest(run_id=run_id))
        except httpx.HTTPStatusError:
            return True
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        return run_id not in found.run_dict or found.run_dict[run_id].status.status == "finished"

    def answers(self) -> bool:
        """Whether the SuperLink is up."""
        try:
            self._client.ListNodes(ListNodesRequest())
        except httpx.HTTPError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _call(self, call: Callable[[], AnswerT]) -> AnswerT:
        try:
            return call()
        except httpx.HTTPError as error:
            raise _unreachable(error) from None


def _unreachable(error: httpx.HTTPError) -> RunError:
    return RunError(
        f"the SuperLink does not answer ({type(error).__name__})",
        remedy="is the coordinator up? ecgfed coordinator status; ecgfed coordinator up",
    )


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name
