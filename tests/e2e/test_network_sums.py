"""Secure sums over the real network: four hospitals, any of which, or the coordinator, is lost at each part of a sum.

Each hospital is watched: the test reads the fixed-point numbers it adds before they go under masks, and holds what the
coordinator opened against their plain sum, bit by bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import SITES
from numpy.typing import NDArray
from trial import Trial, events, lines, read, result, weights

from client.approval import register as approvals
from ecgshared.privacy.fixed_point import EXACT, SHORT
from server.coordinator import background

ROGUE = Path(__file__).parent / "rogue"
LOST = SITES[3]
THREE = sorted(SITES[:3])
ROUNDS = 2
SCORE = {"id": "score", "stage": "calibrate", "target": "male", "inputs": ["age"], "split": "train"}
ASKED: dict[str, Any] = {"federation": {"quorum": 3, "deadline_seconds": 20, "retries": 0}, "secure_sum": {}}
PARTS = [f"risk.{part}" for part in ("+keys", "+shares", "+hold", "fit+hidden", "fit+reveal")] + [
    f"score.{part}"
    for part in ("+keys", "+shares", "+hold", "moments+evidence", "moments+weigh", "moments+hidden", "moments+reveal",
                 "newton+evidence", "newton+reveal")
]  # fmt: skip


class Watched(Trial):
    """Four hospitals whose sums the test can read, and stop at a part."""

    def watch(self) -> None:
        """Start all processes, the hospitals watched."""
        path = os.pathsep.join(filter(None, [str(ROGUE), os.environ.get("PYTHONPATH", "")]))
        self.network.enrol(self._studies)
        self.network.up()
        for site in self.sites:
            self.watched(site).mkdir()
            self.network.start(site, PYTHONPATH=path, ECGFED_ROGUE="watched", ECGFED_WATCHED=str(self.watched(site)))
        self.network.wait_connected(self.sites)

    def watched(self, site: str) -> Path:
        """Return the folder in which a site is watched."""
        return self.folder / f"watched-{site}"

    def hold(self, site: str, part: str) -> None:
        """Have a site wait when it is next asked for a part."""
        (self.watched(site) / "waits").unlink(missing_ok=True)
        (self.watched(site) / "wait").write_text(part)

    def wait_at(self, site: str, part: str, run: Path) -> None:
        """Wait until the site does."""
        self.wait(lambda: (self.watched(site) / "waits").exists(), 90, run)
        assert (self.watched(site) / "waits").read_text() == part

    def go_on(self, site: str) -> None:
        """Have it wait no longer."""
        (self.watched(site) / "wait").unlink(missing_ok=True)

    def forget(self) -> None:
        """Throw away what was watched so far."""
        for site in self.sites:
            for file in self.watched(site).glob("*.npz"):
                file.unlink()

    def plain_sum(self, step: str, phase: str, number: int, sites: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the plain sum of the words that ``sites`` added to the last sum of a phase and round of the stage, and
        the weights they were asked with."""
        added: dict[int, dict[str, Any]] = {}
        for site in self.sites:
            for file in self.watched(site).glob(f"{step}.{phase}-*.npz"):
                with np.load(file) as held:
                    if int(held["round"][0]) == number:
                        key = int(file.stem.rpartition("-")[2])
                        added.setdefault(key, {})[site] = (held["words"], held["weights"])
        last = added[max(added)]
        words = np.sum([last[site][0] for site in sites], axis=0, dtype=np.uint64)
        return words, last[sites[0]][1]


@pytest.fixture(scope="module")
def watched(nginx: None, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Four hospitals and a coordinator, all connected, with a study whose sums three of them can open."""
    folder = tmp_path_factory.mktemp("sums")
    with Watched(hospitals, folder, sites=SITES, secure_sums={"limits_of": "pooled"}) as trial:
        train = trial.federation.train(heads=["scd_2y"], rounds=ROUNDS, strategy={"name": "fedavg"})
        ASKED["steps"] = [{"id": "cohorts", "stage": "describe"}, train, SCORE]
        trial.watch()
        yield trial


def ran(trial: Watched, name: str) -> Path:
    """Start a run of a study of its own: of one study no other set of hospitals would be summed."""
    trial.forget()
    study = trial.asks(f"sums-{name}", **ASKED)
    for site in trial.sites:
        approvals.approve_study(trial.state(site), study)
    return trial.network.run(study, name)


def check(trial: Watched, run: Path) -> dict[str, list[list[str]]]:
    """Hold what was opened against the plain sums; return who was in the sums of each step."""
    assert trial.end_of(run, 300) == "done", trial.words(run)
    opened = {(line["step"], line["phase"], line["round"]): line for line in lines(run / "history.jsonl")
              if "seconds" not in line}  # fmt: skip
    for number in range(1, ROUNDS + 1):
        words, before = trial.plain_sum("risk", "fit", number, opened["risk", "fit", number]["answered"])
        moved, share = SHORT.decode(words[-len(before) :]), float(EXACT.decode(words[:2])[0])
        after = (before + moved / share).astype(before.dtype)
        if number < ROUNDS:
            _, held = trial.plain_sum("risk", "fit", number + 1, opened["risk", "fit", number + 1]["answered"])
        else:
            held = weights(run)
        assert np.array_equal(held, after), f"round {number}"
    score = result(run, "score")
    words, _ = trial.plain_sum("score", "moments", 0, opened["score", "moments", 0]["answered"])
    assert words[:3].tolist() == [score["ecgs"], score["patients"], score["events"]]
    for site in trial.sites:
        name = read(run / "run.json")["run"]
        mine = [line for line in lines(trial.state(site) / "releases.jsonl") if line["run"] == name]
        hidden = [line for line in mine if line["step"] != "cohorts"]
        assert {field["kind"] for line in hidden for field in line["fields"].values()} <= {"hidden", "public"}
    return {step: [opened[key]["answered"] for key in opened if key[0] == step] for step in ("risk", "score")}


def lose(trial: Watched, run: Path, part: str, kill: Any, mend: Any) -> None:
    trial.wait_at(LOST, part, run)
    kill()
    trial.go_on(LOST)
    mend()


def test_nobody_lost_and_equal_to_one_process(watched: Watched) -> None:
    run = ran(watched, "whole")
    found = check(watched, run)
    assert found["risk"] == [sorted(SITES)] * len(found["risk"])
    assert found["score"] == [sorted(SITES)] * len(found["score"])
    assert result(run, "score")["together"] == sorted(SITES)
    alone = watched.simulated(watched.folder / "sums-whole.yaml")
    assert result(run, "score") == result(alone, "score")
    np.testing.assert_allclose(weights(run), weights(alone), rtol=0, atol=1e-6)


def site_lost(watched: Watched, part: str) -> None:
    step = part.partition(".")[0]
    watched.hold(LOST, part)
    run = ran(watched, f"lost-{part.replace('+', '-').replace('.', '-')}")
    watched.wait_at(LOST, part, run)
    watched.kill("site", LOST, again=False)
    watched.go_on(LOST)
    if part in ("score.moments+reveal", "score.newton+evidence", "score.newton+reveal"):
        # Its people are in a sum that was opened: one without them would tell theirs.
        assert watched.end_of(run, 300) == "paused", watched.words(run)
        assert f"{LOST}: " in read(run / "run.json")["stopped_by"]
        assert "by the difference" in read(run / "run.json")["stopped_by"]
        watched.network.start(LOST)
        watched.network.wait_connected(SITES)
        background.resume_run(watched.network.home, run.name)
        found = check(watched, run)
        assert all(sites == sorted(SITES) for sites in found["score"]), found
        return
    found = check(watched, run)
    # Whose words came before it was lost is in the sum.
    assert found[step][0] == (sorted(SITES) if part == "risk.fit+reveal" else THREE), found
    assert all(sites == THREE for sites in found[step][1:])
    if step == "score":
        assert result(run, "score")["together"] == THREE
    watched.network.start(LOST)
    watched.network.wait_connected(SITES)


def coordinator_lost(watched: Watched, part: str) -> None:
    watched.hold(LOST, part)
    run = ran(watched, f"killed-{part.replace('+', '-').replace('.', '-')}")
    watched.wait_at(LOST, part, run)
    watched.kill_machine()
    watched.go_on(LOST)
    background.start(watched.network.home)
    found = check(watched, run)
    assert any("again" in what for what, _ in events(run)), events(run)
    assert all(sites == sorted(SITES) for step in found.values() for sites in step), found
    watched.network.wait_connected(SITES)


def test_a_site_lost_with_its_words_on_the_way(watched: Watched) -> None:
    site_lost(watched, "risk.fit+hidden")


def test_the_coordinator_killed_while_shares_are_revealed(watched: Watched) -> None:
    coordinator_lost(watched, "score.newton+reveal")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("part", [part for part in PARTS if part != "risk.fit+hidden"])
def test_a_site_lost_at_each_part(watched: Watched, part: str) -> None:
    site_lost(watched, part)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("part", [part for part in PARTS if part != "score.newton+reveal"])
def test_the_coordinator_killed_at_each_part(watched: Watched, part: str) -> None:
    coordinator_lost(watched, part)
