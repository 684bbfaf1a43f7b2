"""Commands that a script may use print one JSON document on standard output, and nothing else there."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import ecgfed
from ecgshared.cli import command

SCRIPTED = {
    "read", "predict", "report", "study init", "study check", "study graph", "privacy epsilon", "privacy noise",
    "model export", "simulate make", "simulate run", "simulate attack", "site init", "site check", "site ingest",
    "site cohort", "site preview", "site releases", "site budget", "site status", "site audit", "site lockbox",
    "site columns", "site codes", "site formats", "coordinator invite", "coordinator admit", "coordinator status",
    "coordinator report", "coordinator audit", "survival fit", "survival km", "survival logrank", "survival gray",
}  # fmt: skip


@pytest.mark.parametrize("line", sorted(SCRIPTED))
def test_a_command_has_the_option(line: str) -> None:
    found: click.Command = command
    for word in line.split():
        assert isinstance(found, click.Group)
        member = found.get_command(click.Context(found), word)
        assert member is not None, line
        found = member
    assert "--json" in {name for parameter in found.params for name in parameter.opts}, line


def _told(*words: str) -> object:
    done = CliRunner().invoke(command, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_they_print_is_one_document(made_demo: ecgfed.Hospitals, tmp_path: Path) -> None:
    site = str(made_demo.sites[0])
    assert _told("site", "budget", site)["studies"] == []
    assert "risk" in _told("study", "init")
    written = _told("study", "init", "risk", "--out", str(tmp_path / "first.yaml"), "--site", "oslo")
    assert written["made_up"] == ["site_b", "site_c"]
    assert [one["id"] for one in _told("study", "graph", str(tmp_path / "first.yaml"))][:2] == ["cohorts", "risk"]
    made = _told("simulate", "make", "demo", "--patients", "40", "--out", str(tmp_path / "made"))
    assert Path(made["hospitals"]["north"]["site_file"]).exists()
    read = _told("site", "ingest", made["hospitals"]["north"]["site_file"], "--all")
    assert 0 < read["usable"] <= read["read"]
    assert Path(read["report"]).exists()
