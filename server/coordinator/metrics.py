"""What a coordinator tells a Prometheus on the same machine: sites, runs, rounds, bytes, what was started again.

Served on 127.0.0.1 only. Everything is read from the coordinator's own files when it is asked, and a run's history only
as far as it grew; nothing of it is of a patient.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ecgshared.errors import EcgFedError, RunError
from ecgshared.service.fingerprint import code_sha256
from server.coordinator.authority import read_certificate
from server.coordinator.home import Home
from server.coordinator.submission import GOING
from server.coordinator.watch import Tail

_LOOPBACK = "127.0.0.1"


@dataclass
class _RunCounts:
    """What a run's history told so far."""

    tail: Tail
    answers: int = 0
    missed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rounds: set[tuple[str, str, int]] = field(default_factory=set)

    def read(self) -> None:
        for line in self.tail.fresh():
            self.rounds.add((str(line.get("step")), str(line.get("phase")), int(line.get("round", 0))))
            self.answers += len(line.get("answered", ()))
            self.missed += len(line.get("absent", ()))
            self.bytes_in += sum(line.get("bytes_in", {}).values())
            self.bytes_out += sum(line.get("bytes_out", {}).values())


class CoordinatorMetrics:
    """The metrics of one coordinator, served as long as it is open.

    Parameters
    ----------
    status : gives what the supervisor last knew of its processes and sites.
    port : on 127.0.0.1; 0 picks a free one.

    Raises
    ------
    RunError : the port is taken or out of range.
    """

    def __init__(self, home: Home, status: Callable[[], dict[str, Any]], port: int) -> None:
        self._home, self._status = home, status
        self._runs: dict[str, _RunCounts] = {}
        self._code = code_sha256()[:12]
        self._lock = threading.Lock()
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr=_LOOPBACK, registry=registry)
        except (OSError, OverflowError) as error:
            raise RunError(
                "metrics cannot be served", where=f"{_LOOPBACK}:{port}", remedy="choose another metrics_port"
            ) from error
        self.port = int(self._server.server_port)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        with self._lock:
            status = self._status()
            yield from self._of_sites(status)
            yield from self._of_runs()
            yield from self._of_this_machine(status)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _of_sites(self, status: dict[str, Any]) -> Iterator[Metric]:
        admitted, forks = [], 0
        with suppress(EcgFedError):
            admitted = self._home.admitted
        connected = _gauge("ecgfed_coordinator_site_connected", "1 while an admitted site is online.", ["site"])
        ends = _gauge(
            "ecgfed_coordinator_certificate_not_after_timestamp_seconds", "Time at which a certificate ends.", ["of"]
        )
        for entry in admitted:
            connected.add_metric([entry.site], float(status.get("sites", {}).get(entry.site) == "online"))
        for name, file in (
            ("authority", self._home.authority.certificate_file),
            ("server", self._home.path / "tls" / "server.crt"),
            *((f"site {entry.site}", self._home.path / "admitted" / f"{entry.site}.crt") for entry in admitted),
        ):
            with suppress(EcgFedError):
                ends.add_metric([name], read_certificate(file).not_valid_after_utc.timestamp())
        asking = _gauge("ecgfed_coordinator_renewals_waiting", "Requests for certificates that wait to be signed.")
        asking.add_metric([], len(self._home.asking()))
        with suppress(OSError, ValueError, AttributeError):
            held = json.loads((self._home.path / "sessions.json").read_text(encoding="utf-8"))
            forks = sum(int(entry.get("refused", {}).get("times", 0)) for entry in held.values())
        copies = CounterMetricFamily("ecgfed_coordinator_copies_refused", "Copies of a site's state that were refused.")
        copies.add_metric([], forks)
        yield from (connected, ends, asking, copies)

    def _of_runs(self) -> Iterator[Metric]:
        states: Counter[str] = Counter()
        late = _gauge("ecgfed_coordinator_run_waiting_sites", "Sites that have yet to answer a run.", ["run"])
        counts = {
            "rounds": CounterMetricFamily("ecgfed_coordinator_run_questions", "Questions of a run.", labels=["run"]),
            "answers": CounterMetricFamily("ecgfed_coordinator_run_answers", "Answers of sites.", labels=["run"]),
            "missed": CounterMetricFamily("ecgfed_coordinator_run_missed", "Answers that were missed.", labels=["run"]),
            "bytes_in": CounterMetricFamily("ecgfed_coordinator_run_received_bytes", "From sites.", labels=["run"]),
            "bytes_out": CounterMetricFamily("ecgfed_coordinator_run_sent_bytes", "To sites.", labels=["run"]),
        }
        for path in sorted((self._home.path / "runs").glob("*/run.json")):
            name, state = path.parent.name, str(_json(path).get("status", "damaged"))
            states[state] += 1
            if state not in GOING:
                self._runs.pop(name, None)
                continue
            known = self._runs.setdefault(name, _RunCounts(Tail(path.parent / "history.jsonl")))
            known.read()
            for key, metric in counts.items():
                value = getattr(known, key)
                metric.add_metric([name], len(value) if isinstance(value, set) else value)
            late.add_metric([name], len(_json(path.parent / "live.json").get("late", ())))
        runs = _gauge("ecgfed_coordinator_runs", "Runs by state.", ["state"])
        for state in {*GOING, "paused", "failed", "stopped", "done"} | set(states):
            runs.add_metric([state], states[state])
        yield from (runs, late, *counts.values())

    def _of_this_machine(self, status: dict[str, Any]) -> Iterator[Metric]:
        restarts = CounterMetricFamily(
            "ecgfed_coordinator_process_restarts", "How often a process was started again.", labels=["process"]
        )
        for name, process in status.get("processes", {}).items():
            restarts.add_metric([name], process["restarts"])
        serving = _gauge("ecgfed_coordinator_serving", "1 while all processes live.")
        serving.add_metric([], float(bool(status.get("serving"))))
        disk = _gauge("ecgfed_coordinator_disk_free_bytes", "Room left for the coordinator's folder.")
        disk.add_metric([], shutil.disk_usage(self._home.path).free)
        build = _gauge("ecgfed_coordinator_build_info", "1; version and code of the software.", ["version", "code"])
        build.add_metric([version("ecgfed"), self._code], 1)
        yield from (restarts, serving, disk, build)


def _gauge(name: str, about: str, labels: list[str] | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, labels=labels or [])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
