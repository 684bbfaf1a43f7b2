"""Seconds a round and memory of each process, two sites, TLS on loopback: ours beside Flower's plain deployment.

Both measured in one run, one after the other. Plain Flower trains in one message and evaluates in another; ours folds
both into one. Ours passes nginx with client certificates, keeps every answer on disk before it leaves, and writes a
checkpoint a round; plain Flower does none of that. Both nets do one step of training; the first round is left out.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
from federation import SITES, SmallFederation
from plain_flower import Measured, memory_of, run_plain_flower

from server.coordinator import proxy
from server.coordinator.background import read_status
from server.coordinator.watch import watch_run
from simulations.federation.network import LocalNetwork

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(900),
    pytest.mark.skipif(proxy.find_nginx(None) is None, reason="nginx is not installed"),
]

ROUNDS = 4
GOALS = {"27 kB": 0.25, "70 MB": 0.5}


def run_ours(federation: SmallFederation, model: dict[str, Any]) -> Measured:
    """Run describe and ``ROUNDS`` rounds of ``model`` over two sites."""
    train = federation.train(model=model, rounds=ROUNDS, local={"steps": 1, "batch_size": 2})
    names = SITES[:2]
    study = federation.study(
        sites={"train": list(names)},
        split={"train": 0.8, "validation": 0.1, "lockbox": 0.1},
        steps=[{"id": "cohorts", "stage": "describe"}, train],
    )
    files = dict(zip(names, federation.sites(names, studies=[str(study)]), strict=True))
    with LocalNetwork(federation.folder, files) as network:
        network.enrol([study])
        network.start_all()
        supervisor = read_status(network.home)["pid"]
        roots = {supervisor: "supervisor"} | {daemon.pid: f"site-{name}" for name, daemon in network.daemons.items()}
        with memory_of(roots) as peak:
            folder = network.run(study, "speed")
            assert watch_run(folder) == "done"
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return Measured([line["seconds"] for line in lines if line["phase"] == "fit"][1:], peak)


def show(what: str, ours: Measured, plain: Measured) -> float:
    """Print both; return the ratio of the medians."""
    ratio = statistics.median(ours.rounds) / statistics.median(plain.rounds)
    for name, measured in (("ours", ours), ("plain Flower", plain)):
        seconds = ", ".join(f"{s:.2f}" for s in measured.rounds)
        memory = ", ".join(f"{n} {mb:.0f}" for n, mb in sorted(measured.memory.items()) if mb > 20)
        print(f"\n{what}, {name}: {seconds} s a round\n    peak MB: {memory}")
        print(f"    in all: {sum(measured.memory.values()):.0f} MB")
    print(f"{what}: {ratio:.3f} of plain Flower's time (goal: at most {GOALS[what]})")
    return ratio


def test_a_tiny_net(federation: SmallFederation) -> None:
    plain = run_plain_flower(federation.folder / "plain", width=56, layers=2, rounds=ROUNDS)
    ours = run_ours(federation, {"blocks": 1, "width": 16, "groups": 2, "hidden": 16, "dropout": 0.0})
    assert len(ours.rounds) == ROUNDS - 1
    show("27 kB", ours, plain)


def test_a_net_of_70_mb(federation: SmallFederation) -> None:
    plain = run_plain_flower(federation.folder / "plain", width=1322, layers=10, rounds=ROUNDS)
    # Nearly all of it one wide layer: many weights, little arithmetic.
    ours = run_ours(
        federation,
        {"blocks": 1, "width": 8, "groups": 2, "hidden": 11000, "pool": "none", "stem_stride": 1, "dropout": 0.0},
    )
    assert len(ours.rounds) == ROUNDS - 1
    show("70 MB", ours, plain)
