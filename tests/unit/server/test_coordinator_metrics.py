"""A coordinator's metrics: what the runbook names is served, and tells what its files tell."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from proxied import request_of

from server.coordinator.home import Home
from server.coordinator.metrics import CoordinatorMetrics

RUNBOOK = (Path(__file__).parents[3] / "deploy" / "README.md").read_text(encoding="utf-8")
STATUS = {"serving": True, "processes": {"proxy": {"pid": 1, "restarts": 2}}, "sites": {"oslo": "online"}}


@pytest.fixture
def served(tmp_path):
    home = Home.create(tmp_path / "home", address="e.org:443", listen=None, name="test", superlink_port=18000)
    for site in ("oslo", "bergen"):
        home.invite(site)
        home.admit(request_of(tmp_path / site, site)[0])
    run = home.path / "runs" / "first"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"status": "running"}))
    (run / "live.json").write_text(json.dumps({"late": ["bergen"]}))
    metrics = CoordinatorMetrics(home, lambda: STATUS, 0)
    yield home, metrics
    metrics.close()


def scrape(metrics: CoordinatorMetrics) -> dict[tuple[str, ...], float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{metrics.port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_sites_runs_and_what_was_started_again(served):
    home, metrics = served
    line = {
        "step": "risk", "phase": "fit", "round": 1, "answered": ["oslo"], "absent": {"bergen": "deadline"},
        "bytes_in": {"oslo": 10}, "bytes_out": {"oslo": 7, "bergen": 7},
    }  # fmt: skip
    history = home.path / "runs" / "first" / "history.jsonl"
    history.write_text(json.dumps(line) + "\n")
    scrape(metrics)
    with history.open("a") as file:
        file.write(json.dumps(line | {"round": 2, "answered": ["bergen", "oslo"], "absent": {}}) + "\n")
    read = scrape(metrics)
    prefix = "ecgfed_coordinator_"
    assert read[f"{prefix}run_questions_total", "first"] == 2
    assert read[f"{prefix}run_answers_total", "first"] == 3
    assert read[f"{prefix}run_missed_total", "first"] == 1
    assert read[f"{prefix}run_received_bytes_total", "first"] == 20
    assert read[f"{prefix}run_waiting_sites", "first"] == 1
    assert (read[f"{prefix}site_connected", "oslo"], read[f"{prefix}site_connected", "bergen"]) == (1, 0)
    assert (read[f"{prefix}runs", "running"], read[f"{prefix}runs", "failed"]) == (1, 0)
    assert read[f"{prefix}process_restarts_total", "proxy"] == 2
    assert read[f"{prefix}certificate_not_after_timestamp_seconds", "site oslo"] > 1.7e9
    assert read[f"{prefix}disk_free_bytes",] > 0


def test_the_runbook_names_metrics_that_are_served(served):
    named = set(re.findall(r"`(ecgfed_coordinator_\w+)", RUNBOOK))
    names = {key[0] for key in scrape(served[1])}
    assert len(named) >= 9
    assert named <= names
