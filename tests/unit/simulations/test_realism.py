"""Made ECGs against real ones, and the measures by which they are compared."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.errors import CohortError
from simulations.judging.realism import (
    FS,
    Recordings,
    delineation_rates,
    detector_auc,
    distances,
    features_of,
    ks_distances,
    make_like,
    read_norm,
)
from simulations.judging.waveform_features import BANDS_HZ, FEATURES, band_powers, waveform_features
from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.torso import project, reference_anatomy, reference_electrodes, twelve


def named(features):
    return dict(zip(FEATURES, features, strict=True))


@pytest.fixture(scope="module")
def reference():
    rhythm = regular_rhythm(np.full(1, 75.0, np.float32), 10.0)
    wave = dipole(reference_heart(), rhythm, fs=FS, seconds=10.0)
    return twelve(project(wave, reference_anatomy(), reference_electrodes()))[0]


class TestFeatures:
    def test_of_a_known_beat(self, reference):
        found = named(waveform_features(reference, FS))
        assert found["heart rate"] == pytest.approx(75, abs=0.5)
        # The reference beat has PR 157 and QT 365 ms at 60 per minute; QT shortens with the cube root of RR.
        assert found["PR"] == pytest.approx(157, abs=30)
        assert found["QT"] == pytest.approx(365 * 0.8 ** (1 / 3), abs=25)
        assert 60 < found["QRS"] < 110
        peak = int(reference[1, 2000:3000].argmax()) + 2000
        for row, lead in ((0, "I"), (1, "II"), (10, "V5")):
            level = reference[row, peak - 35 : peak - 30].mean()
            assert found[f"R {lead}"] == pytest.approx(reference[row].max() - level, abs=0.03)

    def test_amplitudes_scale_and_the_axis_and_intervals_do_not(self, reference):
        one, two = named(waveform_features(reference, FS)), named(waveform_features(2 * reference, FS))
        assert two["R V4"] == pytest.approx(2 * one["R V4"], rel=1e-3)
        for name in ("PR", "QRS", "QT", "frontal axis", "heart rate"):
            assert two[name] == pytest.approx(one[name], abs=1e-2)
        assert two["12-25 Hz"] - one["12-25 Hz"] == pytest.approx(np.log10(4), abs=1e-3)

    def test_a_sine_is_in_its_band(self):
        t = np.arange(5000) / FS
        for low, high in BANDS_HZ[1:]:
            wave = np.repeat(np.sin(2 * np.pi * (low + high) / 2 * t)[None], 12, axis=0).astype(np.float32)
            assert int(band_powers(wave, FS).argmax()) == BANDS_HZ.index((low, high))

    def test_where_there_is_no_beat_nothing_is_measured(self):
        found = named(waveform_features(np.zeros((12, 5000), np.float32), FS))
        assert np.isnan(found["PR"])
        assert np.isnan(found["R V1"])


def test_distances_are_those_between_distribution_functions():
    a, b = np.arange(10.0)[:, None], np.arange(10.0)[:, None] + 5
    assert ks_distances(a, b)[0] == pytest.approx(0.5)
    assert ks_distances(a, np.r_[a, [[np.nan]]])[0] == 0


@pytest.fixture(scope="module")
def real(shared_data) -> Recordings:
    return read_norm(shared_data / "ptbxl")


@pytest.fixture(scope="module")
def made(real) -> Recordings:
    return make_like(real, copies=1, seed=3)


class TestAgainstPtbXl:
    def test_the_median_distance_is_within_the_bar(self, real, made):
        found = distances(real, features_of(real), features_of(made), splits=3)
        made_to_real, sites = np.median(found.made), np.median(found.sites)
        assert made_to_real <= 1.5 * sites
        # An older generator, or people of another age, must not pass: halves of the real ones are the floor.
        assert np.median(found.halves) < sites

    def test_made_ecgs_are_of_the_same_ages_and_sexes(self, real, made):
        np.testing.assert_array_equal(made.age, real.age)
        np.testing.assert_array_equal(made.male, real.male)
        assert made.signal.shape == real.signal.shape

    def test_neurokit_finds_and_delineates_made_beats_as_it_does_real_ones(self, real, made):
        ours, theirs = delineation_rates(made, 20), delineation_rates(real, 20)
        for name, rate in theirs.items():
            assert ours[name] == pytest.approx(rate, abs=0.08), name

    def test_a_net_cannot_tell_real_from_real(self, real):
        some = {f: getattr(real, f)[:80] for f in Recordings.__dataclass_fields__}
        others = {f: getattr(real, f)[80:160] for f in Recordings.__dataclass_fields__}
        assert 0.3 < detector_auc(Recordings(**some), Recordings(**others), epochs=2) < 0.75


def test_a_folder_without_ptbxl_is_refused(tmp_path):
    with pytest.raises(CohortError, match="no PTB-XL"):
        read_norm(tmp_path)
