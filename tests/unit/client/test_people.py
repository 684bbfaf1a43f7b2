"""Four eyes: an approval counts once as many named people as the site wants have signed it, and no sooner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.approval import register
from client.approval.people import PASSPHRASE_VARIABLE
from client.approval.required import require_approved
from client.operator.cli import app
from client.site.keys import load_keys
from client.site.settings import load_site
from ecgshared.errors import ConfigError, Refused

STUDY = {
    "name": "asked",
    "sites": {"train": ["oslo"]},
    "endpoints": {"dead": {"kind": "binary", "column": "dead"}},
    "steps": [{"id": "d", "stage": "describe"}],
}
SHA = "ab" * 32


@pytest.fixture
def site(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "a long passphrase")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    content = {
        "site": "oslo", "records": {"folder": "records"}, "table": {"path": "c.csv", "columns": {"file": "file"}},
        "approvals": {"needed": 2, "people": {name: public(name) for name in ("anna", "bo", "carl")}},
        "network": {
            "coordinator": "127.0.0.1:9", "ca": "ca.crt", "certificate": "c.crt", "key": "k.key", "envelope": SHA,
        },
    }  # fmt: skip
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(content))
    load_keys(load_site(file))
    return file


def public(name: str) -> str:
    done = CliRunner().invoke(app, ["person", name])
    assert done.exit_code == 0, done.output
    return str(yaml.safe_load(done.output.partition("In the site file:")[2])["approvals"]["people"][name])


def approve(site: Path, *words: str):
    return CliRunner().invoke(app, ["approve", str(site), *words, "--yes"])


def is_approved(site: Path) -> bool:
    try:
        require_approved(load_site(site), "envelope", SHA)
    except Refused:
        return False
    return True


def test_two_people_approve_and_one_does_not(site):
    first = approve(site, "envelope", "--person", "anna")
    assert first.exit_code == 1
    assert "signed by anna: 1 of 2; not approved" in first.output
    assert approve(site, "envelope", "--person", "anna").exit_code == 1, "the same person twice is one"
    assert not is_approved(site)
    second = approve(site, "envelope", "--person", "bo")
    assert second.exit_code == 0, second.output
    assert is_approved(site)
    CliRunner().invoke(app, ["withdraw", str(site), "envelope"])
    assert not is_approved(site)
    assert approve(site, "envelope", "--person", "bo").exit_code == 1, "after a withdrawal all sign again"


def test_nobody_approves_unnamed_with_anothers_key_or_by_hand(site):
    assert "wants 2 named people" in str(approve(site, "envelope").exception)
    assert "not the key of bo" in str(approve(site, "envelope", "--person", "bo", "--person-key", "anna.key").exception)
    assert "does not name this person" in str(approve(site, "envelope", "--person", "eve").exception)
    settings = load_site(site)
    register.record(settings.state, "envelope", SHA, "by hand")
    register.record(settings.state, "envelope", SHA, "by hand")
    assert not is_approved(site)


def test_a_signature_is_of_one_thing_in_one_federation(site):
    approve(site, "envelope", "--person", "anna")
    approve(site, "envelope", "--person", "bo")
    settings = load_site(site)
    lines = register.from_its_start(register.approvals_file(settings.state)).lines()
    for change in ({"sha256": "cd" * 32}, {"kind": "code"}, {"by": "carl"}, {"federation": "alps"}):
        forged = [line | change for line in lines]
        register.from_its_start(settings.state / "approvals-alps.jsonl").append(forged)
    held = register.in_force(settings.state, "alps", settings.approvals)
    assert held == {}
    assert register.in_force(settings.state, "ecgfed", settings.approvals)


def test_who_signed_stands_in_the_trail(site):
    for name in ("anna", "bo"):
        approve(site, "study.yaml", "--person", name)
    told = json.loads(CliRunner().invoke(app, ["audit", str(site), "--json"]).output)
    assert [entry["line"]["by"] for entry in told["entries"]] == ["anna", "bo"]
    assert all(entry["line"]["signature"] for entry in told["entries"])


def test_more_people_than_there_are_cannot_be_needed(site):
    content = yaml.safe_load(site.read_text())
    content["approvals"] = {"needed": 2, "people": dict.fromkeys(("anna", "bo"), "ab" * 32)}
    site.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="needed is 2, people has 1 different key"):
        load_site(site)
