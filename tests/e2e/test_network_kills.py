"""Each kind of process killed with -9 while all sites train: the run ends by itself, with the undisturbed weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trial import KINDS, TRAIN, Trial, check_history, events, result, weights

from server.coordinator import background

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
    check_history(federation, run, rounds=5, quorum=3)
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
