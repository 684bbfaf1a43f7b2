"""Discrimination on the in-silico demo, over five seeds: beside the truth, amplitudes, and pooled training.

All is judged on the same ECGs: those of the hospital that never trained whose outcome is known, as the demo's study
selects them. `true` is the AUC there of the event probability that the simulation planted; no model can be expected to
do better. `amplitudes` is :func:`simulations.judging.baselines.amplitude_regression`. `pooled` is the same study
with the training hospitals' ECGs under one roof, on the same split.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from client.site.settings import load_site
from ecgshared.study.study import load_study
from server.report.results import read_json, write_results
from simulations.federation.pooled import pooled_twin
from simulations.federation.run import simulate
from simulations.hospitals.demo import prepare
from simulations.hospitals.make import true_hazard_auc, truth_table
from simulations.judging.baselines import amplitude_regression, true_risk

SEEDS = (1, 2, 3, 4, 5)
UNSEEN, HEAD = "island", "scd_2y"


def judged(run: Path) -> dict[str, float]:
    """The unseen site's figures in results.json: AUC, ECGs, events."""
    found = read_json(write_results(run))["steps"]["judged"]["result"]["sites"][UNSEEN]["heads"][HEAD]
    return {"auc": found["auc"]["value"], "ecgs": found["ecgs"], "events": found["events"]}


def pooled_auc(study: Path, sites: list[Path], folder: Path) -> float:
    """The unseen site's AUC under the study's pooled twin; its site file is copied to approve the twin."""
    folder.mkdir()
    files = []
    for path in sites:
        settings = load_site(path)
        if settings.site == UNSEEN:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            content["records"]["folder"] = str(settings.records.folder)
            content["table"]["path"] = str(settings.table.path)
            content |= {"state": str(settings.state), "studies": ["study.yaml"]}
            path = folder / f"{UNSEEN}.yaml"
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
        files.append(path)
    twin = pooled_twin(study, files, folder)
    return judged(simulate(twin.study, twin.sites, folder / "run", held=twin.held))["auc"]


def one_seed(seed: int, out: Path) -> dict[str, float]:
    """Make, train, evaluate; return the figures of one seed."""
    start = time.perf_counter()
    study_file, sites = prepare(out, seed)
    zero_shot = judged(simulate(study_file, sites, out))
    seconds = time.perf_counter() - start
    study, unseen = load_study(study_file), sites[-1]
    truth = true_risk(study, out / "hospitals", unseen, HEAD)
    plain = amplitude_regression(study, sites[:-1], unseen, HEAD)
    assert len(truth.event) == zero_shot["ecgs"] == len(plain.event)
    assert truth.event.sum() == zero_shot["events"] == plain.event.sum()
    everybody = truth_table(out / "hospitals")
    true = float(roc_auc_score(truth.event, truth.risk))
    return {
        **{f"true at {site}": true_hazard_auc(rows) for site, rows in everybody.groupby("site")},
        "events": zero_shot["events"],
        "true": true,
        "zero-shot": zero_shot["auc"],
        "share of true": zero_shot["auc"] / true,
        "amplitudes": float(roc_auc_score(plain.event, plain.risk)),
        "pooled": (pooled := pooled_auc(study_file, sites, out / "pooled")),
        "pooled - zero-shot": pooled - zero_shot["auc"],
        "seconds": seconds,
    }


def mean_and_interval(values: list[float]) -> str:
    """The mean over seeds with its 95% interval (Student's t)."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.4f} ({np.mean(values) - half:.4f} to {np.mean(values) + half:.4f})"


@pytest.mark.benchmark
@pytest.mark.timeout(0)
def test_zero_shot_discrimination_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures: list[dict[str, float]] = []
    for seed in SEEDS:
        figures.append(one_seed(seed, tmp_path / str(seed)))
        with capsys.disabled():
            told = ", ".join(f"{name} {value:.4g}" for name, value in figures[-1].items())
            print(f"\nseed {seed}: {told}", end="")
    by_name = {name: [row[name] for row in figures] for name in figures[0]}
    mean = {name: float(np.mean(values)) for name, values in by_name.items()}
    goals = {
        f"the true hazard's AUC at {UNSEEN} between 0.80 and 0.90 for every seed": all(
            0.80 <= value <= 0.90 for value in by_name[f"true at {UNSEEN}"]
        ),
        f"at least 100 events at {UNSEEN} for every seed": min(by_name["events"]) >= 100,
        "zero-shot AUC at least 0.95 of the true hazard's": mean["share of true"] >= 0.95,
        "zero-shot AUC above amplitudes": mean["zero-shot"] > mean["amplitudes"],
        "zero-shot AUC within 0.02 of pooled training": abs(mean["pooled - zero-shot"]) <= 0.02,
    }
    with capsys.disabled():
        print(f"\nmean and 95% interval over {len(SEEDS)} seeds:")
        for name, values in by_name.items():
            print(f"  {name:<20} {mean_and_interval(values)}")
        for goal, met in goals.items():
            print(f"  {'met ' if met else 'MISSED'} {goal}")
        print(f"  peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    assert not [goal for goal, met in goals.items() if not met]
