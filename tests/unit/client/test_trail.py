"""One trail of a site, from all its chained logs: verified, joined by time, and told where one was edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.approval import register
from client.egress.audit import record_lockbox_opening
from client.egress.gate import log_release
from client.egress.questions import Questions
from client.operator.cli import app
from client.site.settings import load_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    content = {
        "site": "oslo",
        "records": {"folder": "records"},
        "table": {"path": "c.csv", "columns": {"file": "file"}},
    }
    file.write_text(yaml.safe_dump(content))
    settings = load_site(file)
    register.record(settings.state, "code", "a" * 64, "ecgfed")
    register.record(settings.state, "code", "b" * 64, "ecgfed", federation="alps")
    Questions(settings.state).bind({"net.weights": [1.0]}, study="s" * 64, run="r")
    record_lockbox_opening(settings, study_hash="s" * 64, step="judged", run="r")
    log_release(settings.state, {"study": "s" * 64, "run": "r", "step": "net", "bytes": 7}, replayed=False)
    return file


def test_all_logs_are_one_trail(site):
    done = CliRunner().invoke(app, ["audit", str(site), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["holds"]
    logs = [entry["log"] for entry in told["entries"]]
    assert sorted(logs) == ["approvals", "approvals-alps", "lockbox", "questions", "releases"]
    assert all(entry["at"] for entry in told["entries"])
    assert told["logs"]["privacy"] == "0 line(s)"
    assert "every log is what was written" in CliRunner().invoke(app, ["audit", str(site)]).output


@pytest.mark.parametrize(
    "log", ["approvals.jsonl", "approvals-alps.jsonl", "lockbox.jsonl", "releases.jsonl", "questions/asked.jsonl"]
)
def test_an_edited_log_is_told_and_the_others_are_still_read(site, log):
    path = load_site(site).state / log
    path.write_text(path.read_text().replace("2026", "2025").replace("202", "201"))
    done = CliRunner().invoke(app, ["audit", str(site), "--json"])
    told = json.loads(done.output)
    assert done.exit_code == 1
    assert not told["holds"]
    assert sum("line(s)" in text for text in told["logs"].values()) == len(told["logs"]) - 1
    assert len(told["entries"]) == 4
