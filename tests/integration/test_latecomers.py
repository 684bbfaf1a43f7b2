"""A site that was away when the cohorts were described is asked for its counts once it is back, and trains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import SITES, SmallFederation

from client.answer import Sites
from client.app import make_app
from server.rounds import presence
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import run_study
from simulations.federation.grid import InProcessGrid

LATE, ROUNDS = "coast", 4
TRAIN = {
    "rounds": ROUNDS,
    "heads": ["male"],
    "model": {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0, "covariates": []},
    "precision": "fp64",
    "local": {"steps": 1, "batch_size": None},
    "optimiser": {"name": "sgd", "lr": 0.2},
}
"""Nothing random, and everybody has the label: shares of ECGs are shares of labels."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_LATECOMERS_SECONDS", 0.05)


class Absent(InProcessGrid):
    """One site is away while the phases it is told are asked; other questions reach it."""

    def __init__(self, files: list[Path], away: Iterable[tuple[str, int]]) -> None:
        super().__init__(make_app(Sites()), files)
        self._node, self._away = 2 + [file.stem for file in files].index(LATE), set(away)
        self.now = ("", 0)

    @property
    def _is_away(self) -> bool:
        return self.now in self._away

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node != self._node or not self._is_away]

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        ids: list[str] = []
        for message in messages:
            away = message.metadata.dst_node_id == self._node and self._is_away
            ids.extend([""] if away else super().push_messages([message]))
        return ids


def run_of(
    small: SmallFederation,
    name: str,
    away: list[tuple[str, int]],
    sites: tuple[str, ...] = SITES[:3],
    **changes: Any,
) -> Path:
    """Run a study of three sites, of which two are enough, while one is away at times; return the run's folder."""
    usual = {
        "federation": {"quorum": 2, "deadline_seconds": 60, "retries": 0},
        "steps": [{"id": "cohorts", "stage": "describe"}, small.train(**TRAIN)],
    }
    study = small.study(sites={"train": list(sites)}, **usual | changes)
    # Another run of the same sites, whose split is by their keys; what they were told before is not asked here.
    files = small.sites(sites)
    for state in (small.folder / "state").glob("*"):
        for part in [p for p in state.iterdir() if p.name not in ("keys", "cache", "ingest")]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        for anchor in (state / "keys").glob("*.anchor"):
            anchor.unlink()
    folder = RunFolder.create(small.folder / name, study, backend="test")
    grid = Absent(files, away)

    def progress(step: str, done: int, total: int, text: str) -> None:
        grid.now = (step, done + 1)

    grid.now = ("cohorts", 1)
    try:
        run_study(grid, folder, progress)
    finally:
        folder.close()
    return folder.path


def artefact(run: Path) -> Any:
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact("risk")


def test_it_trains_from_the_next_round_as_if_its_cohort_had_been_described(federation: SmallFederation) -> None:
    late = run_of(federation, "late", [("cohorts", 1)])
    found = artefact(late)
    fits = [
        line for line in map(json.loads, (late / "history.jsonl").read_text().splitlines()) if line["phase"] == "fit"
    ]
    assert [LATE in line["answered"] for line in fits] == [False, True, True, True]
    assert found.result.absent == {LATE: {"did not answer step 'cohorts': not-connected": 1}}
    events = (late / "events.jsonl").read_text()
    assert f"{LATE} was away when the cohorts were described; it trains from round 2" in events
    # Described in time, and lost in the first round alone: the same ECGs of the same rounds.
    there = artefact(run_of(federation, "there", [("risk", 1)]))
    np.testing.assert_allclose(found.arrays["weights"], there.arrays["weights"], rtol=0, atol=1e-10)


def test_one_that_never_comes_back_is_told_as_away_and_not_as_too_small(federation: SmallFederation) -> None:
    away = [("cohorts", 1), *(("risk", number) for number in range(1, ROUNDS + 2))]
    result = artefact(run_of(federation, "never", away)).result
    assert result.absent == {LATE: {"did not answer step 'cohorts': not-connected": ROUNDS}}
    assert result.withheld_sites == ()


def test_sums_under_masks_take_it_in_with_keys_of_its_own(federation: SmallFederation) -> None:
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(**TRAIN | {"rounds": 3, "precision": "fp32"})]
    asked = {"quorum": 3, "deadline_seconds": 60, "retries": 0}
    run = run_of(federation, "sums", [("cohorts", 1)], SITES, steps=steps, federation=asked, secure_sum={})
    assert artefact(run).result.together == tuple(sorted(SITES))
    sums = [
        line for line in map(json.loads, (run / "history.jsonl").read_text().splitlines()) if line["phase"] == "fit"
    ]
    assert [LATE in line["answered"] for line in sums] == [False, True, True]
