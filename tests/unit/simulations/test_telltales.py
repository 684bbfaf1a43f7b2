"""What tells made ECGs from real ones: each feature measures what it says, and hearts of tissue are hard to tell."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from ecgshared.errors import ConfigError
from simulations.cli import app as simulate
from simulations.judging.realism import (
    Recordings,
    detector_auc,
    draw_sheets,
    features_of,
    ks_distances,
    make_like,
    read_norm,
    tell_apart,
)
from simulations.judging.telltales import HELD_OUT, TUNED, judge, single_aucs, telltales
from simulations.patients.machine import ELECTRODES, machine_noise
from simulations.patients.scenario import NoiseConfig, load_scenario, study_of


def some(n=24, seed=0, scenario="normals_activation"):
    rng = np.random.default_rng(seed)
    blank = np.full(n, "")
    people = Recordings(
        np.empty((n, 12, 5000), np.float32),
        rng.uniform(20, 75, n),
        rng.random(n) < 0.5,
        blank,
        np.arange(n).astype(str),
    )
    return make_like(people, 1, seed, scenario)


@pytest.fixture(scope="module")
def made() -> Recordings:
    return some()


class TestFeatures:
    def test_every_feature_is_measured_in_most_recordings(self, made):
        found = np.array([telltales(signal) for signal in made.signal])
        assert found.shape == (len(made.age), len(TUNED) + len(HELD_OUT))
        assert (np.isfinite(found).mean(axis=0) > 0.9).all()

    def test_of_nothing_nothing(self):
        assert np.isnan(telltales(np.zeros((12, 5000), np.float32))).all()

    def test_hearts_of_tissue_have_more_than_three_axes_where_one_dipole_has_not(self, made):
        name = TUNED.index("QRS beyond three axes")
        one = some(scenario="normals")
        ours, theirs = (np.nanmedian([telltales(s)[name] for s in part.signal]) for part in (made, one))
        assert ours > theirs + 0.4

    def test_noise_that_is_added_is_seen(self, made):
        name = TUNED.index("noise limb over chest")
        noisy = made.signal[0].copy()
        noisy[6:] += 0.03 * np.random.default_rng(0).standard_normal((6, 5000)).astype(np.float32)
        assert telltales(noisy)[name] < 0.4 * telltales(made.signal[0])[name]


class TestJudge:
    def test_two_halves_of_one_population_are_not_told_apart(self):
        x = np.random.default_rng(0).standard_normal((300, 6))
        found = judge(x[:150], x[150:], np.arange(150).astype(str))
        assert abs(found.auc - 0.5) < 0.12
        assert np.abs(single_aucs(x[:150], x[150:]) - 0.5).max() < 0.15

    def test_a_shift_is_found(self):
        x = np.random.default_rng(0).standard_normal((300, 6))
        x[150:, 2] += 2
        assert judge(x[:150], x[150:], np.arange(150).astype(str)).auc > 0.85
        assert single_aucs(x[:150], x[150:]).argmax() == 2


class TestMachine:
    def test_limbs_are_louder_than_the_chest_and_neighbours_go_together(self):
        n = 40
        rng = np.random.default_rng(0)
        quiet = NoiseConfig(mains_uv=0, muscle_uv=5, wander_uv=0, white_uv=0)
        x = machine_noise(rng, quiet, np.full(n, 0.25), np.zeros(n), 500.0, 5000)
        assert x.shape == (n, len(ELECTRODES), 5000)
        spectrum = np.abs(np.fft.rfft(x)) ** 2
        hz = np.fft.rfftfreq(5000, 1 / 500)
        high = spectrum[:, :, (hz > 25) & (hz < 100)].mean(axis=2)
        lead_one = np.abs(np.fft.rfft(x[:, 0] - x[:, 1])) ** 2
        in_band = (hz > 25) & (hz < 100)
        assert np.median(lead_one[:, in_band].mean(axis=1) / high[:, 5]) > 2
        chest = np.fft.irfft(np.fft.rfft(x[:, 3:]) * (hz > 25))
        beside = np.median([np.corrcoef(part)[2, 3] for part in chest])
        apart = np.median([np.corrcoef(part)[0, 5] for part in chest])
        assert 0.2 < beside < 0.6
        assert abs(apart) < 0.15

    def test_wander_has_the_size_that_is_asked_for(self):
        n = 60
        wander = NoiseConfig(mains_uv=0, muscle_uv=0, wander_uv=50, white_uv=0, spread=0)
        x = machine_noise(np.random.default_rng(1), wander, np.full(n, 0.25), np.zeros(n), 500.0, 5000)
        assert 30 < 1000 * np.median(x.std(axis=2)) < 80


class TestScenarios:
    def test_a_scenario_that_is_like_another_says_only_what_differs(self):
        ours, theirs = load_scenario("three_countries_activation"), load_scenario("three_countries")
        assert (ours.heart, theirs.heart) == ("activation", "gaussians")
        assert list(ours.hospitals) == list(theirs.hospitals)
        for name, hospital in theirs.hospitals.items():
            mine = ours.hospitals[name]
            assert mine.care == hospital.care
            assert mine.population.fibrosis_median == hospital.population.fibrosis_median
        assert ours.hospitals["us_system"].population.ailments.scar == 0.045
        assert study_of("three_countries_activation") == study_of("three_countries")

    def test_null_takes_out_what_the_other_has(self):
        ours, theirs = load_scenario("morph_null"), load_scenario("three_countries_activation")
        assert list(ours.hospitals) == ["sweden_university", "sweden_county"]
        assert (ours.waveform.conduction, ours.hazard.arrhythmic_fibrosis) == (0, 0)
        assert ours.hazard.arrhythmic_age == theirs.hazard.arrhythmic_age
        assert study_of("morph_null").splitlines()[0].startswith("# What does a net see in single beats")

    def test_being_like_nothing_or_oneself_is_refused(self, tmp_path):
        for other in ("elsewhere", 3):
            path = tmp_path / "mine.yaml"
            path.write_text(f"like: {other}\nname: mine\npurpose: none\n")
            with pytest.raises(ConfigError, match="like no other"):
                load_scenario(str(path))

    def test_statements_beside_an_ecg_need_hearts_of_tissue(self):
        held = load_scenario("demo").model_dump()
        held["hospitals"]["north"]["table"]["declared"] = {"ecg_rhythm": "rhythm"}
        with pytest.raises(ValueError, match="needs heart: activation"):
            type(load_scenario("demo")).model_validate(held)
        held["heart"] = "activation"
        type(load_scenario("demo")).model_validate(held)


def test_made_sheets_by_one_command_and_blind_ones_need_real_ones(tmp_path):
    found = CliRunner().invoke(simulate, ["sheets", "--out", str(tmp_path / "made.png"), "--count", "1"])
    assert found.exit_code == 0, found.output
    assert "1 made sheets" in found.output
    assert (tmp_path / "made.png").stat().st_size > 20_000
    with pytest.raises(ConfigError, match="real sheets beside"):
        CliRunner().invoke(simulate, ["sheets", "--out", str(tmp_path / "x.png"), "--blind"], catch_exceptions=False)


def test_sheets_are_drawn(made, tmp_path):
    draw_sheets(tmp_path / "sheets.png", ("made", made), ("", made), count=1)
    assert (tmp_path / "sheets.png").stat().st_size > 20_000


@pytest.mark.slow
class TestAgainstRecordsThatWereNotFitted:
    """PTB-XL's NORM records of patients with odd numbers."""

    @pytest.fixture(scope="class")
    @classmethod
    def both(cls, shared_data):
        real = read_norm(shared_data / "ptbxl", part="judge")
        return real, make_like(real, 1, 7, "normals_activation")

    def test_the_fitted_and_the_judged_patients_are_others(self, shared_data):
        fitted, judged = (read_norm(shared_data / "ptbxl", part=part) for part in ("fit", "judge"))
        assert not set(fitted.patient) & set(judged.patient)

    def test_distances_single_features_and_the_net(self, both):
        real, made = both
        assert np.median(ks_distances(features_of(made), features_of(real))) < 0.14
        aucs, _ = tell_apart(real, made)
        assert aucs.max() < 0.82
        assert detector_auc(real, made) < 0.93
