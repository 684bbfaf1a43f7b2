"""What hospitals' own limits cost a study that means no harm: it runs to its end, and is told what it needs."""

from __future__ import annotations

import json

import numpy as np

from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

STEPS = [
    {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "death_2y", "inputs": ["risk.death_2y", "age"]},
    {"id": "judged", "stage": "evaluate", "uses": ["score"], "sites": ["island"]},
    {"id": "women", "stage": "evaluate", "uses": ["score"], "sites": ["island"], "population": "women"},
]


def told(run):
    return [json.loads(line) for line in (run / "releases.jsonl").read_text().splitlines()]


def test_a_study_runs_to_its_end_under_default_limits_and_again(federation):
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=3, local={"epochs": 2}), *STEPS]
    study = federation.study(steps=steps, populations={"women": {"where": {"sex": "F"}}})
    sites = federation.sites(limits={})
    runs = [simulate(study, sites, federation.folder / name) for name in ("run", "again")]
    for run in runs:
        folder = RunFolder.reopen(run)
        folder.close()
        assert all(folder.artefact(step) for step in ("risk", "score", "judged", "women"))
        assert json.loads((run / "run.json").read_text())["status"] == "done"
        assert "too-few" not in "".join(path.read_text() for path in run.glob("events.jsonl"))
    withheld = [sum(field["withheld"] for line in told(run) for field in line["fields"].values()) for run in runs]
    assert withheld[0] == withheld[1], "what was told may be told again"
    table = folder.artefact("cohorts").result.sites
    assert all(np.isfinite(site.patients["train"]) for name, site in table.items() if name != "island")
