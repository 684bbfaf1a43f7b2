"""docs/paper-elements.md names stages, fields and steps that exist."""

from __future__ import annotations

import re
from pathlib import Path

from ecgshared.study.registry import STAGES, shared_room
from ecgshared.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "paper-elements.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]


def test_every_element_names_a_stage_or_says_that_it_is_absent():
    silent = [row for row in ROWS[1:] if "absent" not in row and not any(f"`{stage}`" in row for stage in STAGES)]
    assert [row for row in silent if row.strip() != "stage: field"] == []


def test_fields_are_those_of_the_results():
    named = {
        "overlap": ("fixed", "matched", "differences"),
        "arrhythmia": ("coding", "at_cutoff", "same_share", "composite"),
        "high_risk": ("incidence", "distribution", "devices_by_lvef", "devices_by_risk", "variables", "captured"),
        "contrast": ("placebo", "pairs"),
        "saliency": ("share", "course"),
        "describe": ("table1", "follow_up_quartiles", "flow"),
    }
    for stage, fields in named.items():
        text = str(shared_room(stage).Result.model_json_schema()) + str(getattr(shared_room(stage), "OUTCOMES", ""))
        for field in fields:
            assert field in PAGE
            assert f"'{field}'" in text, (stage, field)


def test_steps_in_brackets_are_those_of_the_study():
    study = load_study(ROOT / "simulations" / "scenarios" / "three_countries_study.yaml")
    for names in re.findall(r"\[([a-z_]+(?:, [a-z_]+)*)\]", " ".join(ROWS)):
        for name in names.split(", "):
            if name in ("month", "hour"):
                continue
            assert name in {step.id for step in study.steps}, name
