"""``ecgfed simulate attack``: what works where nothing protects gets nothing through a hospital's defaults."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ecgshared.errors import ConfigError
from simulations.attacks.suite import ATTACKS, run
from simulations.cli import app

WORKS = {"moved age limit": 0.3, "full-batch traps": 0.5}
"""Shares that an attack gets at least without protections; 0.8 where none stands here."""


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_works_without_protections_gets_nothing_with_them(name):
    (outcome,) = run([name], 0)
    assert outcome.unprotected >= WORKS.get(name, 0.8)
    assert outcome.protected == 0


def test_the_command_prints_shares_and_names_a_wrong_attack():
    told = CliRunner().invoke(app, ["attack", "left-over case", "--json"])
    assert json.loads(told.output)[0]["protected"] == 0
    with pytest.raises(ConfigError, match="no such attack"):
        run(["left over case"], 0)
