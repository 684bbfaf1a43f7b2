"""What honest studies lose to hospitals' default policies: all run to the end, and figures withheld are counted.

Each study is run over hospitals made for it: with limits alone (a group of ten, five events), as before groups and
scores were remembered, and with all that a site does by default. Training is cut to three rounds: what may be told
does not hang on how good a net is. Run with
``pytest -m benchmark -s tests/benchmarks/test_honest_studies.py -k demo``; ECGFED_TABLE names a file that lines are
appended to.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import client.answer
from client.egress.memory import GroupMemory
from client.egress.questions import Questions
from simulations.federation.run import simulate
from simulations.hospitals.make import make_hospitals
from simulations.patients.scenario import SCENARIOS, load_scenario

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

ROUNDS = 3
STUDIES = {"demo": ("demo", 0.5), "survival": ("uk_biobank_like", 0.25), "three_countries": ("three_countries", 0.1)}
"""Of each study the scenario its hospitals are of, and the share of its patients that is made."""


def told(run: Path) -> tuple[int, Counter[str]]:
    """Return how many figures were withheld, and how often sites did not answer, by the reason."""
    lines = [json.loads(line) for line in (run / "releases.jsonl").read_text().splitlines()]
    refused = Counter[str]()
    for line in (run / "history.jsonl").read_text().splitlines():
        refused.update(json.loads(line)["absent"].values())
    return sum(field["withheld"] for line in lines for field in line["fields"].values()), refused


def remember_nothing(patch: pytest.MonkeyPatch) -> None:
    """Turn off what a site remembers: whom it spoke of, in other steps and studies, and which scores it was asked."""
    patch.setattr(GroupMemory, "judge", lambda self, asked, *, here, beside=(): [None] * len(asked))
    patch.setattr(Questions, "count", lambda self, *args, **named: None)
    patch.setattr(client.answer, "closed_in_study", lambda *args: "")


@pytest.mark.parametrize("name", STUDIES)
def test_figures_withheld(name: str, tmp_path: Path) -> None:
    scenario, scale = STUDIES[name]
    make_hospitals(load_scenario(scenario), tmp_path, None, scale)
    study: dict[str, Any] = yaml.safe_load((SCENARIOS / f"{name}_study.yaml").read_text(encoding="utf-8"))
    for step in study["steps"]:
        if step["stage"] == "train":
            step["rounds"] = min(ROUNDS, step.get("rounds", ROUNDS))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    lines = []
    for variant in ("limits alone", "default"):
        files = []
        for made in sorted((tmp_path / "sites").glob("*/site.yaml")):
            content = yaml.safe_load(made.read_text(encoding="utf-8"))
            content |= {"state": str(tmp_path / variant / content["site"]), "studies": [str(tmp_path / "study.yaml")]}
            files.append(made.with_name(f"{variant.split()[0]}.yaml"))
            files[-1].write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            if variant != "default":
                remember_nothing(patch)
            run = simulate(tmp_path / "study.yaml", files, tmp_path / f"run {variant}")
        withheld, refused = told(run)
        assert json.loads((run / "run.json").read_text())["status"] == "done"
        codes = ", ".join(f"{code} {n}" for code, n in sorted(refused.items())) or "none"
        lines.append(f"{name:<16} {variant:<13} {withheld:>6} figures withheld; not answered: {codes}")
        print(lines[-1], flush=True)
        if os.environ.get("ECGFED_TABLE"):
            with Path(os.environ["ECGFED_TABLE"]).open("a") as table:
                table.write(lines[-1] + "\n")
