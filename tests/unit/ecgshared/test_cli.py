"""The command's help, of the whole and of every part, loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    command = [sys.executable, "-m", "ecgshared", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    for name in ("read", "site", "simulate", "report"):
        assert f"\n  {name}" in run.stdout
