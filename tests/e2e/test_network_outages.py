"""Sites, links and the coordinator away for a while: what is lost, who is waited for, who returns."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from trial import DEADLINE, TRAIN, Trial, check_history, events, fits, read, result, send, weights

from server.coordinator import background, proxy
from server.rounds.run_folder import is_held

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SITE, OTHERS = TRAIN[0], sorted(TRAIN[1:])


def test_a_site_killed_before_training(federation: Trial, undisturbed: Path) -> None:
    federation.kill("site", SITE, again=False)
    run = federation.network.run(federation.folder / "first.yaml", "killed-before")
    federation.wait(lambda: SITE in read(run / "live.json").get("late", []), 60, run)
    time.sleep(5)
    federation.network.start(SITE)
    assert federation.end_of(run) == "done", federation.words(run)
    assert np.array_equal(weights(run), weights(undisturbed))
    check_history(federation, run, rounds=5, quorum=3)


def test_a_site_killed_after_training(federation: Trial, undisturbed: Path) -> None:
    run = federation.network.run(federation.folder / "first.yaml", "killed-after")
    federation.wait(lambda: (run / "history.jsonl").exists() and any(r["round"] == 5 for r in fits(run)), 120, run)
    federation.kill("site", SITE)
    assert federation.end_of(run) == "done", federation.words(run)
    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    check_history(federation, run, rounds=5, quorum=3)


def test_a_site_killed_for_good_is_left_out_and_returns(federation: Trial) -> None:
    run = federation.network.run(federation.folder / "two.yaml", "killed-two")
    federation.wait_training(run, 3)
    federation.kill("site", SITE, again=False)
    federation.wait(lambda: any(SITE in line["absent"] for line in fits(run)), 120, run)
    federation.network.start(SITE)
    assert federation.end_of(run, 400) == "done", federation.words(run)
    _was_away_and_came_back(federation, run)


def test_a_site_that_hangs_is_left_out_and_returns(federation: Trial) -> None:
    run = federation.network.run(federation.folder / "two.yaml", "hung")
    federation.wait_training(run, 3)
    hung = [*federation.pids("site"), *federation.pids("worker")]
    send(hung, signal.SIGSTOP)
    try:
        start = time.monotonic()
        federation.wait(lambda: any(SITE in line["absent"] for line in fits(run)), 120, run)
        time.sleep(max(0.0, start + 1.5 * DEADLINE - time.monotonic()))
    finally:
        send(hung, signal.SIGCONT)
    assert federation.end_of(run, 400) == "done", federation.words(run)
    _was_away_and_came_back(federation, run)


def _was_away_and_came_back(federation: Trial, run: Path) -> None:
    check_history(federation, run, rounds=12, quorum=2)
    told = list(fits(run))
    away = [line["round"] for line in told if SITE in line["absent"]]
    assert away
    assert told[-1]["answered"] == sorted(TRAIN), "it did not come back"
    assert all(line["answered"] == OTHERS for line in told if line["round"] in away)
    absent = result(run)["absent"]
    assert absent.keys() == {SITE}
    assert sum(absent[SITE].values()) == len(away)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert all(reason in report for reason in absent[SITE])
    federation.network.wait_connected(TRAIN)


@pytest.mark.parametrize("how", ["silent", "refused"])
def test_a_partition_of_a_minute(federation: Trial, undisturbed: Path, how: str) -> None:
    run = federation.network.run(federation.folder / "first.yaml", f"partition-{how}")
    federation.wait_training(run, 2)
    folder = federation.network.home.path / "proxy"
    if how == "silent":
        (master,) = federation.pids("proxy")
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        pids = [master, *map(int, children)]
        assert len(pids) > 1
        send(pids, signal.SIGSTOP)
        time.sleep(60)
        send(pids, signal.SIGCONT)
    else:
        known = (folder / "sites.map").read_bytes()
        proxy.write_sites(folder, {})
        assert proxy.reload(folder)
        time.sleep(60)
        (folder / "sites.map").write_bytes(known)
        assert proxy.reload(folder)
    assert not (run / "artefacts" / "risk.json").exists()
    assert federation.end_of(run, 300) == "done", federation.words(run)
    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    check_history(federation, run, rounds=5, quorum=3)
    federation.network.wait_connected(TRAIN, 90)


def test_below_the_quorum_it_waits_and_says_for_whom(federation: Trial, undisturbed: Path) -> None:
    run = federation.network.run(federation.folder / "first.yaml", "below-quorum")
    federation.wait_training(run, 2)
    federation.kill("site", SITE, again=False)
    federation.wait(lambda: federation.status(run) == "waiting", 300, run)
    said = read(run / "run.json")["waiting_for"]
    assert SITE in said
    assert "2 of 3" in said
    assert not any(site in said for site in OTHERS)
    federation.network.start(SITE)
    assert federation.end_of(run) == "done", federation.words(run)
    assert read(run / "run.json")["waiting_for"] is None
    assert np.array_equal(weights(run), weights(undisturbed))
    check_history(federation, run, rounds=5, quorum=3)
    assert any(line["lost"].get(SITE) for line in fits(run))


def test_stopped_and_resumed(federation: Trial, undisturbed: Path) -> None:
    home = federation.network.home
    run = federation.network.run(federation.folder / "first.yaml", "stopped")
    federation.wait_training(run, 3)
    assert "is stopped" in background.stop_run(home, "stopped")
    assert federation.status(run) == "stopped"
    before = (run / "history.jsonl").read_text()
    federation.wait(lambda: not is_held(run))
    time.sleep(3)
    assert federation.status(run) == "stopped", "it was taken up again though it was stopped"
    background.resume_run(home, "stopped")
    assert federation.end_of(run) == "done", federation.words(run)
    assert (run / "history.jsonl").read_text().startswith(before)
    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    check_history(federation, run, rounds=5, quorum=3)


def test_all_machines_lose_power(federation: Trial, undisturbed: Path) -> None:
    run = federation.network.run(federation.folder / "first.yaml", "power")
    federation.wait_training(run, 3)
    for site in TRAIN:
        federation.kill("site", site, again=False)
    federation.kill_machine()
    federation.network.up()
    for site in TRAIN:
        federation.network.start(site)
    assert federation.end_of(run) == "done", federation.words(run)
    assert np.array_equal(weights(run), weights(undisturbed))
    assert result(run) == result(undisturbed)
    check_history(federation, run, rounds=5, quorum=3)
    assert ("submitted again", "the coordinator came up") in events(run)
