"""Coordinator and a hospital are lost and restored from what the runbook's list names, and from nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from trial import TRAIN, Trial, check_history, events

from client.site.settings import load_site
from server.coordinator import background
from server.coordinator.home import Home

RUNBOOK = Path(__file__).parents[2] / "deploy" / "README.md"
SITE = TRAIN[0]


def listed(side: str) -> tuple[list[str], list[str]]:
    """Return what the runbook says to back up for a side, and what is not needed."""
    text = RUNBOOK.read_text(encoding="utf-8").partition("## Backup")[2]
    (row,) = re.findall(rf"^\| {side} \| (.*) \| (.*) \|$", text, re.MULTILINE)
    wanted, spared = ([name.rstrip("/") for name in re.findall(r"`([^`]+)`", cell)] for cell in row)
    return wanted, spared


def test_a_run_goes_on_after_a_restore_by_the_runbooks_list(nginx: None, hospitals: Path, tmp_path: Path) -> None:
    with Trial(hospitals, tmp_path / "trial") as trial:
        trial.up()
        run = trial.network.run(trial.folder / "first.yaml", "restored")
        trial.wait_training(run, 2)
        background.stop(trial.network.home)
        trial.network.end(SITE)
        _lose_and_restore_coordinator(trial.network.home.path, tmp_path / "backup")
        _lose_and_restore_site(trial, tmp_path / "site-backup")

        trial.network.home = Home(trial.network.home.path)
        background.start(trial.network.home)
        trial.network.start(SITE)
        assert trial.end_of(run, 240) == "done", trial.words(run)
        assert (run / "report.html").exists()
        assert any(what.startswith("submitted") for what, _ in events(run))
        check_history(trial, run, 5, len(TRAIN))


def _lose_and_restore_coordinator(home: Path, backup: Path) -> None:
    wanted, spared = listed("coordinator")
    backup.mkdir(mode=0o700)
    _copy(home, backup, wanted)
    left = {path.name for path in home.iterdir()} - set(wanted) - set(spared)
    made_again = {"superexec.secret", "control.secret", "status.json", "nodes.json", "seen.json"}
    assert {name for name in left if not name.startswith(".")} <= made_again, "neither on the list nor made again"
    shutil.rmtree(home)
    home.mkdir(mode=0o700)
    _copy(backup, home, wanted)


def _lose_and_restore_site(trial: Trial, backup: Path) -> None:
    (_, network, state), spared = listed("site")
    assert (network, state) == ("network", "state")
    settings, file = load_site(trial.network.site_files[SITE]), trial.network.site_files[SITE]
    left_out = [Path(name).name for name in spared]
    backup.mkdir(mode=0o700)
    shutil.copytree(settings.state, backup / "state", ignore=shutil.ignore_patterns(*left_out))
    shutil.copy2(file, backup / file.name)
    shutil.rmtree(settings.state)
    file.unlink()
    shutil.copytree(backup / "state", settings.state)
    shutil.copy2(backup / file.name, file)


def _copy(source: Path, to: Path, names: list[str]) -> None:
    for name in names:
        found = source / name
        if found.is_dir():
            shutil.copytree(found, to / name)
        elif found.exists():
            shutil.copy2(found, to / name)
