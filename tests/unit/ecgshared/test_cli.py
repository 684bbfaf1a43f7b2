"""The command's help, of the whole and of every part, loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from ecgshared.cli import command

HEAVY = ("torch", "pandas", "matplotlib", "scipy", "flwr", "ray")

PROGRAM = """
import sys
import click
from ecgshared.cli import command
try:
    command({arguments!r}, standalone_mode=False)
except click.exceptions.Exit as done:
    assert done.exit_code == 0
print("LOADED", [name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["read", "--help"], ["simulate", "demo", "--help"], ["site", "--help"]]
)
def test_help_loads_nothing_heavy(arguments, tmp_path):
    program = PROGRAM.format(arguments=arguments, heavy=HEAVY)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout
    assert run.stdout.rstrip().endswith("LOADED []")


def test_the_help_names_every_command(tmp_path):
    program = [sys.executable, "-m", "ecgshared", "--help"]
    run = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    for name in ("read", "site", "simulate", "report"):
        assert f"\n  {name}" in run.stdout


def _help(*arguments: str) -> str:
    return CliRunner().invoke(command, [*arguments, "--help"], env={"COLUMNS": "200"}).output


def test_arguments_say_what_they_are():
    assert "the recording; for WFDB its .hea" in _help("read")
    assert "or the path of a scenario's YAML file" in _help("simulate", "make")
    assert "the site's file" in _help("site", "check")


def test_what_a_command_does_is_not_cut_off_and_no_part_is_taken_for_markup():
    assert "run the demo study." in " ".join(_help().split())
    assert "ecgfed[ray]" in _help("simulate", "run")


def test_completion_is_offered_by_no_part_for_itself():
    for part in ("site", "simulate", "coordinator", "survival", "model", "generate"):
        assert "--install-completion" not in _help(part)
