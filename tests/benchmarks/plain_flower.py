"""Flower's plain deployment on this machine: SuperLink with TLS, node keys and SQLite, two SuperNodes, `flwr run`.

The yardstick of test_network_speed.py, by Flower's own commands and defaults. Its app (``plain/``) trains one step and
evaluates once a round; ours folds both into one message.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

BIN = Path(sys.executable).parent
APP = Path(__file__).parent / "plain"
TLS = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass
class Measured:
    """Seconds of every round after the first, and the most memory (MB) each kind of process had at once."""

    rounds: list[float]
    memory: dict[str, float] = field(default_factory=dict)


def free_port() -> int:
    """Return a port of the loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_plain_flower(folder: Path, *, width: int, layers: int, rounds: int) -> Measured:
    """Run the plain app for ``rounds`` and return what it cost."""
    home, port, times = folder / "home", free_port(), folder / "times.txt"
    home.mkdir(parents=True)
    certificates(folder)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "tls"\n[superlink.tls]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder / "ca.crt"}"\n'
    )
    env = os.environ | {
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    with ExitStack() as stack:
        link = [BIN / "flower-superlink", "--host", "127.0.0.1", "--port", port, "--ssl-ca-certfile", folder / "ca.crt",
                "--ssl-certfile", folder / "tls.crt", "--ssl-keyfile", folder / "tls.key", "--enable-supernode-auth",
                "--database", folder / "state.db", "--disable-runtime-dependency-installation"]  # fmt: skip
        started = [stack.enter_context(process("superlink", link, folder, env))]
        wait_for(port)
        for node in ("one", "two"):
            key = folder / node
            _do("ssh-keygen", "-t", "ecdsa", "-b", "384", "-N", "", "-q", "-f", key)
            _do(BIN / "flwr", "supernode", "register", f"{key}.pub", "tls", env=env)
            command = [BIN / "flower-supernode", "--superlink", f"127.0.0.1:{port}",
                       "--root-certificates", folder / "ca.crt", "--auth-supernode-private-key", key,
                       "--host", "127.0.0.1", "--port", free_port()]  # fmt: skip
            started.append(stack.enter_context(process(f"supernode-{node}", command, folder, env)))
        app = folder / "plainflower"
        shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
        watch = stack.enter_context(memory_of({p.pid: name for name, p in started}))
        config = f'width={width} layers={layers} rounds={rounds} times="{times}"'
        _do(BIN / "flwr", "run", ".", "tls", "--run-config", config, env=env, cwd=app)
        deadline = time.monotonic() + 60 * (rounds + 2)
        while time.monotonic() < deadline and (not times.exists() or len(times.read_text().split()) < rounds + 1):
            time.sleep(0.2)
    stamps = [float(line) for line in times.read_text().split()]
    if len(stamps) != rounds + 1:
        raise AssertionError(f"plain Flower did {len(stamps) - 1} of {rounds} rounds; logs in {folder}")
    # The first stamp is of the initial weights; the first round also waits for the nodes.
    return Measured([b - a for a, b in pairwise(stamps[1:])], watch)


def certificates(folder: Path) -> None:
    """Write ca.crt, tls.crt and tls.key for the loopback, by openssl."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-days", "2")
    _do("openssl", "req", "-x509", *curve, "-keyout", folder / "ca.key", "-out", folder / "ca.crt",
        "-subj", "/CN=plain")  # fmt: skip
    _do("openssl", "req", *curve, "-keyout", folder / "tls.key", "-out", folder / "tls.csr", "-subj", "/CN=localhost",
        "-addext", TLS)  # fmt: skip
    (folder / "san.ext").write_text(TLS + "\n")
    _do("openssl", "x509", "-req", "-in", folder / "tls.csr", "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key",
        "-CAcreateserial", "-days", "2", "-out", folder / "tls.crt", "-extfile", folder / "san.ext")  # fmt: skip


@contextmanager
def process(
    name: str, command: list[object], folder: Path, env: dict[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a command in a group of its own, its output in ``<name>.log``, and end the group."""
    with (folder / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        yield name, child
    finally:
        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill_group(child.pid)
            child.wait()


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def wait_for(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens on a loopback port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}")


@contextmanager
def memory_of(roots: dict[int, str]) -> Iterator[dict[str, float]]:
    """Follow the resident memory of process trees; the dictionary yielded holds each program's peak, in MB."""
    peak: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for pid, name in _tree(roots):
                peak[name] = max(peak.get(name, 0.0), _resident_mb(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _tree(roots: dict[int, str]) -> list[tuple[int, str]]:
    """Roots and their descendants; a descendant is named after its program."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = []
    for pid in parents:
        above = pid
        while above and above not in roots:
            above = parents.get(above, 0)
        if above in roots:
            found.append((pid, roots[pid] if pid in roots else f"{roots[above]}/{_program(pid)}"))
    return found


def _program(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    telling = ("flwr-", "flower-", "client.network.worker", "ecgfed")
    return next((Path(w).name for w in words[:4] if any(t in w for t in telling)), Path(words[0]).name.split(":")[0])


def _resident_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _do(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command], env=env, cwd=cwd, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise AssertionError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")
