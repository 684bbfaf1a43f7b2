"""`censoring: ipcw` from files to report: who died before the data ended counts for as long as they were followed."""

from __future__ import annotations

import numpy as np

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.report.html import render
from server.report.results import read_json, write_results
from simulations.federation.run import simulate


def test_a_study_weighs_for_censoring(federation):
    judged = {"id": "abroad", "stage": "evaluate", "uses": ["risk"], "score": "risk.death_2y", "subgroups": []}
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(), judged]
    study = federation.study(censoring="ipcw", steps=steps)
    sites = federation.sites(limits={"min_patients": 1, "min_events": 0})
    run = simulate(study, sites, federation.folder / "run")
    step = read_json(write_results(run))["steps"]["abroad"]["result"]
    for site in sites:
        data = open_site(load_site(site), load_study(study))
        rows = data.rows("lockbox")
        times, label = data.event_times["death"].take(rows), data.labels[rows, data.heads.index("death_2y")]
        told = step["sites"][load_site(site).site]["heads"]["death_2y"]
        assert told["weighted"]["ecgs"] == np.isfinite(times.years).sum()
        assert told["weighted"]["events"] == (times.observed & (times.years < 2)).sum()
        assert told["weighted"]["events"] >= told["events"] == (label == 1).sum()
    assert step["pooled"]["training"]["death_2y"]["weighted"]["event_rate"]["value"] > 0
    page = render(run).read_text(encoding="utf-8")
    assert "Weighted for censoring" in page
    assert "Kaplan-Meier of censoring at each hospital" in page
