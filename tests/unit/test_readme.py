"""What the README says exists: files, commands with their options, formats, and a study that can be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from client.readers import formats
from ecgshared.cli import command
from ecgshared.config import validate
from ecgshared.study.registry import STAGES
from ecgshared.study.study import Study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TYPED = [
    line.strip().split("  ")[0].split("#")[0]
    for line in re.findall(r"^ {4,}.*?(ecgfed .*)$", README, re.M)
    if "|" not in line
]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/how-it-works.md"])
def test_the_files_it_names_are_there(page: str) -> None:
    named = re.findall(
        r"`((?:client|server|ecgshared|simulations|deploy|docs|tests)/[\w/.-]*)`", (ROOT / page).read_text()
    )
    assert named
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("line", TYPED)
def test_a_command_it_types_exists_with_its_options(line: str) -> None:
    words, found = shlex.split(line)[1:], command
    while words and isinstance(found, click.Group) and words[0] in found.list_commands(click.Context(found)):
        member = found.get_command(click.Context(found), words.pop(0))
        assert member is not None
        found = member
    assert found is not command, f"no such command: {line}"
    options = {name for parameter in found.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_it_types_enough_to_be_a_session() -> None:
    assert len(TYPED) > 30


def test_it_names_every_format_that_can_be_read() -> None:
    for name in (one["format"] for one in formats()):
        assert re.search(rf"\b{name}\b", README), name


def test_it_names_every_stage() -> None:
    assert [stage for stage in STAGES if f"`{stage}`" not in README] == []


def test_its_study_is_one() -> None:
    import yaml

    text = re.search(r"```yaml\n(.*?)```", README, re.S)
    assert text is not None
    study = validate(Study, yaml.safe_load(text[1]), where="README.md")
    assert study.step("judged").population == "reported"
