"""Thirty rounds while something else goes wrong in nearly each: the weights are those of an undisturbed run.

Faults are drawn by a seed from a bag that holds each once: processes killed, told to end, and stopped for a while; a
site's line cut, and slowed down; a proxy that knows nobody; a site paused, its approval withdrawn, its file broken, its
disk full; and the newest checkpoint, a site's inbox and its outbox damaged on the disk.

Slow: about six minutes on a quiet machine of two cores. ``ROUNDS`` asks for fewer, and so for fewer faults.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from slow_line import SlowLine
from trial import KINDS, OVER, TRAIN, Trial, events, fits, read, result, send, weights

from client.approval import register as approvals
from client.network.status import pause
from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.coordinator import background, proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROUNDS, FAR = int(os.environ.get("ROUNDS", "30")), TRAIN[2]
"""The far site's line goes through a relay."""


class Faults:
    """What can go wrong, each a method that lets it go wrong and, where that takes a person, mends it after a while."""

    def __init__(self, trial: Trial, line: SlowLine, run: Path, seed: int) -> None:
        self.trial, self.line, self.run, self.chance = trial, line, run, random.Random(seed)
        self.bag: dict[str, Callable[[], None]] = {
            **{f"killed {kind}": lambda kind=kind: self.kill(kind) for kind in KINDS},
            **{f"told to end {kind}": lambda kind=kind: self.end(kind) for kind in ("site", "superlink", "supervisor")},
            "stopped": self.stop,
            "line cut": self.line.cut,
            "line slow": self.slow,
            "nobody let in": self.shut,
            "paused": self.pause,
            "withdrawn": self.withdraw,
            "site file broken": self.break_file,
            "disk full": self.fill,
            "checkpoint damaged": self.damage_checkpoint,
            "inbox damaged": lambda: self.damage("inbox"),
            "outbox damaged": lambda: self.damage("outbox"),
        }

    @property
    def site(self) -> str:
        return self.chance.choice(TRAIN)

    def kill(self, kind: str) -> None:
        with contextlib.suppress(AssertionError, ValueError, KeyError):  # it may be between two lives already
            self.trial.kill(kind, self.site)

    def end(self, kind: str) -> None:
        site = self.site
        send(self.trial.pids(kind, site), signal.SIGTERM)
        if kind == "site":
            self.trial.network.daemons[site].wait(60)
            self.trial.network.start(site)
        if kind == "supervisor":
            self.trial.wait(lambda: not background.is_up(self.trial.network.home))
            background.start(self.trial.network.home)

    def stop(self) -> None:
        site = self.site
        pids = self.trial.pids("site", site)
        send(pids, signal.SIGSTOP)
        time.sleep(self.chance.uniform(3, 8))
        send(pids, signal.SIGCONT)

    def slow(self) -> None:
        self.line.rate, usual = 20_000.0, self.line.rate
        time.sleep(6)
        self.line.rate = usual

    def shut(self) -> None:
        folder = self.trial.network.home.path / "proxy"
        known = (folder / "sites.map").read_bytes()
        proxy.write_sites(folder, {})
        proxy.reload(folder)
        time.sleep(5)
        (folder / "sites.map").write_bytes(known)
        proxy.reload(folder)

    def pause(self) -> None:
        state = load_site(self.trial.network.site_files[self.site]).link_state
        pause(state, True)
        time.sleep(4)
        pause(state, False)

    def withdraw(self) -> None:
        state, study = self.trial.state(self.site), load_study(self.trial.folder / "all.yaml")
        approvals.record(state, "study", study.sha256, study.name, withdrawn=True)
        time.sleep(4)
        approvals.approve_study(state, self.trial.folder / "all.yaml")

    def break_file(self) -> None:
        file = self.trial.network.site_files[self.site]
        text = file.read_text()
        file.write_text("site: [")
        time.sleep(4)
        file.write_text(text)

    def fill(self) -> None:
        """No file may be written, as on a disk that is full or was mounted read-only."""
        (pid,) = self.trial.pids("site", self.site)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        time.sleep(4)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def damage_checkpoint(self) -> None:
        send(self.trial.pids("serverapp"), signal.SIGKILL)
        file = self.run / "steps" / "risk" / "checkpoint.bin"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    def damage(self, what: str) -> None:
        """Flip a byte of every file of a site's inbox or outbox while its daemon is dead."""
        site = self.site
        self.trial.kill("site", site, again=False)
        for file in [p for p in (self.trial.state(site) / what).rglob("*") if p.is_file() and p.stat().st_size]:
            content = bytearray(file.read_bytes())
            content[self.chance.randrange(len(content))] ^= 1
            file.write_bytes(content)
        self.trial.network.start(site)


@pytest.fixture
def trial(nginx: None, hospitals: Path, tmp_path: Path) -> Iterator[tuple[Trial, SlowLine]]:
    with Trial(hospitals, tmp_path / "trial") as made:
        made.study("all", rounds=ROUNDS)
        made.network.enrol(made._studies)
        with SlowLine(made.network.port, 1e7) as line:
            file = made.network.site_files[FAR]
            content = yaml.safe_load(file.read_text())
            content["network"]["coordinator"] = f"127.0.0.1:{line.port}"
            file.write_text(yaml.safe_dump(content))
            made.network.start_all()
            yield made, line


@pytest.mark.parametrize("seed", [1])
def test_every_fault_and_the_weights_of_the_undisturbed_run(trial: tuple[Trial, SlowLine], seed: int) -> None:
    federation, line = trial
    calm = federation.network.run(federation.folder / "all.yaml", "calm")
    assert federation.end_of(calm, 600) == "done", federation.words(calm)
    run = federation.network.run(federation.folder / "all.yaml", "faults")
    faults = Faults(federation, line, run, seed)
    names, done, due = sorted(faults.bag), [], 2
    faults.chance.shuffle(names)
    while names and federation.status(run) not in OVER:
        live = read(run / "live.json")
        if live.get("phase") != "fit" or int(live["round"]) < due:
            time.sleep(0.05)
            continue
        time.sleep(faults.chance.uniform(0, 1.0))
        name = names.pop()
        faults.bag[name]()
        done.append((int(live["round"]), name))
        # Twenty-three faults in twenty-eight rounds.
        due = int(read(run / "live.json").get("round", due)) + 1
    assert federation.end_of(run, 900) == "done", federation.words(run)
    print(f"{len(done)} faults: {done}")
    print(events(run))
    assert len(done) >= ROUNDS // 2, "too few faults fitted into the rounds"
    assert np.array_equal(weights(run), weights(calm))
    assert result(run) == result(calm)
    # A damaged checkpoint has rounds stand there twice.
    assert {entry["round"] for entry in fits(run)} == set(range(1, ROUNDS + 1))
