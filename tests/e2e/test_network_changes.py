"""A site's files change while the whole federation runs: what the coordinator learns next is what they say then."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from trial import TRAIN, Trial, result

from client.cohort.cells import normal_id
from client.site.keys import load_keys
from client.site.settings import load_site

SITE = TRAIN[0]


@pytest.fixture(scope="module")
def trial(nginx: None, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Three hospitals, one of which has a table of its own that may be edited."""
    folder = tmp_path_factory.mktemp("changing")
    with Trial(hospitals, folder) as made:
        written = made.federation.study(
            name="first", sites={"train": list(TRAIN)}, steps=[{"id": "cohorts", "stage": "describe"}]
        )
        written.replace(folder / "first.yaml")
        file = made.network.site_files[SITE]
        own = folder / "own.csv"
        own.write_bytes(load_site(file).table.path.read_bytes())
        _edit(file, table=yaml.safe_load(file.read_text())["table"] | {"path": str(own)})
        made.up()
        yield made


def test_forget_tables_and_limits_reach_the_next_run_of_living_daemons(trial: Trial) -> None:
    file = trial.network.site_files[SITE]
    settings = load_site(file)
    first = _described(trial, "first-asked")
    worker = trial.pids("worker", SITE)
    with settings.table.path.open(newline="") as table:
        rows = list(csv.DictReader(table))
    ids = [row[settings.table.columns["patient_id"]] for row in rows]
    places = load_keys(settings).split_positions([normal_id(name) for name in ids])
    forgotten, removed = [n for n, at in zip(ids, places, strict=True) if at > 0.41 and ids.count(n) == 1][:2]

    command = [sys.executable, "-P", "-m", "ecgshared", "site", "forget", str(file), forgotten, "--yes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert "1 ECG(s) overwritten" in done.stdout, done.stderr
    second = _described(trial, "after-forget")
    assert _train(second) == _train(first) - 1

    with settings.table.path.open("w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row, name in zip(rows, ids, strict=True) if name != removed)
    third = _described(trial, "another-table")
    assert _train(third) == _train(first) - 2

    _edit(file, limits={"min_patients": 100_000, "min_events": 0})
    fourth = _described(trial, "raised-limits")
    assert _train(fourth) is None
    others = [site for site in TRAIN if site != SITE]
    for later in (second, third, fourth):
        assert [later["sites"][site] for site in others] == [first["sites"][site] for site in others]
    assert trial.pids("worker", SITE) == worker


def _described(trial: Trial, name: str) -> dict[str, Any]:
    run = trial.network.run(trial.folder / "first.yaml", name)
    assert trial.end_of(run) == "done", trial.words(run)
    return result(run, "cohorts")


def _train(found: dict[str, Any]) -> int | None:
    return found["sites"][SITE]["patients"]["train"]


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
