"""Each kind of process told to end while all sites train: nothing is lost, the weights are the undisturbed run's.

Slow: about half a minute a process on a quiet machine of two cores.
"""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from trial import KINDS, TRAIN, Trial, check_history, result, send, weights

from server.coordinator import background

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SITE = TRAIN[0]


@pytest.mark.parametrize("kind", KINDS)
def test_told_to_end_in_training(federation: Trial, undisturbed: Path, kind: str) -> None:
    """SIGTERM, as an init system or a person sends it; what an init system starts again is started again."""
    run = federation.network.run(federation.folder / "first.yaml", f"ended-{kind}")
    federation.wait_training(run, 2)
    send(federation.pids(kind), signal.SIGTERM)
    if kind == "site":
        federation.network.daemons[SITE].wait(30)
        federation.network.start(SITE)
    if kind == "supervisor":
        federation.wait(lambda: not background.is_up(federation.network.home))
        background.start(federation.network.home)
    _went_on(federation, run, undisturbed)


def _went_on(federation: Trial, run: Path, undisturbed: Path) -> None:
    assert federation.end_of(run, 300) == "done", federation.words(run)
    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    check_history(federation, run, rounds=5, quorum=3)
    federation.network.wait_connected(TRAIN)
