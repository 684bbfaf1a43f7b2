"""A survival study through the apps in process: cohort tables and recordings in, report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

FIT = {
    "id": "hazard",
    "stage": "survival",
    "uses": ["risk"],
    "event": "death",
    "models": [
        {"name": "covariates", "inputs": ["age", "male", "heart_failure"]},
        {"name": "both", "inputs": ["age", "male", "heart_failure", "risk.death_2y"]},
    ],
    "horizon_years": 2,
    "follow_up_years": 4,
    "robust": False,
}
JUDGE = {"id": "judged", "stage": "survival_evaluate", "uses": ["hazard"]}


def results(run: Path, step: str) -> dict[str, Any]:
    folder = RunFolder.reopen(run)
    folder.close()
    found = folder.artefact(step)
    assert found is not None
    return found.result.model_dump(mode="json")


def a_study(federation: Any, *, train: bool = False, **changes: Any) -> Path:
    """A survival study; without ``train`` only of what the tables hold."""
    if train:
        steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1), {**FIT, **changes}, JUDGE]
    else:
        tabled = {"uses": [], "models": [{"name": "covariates", "inputs": ["age", "male", "heart_failure"]}]}
        steps = [{**FIT, **tabled, **changes}, JUDGE]
    return federation.study(steps=steps, covariates=["heart_failure"])


def pooled_rows(study_file: Path, files: list[Path]) -> pd.DataFrame:
    """The training rows as the hospitals' own files have them, without a federation."""
    study = load_study(study_file)
    frames = []
    for path in files[:3]:
        data = open_site(load_site(path), study)
        times = data.event_times["death"]
        frame = pd.DataFrame(
            {
                "age": data.age,
                "male": data.male,
                "heart_failure": data.covariates["heart_failure"],
                "years": np.minimum(times.years, 4),
                "event": times.observed & (times.years <= 4),
                "patient": data.patient,
                "when": data.chronology,
            }
        ).astype(np.float64)
        frame = frame.iloc[data.rows("train")].dropna().sort_values("when").groupby("patient").tail(1)
        frames.append(frame.assign(site=path.stem))
    return pd.concat(frames, ignore_index=True)


def test_a_study_from_files_to_report_equals_lifelines_on_the_pooled_rows(federation):
    study, files = a_study(federation, train=True), federation.sites()
    run = simulate(study, files, federation.folder / "run")
    fitted, judged = results(run, "hazard"), results(run, "judged")
    frame = pooled_rows(study, files)
    fit = CoxPHFitter().fit(
        frame[["age", "male", "heart_failure", "years", "event", "site"]],
        "years",
        "event",
        strata=["site"],
        fit_options={"precision": 1e-12},
    )
    found = fitted["models"]["covariates"]["coefficients"]
    np.testing.assert_allclose([c["coef"] for c in found.values()], fit.params_, atol=1e-8)
    np.testing.assert_allclose([c["se"] for c in found.values()], fit.standard_errors_, atol=1e-6)
    assert fitted["models"]["covariates"]["log_likelihood"] == pytest.approx(fit.log_likelihood_, abs=1e-8)
    assert fitted["models"]["covariates"]["events"] == frame["event"].sum() > 20
    assert judged["sites"]["island"]["group"] == "zero_shot"
    assert judged["pooled"]["zero_shot"]["models"]["both"]["difference"]["harrell"]["value"] is not None
    # Coefficients came from training rows: no lockbox was opened by the fit, and the evaluation's is on record.
    opened = [
        json.loads(line)["step"]
        for line in (federation.folder / "state" / "north" / "lockbox.jsonl").read_text().splitlines()
    ]
    assert set(opened) == {"judged"}
    page = render(run).read_text(encoding="utf-8")
    assert "could not lay out" not in page
    assert "Hazard ratio of age" in page.replace("Hazard ratio of Age", "Hazard ratio of age")
    assert "Cumulative incidence by risk group, both" in page


def test_exact_mode_runs_and_a_site_without_the_input_is_named(federation):
    study = a_study(
        federation, mode="exact", grid_years=0.5, models=[{"name": "covariates", "inputs": ["age", "heart_failure"]}]
    )
    run = simulate(study, federation.sites(lacks={"coast": ("heart_failure",)}), federation.folder / "run")
    fitted = results(run, "hazard")
    assert fitted["models"]["covariates"]["sites"] == ["north", "valley"]
    assert fitted["sites"]["coast"]["reason"] == "lacks heart_failure"
    assert len(fitted["grid"]) > 1
    assert "lacks heart_failure" in render(run).read_text(encoding="utf-8")


def test_resuming_after_a_finished_fit_asks_no_site_a_new_question(federation):
    study, files = a_study(federation), federation.sites()
    first = results(simulate(study, files, federation.folder / "one"), "hazard")
    asked = [path.read_text() for path in sorted(federation.folder.glob("state/*/questions/*"))]
    assert asked
    # The same study under another run name: the same questions, which cost nothing.
    second = results(simulate(study, files, federation.folder / "two"), "hazard")
    assert [path.read_text() for path in sorted(federation.folder.glob("state/*/questions/*"))] == asked
    assert first == second
