"""A hundred hospitals of forty patients, none of which may tell anything alone: all of them together, under masks.

The oracles see all hospitals' rows in one table: statsmodels, scikit-learn and lifelines.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import yaml
from lifelines import CoxPHFitter, KaplanMeierFitter
from sklearn.metrics import roc_auc_score

from client.dataset.data import SiteData
from ecgshared.errors import RunError
from ecgshared.study.endpoints import EventTimes
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SITES, PATIENTS = 100, 40
NAMES = tuple(f"clinic_{i:03d}" for i in range(1, SITES + 1))
GRID = 0.25


def clinic(number: int) -> SiteData:
    """Forty patients, one or two ECGs each, with the shares and the rate of events of the scenario many_sites."""
    draw = np.random.default_rng([41, number])
    n = PATIENTS + int(0.4 * PATIENTS)
    patient = np.concatenate([np.arange(PATIENTS), draw.choice(PATIENTS, n - PATIENTS, replace=False)])
    age = np.clip(draw.normal(65, 12, PATIENTS), 20, 95)[patient].astype(np.float32)
    male = (draw.random(PATIENTS) < 0.53).astype(np.float32)[patient]
    lvef = np.clip(draw.normal(55, 10, PATIENTS), 15, 75)[patient].astype(np.float32)
    risk = 0.04 * (age - 65) + 0.4 * male - 0.05 * (lvef - 55) + draw.normal(0, 0.2)
    years = draw.exponential(8 / np.exp(risk[:PATIENTS]))[patient]
    end = draw.uniform(1, 4, PATIENTS)[patient]
    seen, died = np.minimum(years, end), years <= end
    label = np.where(died & (years <= 2), 1.0, np.where(seen >= 2, 0.0, np.nan)).astype(np.float32)
    return SiteData(
        signals=np.zeros((n, 12, 8), dtype=np.int16),
        patient=patient,
        split=draw.choice([0, 1, 2], PATIENTS, p=[0.5, 0.0, 0.5]).astype(np.int8)[patient],
        heads=("death_2y",),
        labels=label[:, None],
        age=age,
        male=male,
        covariates={"lvef": lvef},
        fs_hz=100.0,
        patients_known=True,
        flow=(("made", n, PATIENTS),),
        descriptions={},
        follow_up_years=seen.astype(np.float32),
        event_times={"death": EventTimes(seen, died, np.zeros(n, dtype=bool))},
    )


STEPS = [
    {"id": "score", "stage": "calibrate", "target": "death_2y", "inputs": ["age", "male", "lvef"], "split": "train"},
    {"id": "judged", "stage": "evaluate", "uses": ["score"]},
    {
        "id": "cox",
        "stage": "summed_survival",
        "event": "death",
        "models": [{"name": "clinical", "inputs": ["age", "male", "lvef"]}],
        "horizon_years": 2,
        "follow_up_years": 3,
        "grid_years": GRID,
        "splits": ["train"],
        "one_ecg_per_patient": True,
    },
]


def federation(folder: Path, clinics: dict[str, SiteData], *, secure: bool, steps: list[dict[str, Any]], **site: Any):
    """Write a study and site files; return what ``simulate`` takes."""
    study = {
        "name": "clinics",
        "sites": {"train": list(NAMES)},
        "endpoints": {"death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2}},
        "covariates": ["lvef"],
        "federation": {"quorum": 60, "retries": 0},
        "steps": steps,
    } | ({"secure_sum": {}} if secure else {})
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    files = []
    for name in NAMES:
        content = {
            "site": name,
            "records": {"folder": "."},
            "table": {"path": "none.csv", "columns": {"file": "file"}},
            "state": str(folder / "state" / name),
            "studies": ["study.yaml"],
            "seed": 7,
        } | site
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump(content))
    return {
        "study_file": folder / "study.yaml",
        "site_files": files,
        "out": folder / "run",
        "held": {file: clinics[file.stem] for file in files},
    }


@pytest.fixture(scope="module")
def clinics() -> dict[str, SiteData]:
    return {name: clinic(i) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def together(clinics: dict[str, SiteData], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_together(tmp_path_factory.mktemp("score") / "secure", clinics, STEPS[:2])


@pytest.fixture(scope="module")
def followed(clinics: dict[str, SiteData], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A study of its own: at a clinic those followed differ from those of known outcome by a few, whom its memory of
    groups protects."""
    return run_together(tmp_path_factory.mktemp("cox") / "secure", clinics, STEPS[2:])


def run_together(folder: Path, clinics: dict[str, SiteData], steps: list[dict[str, Any]]) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        # Forty thousand small files on one disk: what lasts through a power failure is not tried here.
        patch.setattr(os, "fsync", lambda handle: None)
        run = simulate(**federation(folder, clinics, secure=True, steps=steps, secure_sums={"limits_of": "pooled"}))
    found = RunFolder.reopen(run)
    found.close()
    return found


def pooled(clinics: dict[str, SiteData], split: int) -> pd.DataFrame:
    parts = []
    for s, data in enumerate(clinics.values()):
        rows = data.split == split
        parts.append(
            pd.DataFrame(
                {
                    "patient": data.patient[rows] + 1000 * s,
                    "age": data.age[rows].astype(float),
                    "male": data.male[rows].astype(float),
                    "lvef": data.covariates["lvef"][rows].astype(float),
                    "y": data.labels[rows, 0].astype(float),
                    "years": data.event_times["death"].years[rows],
                    "died": data.event_times["death"].observed[rows],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def score(clinics, together, split: int) -> pd.DataFrame:
    table = pooled(clinics, split).dropna(subset="y")
    coef = together.artefact("score").result.coef
    table["logit"] = coef["intercept"] + sum(coef[name] * table[name] for name in ("age", "male", "lvef"))
    return table


def test_calibration_is_that_of_all_patients(clinics, together):
    result = together.artefact("score").result
    table = pooled(clinics, 0).dropna(subset="y")
    design = sm.add_constant(table[["age", "male", "lvef"]])
    fit = sm.Logit(table["y"], design).fit(disp=0, tol=1e-12, method="newton")
    clustered = sm.Logit(table["y"], design).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": table["patient"], "use_correction": False}
    )
    patients = table["patient"].nunique()
    for ours, theirs in (("intercept", "const"), ("age", "age"), ("male", "male"), ("lvef", "lvef")):
        assert result.coef[ours] == pytest.approx(fit.params[theirs], rel=1e-6)
        expected = clustered.bse[theirs] * np.sqrt(patients / (patients - 1))
        assert result.se_patient_clustered[ours] == pytest.approx(expected, rel=1e-5)
    assert (result.ecgs, result.patients, result.events) == (len(table), patients, table["y"].sum())
    assert len(result.together) == SITES


def test_auc_and_calibration_line_are_those_of_all_patients(clinics, together):
    found = together.artefact("judged").result.pooled["training"]["death_2y"]
    table = score(clinics, together, 2)
    exact = roc_auc_score(table["y"], table["logit"])
    assert found.auc.bound_low <= exact <= found.auc.bound_high
    assert found.auc.bound_high - found.auc.bound_low < 0.05
    assert found.auc.value == pytest.approx(exact, abs=0.004)
    assert found.auc.low < exact < found.auc.high
    line = sm.Logit(table["y"], sm.add_constant(table["logit"])).fit(disp=0, tol=1e-12)
    assert found.calibration_intercept.value == pytest.approx(line.params["const"], abs=1e-6)
    assert found.calibration_slope.value == pytest.approx(line.params["logit"], abs=1e-6)
    risk = 1 / (1 + np.exp(-table["logit"]))
    assert found.brier == pytest.approx(((risk - table["y"]) ** 2).mean(), abs=1e-9)
    assert found.expected_over_observed.value == pytest.approx(risk.sum() / table["y"].sum(), abs=1e-9)
    assert (found.ecgs, found.events) == (len(table), table["y"].sum())
    assert (len(found.sites), together.artefact("judged").result.sites) == (SITES, {})


def test_survival_is_that_of_all_patients(clinics, followed):
    result = followed.artefact("cox").result
    table = pooled(clinics, 0).drop_duplicates("patient", keep="last").copy()
    table["died"] &= table["years"] <= 3
    table["years"] = table["years"].clip(upper=3)
    grid = np.array([row.years for row in result.curve])
    assert len(grid) >= 6
    table["years"] = grid[np.searchsorted(grid, table["years"])]

    curve = KaplanMeierFitter().fit(table["years"], table["died"])
    for row in result.curve:
        assert row.survival == pytest.approx(float(curve.predict(row.years)), abs=1e-12)
    np.testing.assert_allclose(
        [[row.low, row.high] for row in result.curve], curve.confidence_interval_.loc[grid].to_numpy(), atol=1e-6
    )

    fit = CoxPHFitter().fit(
        table[["age", "male", "lvef", "years", "died"]],
        "years",
        "died",
        fit_options={"precision": 1e-12},
    )
    robust = CoxPHFitter().fit(
        table[["age", "male", "lvef", "years", "died"]], "years", "died", robust=True, fit_options={"precision": 1e-12}
    )
    coefficients = result.models["clinical"].coefficients
    for name, coef in fit.params_.items():
        assert coefficients[name].coef == pytest.approx(coef, abs=1e-6)
        assert coefficients[name].se == pytest.approx(robust.standard_errors_[name], rel=0.02)
    assert result.models["clinical"].log_likelihood == pytest.approx(fit.log_likelihood_, abs=1e-4)
    assert (result.patients, result.event_patients) == (len(table), table["died"].sum())


def test_nothing_of_one_clinic_leaves_it(together):
    for name in NAMES[:5]:
        lines = (together.path.parent / "state" / name / "releases.jsonl").read_text().splitlines()
        fields = [field for line in lines for field in json.loads(line)["fields"].values()]
        assert {field["kind"] for field in fields} == {"hidden", "public"}


def test_without_masks_they_are_withheld_as_before(clinics, tmp_path):
    """In the clear a fit is of those clinics alone whose own patients and events happen to be enough."""
    run = simulate(**federation(tmp_path / "plain", clinics, secure=False, steps=STEPS[:1]))
    found = RunFolder.reopen(run)
    found.close()
    result = found.artefact("score").result
    table = pooled(clinics, 0).dropna(subset="y")
    everybody = table["patient"].nunique()
    took_part = [name for name, site in result.sites.items() if site.took_part]
    assert 0 < len(took_part) < 0.6 * SITES
    assert result.patients < 0.6 * everybody


def test_clinics_whose_own_limits_count_take_no_part(clinics, tmp_path):
    with pytest.raises(RunError, match="too-few"):
        simulate(**federation(tmp_path / "own", clinics, secure=True, steps=STEPS[:1]))
