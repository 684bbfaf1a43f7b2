"""A real federation under test: what is going on in it, blows to its processes, and what it must have done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import yaml
from federation import SITES, SmallFederation
from numpy.typing import NDArray
from safetensors.numpy import load_file

from server.coordinator import background
from server.coordinator.home import HOME_VARIABLE
from server.rounds.run_folder import is_held
from simulations.federation.network import LocalNetwork

TRAIN = SITES[:3]
OVER = ("done", "failed", "paused", "stopped")
KINDS = ("site", "worker", "serverapp", "superexec", "superlink", "supervisor", "proxy")
"""One name a kind of process. ``serverapp`` works on the run, ``superexec`` starts it."""


DEADLINE = 15.0
"""Seconds of a round of the study in which two sites are enough."""


class Trial:
    """Hospitals and a coordinator on loopback, and files to ask and to hit them by.

    Parameters
    ----------
    sites : three of them, unless said otherwise.

    Attributes
    ----------
    network : the processes; :meth:`up` starts all of them.
    federation : writes the studies; every site's state is the trial's own.
    """

    def __init__(self, hospitals: Path, folder: Path, *, sites: tuple[str, ...] = TRAIN, **site_changes: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.federation, self.sites = folder, SmallFederation(hospitals, folder), sites
        self._site_changes = site_changes
        (folder / "twin").mkdir()
        self._studies: list[Path] = []
        self.study("first")
        files = dict(
            zip(sites, self.federation.sites(sites, studies=[str(self._studies[0])], **site_changes), strict=True)
        )
        self.network = LocalNetwork(folder, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.network.close()
        left = self.processes()
        send(left, signal.SIGKILL)
        if error is None:
            assert not left, "processes were left behind"

    def study(self, name: str, *, rounds: int = 5, epochs: int = 6, quorum: Any = "all", **federation: Any) -> Path:
        """Write a study with a state of the optimiser that stays at the sites; return its file.

        The more ``epochs``, the longer a round can be hit.
        """
        train = self.federation.train(
            rounds=rounds,
            local={"epochs": epochs, "batch_size": 32},
            optimiser={"name": "adam", "lr": 0.003, "between_rounds": "keep"},
        )
        return self.asks(
            name,
            steps=[{"id": "cohorts", "stage": "describe"}, train],
            federation={"quorum": quorum, "deadline_seconds": 120, "retries": 2, **federation},
        )

    def asks(self, name: str, **content: Any) -> Path:
        """Write a study of all sites; return its file."""
        written = self.federation.study(name=name, sites={"train": list(self.sites)}, **content)
        path = self.folder / f"{name}.yaml"
        written.replace(path)
        self._studies.append(path)
        return path

    def up(self) -> None:
        """Enrol the sites with every study written so far, and start all processes."""
        self.network.enrol(self._studies)
        self.network.start_all()

    def limit_replies(self, megabytes: int) -> None:
        """Have the coordinator fetch no larger answers. Before :meth:`up`."""
        config = self.network.home.path / "coordinator.yaml"
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"max_reply_mb": megabytes}))

    # What is going on ------------------------------------------------------------------------------------------

    def status(self, run: Path) -> str:
        """Return a run's status."""
        return str(read(run / "run.json").get("status", ""))

    def end_of(self, run: Path, seconds: float = 180.0) -> str:
        """Wait until a run is over and nobody holds it; return its status."""
        self.wait(lambda: self.status(run) in OVER and not is_held(run), seconds, run)
        return self.status(run)

    def wait(self, condition: Callable[[], Any], seconds: float = 60.0, run: Path | None = None) -> None:
        """Wait until something is so; fail with what the processes last said."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.words(run)
            time.sleep(0.02)

    def words(self, run: Path | None) -> str:
        """Return what a person would look at where something takes too long."""
        said = [f"{site}:\n{self.network.last_words(site)}" for site in self.sites if site in self.network.daemons]
        for log in sorted((self.network.home.path / "logs").glob("*.log")):
            said.append(f"{log.name}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]))
        if run is not None:
            said += [(run / n).read_text() for n in ("run.json", "events.jsonl", "live.json") if (run / n).exists()]
        return "\n".join(said)

    def wait_training(self, run: Path, round_number: int, sites: tuple[str, ...] = TRAIN) -> None:
        """Wait until all of ``sites`` train in a round."""
        self.wait(lambda: all(self.works_on(site, run) == ("fit", round_number) for site in sites), 400, run)

    def works_on(self, site: str, run: Path) -> tuple[str, int] | None:
        """Return (phase, round) of a site's work for a run, or None."""
        work = self.site_status(site).get("work")
        if not work or work["run"] != read(run / "run.json").get("run"):
            return None
        return str(work["phase"]), int(work["round"])

    def site_status(self, site: str) -> dict[str, Any]:
        """Return what a site's daemon says of itself."""
        return read(self.state(site) / "network" / "status.json")

    def state(self, site: str) -> Path:
        """Return a site's folder."""
        return self.folder / "state" / site

    def processes(self, program: str = "") -> list[int]:
        """Return the coordinator's processes but the supervisor, or those of one program."""
        mark = f"{HOME_VARIABLE}={self.network.home.path}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().split(b"\0")[:3]
                    if any(Path(word.decode(errors="replace")).name.startswith(program) for word in words):
                        found.append(int(entry.name))
        return found

    def peak_mb(self, kind: str) -> float:
        """Return the most memory a process ever had, in MiB."""
        (pid,) = self.pids(kind)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024

    # Blows -----------------------------------------------------------------------------------------------------

    def pids(self, kind: str, site: str = TRAIN[0]) -> list[int]:
        """Return the processes of one of :data:`KINDS`."""
        if kind == "site":
            return [self.network.daemons[site].pid]
        if kind == "worker":
            return [int(self.site_status(site)["worker_pid"])]
        if kind == "serverapp":
            return self.processes("flwr-serverapp")
        found = background.read_status(self.network.home)
        return [int(found["pid"] if kind == "supervisor" else found["processes"][kind]["pid"])]

    def kill(self, kind: str, site: str = TRAIN[0], *, again: bool = True) -> None:
        """Kill a process with -9; what an init system would start again is started again, if ``again``."""
        pids = self.pids(kind, site)
        assert pids, f"there is no {kind} to kill"
        send(pids, signal.SIGKILL)
        if kind == "site":
            self.network.daemons[site].wait()
        if not again:
            return
        if kind == "site":
            self.network.start(site)
        if kind == "supervisor":
            self.wait(lambda: not background.is_up(self.network.home))
            background.start(self.network.home)

    def kill_machine(self) -> None:
        """Kill all that the coordinator's machine runs at once, as a loss of power would, and wait until it is gone."""
        send([*self.processes(), *self.pids("supervisor")], signal.SIGKILL)
        self.wait(lambda: not background.is_up(self.network.home) and not self.processes())

    # What was done ---------------------------------------------------------------------------------------------

    def simulated(self, study: Path) -> Path:
        """Run a study in this process over the same hospitals; return the run's folder.

        Every site's state is another one, but for its secret key: it decides which patient is in which part.
        """
        from simulations.federation.run import simulate

        folder = self.folder / f"alone-{study.stem}"
        (folder / "twin").mkdir(parents=True)
        files = SmallFederation(self.federation.hospitals, folder).sites(
            self.sites, studies=[str(study)], **self._site_changes
        )
        for site in self.sites:
            # Not the anchors of the logs: a log that its anchor knows and that is gone closes the gate.
            twin = folder / "state" / site / "keys"
            shutil.copytree(self.state(site) / "keys", twin, ignore=shutil.ignore_patterns("*.anchor"))
        return simulate(study, files, folder / "run")


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, those that are gone aside."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file that another process may be about to write for the first time."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def weights(run: Path) -> NDArray[np.float32]:
    """Return the weights a run ended with."""
    found: NDArray[np.float32] = load_file(run / "artefacts" / "risk.safetensors")["weights"]
    return found


def result(run: Path, step: str = "risk") -> dict[str, Any]:
    """Return what a run found in a step."""
    return dict(read(run / "artefacts" / f"{step}.json")["result"])


def fits(run: Path) -> Iterator[dict[str, Any]]:
    """Return the lines of the history that are about training."""
    return (line for line in lines(run / "history.jsonl") if line["phase"] == "fit")


def events(run: Path) -> list[tuple[str, str]]:
    """Return (what, why) of the events of a run."""
    return [(line["what"], line["why"]) for line in lines(run / "events.jsonl")]


def check_history(trial: Trial, run: Path, rounds: int, quorum: int) -> None:
    """Hold a run's books to the sites' own: who is told to have taken part did, and with one answer a round.

    A round may stand there twice where the process ended between history and checkpoint; it then tells the same.
    """
    name = read(run / "run.json")["run"]
    sent: dict[str, dict[int, set[str]]] = {site: {} for site in TRAIN}
    for site in TRAIN:
        for line in lines(trial.state(site) / "releases.jsonl"):
            if line["run"] == name and line["phase"] == "fit":
                sent[site].setdefault(line["round"], set()).add(line["sha256"])
    done = 0
    for line in fits(run):
        assert line["round"] in (done, done + 1), "rounds were lost or came out of order"
        done = max(done, line["round"])
        assert len(line["answered"]) >= quorum
        assert not set(line["answered"]) & set(line["absent"])
        assert set(line["answered"]) | set(line["absent"]) == set(TRAIN)
        assert all(line["absent"].values())
        for site in line["answered"]:
            assert line["round"] in sent[site], f"{site} did not answer round {line['round']}"
    assert done == rounds
    received = {(line["site"], line["round"]) for line in lines(run / "releases.jsonl") if line["phase"] == "fit"}
    assert received == {(site, line["round"]) for line in fits(run) for site in line["answered"]}
    if quorum == len(TRAIN):
        assert all(len(bodies) == 1 for of in sent.values() for bodies in of.values()), "answered in two ways"
