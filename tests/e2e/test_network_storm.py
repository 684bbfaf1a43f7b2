"""Thirty rounds while a random process is killed every few of them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trial import DEADLINE, KINDS, OVER, TRAIN, Trial, check_history, events, fits, lines, read, result, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROUNDS = 30


@pytest.fixture(scope="module")
def storm(nginx: None, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A federation of its own: what a storm leaves behind is nobody else's."""
    with Trial(hospitals, tmp_path_factory.mktemp("storm")) as trial:
        trial.study("all", rounds=ROUNDS)
        trial.study("two", rounds=ROUNDS, quorum=2, deadline_seconds=DEADLINE)
        trial.up()
        yield trial


@pytest.mark.parametrize("seed", [1])
def test_every_site_is_waited_for(storm: Trial, seed: int) -> None:
    calm = storm.network.run(storm.folder / "all.yaml", f"calm-{seed}")
    assert storm.end_of(calm) == "done", storm.words(calm)
    run = storm.network.run(storm.folder / "all.yaml", f"storm-{seed}")
    kills = _storm(storm, run, seed, away=0)
    assert storm.end_of(run, 600) == "done", storm.words(run)
    _tell(run, kills, len(KINDS))
    assert np.array_equal(weights(run), weights(calm))
    assert result(run) == result(calm)
    check_history(storm, run, ROUNDS, quorum=3)


@pytest.mark.parametrize("seed", [2])
def test_two_are_enough(storm: Trial, seed: int) -> None:
    run = storm.network.run(storm.folder / "two.yaml", f"two-{seed}")
    kills = _storm(storm, run, seed, away=12)
    assert storm.end_of(run, 600) == "done", storm.words(run)
    # Rounds pass while a site is away: how many kills fit into thirty depends on the machine.
    _tell(run, kills, 5)
    check_history(storm, run, ROUNDS, quorum=2)
    assert np.isfinite(weights(run)).all()
    noted = result(run)["absent"]
    rounds = {line["round"]: line for line in fits(run)}
    for site in TRAIN:
        away = sum(site in line["absent"] for line in rounds.values())
        assert sum(noted.get(site, {}).values()) == away


def _storm(trial: Trial, run: Path, seed: int, away: float) -> list[tuple[int, str, str]]:
    """Kill until the last rounds; return (round, kind, site) of each. A site stays away for up to ``away`` seconds."""
    chance, kills = random.Random(seed), []
    bag: list[str] = []
    due = 2
    while trial.status(run) not in OVER:
        live = read(run / "live.json")
        if live.get("phase") != "fit" or int(live["round"]) < due:
            time.sleep(0.05)
            continue
        if due > ROUNDS - 2:
            break
        if not bag:
            bag = list(KINDS)
            chance.shuffle(bag)
        kind, site = bag.pop(), chance.choice(TRAIN)
        time.sleep(chance.uniform(0, 1.5))
        if kind in ("serverapp", "worker") and not _lives(trial, kind, site):
            bag.append(kind)
            continue
        if kind == "site" and away:
            trial.kill(kind, site, again=False)
            time.sleep(chance.uniform(0, away))
            trial.network.start(site)
        else:
            trial.kill(kind, site)
        kills.append((int(live["round"]), kind, site if kind in ("site", "worker") else ""))
        due = int(read(run / "live.json")["round"]) + chance.randint(2, 4)
    return kills


def _lives(trial: Trial, kind: str, site: str) -> bool:
    if kind == "serverapp":
        return bool(trial.processes("flwr-serverapp"))
    return Path(f"/proc/{trial.site_status(site).get('worker_pid')}").exists()


def _tell(run: Path, kills: list[tuple[int, str, str]], kinds: int) -> None:
    info = read(run / "run.json")
    print(f"{len(kills)} kills: {kills}")
    print(f"{info['started']} to {info['ended']}, {len(lines(run / 'history.jsonl'))} lines of history")
    print(events(run))
    assert len({kind for _, kind, _ in kills}) >= kinds, "too few kinds were hit"
