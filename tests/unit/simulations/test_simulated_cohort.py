"""Hospitals made on disk: their people against the planted truth, their files against other readers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from client.cohort.table import read_cohort_table
from client.site.settings import load_site
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ConfigError, RunError, StatisticsError
from ecgshared.study.endpoints import TimeToEventEndpoint, label_cells
from ecgshared.study.study import load_study
from simulations.hospitals.exports import quantise
from simulations.hospitals.make import make_hospitals, true_hazard_auc, truth_table
from simulations.hospitals.make_cli import make
from simulations.patients.cohort import make_cohort
from simulations.patients.fates import (
    ARRHYTHMIC,
    OTHER,
    PUMP,
    event_probability,
    gompertz_time,
    scd_share,
    solve_baseline,
)
from simulations.patients.scenario import Scenario, load_scenario
from simulations.physics.disease import HazardEffects, Hazards

SCALE = 0.02


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("demo")


@pytest.fixture(scope="module")
def made(tmp_path_factory, scenario) -> Path:
    out = tmp_path_factory.mktemp("made")
    make_hospitals(scenario, out, seed=3, patients_scale=SCALE)
    return out


@pytest.fixture(scope="module")
def cohorts(scenario):
    baseline = solve_baseline(scenario)
    return {
        name: make_cohort(
            np.random.default_rng([1, i, 0]), name, config, scenario, baseline, config.population.patients
        )
        for i, (name, config) in enumerate(scenario.hospitals.items())
    }


class TestDemo:
    """What the demo promises, on its own seed."""

    def test_sizes_events_and_true_auc(self, cohorts, scenario):
        rates = []
        for name, cohort in cohorts.items():
            truth = cohort.truth
            assert 0.80 <= true_hazard_auc(truth) <= 0.90
            if scenario.hospitals[name].trains:
                assert 1500 <= len(truth) <= 2000
                rates.append(truth["true_scd_event"].mean())
            else:
                assert len(cohort.people.age) >= 1000
                assert truth["true_scd_event"].sum() >= 100
        assert len(rates) == 3
        assert np.mean(rates) == pytest.approx(0.12, abs=0.015)

    def test_the_true_probability_is_calibrated(self, cohorts):
        truth = pd.concat([c.truth for c in cohorts.values()])
        thirds = np.digitize(truth["true_scd_probability"], truth["true_scd_probability"].quantile([1 / 3, 2 / 3]))
        for third in range(3):
            group = truth[thirds == third]
            expected = group["true_scd_probability"].mean()
            # Patients come with several ECGs: three standard errors of twice the binomial variance.
            error = 3 * np.sqrt(2 * expected * (1 - expected) / len(group))
            assert group["true_scd_event"].mean() == pytest.approx(expected, abs=error)

    def test_fibrosis_predicts_arrhythmic_death_but_not_the_others(self, scenario):
        baseline = solve_baseline(scenario)
        config = scenario.hospitals["north"]
        cohort = make_cohort(np.random.default_rng(0), "north", config, scenario, baseline, 6000)
        first = cohort.truth.drop_duplicates("patient_id")
        without_failure = ~cohort.people.heart_failure
        fibrosis = first["true_fibrosis"].to_numpy()
        high = fibrosis > np.median(fibrosis)

        def ratio(mechanism):
            # Deaths per hazard-free exposure would be exact; in the first year survival hardly differs.
            dead = (first["true_mechanism"] == mechanism).to_numpy() & (first["true_years_to_death"] < 1.0).to_numpy()
            return dead[high & without_failure].mean() / dead[~high & without_failure].mean()

        assert ratio(ARRHYTHMIC) > 3
        # Fibrosis comes with age, and age kills; a placebo has no more than that.
        assert ratio(OTHER) < 2
        assert ratio(PUMP) < 2.5

    def test_age_and_sex_alone_do_clearly_worse_than_the_truth(self, cohorts):
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score

        def features(cohort):
            return np.c_[cohort.table["age"], cohort.table["sex"] == "M"].astype(float)

        train = [cohorts[name] for name in ("north", "coast", "valley")]
        model = LogisticRegression(max_iter=1000).fit(
            np.concatenate([features(c) for c in train]), np.concatenate([c.truth["true_scd_event"] for c in train])
        )
        island = cohorts["island"]
        score = model.predict_proba(features(island))[:, 1]
        assert roc_auc_score(island.truth["true_scd_event"], score) < true_hazard_auc(island.truth) - 0.1

    def test_low_lvef_is_weakly_tied_to_fibrosis_and_brings_defibrillators(self, scenario):
        cohort = make_cohort(np.random.default_rng(0), "north", scenario.hospitals["north"], scenario, -6.0, 8000)
        first = cohort.table.drop_duplicates("patient_id").reset_index(drop=True)
        low = cohort.people.lvef <= 0.35
        assert 0.01 < low.mean() < 0.1
        implanted = first["icd_date"].notna().to_numpy()
        assert implanted[low].mean() > 10 * implanted[~low].mean()
        assert -0.5 < np.corrcoef(cohort.people.fibrosis, cohort.people.lvef)[0, 1] < -0.15


class TestTimes:
    def test_gompertz_times_follow_their_cumulative_hazard(self):
        rng = np.random.default_rng(0)
        n = 20_000
        start = np.full(n, 2.0)
        times = gompertz_time(rng.exponential(size=n), np.full(n, 0.2), 0.08, spared=0.6, from_years=start)
        for t in (1.0, 2.0, 4.0, 8.0):
            before, after = min(t, 2.0), t
            cumulative = (
                0.2 / 0.08 * (np.expm1(0.08 * before) + 0.4 * (np.expm1(0.08 * after) - np.expm1(0.08 * before)))
            )
            assert (times > t).mean() == pytest.approx(np.exp(-cumulative), abs=0.012)

    def test_a_defibrillator_that_prevents_all_leaves_no_later_arrhythmic_death(self):
        times = gompertz_time(
            np.random.default_rng(0).exponential(size=500), np.full(500, 0.3), 0.0, spared=1.0, from_years=np.ones(500)
        )
        assert ((times <= 1) | (times > 1e6)).all()

    def test_event_probability_of_constant_hazards_is_the_closed_form(self):
        rates = Hazards(*(np.array([r]) for r in (0.1, 0.05, 0.04, 0.06, 0.01, 0.01)))
        flat = HazardEffects(arrhythmic_age=0, pump_age=0, other_age=0)
        total = 0.1 + 0.04 + 0.06
        sudden = scd_share(ARRHYTHMIC) * 0.1 + scd_share(PUMP) * 0.04
        expected = sudden / total * -np.expm1(-total * 2)
        assert event_probability(rates, flat, 2.0)[0] == pytest.approx(expected, rel=1e-4)


class TestFiles:
    def test_same_seed_same_bytes_another_seed_others(self, tmp_path, scenario):
        def digests(name, seed):
            make_hospitals(scenario, tmp_path / name, seed=seed, patients_scale=0.004)
            files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
            return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).digest() for p in files}

        first, second, third = digests("a", 5), digests("b", 5), digests("c", 6)
        assert first == second
        same = [path for path in first if path.endswith(".dat") and third.get(path) == first[path]]
        assert not same

    def test_an_existing_folder_is_not_overwritten(self, made, scenario):
        with pytest.raises(RunError, match="already holds"):
            make_hospitals(scenario, made)

    def test_the_wfdb_library_reads_every_record_with_right_checksums(self, made, scenario):
        for name, config in scenario.hospitals.items():
            headers = sorted((made / "sites" / name / "records").rglob("*.hea"))
            rates = set()
            for header in headers:
                record = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
                rates.add(record.fs)
                assert record.sig_name == list(LEADS)
                assert record.fmt == ["16"] * 12
                assert record.sig_len == record.fs * scenario.seconds
                assert [c % 65536 for c in record.calc_checksum()] == [c % 65536 for c in record.checksum]
                assert record.init_value == record.d_signal[0].tolist()
                assert any(c.startswith("Age: ") for c in record.comments)
            assert rates <= {device.fs_hz for device in config.devices}

    def test_site_file_and_table_are_read_by_the_client_without_a_fault(self, made, scenario):
        endpoint = TimeToEventEndpoint(kind="time_to_event", event="scd", horizon_years=scenario.horizon_years)
        for name in scenario.hospitals:
            settings = load_site(made / "sites" / name / "site.yaml")
            table = read_cohort_table(settings)
            assert table.faults == ()
            truth = pd.read_csv(made / "truth" / f"{name}.csv")
            assert len(table) == len(truth)
            for file in table.file:
                assert (settings.records.folder / file).with_suffix(".hea").is_file()
            # What a hospital derives from its registers is what was planted; only the lost are unknown to it.
            label = label_cells(table.columns, endpoint)
            known = ~np.isnan(label)
            assert known.mean() > 0.9
            np.testing.assert_array_equal(label[known], truth["true_scd_event"][known])

    def test_no_site_file_carries_a_truth_column_or_a_latent(self, made, scenario):
        truth = truth_table(made)
        hidden = [column for column in truth.columns if column.startswith("true_")]
        assert len(hidden) >= 9
        words = ("true_", "truth", "fibrosis", "hazard", "latent", "mechanism", "probability", "arrhythmic", "event")
        fibrosis = {f"{value:.8g}" for value in truth["true_fibrosis"]}
        for name, config in scenario.hospitals.items():
            folder = made / "sites" / name
            assert not {p.name for p in folder.rglob("*")} & {"truth", f"{name}.csv"}
            allowed = {"cohort.csv", "site.yaml"}
            assert {p.name for p in folder.rglob("*") if p.suffix not in ("", ".hea", ".dat")} == allowed
            for path in folder.rglob("*"):
                if path.is_dir() or path.suffix == ".dat":
                    continue
                text = path.read_text(encoding=config.table.encoding if path.suffix == ".csv" else "utf-8").lower()
                assert not [word for word in words if word in text], path.name
            table = pd.read_csv(
                folder / "cohort.csv", sep=config.table.separator, encoding=config.table.encoding, dtype=str
            )
            assert set(table.columns) <= {*config.table.columns.values(), *config.table.declared.values()}
            assert not fibrosis & set(table.to_numpy(dtype=str).ravel())
        assert not list((made / "truth").glob("**/*.dat"))

    def test_hospitals_write_differently(self, made, scenario):
        starts = {name: (made / "sites" / name / "cohort.csv").read_bytes()[:60] for name in scenario.hospitals}
        assert len(set(starts.values())) == len(starts)

    def test_clean_recordings_obey_einthoven_to_the_unit(self):
        signal = np.random.default_rng(0).normal(0, 0.8, (12, 500)).astype(np.float32)
        units = quantise(signal, 204.8).astype(np.int64)
        np.testing.assert_array_equal(units[0] + units[2], units[1])
        for row, exact in ((3, -(units[0] + units[1]) / 2), (4, units[0] - units[1] / 2), (5, units[1] - units[0] / 2)):
            assert np.abs(units[row] - exact).max() <= 0.5
        np.testing.assert_allclose(units[6:] / 204.8, signal[6:], atol=0.5 / 204.8 + 1e-6)


def test_scenario_errors_name_what_is_allowed(tmp_path):
    with pytest.raises(ConfigError, match="demo"):
        load_scenario("atlantis")
    data = (Path(__file__).parents[3] / "simulations/scenarios/demo.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(data.replace("ecg_id: ecg_id", "ecg_idd: ecg_id").replace("fs_hz: 400", "fs_hz: 333"))
    with pytest.raises(ConfigError) as caught:
        load_scenario(str(wrong))
    assert "ecg_idd" in str(caught.value)
    assert "fs_hz" in str(caught.value)


def test_an_event_rate_that_cannot_be_reached_is_refused(scenario):
    impossible = scenario.model_copy(update={"event_rate": 0.0001})
    with pytest.raises(ConfigError, match="event rate"):
        solve_baseline(impossible, 200)


def test_auc_needs_both_classes():
    with pytest.raises(StatisticsError):
        true_hazard_auc(pd.DataFrame({"true_scd_event": [0, 0], "true_scd_probability": [0.1, 0.2]}))


def test_the_command_makes_hospitals_and_lets_its_errors_reach_the_terminal(tmp_path, capsys):
    make("demo", tmp_path / "made", patients=20, seed=1)
    said = capsys.readouterr().out
    assert "island" in said
    # What the site files approve lies where they say, and how to run it is printed.
    site = load_site(tmp_path / "made" / "sites" / "island" / "site.yaml")
    assert load_study(site.studies[0]).name == "demo"
    assert f"ecgfed simulate run {tmp_path / 'made' / 'study.yaml'}" in said
    make("normals", tmp_path / "plain", patients=20, seed=1)
    assert "none comes with this scenario" in capsys.readouterr().out
    assert not (tmp_path / "plain" / "study.yaml").exists()
    assert len(list((tmp_path / "made" / "sites").iterdir())) == 4
    make("demo", tmp_path / "scaled", scale=0.002, seed=1)
    assert "north: 2 patients" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="all set the size"):
        make("demo", tmp_path / "both", patients=20, scale=0.1)
    with pytest.raises(RunError, match="already holds"):
        make("demo", tmp_path / "made", patients=20, seed=1)
