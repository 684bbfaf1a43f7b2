"""A hospital that answers nonsense: left out and named where two are enough, else the run is paused and says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trial import TRAIN, Trial, check_history, fits, read, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROGUE = Path(__file__).parent / "rogue"
LIAR, HONEST = TRAIN[0], sorted(TRAIN[1:])
TOO_LARGE, MALFORMED = "too-large", "malformed"
REASONS = {"nan": "not-finite", "garbage": MALFORMED, "huge": TOO_LARGE, "folded": TOO_LARGE, "replay": MALFORMED}


@pytest.fixture
def lying(federation: Trial, request: pytest.FixtureRequest) -> Iterator[str]:
    """A site that lies in the way the test says, honest again afterwards."""
    network, path = federation.network, os.environ.get("PYTHONPATH", "")
    network.end(LIAR)
    network.start(LIAR, PYTHONPATH=os.pathsep.join(filter(None, [str(ROGUE), path])), ECGFED_ROGUE=request.param)
    network.wait_connected(TRAIN)
    yield request.param
    network.end(LIAR)
    network.start(LIAR, PYTHONPATH=path, ECGFED_ROGUE="")
    network.wait_connected(TRAIN)


@pytest.mark.parametrize("lying", REASONS, indirect=True)
def test_a_liar_is_left_out_and_named(federation: Trial, undisturbed: Path, lying: str) -> None:
    run = federation.network.run(federation.folder / "liars.yaml", f"two-{lying}")
    assert federation.end_of(run, 400) == "done", federation.words(run)
    check_history(federation, run, rounds=3, quorum=2)
    for line in fits(run):
        assert line["answered"] == HONEST
        assert REASONS[lying] in line["absent"][LIAR], line
        assert line["bytes_in"].get(LIAR, 0) < 64 * 2**20
    assert np.isfinite(weights(run)).all()
    assert REASONS[lying] in (run / "report.html").read_text(encoding="utf-8")

    run = federation.network.run(federation.folder / "first.yaml", f"all-{lying}")
    assert federation.end_of(run, 200) == "paused", federation.words(run)
    said = read(run / "run.json")["stopped_by"]
    assert LIAR in said
    assert REASONS[lying] in said
    assert not any(site in said.partition("\n")[0] for site in HONEST)
    assert not (run / "artefacts" / "risk.json").exists()
    # What a site may send is not what the coordinator keeps: the largest answer is a gigabyte.
    assert federation.peak_mb("superlink") < 700
