"""Age at real hospitals: federated beside under one roof and beside each hospital alone, over several draws of splits.

One training says little: another draw of the same people is half a year better or worse. So the study of eight
hospitals (``deploy/examples/real/age_sex.yaml``, its proposed net alone) is run from several seeds, each with splits of
its own, by the product's own rounds; the errors of all lockboxes together are compared, intervals clustered by patient.

``ECGFED_BESIDE_SEEDS`` (3) says how often, ``ECGFED_BESIDE_OUT`` names a folder for the figures as JSON,
``ECGFED_BESIDE_ALONE=0`` leaves the trainings of single hospitals out, ``ECGFED_BESIDE_ROUNDS`` is for trying it out.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from one_roof import REAL, rounded

SEEDS = int(os.environ.get("ECGFED_BESIDE_SEEDS", "3"))
ROUNDS = int(os.environ.get("ECGFED_BESIDE_ROUNDS", "0"))
ALONE = os.environ.get("ECGFED_BESIDE_ALONE", "1") != "0"
MOST_MORE = 0.03
"""By how much the federated error may exceed the one under one roof."""


def study_of(seed: int, folder: Path, *, roof: bool = False) -> Path:
    """Write the study with its proposed net and what each hospital has alone; return its file.

    Under one ``roof`` the net is trained as a hospital alone trains it, in adaptive steps.
    """
    content = yaml.safe_load((REAL / "age_sex.yaml").read_text(encoding="utf-8"))
    steps = {step["id"]: step for step in content["steps"]}
    own = next(step for name, step in steps.items() if name.startswith("alone_"))
    if roof:
        steps["net"] |= {key: own[key] for key in ("rounds", "local", "strategy", "optimiser", "early_stopping")}
    kept = ("table1", "net", *(["alone_"] if ALONE and not roof else []))
    content["steps"] = [step for name, step in steps.items() if name.startswith(kept)]
    for step in content["steps"]:
        if ROUNDS and "rounds" in step:
            step["rounds"] = ROUNDS
    content |= {"seed": seed, "name": f"beside-{seed}"}
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "study.yaml"


def drawn_anew(data, shares, rng: np.random.Generator):
    """Return a training site's cohort with its patients split afresh: train, validation, lockbox."""
    place = np.empty(data.n_patients)
    place[rng.permutation(data.n_patients)] = (np.arange(data.n_patients) + 0.5) / data.n_patients
    split = np.searchsorted(np.cumsum([shares.train, shares.validation]), place, side="right").astype(np.int8)
    return replace(data, split=split[data.patient])


def errors(run: Path, step: str, cohorts) -> dict[str, np.ndarray]:
    """Return each site's absolute errors of age in its lockbox by the net that a step of a run ended with."""
    from client.rows.inputs import ModelRows
    from ecgshared.learning.layout import Layout
    from ecgshared.learning.loop import predict
    from ecgshared.stages.train_net import built
    from server.rounds.run_folder import RunFolder

    folder = RunFolder.reopen(run)
    try:
        study, arrays = folder.study, folder.artefact(step).arrays
    finally:
        folder.close()
    config = study.step(step)
    net = built(config, study)
    Layout.of(net).load(net, arrays["weights"])
    found = {}
    for site, data in cohorts.items():
        rows = data.rows("lockbox")
        seen = ModelRows(data, rows, covariates=(), standardise=arrays["standardise"], heads=config.heads)
        told = predict(net, seen, np.arange(len(rows)))[:, config.heads.index("years")]
        found[site] = np.abs(study.endpoints["years"].restore(told) - data.age[rows])
    return found


@pytest.mark.benchmark
@pytest.mark.timeout(0)
def test_federated_beside_one_roof_and_alone(shared_data, tmp_path):
    from client.dataset.opening import open_site
    from client.site.settings import load_site
    from ecgshared.study.study import load_study
    from simulations.federation.pooled import approving, pooled_twin
    from simulations.federation.run import simulate

    torch.set_num_threads(1)
    table: dict[str, list[tuple[str, int, float]]] = {}
    """By "way site": patient and error of every ECG judged."""
    for seed in range(SEEDS):
        study_file = study_of(seed, tmp_path / f"{seed}")
        study = load_study(study_file)
        files = {site: approving(REAL / f"{site}.yaml", study_file, tmp_path / f"{seed}") for site in study.sites.all}
        # Recordings are read once: every seed's copies look into one cache.
        settings = {site: load_site(file).model_copy(update={"state": tmp_path / site}) for site, file in files.items()}
        rng, cohorts = np.random.default_rng([seed, 1]), {s: open_site(given, study) for s, given in settings.items()}
        cohorts |= {site: drawn_anew(cohorts[site], study.split, rng) for site in study.sites.train}
        run = simulate(
            study_file, list(files.values()), tmp_path / f"{seed}/run", held={files[s]: d for s, d in cohorts.items()}
        )
        twin = pooled_twin(
            study_of(seed, tmp_path / f"{seed}/under", roof=True),
            list(files.values()),
            tmp_path / f"{seed}/twin",
            of=[cohorts[s] for s in study.sites.train],
        )
        beyond = {
            approving(files[s], twin.study, tmp_path / f"{seed}/beyond"): cohorts[s] for s in study.sites.zero_shot
        }
        roof = simulate(twin.study, [twin.sites[0], *beyond], tmp_path / f"{seed}/roof", held={**twin.held, **beyond})
        ways = {"federated": (run, "net", cohorts), "one roof": (roof, "net", cohorts)}
        for step in study.steps:
            if step.id.startswith("alone_"):
                (site,) = step.sites
                ways[f"alone {site}"] = (run, step.id, {site: cohorts[site]})
        for way, (folder, step_id, of) in ways.items():
            for site, found in errors(folder, step_id, of).items():
                patient = cohorts[site].patient[cohorts[site].rows("lockbox")]
                key = f"{way.split()[0]} {site}"
                table.setdefault(key, []).extend((site, p, e) for p, e in zip(patient.tolist(), found, strict=True))
    figures = compared(table, study.sites.train, study.sites.zero_shot)
    print(json.dumps(figures, indent=1))
    if out := os.environ.get("ECGFED_BESIDE_OUT"):
        (Path(out) / "federated_beside_pooled.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    assert figures["training hospitals"]["federated, of one roof"][0] < 1 + MOST_MORE


def compared(table, training, beyond):
    """Return mean errors and their ratios and differences, with 95% intervals over patients."""

    def of(way, sites):
        return [line for site in sites for line in table.get(f"{way} {site}", [])]

    found = {}
    groups = {"training hospitals": training, "never seen": beyond} | {site: (site,) for site in training}
    groups["alone, small ones together"] = tuple(site for site in training if f"alone {site}" in table)
    for name, sites in groups.items():
        federated, roof, alone = (of(way, sites) for way in ("federated", "one", "alone"))
        if not federated:
            continue
        one = {"ECGs judged": len(federated) / SEEDS, "federated": rounded(mean(federated))}
        one |= {"one roof": rounded(mean(roof)), "federated, of one roof": rounded(ratio(federated, roof))}
        if alone and len(alone) == len(federated):
            one |= {"alone": rounded(mean(alone)), "federated less alone": rounded(ratio(federated, alone, less=True))}
        found[name] = one
    return found


def mean(lines):
    return ratio(lines, [(site, patient, 1.0) for site, patient, _ in lines])


def ratio(first, second, *, less: bool = False):
    """Return the ratio (or difference) of mean errors with its interval, patients drawn with replacement."""
    keys = sorted({line[:2] for line in first})
    number = {key: i for i, key in enumerate(keys)}
    sums = np.zeros((3, len(keys)))
    for row, lines in enumerate((first, second)):
        for site, patient, error in lines:
            sums[row, number[site, patient]] += error
            sums[2, number[site, patient]] += row  # the ECGs
    rng = np.random.default_rng(0)
    drawn = np.array([sums[:, rng.integers(len(keys), size=len(keys))].sum(axis=1) for _ in range(2000)])
    a, b, n = np.vstack([sums.sum(axis=1), drawn]).T
    value = (a - b) / n if less else a / b
    return [value[0], *np.quantile(value[1:], [0.025, 0.975])]
