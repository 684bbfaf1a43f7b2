"""What the scenarios promise: planted truth from people alone, and hospitals that keep nothing of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from client.cohort.table import read_cohort_table
from client.readers import read
from client.site.settings import load_site
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ConfigError
from ecgshared.study.columns import ANATOMY, STANDARD_COLUMNS
from simulations.hospitals.make import make_hospitals, make_patients, true_hazard_auc, truth_table
from simulations.patients.cohort import DAYS_PER_YEAR
from simulations.patients.fates import ARRHYTHMIC, OTHER, PUMP, draw_fates, solve_baseline
from simulations.patients.people import draw_people
from simulations.patients.scenario import SUFFIXES, Scenario, expanded, load_scenario, scenario_names
from simulations.physics.disease import hazards

SMALL = 40
"""Patients per scenario where hospitals are written; at least one at each."""


def patients_of(scenario: Scenario, name: str, scale: float, baseline: float):
    number, config = list(scenario.hospitals).index(name), scenario.hospitals[name]
    rng = np.random.default_rng([scenario.seed, number, 0])
    return make_patients(rng, name, config, scenario, baseline, round(config.population.patients * scale))


@pytest.fixture(scope="module")
def three() -> Scenario:
    return load_scenario("three_countries")


@pytest.fixture(scope="module")
def three_baseline(three) -> float:
    return solve_baseline(three)


@pytest.fixture(scope="module")
def sweden(three, three_baseline) -> pd.DataFrame:
    """Truth of the ECGs that count: under 80, no defibrillator; with age and sex as the hospitals hold them."""
    parts = []
    for name in ("sweden_university", "sweden_county", "sweden_coast"):
        cohort = patients_of(three, name, 6, three_baseline)
        table = cohort.table
        counts = (table["age"] < 80) & ~(table["icd_date"] <= table["recorded_at"])
        parts.append(pd.concat([cohort.truth, table[["age", "sex", "lvef"]]], axis=1)[counts])
    return pd.concat(parts, ignore_index=True)


class TestThreeCountries:
    def test_the_base_rate_in_sweden(self, sweden):
        assert sweden["true_scd_event"].mean() == pytest.approx(0.006, abs=0.001)
        assert sweden["true_scd_probability"].mean() == pytest.approx(0.006, abs=0.001)

    def test_the_true_hazard_leaves_a_model_room_and_age_and_sex_know_little(self, sweden):
        assert 0.90 <= true_hazard_auc(sweden) <= 0.93
        features = np.c_[sweden["age"], sweden["sex"] == "M"].astype(float)
        score = LogisticRegression().fit(features, sweden["true_scd_event"]).decision_function(features)
        assert roc_auc_score(sweden["true_scd_event"], score) == pytest.approx(0.70, abs=0.02)

    def test_lvef_is_measured_in_about_a_fifth_and_low_in_about_two_per_cent(self, sweden):
        assert sweden["lvef"].notna().mean() == pytest.approx(0.21, abs=0.04)
        assert (sweden["lvef"] <= 0.35).mean() == pytest.approx(0.02, abs=0.005)
        low = sweden["lvef"] <= 0.35
        assert sweden["true_scd_event"][low].mean() > 4 * sweden["true_scd_event"][~low].mean()

    def test_the_us_system_sees_vfvt_at_its_rate_and_no_death(self, three, three_baseline):
        columns = three.hospitals["us_system"].table.columns
        assert not [column for column in columns if column.startswith("death")]
        cohort = patients_of(three, "us_system", 3, three_baseline)
        days = (cohort.table["vfvt_date"] - cohort.table["recorded_at"]).dt.days
        assert ((days >= 1) & (days < DAYS_PER_YEAR)).mean() == pytest.approx(0.038, abs=0.008)
        assert {d.fs_hz for d in three.hospitals["us_system"].devices} == {250, 500}

    def test_fibrosis_predicts_arrhythmic_but_not_other_arrest_in_taiwan(self, three, three_baseline):
        cohort = patients_of(three, "taiwan_emergency", 6, three_baseline)
        table, truth = cohort.table, cohort.truth
        assert (table["recorded_at"] <= table["index_date"]).all()
        first = ~table["patient_id"].duplicated()
        assert first.sum() == 6 * 4268
        auc = {}
        for label in ("arrhythmic_arrest", "other_arrest"):
            known = first & table[label].notna()
            auc[label] = roc_auc_score(table[label][known], truth["true_fibrosis"][known])
        assert auc["arrhythmic_arrest"] > 0.85
        # 966 cases: a standard error of 0.009; people with heart failure have both more often.
        assert auc["other_arrest"] == pytest.approx(0.5, abs=0.03)
        late = (table["index_date"] - table["recorded_at"]) < pd.Timedelta(days=2)
        assert 0.1 < late[table["arrhythmic_arrest"] == 1].mean() < 0.3

    def test_a_cox_fit_on_the_true_covariates_recovers_what_was_planted(self, three, three_baseline):
        config, effects = three.hospitals["sweden_university"], three.hazard
        rng = np.random.default_rng(5)
        people = draw_people(rng, config.population, 60_000)
        fates = draw_fates(rng, people, hazards(people, effects, three_baseline), effects, config.care)
        # Who gets a defibrillator depends on LVEF, not on what is to come: leaving them out is no bias.
        kept = np.isinf(fates.icd_years)
        frame = pd.DataFrame(
            {
                "fibrosis": people.fibrosis,
                "age": people.age,
                "male": people.male.astype(float),
                "heart_failure": people.heart_failure.astype(float),
                "years": np.minimum(fates.death_years, 6.0),
            }
        )
        planted = {
            ARRHYTHMIC: (effects.arrhythmic_fibrosis, effects.arrhythmic_age, effects.arrhythmic_male,
                         effects.arrhythmic_heart_failure),
            PUMP: (0.0, effects.pump_age, 0.0, effects.pump_heart_failure),
            OTHER: (0.0, effects.other_age, effects.other_male, 0.0),
        }  # fmt: skip
        for mechanism, wanted in planted.items():
            event = (fates.death_years < 6.0) & (fates.mechanism == mechanism)
            fit = CoxPHFitter().fit(frame[kept].assign(event=event[kept]), "years", "event")
            z = (fit.params_ - np.array(wanted)) / fit.standard_errors_
            assert (z.abs() < 2).all(), (mechanism, z.to_dict())


class TestOthers:
    def test_in_the_biobank_the_hazard_is_beyond_every_covariate(self):
        scenario = load_scenario("uk_biobank_like")
        cohort = patients_of(scenario, "centre_north", 3, solve_baseline(scenario))
        first = ~cohort.table["patient_id"].duplicated().to_numpy()
        dead = cohort.truth["true_mechanism"].eq(ARRHYTHMIC).to_numpy()
        known = cohort.table[["age", "bmi", "heart_failure"]].assign(male=cohort.table["sex"] == "M").astype(float)
        years = cohort.truth["true_years_to_death"].fillna(8.0).clip(lower=1e-3)

        def concordance(frame):
            table = frame.assign(years=years, event=dead)[first]
            return CoxPHFitter().fit(table, "years", "event").concordance_index_

        alone = concordance(known)
        assert concordance(known.assign(fibrosis=cohort.truth["true_fibrosis"])) > alone + 0.08

    def test_in_the_null_fibrosis_is_worth_nothing(self):
        scenario = load_scenario("null")
        assert not any(scenario.waveform.model_dump().values())
        config, effects = scenario.hospitals["hill"], scenario.hazard
        rng = np.random.default_rng(1)
        people = draw_people(rng, config.population, 8000)
        fates = draw_fates(rng, people, hazards(people, effects, solve_baseline(scenario)), effects, config.care)
        frame = pd.DataFrame(
            {
                "age": people.age,
                "male": people.male.astype(float),
                "heart_failure": people.heart_failure.astype(float),
                "fibrosis": people.fibrosis,
                "years": np.minimum(fates.death_years, 6.0),
                "event": (fates.death_years < 6.0) & (fates.mechanism == ARRHYTHMIC),
            }
        )[np.isinf(fates.icd_years)]
        fit = CoxPHFitter().fit(frame, "years", "event")
        assert abs(fit.params_["fibrosis"]) < 2 * fit.standard_errors_["fibrosis"]

    def test_many_sites_are_many_and_unlike(self):
        scenario = load_scenario("many_sites")
        training = [h for h in scenario.hospitals.values() if h.trains]
        assert len(training) == 100
        assert len({h.population.patients for h in training}) > 20
        assert len({h.population.age_mean for h in training}) > 30
        assert {h.devices[0].fs_hz for h in training} == {250, 400, 500}
        assert expanded(scenario) == scenario


@pytest.fixture(scope="module", params=scenario_names())
def written(request, tmp_path_factory) -> tuple[Scenario, Path]:
    scenario = load_scenario(request.param)
    if len(scenario.hospitals) > 10:  # one of each device and rate is enough
        scenario = scenario.model_copy(update={"hospitals": dict(list(scenario.hospitals.items())[-15:])})
    out = tmp_path_factory.mktemp(request.param)
    total = sum(h.population.patients for h in scenario.hospitals.values())
    make_hospitals(scenario, out, patients_scale=SMALL / total)
    return scenario, out


class TestWritten:
    def test_no_site_folder_carries_a_truth_column_or_a_latent(self, written):
        scenario, out = written
        truth = truth_table(out)
        hidden = [column for column in truth.columns if column.startswith("true_")]
        assert len(hidden) >= 11
        words = ("true_", "truth", "fibrosis", "hazard", "latent", "mechanism", "probability", "electrical", "shape_")
        values = {f"{v:.6g}" for c in ("true_fibrosis", "true_hazard_arrhythmic") for v in truth[c]}
        for name, config in scenario.hospitals.items():
            folder = out / "sites" / name
            files = [p for p in folder.rglob("*") if p.is_file()]
            known = {SUFFIXES[d.format] for d in config.devices} | ({".dat"} if config.suffix == ".hea" else set())
            assert {p.name for p in files if p.suffix not in known} == {"cohort.csv", "site.yaml"}
            for path in files:
                content = path.read_bytes()
                if path.suffix not in (".dat", ".dcm") and b"\0" not in content:
                    text = content.decode(config.table.encoding if path.suffix == ".csv" else "utf-8").lower()
                    assert not [word for word in words if word in text], path.name
                assert not [word for word in words if word.encode("utf-16-le") in content], path.name
            table = pd.read_csv(
                folder / "cohort.csv", sep=config.table.separator, encoding=config.table.encoding, dtype=str
            )
            table_style = config.table
            mapped = {*table_style.columns.values(), *table_style.labels.values(), *table_style.declared.values()}
            assert set(table.columns) == mapped
            measured = {c.name for c in ANATOMY} & set(table.columns)
            assert len(measured) == (0 if config.imaging is None else 39)
            cells = table.to_numpy(dtype=str).ravel()
            assert not values & {cell.replace(",", ".") for cell in cells}

    def test_the_client_reads_site_file_table_and_a_recording(self, written):
        scenario, out = written
        for name, config in scenario.hospitals.items():
            settings = load_site(out / "sites" / name / "site.yaml")
            table = read_cohort_table(settings)
            assert table.faults == ()
            assert set(table.columns) >= (set(config.table.columns) & set(STANDARD_COLUMNS)) - {
                "ecg_id",
                "patient_id",
                "file",
            }
            for label in config.table.labels:
                assert set(np.unique(table.columns[label][~np.isnan(table.columns[label])])) <= {0.0, 1.0}
            record = read((settings.records.folder / table.file[0]).with_suffix(config.suffix))
            assert tuple(record.sig_name) == LEADS
            assert record.fs in {d.fs_hz for d in config.devices}


def test_vendor_formats_too_are_the_same_bytes_from_the_same_seed_and_from_several_processes(
    tmp_path, three, monkeypatch
):
    def digests(name, processes):
        make_hospitals(three, tmp_path / name, seed=5, patients_scale=0.0008, processes=processes)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).digest() for p in files}

    alone = digests("a", 1)
    monkeypatch.setattr("simulations.hospitals.make.PARALLEL_FROM", 1)
    assert alone == digests("b", 2)


def test_a_series_that_cannot_be_filled_is_refused(three, monkeypatch):
    monkeypatch.setattr("simulations.patients.series._MAX_BATCHES", 2)
    series = three.hospitals["taiwan_emergency"]
    greedy = series.model_copy(update={"series": series.series.model_copy(update={"within_years": 1e-4})})
    with pytest.raises(ConfigError, match="too few arrests"):
        make_patients(np.random.default_rng(0), "taiwan", greedy, three, -14.0, 20_000)


def test_devices_of_one_hospital_must_share_a_suffix(three):
    config = three.hospitals["us_system"].model_dump()
    config["devices"][0]["format"] = "dicom"
    with pytest.raises(ValueError, match="one suffix"):
        type(three.hospitals["us_system"]).model_validate(config)
