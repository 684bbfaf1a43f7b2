"""The stages of the sudden-death study through the apps in process: recordings and tables in, a trained score, report
out."""

from __future__ import annotations

import numpy as np
import pytest

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

STEPS = [
    {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "death_2y", "ridge": 1.0},
    {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": None, "top_share": 0.3},
    {"id": "circles", "stage": "overlap", "uses": ["cut"]},
    {"id": "rhythm", "stage": "arrhythmia", "uses": ["cut"], "scd": "scd_2y", "vfvt": "vfvt_2y"},
    {
        "id": "beside",
        "stage": "contrast",
        "uses": ["score"],
        "scores": ["score", "risk.death_2y", "-lvef", "age"],
        "outcomes": ["death_2y", "scd_2y"],
        "placebo": "vfvt_2y",
    },
    {"id": "profile", "stage": "high_risk", "uses": ["cut"], "markers": ["lvef<=0.35"], "event": "death"},
    {
        "id": "look",
        "stage": "saliency",
        "uses": ["risk"],
        "head": "risk.death_2y",
        "integration_steps": 4,
        "most_patients": 20,
        "at_least": 10,
    },
]


@pytest.fixture
def ran(federation):
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1), *STEPS]
    study = federation.study(
        steps=steps,
        split={"train": 0.3, "validation": 0.2, "lockbox": 0.5},
        covariates=["lvef"],
        labels={"lvef": "ejection fraction"},
        endpoints={
            "scd_2y": {"kind": "time_to_event", "event": "scd", "horizon_years": 2},
            "death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2},
            "vfvt_2y": {"kind": "time_to_event", "event": "vfvt", "horizon_years": 2},
        },
    )
    sites = federation.sites()
    run = simulate(study, sites, federation.folder / "run")
    folder = RunFolder.reopen(run)
    folder.close()
    data = {path.stem: open_site(load_site(path), load_study(study)) for path in sites}
    return run, {step["id"]: folder.artefact(step["id"]).result for step in STEPS}, data


def test_every_stage_tells_of_the_lockboxes_alone_and_stands_in_the_report(ran):
    run, results, data = ran
    circles = results["circles"]
    rows = {site: d.rows("lockbox") for site, d in data.items()}
    known = {s: np.isfinite(d.labels[rows[s], d.heads.index("death_2y")]) for s, d in data.items()}
    low = {s: known[s] & (d.covariates["lvef"][rows[s]] <= np.float32(0.35)) for s, d in data.items()}
    for group, names in (("training", ("north", "coast", "valley")), ("zero_shot", ("island",))):
        groups = circles.pooled[group].fixed.groups
        assert groups["all"].ecgs == sum(known[s].sum() for s in names)
        assert groups["marker"].ecgs == sum(low[s].sum() for s in names)
        parts = ("both", "marker_only", "high_only", "neither")
        assert sum(groups[name].ecgs for name in parts) == groups["all"].ecgs
    rhythm = results["rhythm"]
    labels = {s: d.labels[rows[s]].astype(float) for s, d in data.items()}
    for site, found in rhythm.sites.items():
        scd, vfvt = (labels[site][:, data[site].heads.index(name)] for name in ("scd_2y", "vfvt_2y"))
        assert found.outcomes["vfvt"].ecgs == np.isfinite(vfvt).sum()
        assert found.outcomes["composite"].events == ((scd == 1) | (np.isfinite(scd) & (vfvt == 1))).sum()
    beside = results["beside"]
    for site, found in beside.sites.items():
        pair = found.pairs["death_2y"]["-lvef"]
        measured = known[site] & np.isfinite(data[site].covariates["lvef"][rows[site]])
        assert pair.ecgs == measured.sum()
        assert found.placebo["score"].ecgs is not None
    profile = results["profile"]
    for site, found in profile.sites.items():
        assert found.ecgs == len(rows[site])
        assert (
            found.captured["lvef<=0.35"].events == labels[site][known[site], data[site].heads.index("death_2y")].sum()
        )
    look = results["look"].pooled["training"]
    assert look.patients > 10
    assert sum(v for phases in look.share.values() for v in phases.values()) == pytest.approx(1.0, abs=1e-6)
    page = render(run).read_text(encoding="utf-8")
    for words in (
        "overlap with ejection fraction at most 35%",
        "matched in size",
        "ventricular arrhythmia",
        "scores contrasted",
    ):
        assert words.casefold() in page.casefold()
    assert "could not lay out" not in page
