"""``ecgfed coordinator up``: keeps proxy, SuperLink and executor alive, lets admitted sites in, and submits runs.

Nothing that lasts is kept here or in Flower: whatever is killed is started again from the files of the home. A run that
should be going on but that no living process holds is submitted again, and goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecgshared.errors import EcgFedError, RunError
from ecgshared.health import HealthServer, serve_health
from ecgshared.service.files import now, write_atomically
from ecgshared.service.logs import JsonLog, json_log
from server.coordinator import proxy
from server.coordinator.certificates import CertificateCare
from server.coordinator.flower import Control, environment, superexec_command, superlink_command
from server.coordinator.home import HOME_VARIABLE, Home
from server.coordinator.submission import Submissions

_TURN_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 10.0
_SETTLED_SECONDS = 30.0
_NODES_SECONDS = 1.0
_LOGS_SECONDS, _LOG_BYTES = 60.0, 20_000_000
_PR_SET_PDEATHSIG = 1
_PROGRAMS = {
    "flwr-serverapp",
    "server.coordinator.superlink",
    "flower-superexec",
    "nginx",
    "server.coordinator.asgi_proxy",
}


@dataclass
class Child:
    """A process that is kept alive."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    restarts: int = 0
    not_before: float = field(default=0.0)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def discard(self) -> None:
        """End it; the next one is started as if there had been none."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process, self.not_before = None, 0.0


class Supervisor:
    """One coordinator's processes. :meth:`run` returns after SIGTERM or SIGINT, with all of them ended."""

    def __init__(self, home: Home, say: Any) -> None:
        self._home, self._say = home, say
        self._stop = False
        self._log: JsonLog
        self._health: HealthServer | None = None
        self._control: Control | None = None
        self._registered: dict[str, tuple[bytes, int]] = {}
        self._answers = False
        self._noted: dict[int, str] | None = None
        self._nodes: dict[str, str] = {}
        self._nodes_due = self._logs_due = 0.0
        self._known_status = ""
        self._trouble: dict[str, str] = {}
        self._submissions = Submissions(home, say)
        self._known_sites: dict[str, bytes] = {}
        self._metrics: Any = None
        self._told: dict[str, Any] = {}
        self._certificates: CertificateCare

    def run(self) -> None:
        """Work until told to end.

        Raises
        ------
        RunError : another supervisor works on this home, or a port is taken.
        """
        with (self._home.path / ".supervisor.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    "this coordinator is up already", where=self._home.path, remedy="ecgfed coordinator status"
                ) from None
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._ask_to_stop)
            self._log = json_log(self._home.path / "logs" / "supervisor.jsonl")
            end_orphans(self._home)
            self._home.make_whole()
            self._submissions.clear_notes()
            self._home.renew_if_due()
            self._certificates = CertificateCare(self._home, self._say, self._take_up)
            if self._home.config.health_port is not None:
                self._health = serve_health(self._home.config.health_port)
            self._children = self._planned()
            if self._home.config.metrics_port is not None:
                from server.coordinator.metrics import CoordinatorMetrics

                self._metrics = CoordinatorMetrics(self._home, lambda: self._told, self._home.config.metrics_port)
            try:
                self._work()
            finally:
                self._end_all()

    def _ask_to_stop(self, *_: object) -> None:
        self._stop = True

    def _planned(self) -> dict[str, Child]:
        home, config = self._home, self._home.config
        proxy.require_free("127.0.0.1", config.superlink_port, "coordinator.yaml: superlink_port")
        self._known_sites = self._let_in()
        nginx = proxy.find_nginx(config.nginx)
        proxy.write_config(
            home.path / "proxy",
            listen=config.listen,
            upstream_port=config.superlink_port,
            certificate=home.path / "tls" / "server.crt",
            key=home.path / "tls" / "server.key",
            ca=home.authority.certificate_file,
            sites=self._known_sites,
        )
        if nginx is not None:
            proxy.check(nginx, home.path / "proxy")
            front = proxy.command(nginx, home.path / "proxy")
        else:
            self._say("nginx is not installed: a small proxy of our own stands in (apt install nginx-light)")
            front = [sys.executable, "-P", "-m", "server.coordinator.asgi_proxy", str(home.path)]
        commands = {"proxy": front, "superlink": superlink_command(home), "superexec": superexec_command(home)}
        return {name: Child(name, command) for name, command in commands.items()}

    def _work(self) -> None:
        while not self._stop:
            for child in self._children.values():
                if not child.alive:
                    self._restart(child)
            self._try(self._look_after)
            self._try(self._certificates.look)
            self._try(self._write_status)
            if time.monotonic() > self._logs_due:
                self._logs_due = time.monotonic() + _LOGS_SECONDS
                shorten_logs(self._home)
            time.sleep(_TURN_SECONDS)

    def _look_after(self) -> None:
        if self._ready():
            self._keep_sites()
            self._submissions.keep(self._control_api())

    def _try(self, what: Callable[[], None]) -> None:
        """Do what is tried again at the next turn in any case; say once what hinders it."""
        trouble = ""
        try:
            what()
        except EcgFedError as error:
            trouble = error.what
        except OSError as error:
            # A full disk, say: what runs goes on.
            trouble = f"cannot read or write below {self._home.path}: {error.strerror}"
        if trouble and trouble != self._trouble.get(what.__name__):
            self._say(trouble)
        self._trouble[what.__name__] = trouble

    def _restart(self, child: Child) -> None:
        if child.process is not None and child.not_before == 0.0:
            status = child.process.returncode
            lived = time.monotonic() - child.started
            child.failures = 0 if lived > _SETTLED_SECONDS else child.failures + 1
            child.not_before = time.monotonic() + min(0.25 * 2**child.failures, _LONGEST_BACKOFF_SECONDS)
            child.restarts += 1
            self._say(f"{child.name} ended (status {status}); it is started again")
            self._log.warning("process-ended", process=child.name, exit_status=abs(status), restarts=child.restarts)
            if child.name == "superlink":
                # Its memory is gone: sites and runs are told to the next one.
                self._registered.clear()
                self._answers = False
                self._submissions.forget("the SuperLink ended")
                # It would wait longer and longer for the next SuperLink; a new one begins with short waits.
                self._children["superexec"].discard()
            if child.name == "superexec":
                self._submissions.excuse("the executor ended")
            if child.name in ("superlink", "superexec"):
                end_orphans(self._home, named="flwr-serverapp")
            if child.name == "proxy":
                # Workers of a killed nginx go on serving, and would not hear who is revoked.
                end_orphans(self._home, named="nginx")
        if child.name == "superexec" and not self._answers:
            return  # beside a SuperLink that is only starting it would wait longer and longer
        if time.monotonic() < child.not_before:
            return
        child.not_before = 0.0
        output = self._home.path / "logs" / f"{child.name}.log"
        with output.open("ab") as log:
            child.process = subprocess.Popen(
                child.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(self._home),
                cwd=self._home.path, preexec_fn=_die_with_parent,
            )  # fmt: skip
        child.started = time.monotonic()
        self._log.info("process-started", process=child.name, pid=child.process.pid)

    def _control_api(self) -> Control:
        if self._control is None:
            self._control = Control(self._home)
        return self._control

    def _ready(self) -> bool:
        if not self._children["superlink"].alive:
            self._answers = False
        elif not self._answers:
            self._answers = self._control_api().answers()
        return self._answers

    def _let_in(self) -> dict[str, bytes]:
        return {mark: entry.node_key for entry in self._home.admitted for mark in entry.marks}

    def _take_up(self, renewed: set[str]) -> None:
        """Have the servers use their new certificates."""
        if "server" in renewed and not proxy.reload(self._home.path / "proxy"):
            self._children["proxy"].discard()
        if "loopback" in renewed:
            superlink = self._children["superlink"].process
            if superlink is not None:
                superlink.terminate()  # it is started again, and told of sites and runs

    def _keep_sites(self) -> None:
        admitted = {entry.site: entry for entry in self._home.admitted}
        let_in = self._let_in()
        if let_in != self._known_sites:
            # Before anything else, and whatever the SuperLink does: who is revoked is out.
            proxy.write_sites(self._home.path / "proxy", let_in)
            proxy.reload(self._home.path / "proxy")
            self._known_sites = let_in
        control = self._control_api()
        for site, (key, node_id) in list(self._registered.items()):
            if site not in admitted or admitted[site].node_key != key:
                control.unregister(node_id)
                del self._registered[site]
        for site, entry in admitted.items():
            if site not in self._registered:
                self._registered[site] = entry.node_key, control.register(entry.node_key, site)
        nodes = {node: site for site, (_, node) in self._registered.items()}
        if nodes != self._noted:
            self._home.note_nodes(nodes)
            self._noted = nodes

    def _write_status(self) -> None:
        if not self._answers:
            self._nodes = {}
        elif time.monotonic() > self._nodes_due:
            self._nodes_due = time.monotonic() + _NODES_SECONDS
            with contextlib.suppress(EcgFedError):
                found = self._control_api().nodes()
                self._nodes = {site: found[node][1] for site, (_, node) in self._registered.items() if node in found}
        serving = all(child.alive for child in self._children.values())
        if self._health is not None:
            self._health.set(serving)
        status = {
            "pid": os.getpid(),
            "serving": serving,
            "processes": {
                c.name: {"pid": c.process.pid if c.process and c.alive else None, "restarts": c.restarts}
                for c in self._children.values()
            },
            "sites": self._nodes,
            "health_port": None if self._health is None else self._health.port,
            "metrics_port": None if self._metrics is None else self._metrics.port,
            "submitted": self._submissions.described(),
        }
        self._told = status
        text = json.dumps(status, sort_keys=True)
        if text != self._known_status:
            self._known_status = text
            write_atomically(self._home.path / "status.json", json.dumps({"at": now(), **status}, indent=1).encode())

    def _end_all(self) -> None:
        if self._health is not None:
            self._health.set(False)
        # The ServerApp first, while its SuperLink lives: it notes that it was interrupted.
        end_orphans(self._home, named="flwr-serverapp", seconds=5.0)
        # A SuperLink waits for its connections to be closed at the other end too.
        if self._control is not None:
            self._control.close()
        for name in ("superexec", "superlink", "proxy"):
            child = self._children[name]
            if child.process is not None and child.alive:
                child.process.terminate()
        end = time.monotonic() + 8
        for child in self._children.values():
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        for port in (self._health, self._metrics):
            if port is not None:
                port.close()
        write_atomically(self._home.path / "status.json", json.dumps({"at": now(), "serving": False}).encode())
        self._log.close()


def shorten_logs(home: Home) -> None:
    """Put what the processes wrote aside as ``.1`` once it is long; they append, so the file may be cut under them."""
    for log in [*(home.path / "logs").glob("*.log"), home.path / "proxy" / "access.log"]:
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def end_orphans(home: Home, *, named: str | None = None, seconds: float = 3.0) -> None:
    """End processes of this home that a killed supervisor left behind, or those of one program."""
    found = [pid for pid in _processes() if pid != os.getpid() and _belongs(pid, home.path, named)]
    for pid in found:
        _signal(pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    while found and time.monotonic() < end:
        time.sleep(0.05)
        found = [pid for pid in found if _belongs(pid, home.path, named)]
    for pid in found:
        _signal(pid, signal.SIGKILL)


def _belongs(pid: int, home: Path, named: str | None) -> bool:
    try:
        proc = Path("/proc") / str(pid)
        words = proc.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
        if words[0].startswith("nginx:"):
            # nginx writes its title over its environment; where it was started is still to be seen.
            names, ours = {"nginx"}, proc.joinpath("cwd").readlink() == home
        else:
            names = {Path(word).name for word in words[:4]}
            ours = f"{HOME_VARIABLE}={home}".encode() in proc.joinpath("environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return ours and (named in names if named is not None else bool(names & _PROGRAMS))


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _die_with_parent() -> None:
    """A supervisor that is killed leaves nothing behind that holds its ports (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
