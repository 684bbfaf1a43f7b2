"""One federation of real processes for all tests that leave it in good order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trial import DEADLINE, Trial, result, weights

from server.coordinator.proxy import find_nginx


@pytest.fixture(scope="session")
def nginx() -> None:
    """Skip where nginx is absent: it is the proxy that is deployed."""
    if find_nginx(None) is None:
        pytest.skip("nginx is not installed (apt install nginx-light)")


@pytest.fixture(scope="session")
def federation(nginx: None, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Three hospitals and a coordinator, all connected."""
    with Trial(hospitals, tmp_path_factory.mktemp("federation")) as trial:
        trial.study("two", rounds=12, quorum=2, deadline_seconds=DEADLINE)
        trial.study("liars", rounds=3, quorum=2)
        trial.limit_replies(64)
        trial.up()
        yield trial


@pytest.fixture(scope="session")
def undisturbed(federation: Trial) -> Path:
    """The folder of a run of five rounds that nobody disturbed."""
    run = federation.network.run(federation.folder / "first.yaml", "undisturbed")
    assert federation.end_of(run) == "done", federation.words(run)
    assert weights(run).size
    assert result(run)["rounds"] == 5
    return run
