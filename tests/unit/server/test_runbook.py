"""The operator's runbook against the program: every command and option it names exists; the files it ships agree."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml

from client.site.settings import NetworkConfig
from ecgshared.service.logs import FIELDS, clean

DEPLOY = Path(__file__).parents[3] / "deploy"
RUNBOOK = (DEPLOY / "README.md").read_text(encoding="utf-8")
GROUPS = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["entry-points"]["ecgfed.commands"]


def commands() -> list[str]:
    """Return every `ecgfed GROUP COMMAND ...` of the runbook's code, up to its comment."""
    spans = re.findall(r"`([^`\n]+)`", RUNBOOK)
    blocks = [line for line in RUNBOOK.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    texts = [text.partition("#")[0] for text in spans + blocks]
    found = {
        match.strip() for text in texts for match in re.findall(r"\becgfed ((?:site|coordinator) [^;,|&)]*)", text)
    }
    return sorted(found)


def test_the_runbook_names_commands():
    assert len(commands()) >= 25


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_runbook_exists(line):
    group, name, *arguments = line.split()
    module, _, attribute = GROUPS[group].partition(":")
    app: Any = typer.main.get_command(getattr(import_module(module), attribute))
    command = app.commands.get(name)
    assert command is not None, f"ecgfed {group} has no {name}"
    options = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts) if isinstance(p, click.Option)}
    assert {a.partition("=")[0] for a in arguments if a.startswith("--")} <= options | {"--help"}


def test_the_documented_log_line_is_one_the_log_writes():
    line = next(line for line in RUNBOOK.splitlines() if line.startswith('    {"at"'))
    told = yaml.safe_load(line)
    event, fields = told.pop("event"), {key: value for key, value in told.items() if key in FIELDS}
    assert clean(event, fields) == {"event": event, **fields}
    assert set(told) == {"at", "level", *fields}


def test_the_documented_metrics_are_those_of_a_site():
    from test_metrics import scrape

    from client.network.metrics import SiteMetrics

    named = set(re.findall(r"`(ecgfed_site_\w+)", RUNBOOK))
    metrics = SiteMetrics(0)
    try:
        metrics.answered("train", "fit", 1.0, 1)
        metrics.budget("risk", 1.0)
        metrics.build("1", "a" * 64)
        served = {key[0] for key in scrape(metrics)}
    finally:
        metrics.close()
    assert {name for name in named if name not in served and f"{name}_count" not in served} == set()
    assert len(named) >= 7


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("compose/*.yaml")), ids=lambda file: file.stem)
def test_a_composed_service_is_closed_in(file):
    """Checked by the same protocol as everywhere, read-only, without rights; a site publishes no port."""
    (service,) = yaml.safe_load(file.read_text())["services"].values()
    port = service["environment"].get("HEALTH_PORT")
    assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "ecgshared.health", port]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert ("ports" in service) == (file.stem == "coordinator")
    assert f"health_port: {port}" in RUNBOOK


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("systemd/*.service")), ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_exists(unit):
    text = unit.read_text()
    assert "NoNewPrivileges=yes" in text
    assert "Restart=always" in text
    (started,) = re.findall(r"^ExecStart=/opt/ecgfed/bin/ecgfed (.*)$", text, re.MULTILINE)
    test_every_command_of_the_runbook_exists(started)


def test_the_units_pass_systemd(tmp_path):
    from shutil import which

    if which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    for unit in DEPLOY.glob("systemd/*.service"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/ecgfed/bin/ecgfed", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({}, None),
        (
            {"coordinator.enabled": "true"},
            ["NetworkPolicy", "PersistentVolumeClaim", "Service", "Service", "StatefulSet"],
        ),
        (
            {"site.enabled": "true", "site.existingSecret": "oslo", "site.records.existingClaim": "ecg"},
            ["NetworkPolicy", "PersistentVolumeClaim", "Service", "StatefulSet"],
        ),
        ({"site.enabled": "true"}, None),
        ({"coordinator.listen": "443"}, None),
    ],
)
def test_the_chart_renders(values, kinds):
    from shutil import which

    if which("helm") is None:
        pytest.skip("helm is not on this machine")
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        ["helm", "template", "try", str(DEPLOY / "helm" / "ecgfed"), *sets], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == (kinds is not None), done.stderr
    if kinds is not None:
        made = [document for document in yaml.safe_load_all(done.stdout) if document]
        assert sorted(document["kind"] for document in made) == kinds
        for document in made:
            if document["kind"] == "NetworkPolicy" and "site" in document["metadata"]["name"]:
                assert document["spec"]["ingress"] == []
                assert document["spec"]["egress"][0]["ports"] == [{"protocol": "TCP", "port": 443}]


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, False),
        ({"coordinator": {"enabled": True}}, True),
        ({"site": {"enabled": True}}, False),
        ({"site": {"enabled": True, "existingSecret": "oslo", "records": {"existingClaim": "ecg"}}}, True),
        ({"coordinator": {"enabled": True, "listenPort": 443}}, False),
        ({"site": {"enabled": True, "existingSecret": "oslo", "federation": "A B"}}, False),
    ],
)
def test_the_charts_schema_refuses_what_would_install_nothing(changes, fits):
    """What helm holds values to, held here by another reader of the same schema."""
    jsonschema = pytest.importorskip("jsonschema")
    folder = DEPLOY / "helm" / "ecgfed"
    values = yaml.safe_load((folder / "values.yaml").read_text())
    for role, given in changes.items():
        for key, value in given.items():
            values[role][key] = values[role][key] | value if isinstance(value, dict) else value
    checked = jsonschema.Draft7Validator(json.loads((folder / "values.schema.json").read_text()))
    assert checked.is_valid(values) == fits


def test_the_charts_values_fit_their_own_ports():
    values = yaml.safe_load((DEPLOY / "helm" / "ecgfed" / "values.yaml").read_text())
    assert f"health_port: {values['site']['healthPort']}" in RUNBOOK
    assert f"health_port: {values['coordinator']['healthPort']}" in RUNBOOK
    NetworkConfig.model_validate(
        {
            "coordinator": "c.example:443", "ca": "c", "certificate": "c", "key": "k", "envelope": "a" * 64,
            "health_port": values["site"]["healthPort"],
        }
    )  # fmt: skip
