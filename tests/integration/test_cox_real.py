"""The federated Cox model on real deaths: SaMi-Trop and Fed-TCGA-BRCA, against lifelines on pooled rows.

Figures: python -m pytest tests/integration/test_cox_real.py -s
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cox_oracle import differences, lifelines_fit, sites_of

from ecgshared.errors import StatisticsError
from ecgshared.stats.concordance import harrell
from ecgshared.stats.cox import coarsen
from ecgshared.stats.cox_disclosure import CoxLimits, common_grid, require_grid, servable
from ecgshared.stats.cox_fit import Penalty
from ecgshared.tables.fit import Options, fit_sites
from ecgshared.tables.tables import SiteTable

AGE_SEX_ECG = ["age", "is_male", "nn_predicted_age"]


@pytest.fixture(scope="module")
def samitrop(shared_data: Path) -> pd.DataFrame:
    frame = pd.read_csv(shared_data / "samitrop" / "exams.csv")
    assert (len(frame), int(frame["death"].sum())) == (1631, 104)
    digest = frame["exam_id"].map(lambda exam: hashlib.sha256(str(exam).encode()).digest()[0])
    return frame.assign(site=digest % 4)


def exams(frame: pd.DataFrame, covariates: list[str]) -> list[SiteTable]:
    return sites_of(
        frame[covariates].to_numpy(dtype=float),
        frame["timey"].to_numpy(),
        frame["death"].to_numpy(),
        frame["site"].to_numpy(),
    )


@pytest.fixture(scope="module")
def tcga(shared_data: Path) -> pd.DataFrame:
    """FLamby's own split: train_test_split.csv names each patient's fold and centre; 8 of 1,096 are in none."""
    folder = shared_data / "survival" / "fed_tcga_brca"
    frame = pd.read_csv(folder / "brca.csv").merge(pd.read_csv(folder / "train_test_split.csv"), on="pid")
    return frame.assign(centre=frame["fold2"].str[-1].astype(int))


def patients(frame: pd.DataFrame, covariates: list[str]) -> list[SiteTable]:
    return sites_of(
        frame[covariates].to_numpy(dtype=float),
        frame["T"].to_numpy(),
        frame["E"].to_numpy() > 0,
        frame["centre"].to_numpy(),
    )


def covariates_of(frame: pd.DataFrame) -> list[str]:
    return list(frame.columns[1:40])


def independent(frame: pd.DataFrame, covariates: list[str]) -> list[str]:
    """The first columns of which none is a sum of those before."""
    kept: list[str] = []
    x = frame[covariates] - frame[covariates].mean()
    for name in covariates:
        if np.linalg.matrix_rank(x[[*kept, name]].to_numpy(), tol=1e-8) > len(kept):
            kept.append(name)
    return kept


def estimable(frame: pd.DataFrame) -> list[str]:
    """Without race (its reference level is one patient) and two columns that differ in one patient."""
    names = independent(frame, covariates_of(frame))
    return [n for n in names if not n.startswith(("race", "prior_malignancy", "synchronous_malignancy"))]


@pytest.mark.parametrize("mode", ["exact", "stratified"])
@pytest.mark.parametrize("penalizer", [0.0, 0.02])
def test_samitrop_equals_lifelines(samitrop, mode, penalizer):
    sites = exams(samitrop, AGE_SEX_ECG)
    fitted = fit_sites(sites, AGE_SEX_ECG, mode, Options(penalty=Penalty(penalizer)))
    beta, errors, log_likelihood = differences(
        fitted.fit, lifelines_fit(sites, stratified=mode == "stratified", penalizer=penalizer)
    )
    print(f"\nSaMi-Trop, {mode}, penalizer {penalizer}: differences {beta:.1e} {errors:.1e} {log_likelihood:.1e}")
    assert beta < 1e-8
    assert errors < 1e-6
    assert log_likelihood < 1e-8


@pytest.mark.parametrize("mode", ["exact", "stratified"])
@pytest.mark.parametrize("penalizer", [0.0, 0.02])
def test_tcga_equals_lifelines(tcga, mode, penalizer):
    """Without a penalty on the columns that determine finite coefficients, with one on all 39."""
    names = covariates_of(tcga) if penalizer else estimable(tcga)
    sites = patients(tcga, names)
    fitted = fit_sites(sites, names, mode, Options(penalty=Penalty(penalizer)))
    beta, errors, log_likelihood = differences(
        fitted.fit, lifelines_fit(sites, stratified=mode == "stratified", penalizer=penalizer)
    )
    print(
        f"\nFed-TCGA-BRCA, {mode}, {len(names)} covariates, penalizer {penalizer}: "
        f"differences {beta:.1e} {errors:.1e} {log_likelihood:.1e}"
    )
    assert beta < 1e-8
    assert errors < 1e-6
    assert log_likelihood < 1e-8


def test_tcga_names_its_collinear_columns(tcga):
    names = covariates_of(tcga)
    with pytest.raises(StatisticsError, match="collinear") as error:
        fit_sites(patients(tcga, names), names, "stratified", Options())
    groups = error.value.value.split("; ")
    assert len(groups) == len(names) - len(independent(tcga, names))
    assert "ajcc_pathologic_stage_Stage IA, tumor_stage_stage ia" in groups


def test_tcga_names_the_columns_that_have_no_finite_coefficients(tcga):
    names = independent(tcga, covariates_of(tcga))
    with pytest.raises(StatisticsError, match=r"no finite coefficients fit best.*race_asian.*race_white"):
        fit_sites(patients(tcga, names), names, "exact", Options())


def test_robust_errors_of_samitrop_equal_lifelines(samitrop):
    """lifelines' robust residuals ignore ties, so these are broken: seconds are added in the order of the rows."""
    seconds = np.arange(len(samitrop)) / (365.25 * 86_400)
    distinct = samitrop.assign(timey=samitrop["timey"] + seconds)
    sites = exams(distinct, AGE_SEX_ECG)
    fitted = fit_sites(sites, AGE_SEX_ECG, "exact", Options(robust=True))
    beta, errors, _ = differences(fitted.fit, lifelines_fit(sites, robust=True))
    assert distinct["timey"].is_unique
    assert beta < 1e-8
    assert errors < 1e-6


# Mean over five seeds of the "Pooled Test" rows of FLamby's flamby/results/results_benchmark_fed_tcga_brca:
#   pandas.concat(map(read_csv, five files)).query("Test == 'Pooled Test'").groupby("Method").Metric.mean()
PUBLISHED = {"pooled, Adam": 0.704, "FedAvg": 0.735, "FedProx": 0.717, "FedAdam": 0.842, "best single site": 0.728}


def test_tcga_folds_beside_the_published_table(tcga):
    """The penalty is chosen on the training fold alone, by five-fold cross-validation."""
    names, train, test = covariates_of(tcga), tcga[tcga["fold"] == "train"], tcga[tcga["fold"] == "test"]
    assert (len(train), len(test)) == (866, 222)

    def concordance(frame: pd.DataFrame, beta: np.ndarray) -> float:
        return harrell(frame["T"], frame["E"], frame[names].to_numpy(dtype=float) @ beta).value

    def fit(frame: pd.DataFrame, penalizer: float, mode: str) -> np.ndarray:
        return fit_sites(patients(frame, names), names, mode, Options(penalty=Penalty(penalizer))).fit.beta

    part = np.random.default_rng(0).permutation(np.arange(len(train)) % 5)
    choices = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    validated = [
        np.mean([concordance(train[part == k], fit(train[part != k], c, "exact")) for k in range(5)]) for c in choices
    ]
    chosen = choices[int(np.argmax(validated))]
    print(f"\nFed-TCGA-BRCA, test C-index; penalizer {chosen} chosen in training. Published: {PUBLISHED}")
    for mode in ("exact", "stratified"):
        for penalizer in (0.001, chosen):
            beta = fit(train, penalizer, mode)
            found = harrell(test["T"], test["E"], test[names].to_numpy(dtype=float) @ beta)
            value = found.estimate(np.arange(len(test)))
            centres = np.mean([concordance(test[test["centre"] == c], beta) for c in range(6)])
            print(
                f"  {mode}, penalizer {penalizer}: {value.value:.3f} ({value.low:.3f} to {value.high:.3f}), "
                f"mean over the six centres {centres:.3f}"
            )
            assert value.value > PUBLISHED["FedAvg"]
            assert value.low < PUBLISHED["FedAdam"] < value.high


def test_samitrop_concordance_of_age_sex_and_the_ecgs_age(samitrop):
    sets = {"age + sex": AGE_SEX_ECG[:2], "nn_predicted_age": AGE_SEX_ECG[2:], "both": AGE_SEX_ECG}
    patient, part = np.arange(len(samitrop)), np.random.default_rng(0).permutation(np.arange(len(samitrop)) % 10)
    found, unseen = {}, {}
    print("\nSaMi-Trop, 1,631 patients, 104 deaths: C-index, and on patients not used for the coefficients")
    for name, columns in sets.items():
        x = samitrop[columns].to_numpy(dtype=float)
        beta = fit_sites(exams(samitrop, columns), columns, "exact", Options()).fit.beta
        found[name] = harrell(samitrop["timey"], samitrop["death"], x @ beta)
        out = np.zeros(len(x))
        for k in range(10):
            out[part == k] = (
                x[part == k] @ fit_sites(exams(samitrop[part != k], columns), columns, "exact", Options()).fit.beta
            )
        unseen[name] = harrell(samitrop["timey"], samitrop["death"], out)
        value, cross = found[name].estimate(patient), unseen[name].estimate(patient)
        print(
            f"  {name}: {value.value:.3f} ({value.low:.3f} to {value.high:.3f}); "
            f"{cross.value:.3f} ({cross.low:.3f} to {cross.high:.3f})"
        )
    gain = (unseen["both"] - unseen["age + sex"]).estimate(patient, "identity")
    print(f"  both less age + sex, unseen: {gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})")
    assert abs(found["both"].value - unseen["both"].value) < 0.02


def test_the_rules_let_samitrop_answer_on_a_coarse_grid(samitrop):
    """Four sites of about 26 deaths: what exactness is left under the default limits."""
    sites = exams(samitrop, AGE_SEX_ECG)
    edges, limits = np.arange(1, 15) / 4, CoxLimits()
    asked = {"n_covariates": 3, "rounds": 5}
    answers = [servable(s.time, s.event, np.arange(len(s.time)), edges, limits, **asked) for s in sites]
    grid = common_grid(edges, answers)
    for s in sites:
        require_grid(s.time, s.event, np.arange(len(s.time)), grid, limits, **asked)
    coarse = fit_sites(sites, AGE_SEX_ECG, "exact", Options(grid=grid)).fit
    fine = fit_sites(sites, AGE_SEX_ECG, "exact", Options()).fit
    apart = np.abs(coarse.beta - fine.beta) / fine.standard_errors
    print(f"\nSaMi-Trop on the grid {grid} years: coefficients move by {apart.round(2)} standard errors")
    moved = [sites_of(s.x, *coarsen(s.time, s.event, grid), np.full(len(s.time), s.name))[0] for s in sites]
    assert max(differences(coarse, lifelines_fit(moved))) < 1e-8
    assert apart.max() < 0.3
