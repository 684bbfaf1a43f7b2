"""The trail of a coordinator's actions: all are in it, and what is edited is noticed."""

from __future__ import annotations

import json

import pytest
from proxied import request_of
from typer.testing import CliRunner

from ecgshared.errors import RunError
from server.coordinator.cli import app
from server.coordinator.home import Home


@pytest.fixture
def home(tmp_path):
    made = Home.create(tmp_path / "home", address="e.org:443", listen=None, name="test", superlink_port=18000)
    made.invite("oslo")
    request, _ = request_of(tmp_path / "oslo", "oslo")
    made.admit(request)
    made.admit(request)
    run = made.path / "runs" / "first"
    run.mkdir()
    (run / "events.jsonl").write_text(json.dumps({"at": "2020-01-01T00:00:00Z", "what": "submitted", "why": ""}) + "\n")
    made.revoke("oslo")
    return made


def audit(home: Home, *words: str):
    return CliRunner().invoke(app, ["audit", "--home", str(home.path), *words])


def test_every_action_is_in_the_trail_with_who_did_it(home):
    done = audit(home, "--json")
    assert done.exit_code == 0
    told = json.loads(done.output)
    assert told["holds"]
    assert told["entries"][0]["log"] == "run first"
    actions = [entry for entry in told["entries"] if entry["log"] == "actions"]
    assert [entry["action"] for entry in actions] == ["invite", "admit", "admit", "revoke"]
    assert actions[2]["why"] == "renewed"
    assert all(entry["by"] and entry["site"] == "oslo" for entry in actions)
    assert "is what was written" in audit(home).output


@pytest.mark.parametrize("edit", ["change", "take out", "cut off", "no key"])
def test_an_edited_trail_is_told_and_not_gone_on_with(home, edit):
    file = home.path / "actions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if edit == "change":
        file.write_text("".join(lines).replace('"invite"', '"nothing"'))
    elif edit == "take out":
        file.write_text("".join(lines[:1] + lines[2:]))
    elif edit == "cut off":
        file.write_text("".join(lines[:2]))
    else:
        (home.path / "audit.key").unlink()
    done = audit(home)
    assert done.exit_code == 1
    assert "NOT TO BE RELIED ON" in done.output
    with pytest.raises(RunError, match="trail of actions"):
        home.invite("bergen")


def test_a_site_is_revoked_whatever_became_of_the_trail(home, tmp_path):
    home.invite("bergen")
    home.admit(request_of(tmp_path / "b", "bergen")[0])
    (home.path / "actions.jsonl").write_text("")
    home.revoke("bergen")
    assert home.admitted == []
