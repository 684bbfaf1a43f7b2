"""The defibrillator study through the apps in process: tables and recordings in, a trained score, a cut, report out."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
import yaml

from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.pooled import pooled_twin
from simulations.federation.run import simulate

STEPS = [
    {"id": "score", "stage": "calibrate", "uses": ["risk"], "target": "death_2y", "ridge": 1.0},
    {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": None, "top_share": 0.3},
]
TABLE = {
    "id": "devices",
    "stage": "regress",
    "uses": ["cut"],
    "outcome": ["death_2y", "male"],
    "defibrillator_study": True,
    "population": "aged",
}
CALENDAR = {
    "id": "calendar",
    "stage": "regress",
    "uses": ["score"],
    "outcome": "death_2y",
    "methods": ["ols"],
    "models": [
        {"name": "plain", "terms": ["log_odds", "age", "year"]},
        {"name": "seasons", "terms": ["log_odds", "age"], "fixed_effects": ["month"]},
    ],
}


def with_devices(site_file: Path) -> None:
    """Give a third of a hospital's patients a defibrillator at their first ECG, and another third a low LVEF."""
    content = yaml.safe_load(site_file.read_text(encoding="utf-8"))
    table = content["table"]
    columns = table["columns"]
    read = {"encoding": table["encoding"], "newline": ""}
    with Path(table["path"]).open(**read) as source:
        rows = list(csv.DictReader(source, delimiter=table["separator"]))
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row[columns["patient_id"]], row[columns["recorded_at"]])
    percent = any(row[columns["lvef"]].startswith(("3", "4", "5", "6")) for row in rows)
    for row in rows:
        drawn = zlib.crc32(row[columns["patient_id"]].encode())
        row[columns["icd_date"]] = first[row[columns["patient_id"]]] if drawn % 3 == 0 else ""
        if drawn % 7 < 3:
            row[columns["lvef"]] = "30" if percent else f"0{table['decimal']}30"
    changed = site_file.with_suffix(".csv")
    with changed.open("w", **read) as out:
        writer = csv.DictWriter(out, rows[0].keys(), delimiter=table["separator"])
        writer.writeheader()
        writer.writerows(rows)
    table["path"] = str(changed)
    site_file.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture
def ran(federation):
    steps = [{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1), *STEPS, TABLE, CALENDAR]
    study = federation.study(
        steps=steps,
        split={"train": 0.3, "validation": 0.2, "lockbox": 0.5},
        covariates=["lvef"],
        populations={"aged": {"label": "those over 30", "where": {"age": {"above": 30}}}},
    )
    sites = federation.sites()
    for path in sites:
        with_devices(path)
    run = simulate(study, sites, federation.folder / "run")
    folder = RunFolder.reopen(run)
    folder.close()
    data = [open_site(load_site(path), load_study(study)) for path in sites]
    return run, {step: folder.artefact(step).result for step in ("cut", "devices", "calendar")}, data


def test_the_table_equals_statsmodels_on_the_hospitals_own_files_and_stands_in_the_report(ran):
    run, results, data = ran
    table = results["devices"]
    xs, ys, ps = [], [], []
    for i, site in enumerate(data):
        rows = np.intersect1d(site.rows("lockbox"), np.flatnonzero(site.populations["aged"]))
        low = np.where(site.covariates["lvef"][rows] <= np.float32(0.35), 1.0, 0.0)
        device = site.columns["defibrillator"][rows]
        x = np.column_stack([site.age[rows], site.male[rows], low, device, low * device]).astype(float)
        y = site.labels[rows][:, [site.heads.index("death_2y"), site.heads.index("male")]]
        keep = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
        xs.append(x[keep])
        ys.append(y[keep, 0].astype(float))
        ps.append(site.patient[rows][keep] + 100_000 * i)
    x, y, patient = (np.concatenate(parts) for parts in (xs, ys, ps))
    want = sm.OLS(y, sm.add_constant(x)).fit(cov_type="cluster", cov_kwds={"groups": patient})
    found = next(m for m in table.models if m.name == "lvef" and m.outcome == "death_2y").pooled
    assert found.sites == ("north", "coast", "valley", "island")
    assert found.ecgs == len(y)
    np.testing.assert_allclose([c.value for c in found.coefficients.values()], want.params, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose([c.se for c in found.coefficients.values()], want.bse, rtol=1e-7)
    assert table.cutoff == pytest.approx(results["cut"].cutoff)
    ecg = next(m for m in table.models if m.name == "ecg" and m.outcome == "death_2y").pooled
    assert 0 < table.means["high_risk"] < 1
    assert set(ecg.coefficients) == {
        "intercept",
        "age",
        "male",
        "high_risk",
        "defibrillator",
        "high_risk:defibrillator",
    }
    # The outcome is one of the terms.
    sex = next(m for m in table.models if m.name == "lvef" and m.outcome == "male").pooled
    assert sex.reason == "the terms give the outcome exactly"
    assert sex.coefficients == {}
    page = render(run).read_text(encoding="utf-8")
    for words in ("High-risk ECG × defibrillator", "Death within 2 years: linear regression", "Those over 30"):
        assert words.casefold() in page.casefold()
    # Intercepts of each hospital's own months, and the calendar year as a number.
    plain, seasons = (m.pooled for m in results["calendar"].models)
    assert "year" in plain.coefficients
    months = sum(
        len(np.unique(d.columns["month"][d.rows("lockbox")][np.isfinite(d.labels[d.rows("lockbox"), 1])])) for d in data
    )
    assert months > 12
    assert seasons.r2 > 0
    assert seasons.coefficients["log_odds"].value is not None


def test_the_pooled_twin_gives_the_same(federation):
    """Columns that a step reads go with the pooled cohort; nothing is trained."""
    models = [
        {"name": "plain", "terms": ["age", "male", "defibrillator", "year"]},
        {"name": "kinds", "terms": ["age", "male", "age:male"]},
    ]
    step = {"id": "r", "stage": "regress", "outcome": "death_2y", "models": models, "sites": "train"}
    study = federation.study(steps=[step | {"methods": ["ols", "logistic"]}])
    sites = federation.sites()
    for path in sites:
        with_devices(path)
    run = simulate(study, sites, federation.folder / "run")
    twin = pooled_twin(study, sites, federation.folder / "twin")
    pooled_run = simulate(twin.study, twin.sites, federation.folder / "pooled", held=twin.held)
    found = []
    for folder in (RunFolder.reopen(run), RunFolder.reopen(pooled_run)):
        folder.close()
        found.append(folder.artefact("r").result.models)
    for ours, theirs in zip(*found, strict=True):
        assert ours.pooled.ecgs == theirs.pooled.ecgs
        for term, c in ours.pooled.coefficients.items():
            want = theirs.pooled.coefficients[term]
            np.testing.assert_allclose([c.value, c.se, c.deciding], [want.value, want.se, want.deciding], rtol=1e-6)
