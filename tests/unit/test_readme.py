"""What README and docs/commands.md say exists: files, formats, stages, figures, and a study that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.readers import formats
from ecgshared.config import validate
from ecgshared.study.registry import STAGES
from ecgshared.study.study import Study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/how-it-works.md", "docs/results.md"]
)
def test_the_files_it_names_are_there(page: str) -> None:
    named = re.findall(
        r"`((?:client|server|ecgshared|simulations|deploy|docs|tests)/[\w/.-]*)`", (ROOT / page).read_text()
    )
    assert named
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


def test_it_names_every_format_that_can_be_read() -> None:
    for name in (one["format"] for one in formats()):
        assert re.search(rf"\b{name}\b", COMMANDS), name


def test_it_names_every_stage() -> None:
    assert [stage for stage in STAGES if f"`{stage}`" not in COMMANDS] == []


def test_its_study_is_one() -> None:
    import yaml

    text = re.search(r"```yaml\n(.*?)```", COMMANDS, re.S)
    assert text is not None
    study = validate(Study, yaml.safe_load(text[1]), where="docs/commands.md")
    assert study.step("judged").population == "reported"


def test_it_is_two_screens_long() -> None:
    assert len(README.splitlines()) <= 130


def test_its_figures_are_those_of_the_table_that_is_measured_again() -> None:
    table = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", README[README.index("## Results") :], re.M)[2:]
    assert len(rows) >= 5
    for what, figure in rows:
        assert f"| {what} | {figure}" in table
