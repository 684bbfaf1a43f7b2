"""Age at real hospitals: federated beside under one roof and beside each hospital alone, over several draws of splits.

One training says little: another draw of the same people is half a year better or worse. So the study of eight
hospitals (``deploy/examples/real/age_sex.yaml``, its proposed net alone) is run from several seeds, each with splits of
its own, by the product's own rounds; the errors of all lockboxes together are compared, intervals clustered by patient.

Each way of each seed is half a minute to a minute of one core. ``ECGFED_BESIDE_SEEDS`` (0,1,2) and
``ECGFED_BESIDE_WAYS`` (federated,roof,alone) name what is trained, ``ECGFED_BESIDE_OUT`` a folder where each is kept,
so that they can be run one by one, and the figures of all as JSON. ``ECGFED_BESIDE_ROUNDS`` is for trying it out.
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

SEEDS = [int(seed) for seed in os.environ.get("ECGFED_BESIDE_SEEDS", "0,1,2").split(",")]
ROUNDS = int(os.environ.get("ECGFED_BESIDE_ROUNDS", "0"))
WAYS = os.environ.get("ECGFED_BESIDE_WAYS", "federated,roof,alone").split(",")
MOST_MORE = 0.03
"""By how much the federated error may exceed the one under one roof."""


def study_of(seed: int, way: str, folder: Path) -> Path:
    """Write the study with its proposed net, or with what each hospital has alone; return its file.

    Under one roof the net is trained as a hospital alone trains it, in adaptive steps.
    """
    content = yaml.safe_load((REAL / "age_sex.yaml").read_text(encoding="utf-8"))
    steps = {step["id"]: step for step in content["steps"]}
    own = [step for name, step in steps.items() if name.startswith("alone_")]
    if way == "roof":
        recipe = ("rounds", "local", "strategy", "optimiser", "early_stopping")
        steps["net"] |= {key: own[0][key] for key in recipe}
    content["steps"] = [steps["table1"], *(own if way == "alone" else [steps["net"]])]
    for step in content["steps"]:
        if ROUNDS and "rounds" in step:
            step["rounds"] = ROUNDS
    content |= {"seed": seed, "name": f"beside-{seed}-{way}"}
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
    torch.set_num_threads(1)
    out = Path(os.environ.get("ECGFED_BESIDE_OUT", tmp_path))
    table: dict[str, list[tuple[str, int, float]]] = {}
    for seed in SEEDS:
        for way in WAYS:
            kept = out / f"beside_{seed}_{way}.json"
            if not kept.exists():
                kept.write_text(json.dumps(one_training(seed, way, tmp_path / f"{seed}_{way}", out)), encoding="utf-8")
        for kept in out.glob(f"beside_{seed}_*.json"):
            for key, lines in json.loads(kept.read_text(encoding="utf-8")).items():
                table.setdefault(key, []).extend((site, patient, error) for site, patient, error in lines)
    figures = compared(table)
    print(json.dumps(figures, indent=1))
    (out / "federated_beside_pooled.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    together = figures["training hospitals"].get("federated, of one roof")
    assert together is None or together[0] < 1 + MOST_MORE


def one_training(seed: int, way: str, here: Path, caches: Path) -> dict[str, list[tuple[str, int, float]]]:
    """Train one way from one seed; return hospital, patient and error of every ECG judged, by "way hospital"."""
    from client.dataset.opening import open_site
    from client.site.settings import load_site
    from ecgshared.study.study import load_study
    from simulations.federation.pooled import approving, pooled_twin
    from simulations.federation.run import simulate

    study_file = study_of(seed, way, here)
    study = load_study(study_file)
    files = {site: approving(REAL / f"{site}.yaml", study_file, here) for site in study.sites.all}
    # Recordings are read once: all copies of a site's file look into one cache.
    settings = {site: load_site(file).model_copy(update={"state": caches / site}) for site, file in files.items()}
    rng, cohorts = np.random.default_rng([seed, 1]), {s: open_site(given, study) for s, given in settings.items()}
    cohorts |= {site: drawn_anew(cohorts[site], study.split, rng) for site in study.sites.train}
    if way == "roof":
        twin = pooled_twin(study_file, list(files.values()), here / "twin", of=[cohorts[s] for s in study.sites.train])
        beyond = {approving(files[s], twin.study, here / "beyond"): cohorts[s] for s in study.sites.zero_shot}
        run = simulate(twin.study, [twin.sites[0], *beyond], here / "run", held={**twin.held, **beyond})
    else:
        run = simulate(study_file, list(files.values()), here / "run", held={files[s]: d for s, d in cohorts.items()})
    found: dict[str, list[tuple[str, int, float]]] = {}
    for step in study.steps[1:]:
        judged = {site: cohorts[site] for site in step.sites} if way == "alone" else cohorts
        for site, by_ecg in errors(run, step.id, judged).items():
            patient = cohorts[site].patient[cohorts[site].rows("lockbox")]
            found[f"{way} {site}"] = [(site, int(p), float(e)) for p, e in zip(patient, by_ecg, strict=True)]
    return found


def compared(table):
    """Return mean errors, their ratios and differences, with 95% intervals over patients."""
    from ecgshared.study.study import load_study

    sites = load_study(REAL / "age_sex.yaml").sites

    def of(way, among):
        return [line for site in among for line in table.get(f"{way} {site}", [])]

    found = {}
    groups = {"training hospitals": sites.train, "never seen": sites.zero_shot} | {s: (s,) for s in sites.all}
    groups["those trained alone"] = tuple(site for site in sites.train if f"alone {site}" in table)
    for name, among in groups.items():
        federated, roof, alone = (of(way, among) for way in ("federated", "roof", "alone"))
        if not federated:
            continue
        one = {"ECGs judged a seed": len(federated) / len(SEEDS), "federated": rounded(mean(federated))}
        if len(roof) == len(federated):
            one |= {"one roof": rounded(mean(roof)), "federated, of one roof": rounded(ratio(federated, roof))}
        if len(alone) == len(federated):
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
