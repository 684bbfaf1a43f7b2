"""Each kind of process killed with -9 while all sites train: the run ends by itself, with the undisturbed weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trial import KINDS, TRAIN, Trial, events, fits, lines, read, result, weights

from server import background

AGAIN = {"serverapp", "superexec", "superlink", "supervisor"}
"""Whose death ends the process that works on the run."""


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_training(federation: Trial, undisturbed: Path, kind: str) -> None:
    run = federation.network.run(federation.folder / "first.yaml", f"killed-{kind}")
    federation.wait_training(run, 2)
    before = federation.pids(kind)
    federation.kill(kind)
    assert federation.end_of(run) == "done", federation.words(run)

    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    _nothing_lost(federation, run)
    assert any("again" in what for what, _ in events(run)) == (kind in AGAIN), events(run)
    if kind != "serverapp":
        federation.wait(lambda: _lives_again(federation, kind, before))
    if kind == "worker":
        told = (federation.state(TRAIN[0]) / "network" / "daemon.log").read_text()
        assert "worker-lost" in told
    # The next test finds all in good order.
    federation.network.wait_connected(TRAIN)


def _lives_again(federation: Trial, kind: str, before: list[int]) -> bool:
    if kind in ("superlink", "superexec", "proxy", "supervisor"):
        found = background.read_status(federation.network.home)
        if not found.get("serving"):
            return False
    return not set(federation.pids(kind)) & set(before)


def _nothing_lost(federation: Trial, run: Path) -> None:
    """Every round was finished by all, once at every site; what is told twice is told alike."""
    told: dict[int, list[str]] = {}
    for line in fits(run):
        assert line["round"] in (len(told), len(told) + 1)
        told.setdefault(line["round"], line["answered"])
        assert line["answered"] == told[line["round"]] == sorted(TRAIN)
        assert line["lost"].keys() <= set(TRAIN)
    assert list(told) == [1, 2, 3, 4, 5]
    name = read(run / "run.json")["run"]
    for site in TRAIN:
        sent: dict[tuple[str, str, int], set[str]] = {}
        for line in lines(federation.state(site) / "releases.jsonl"):
            if line["run"] == name:
                sent.setdefault((line["step"], line["phase"], line["round"]), set()).add(line["sha256"])
        assert {number for step, phase, number in sent if phase == "fit"} == {1, 2, 3, 4, 5}
        assert all(len(bodies) == 1 for bodies in sent.values()), "a round was answered in two ways"
