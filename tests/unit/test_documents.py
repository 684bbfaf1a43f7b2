"""Every block of code on every page: commands exist with their options, YAML is valid, Python is run somewhere.

The tutorials and the README's session are run as they stand by ``integration/test_tutorials.py``, the notebooks by
``test_notebooks.py``, the changes of CONTRIBUTING by ``test_additions.py``.
"""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from ecgfed._schema import schema
from ecgshared.cli import command

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), ROOT / "deploy" / "README.md", *(ROOT / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md" and not path.read_text(encoding="utf-8").startswith("--8<--")
)
RUN = ("README.md", "docs/tutorials/")
"""Pages whose `sh` and `python` blocks are run as they stand."""
COPIED = ("CONTRIBUTING.md",)
"""Pages whose `python` and `diff` blocks a test carries out in a copy of the code."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page: language, text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)


def typed(page: str) -> list[str]:
    """Return the lines of a page that are typed: in `sh` blocks, in blocks set in by four, commands in a sentence."""
    text = (ROOT / page).read_text(encoding="utf-8")
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    lines = [line for language, block in blocks(page) if language == "sh" for line in block.splitlines()]
    for one in re.findall(r"(?:^|(?<=\n\n))(?: {4}[^\n]+\n?)+", plain, re.M):
        lines += one.replace("\\\n", " ").splitlines()
    # Two people side by side type on one line.
    lines = [part for line in lines for part in re.split(r"\s{3,}(?=ecgfed |#)", line)]
    lines += re.findall(r"`((?:/opt/ecgfed/bin/)?ecgfed [^`]+)`", re.sub(r"\s*\n\s*", " ", plain))
    return [line.split("  #")[0].strip() for line in lines]


START = re.compile(r"(^|/opt/ecgfed/bin/|exec (?:site|coordinator) |\$\()ecgfed (?=[a-z])")
COMMANDS = sorted({(page, line) for page in PAGES for line in typed(page) if START.search(line)})


def found(words: list[str]) -> tuple[click.Command, list[str], list[str]]:
    """Return the command that some words name, its own words, and the rest."""
    one, named = command, []
    while words and isinstance(one, click.Group) and (member := part(one, words[0])) is not None:
        one, named, words = member, [*named, words[0]], words[1:]
    return one, named, words


@cache
def part(group: click.Group, name: str) -> click.Command | None:
    """Return a group's command of a name."""
    return group.get_command(click.Context(group), name)


@cache
def helped(named: tuple[str, ...]) -> str:
    """Return what a command says of itself."""
    done = CliRunner().invoke(command, [*named, "--help"])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_that_is_typed_exists_with_its_options(page: str, line: str) -> None:
    words = line[START.search(line).end() :]
    words = re.split(r"\s(?:\||\|\||&&|>|2>)\s|[;)]", words)[0]
    # Several commands of a group at once: `ecgfed coordinator watch | stop`.
    lexer = shlex.split(words.replace("...", ""), posix=True)
    one, named, rest = found(lexer)
    assert named, f"{page}: no such command: {line}"
    assert not isinstance(one, click.Group) or not rest or rest[0].isupper() or rest[0].startswith("-"), line
    helped(tuple(named))
    options = {name for parameter in one.params for name in parameter.opts} | {"--help"}
    unknown = {word.split("=")[0] for word in rest if word.startswith("--")} - options
    assert not unknown, f"{page}: {line}"


def test_the_pages_type_enough_to_be_read() -> None:
    assert len(COMMANDS) > 120


@pytest.mark.parametrize("page", PAGES)
def test_a_block_says_what_it_is_and_is_run_or_checked(page: str) -> None:
    for language, block in blocks(page):
        assert language in ("sh", "python", "yaml", "mermaid", "diff", "sql"), f"{page}: a block of {language!r}"
        if language == "yaml":
            content = yaml.safe_load(block)
            kind = "study" if "steps" in content or "populations" in content else "site"
            checked = schema(kind)
            # A part of a file is held to the keys it has.
            checked = checked | {"required": [key for key in checked.get("required", []) if key in content]}
            faults = [e.message for e in jsonschema.Draft202012Validator(checked).iter_errors(content)]
            assert not faults, f"{page}: {faults}"
        elif language == "mermaid":
            assert re.match(r"(flowchart|graph|sequenceDiagram|stateDiagram)", block)
        elif language == "sh":
            assert page.startswith(RUN), f"{page}: nothing runs its `sh` blocks; set commands in by four"
        elif language in ("python", "diff"):
            assert page.startswith((*RUN, *COPIED)), f"{page}: nothing runs its {language} blocks"
            if language == "python":
                compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_what_else_is_typed_is_there(page: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line in typed(page):
        words = line.split()
        if not words:
            continue
        if words[0] == "make" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in targets, f"{page}: {line}"
        if words[0] in ("pytest", "python"):
            named = [word.split("::")[0] for word in words if re.match(r"(tests|deploy)/", word)]
            assert all((ROOT / name).exists() for name in named), f"{page}: {line}"
        if words[0] == "cd" and words[1].startswith(("deploy", "docs")):
            assert (ROOT / words[1]).is_dir(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_a_link_to_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        at = (ROOT / page).parent / target
        notebook = at.with_suffix(".py") if at.parent.name == "notebooks" else at
        assert at.exists() or notebook.exists(), f"{page}: {target}"
