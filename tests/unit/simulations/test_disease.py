"""Conduction, what fibrosis does to QRS and to survival, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecgshared.errors import ConfigError
from simulations.physics.body import Physique, anatomy_of, heart_of
from simulations.physics.disease import (
    CONDUCTION,
    MAX_FIBROSIS,
    SHAPE_TRAITS,
    HazardEffects,
    People,
    WaveformEffects,
    conduct,
    hazards,
    solve_sheet,
)
from simulations.physics.heart import dipole, regular_rhythm
from simulations.physics.torso import project, reference_electrodes, twelve

FS = 1000.0


def people(n=80, seed=0, **given):
    rng = np.random.default_rng(seed)
    traits = {
        "age": np.full(n, 65.0),
        "male": np.arange(n) % 2 == 0,
        "bmi": np.full(n, 27.0),
        "heart_failure": np.zeros(n, dtype=bool),
        "fibrosis": np.full(n, 0.05),
        "lvef": np.full(n, 0.6),
        "position": rng.standard_normal((n, 6)),
        "electrical": rng.standard_normal((n, 8)),
        "shape": rng.standard_normal((n, SHAPE_TRAITS)),
    }
    return People(**{**traits, **given})


def qrs_only(who, effects=None):
    """Twelve leads of the QRS alone, R at 0.5 s, shape = (n, 12, 1000), and the dipole."""
    n = len(who.age)
    heart = heart_of(who, WaveformEffects() if effects is None else effects)
    silent = {name: replace(getattr(heart, name), vector=0 * getattr(heart, name).vector) for name in ("p", "t")}
    source = dipole(replace(heart, **silent), regular_rhythm(np.full(n, 60.0), 1.0), fs=FS, seconds=1.0)
    return twelve(project(source, anatomy_of(who), reference_electrodes(n))), source


def duration_ms(source):
    size = np.linalg.norm(source, axis=1)
    above = size > 0.04 * size.max(axis=1, keepdims=True)
    return above.shape[1] - above[:, ::-1].argmax(1) - above.argmax(1)


def terminal_differences(ecg, source):
    """First and second differences of aVL scaled to [0, 1], from R peak to QRS end."""
    size = np.linalg.norm(source, axis=1)
    above = size > 0.04 * size.max(axis=1, keepdims=True)
    ends = above.shape[1] - above[:, ::-1].argmax(1)
    out = []
    for avl, end in zip(ecg[:, 4], ends, strict=True):
        scaled = (avl - avl.min()) / np.ptp(avl)
        part = scaled[int(avl[: end - 10].argmax()) : end]
        out.append((np.abs(np.diff(part)).mean(), np.abs(np.diff(part, 2)).mean()))
    return np.array(out)


class TestSheet:
    def test_the_table_is_what_the_solver_gives(self):
        for row in (2, 6):
            solved = solve_sheet(float(CONDUCTION[row, 0]))
            assert float(solved.delay) == pytest.approx(CONDUCTION[row, 1], abs=1e-3)
            assert float(solved.dispersion) == pytest.approx(CONDUCTION[row, 2], abs=1e-3)

    def test_an_intact_sheet_has_a_plane_front(self):
        solved = solve_sheet(0.0, length=40, width=30, seeds=(0,))
        assert float(solved.delay) == pytest.approx(1.0)
        assert float(solved.dispersion) == pytest.approx(0.0, abs=1e-12)

    def test_one_wall_with_one_gap_is_gone_round(self):
        # Strands as long as the sheet is wide leave nothing to go round: the front can't arrive at most cells.
        narrow, wide = (solve_sheet(0.2, length=60, width=80, strand=s, seeds=(0, 1, 2)) for s in (1, 6))
        assert wide.delay > narrow.delay > 1
        assert wide.dispersion > narrow.dispersion

    def test_delay_and_dispersion_grow_with_fibrosis(self):
        assert (np.diff(CONDUCTION, axis=0) > 0).all()
        found = conduct(np.array([0.0, 0.125, MAX_FIBROSIS]))
        assert found.delay[0] == 1
        assert CONDUCTION[2, 1] < found.delay[1] < CONDUCTION[3, 1]

    @pytest.mark.parametrize("fibrosis", [-0.1, 0.6])
    def test_out_of_range_is_refused(self, fibrosis):
        with pytest.raises(ConfigError, match="fibrosis"):
            solve_sheet(fibrosis)


class TestWaveform:
    def test_fibrosis_slurs_the_end_of_qrs_in_avl(self):
        low, high = qrs_only(people()), qrs_only(people(fibrosis=np.full(80, 0.35)))
        # Only where aVL has an R wave that ends the QRS is its slope the front's.
        upright = (low[0][:, 4].max(1) > 0.2) & (high[0][:, 4].max(1) > 0.2)
        assert upright.sum() > 20
        before, after = terminal_differences(*low)[upright], terminal_differences(*high)[upright]
        ratio = after.mean(0) / before.mean(0)
        assert ratio[0] < 0.8
        assert ratio[1] < 0.7

    def test_fibrosis_prolongs_qrs_turns_the_axis_left_and_takes_r_from_v2_v3(self):
        (low, source), (high, slow) = qrs_only(people()), qrs_only(people(fibrosis=np.full(80, 0.35)))
        assert 75 < duration_ms(source).mean() < 115
        assert 15 < (duration_ms(slow) - duration_ms(source)).mean() < 60
        axis = [np.degrees(np.arctan2(e[:, 5].sum(1) * 2 / np.sqrt(3), e[:, 0].sum(1))) for e in (low, high)]
        assert -60 < (axis[1] - axis[0]).mean() < -15
        for lead in (7, 8):
            assert np.median(high[:, lead].max(1) / low[:, lead].max(1)) < 0.85

    def test_without_effects_fibrosis_does_not_show(self):
        nothing = WaveformEffects(conduction=0, left_axis_deg=0, backward_deg=0, r_loss=0)
        low, _ = qrs_only(people(), nothing)
        high, _ = qrs_only(people(fibrosis=np.full(80, 0.4)), nothing)
        np.testing.assert_allclose(low, high, atol=1e-6)

    def test_age_sex_and_size_change_the_waveform_as_in_people(self):
        n = 80
        men, women = (qrs_only(people(male=np.full(n, m)))[0] for m in (True, False))
        assert np.ptp(men[:, 10], axis=1).mean() > 1.1 * np.ptp(women[:, 10], axis=1).mean()
        young, old = (heart_of(people(age=np.full(n, a)), WaveformEffects()) for a in (35.0, 80.0))
        assert old.qt_s.mean() > young.qt_s.mean()
        assert np.abs(old.t.vector[:, :-1]).mean() < np.abs(young.t.vector[:, :-1]).mean()
        man, woman = (heart_of(people(male=np.full(n, m)), WaveformEffects()) for m in (True, False))
        assert woman.qt_s.mean() - man.qt_s.mean() == pytest.approx(0.01, abs=1e-3)
        assert (man.t.vector[:, -1] @ np.array([0, 0, -1.0])).mean() > (
            woman.t.vector[:, -1] @ np.array([0, 0, -1.0])
        ).mean()  # ST
        lean, heavy = (qrs_only(people(bmi=np.full(n, b)))[0] for b in (21.0, 38.0))
        axis = [np.degrees(np.arctan2(e[:, 5].sum(1), e[:, 0].sum(1))).mean() for e in (lean, heavy)]
        assert axis[1] < axis[0] - 10
        assert np.ptp(heavy[:, 10], axis=1).mean() < np.ptp(lean[:, 10], axis=1).mean()


def test_without_scatter_bodies_of_one_age_and_sex_have_one_shape():
    who = people(male=np.ones(80, dtype=bool))
    for scatter, spread in ((0.0, 0.1), (1.0, 0.1)):
        physique = Physique(scatter=scatter)
        heart, anatomy = heart_of(who, WaveformEffects(), physique), anatomy_of(who, physique)
        sizes = np.abs(heart.t.vector).sum(axis=(1, 2)) * anatomy.scale * anatomy.chest_gain[:, 2]
        assert (np.std(sizes) / np.mean(sizes) > spread) == (scatter > 0)
        assert (np.ptp(anatomy.turn_rad[:, 0]) > 0.2) == (scatter > 0)


class TestHazards:
    def test_fibrosis_acts_on_arrhythmia_alone(self):
        effects = HazardEffects()
        low, high = (hazards(people(fibrosis=np.full(80, f)), effects, -6.0) for f in (0.1, 0.3))
        expected = np.exp(effects.arrhythmic_fibrosis * 0.2)
        np.testing.assert_allclose(high.arrhythmic / low.arrhythmic, expected)
        np.testing.assert_allclose(high.vfvt / low.vfvt, expected)
        for name in ("pump", "other", "mi"):
            np.testing.assert_array_equal(getattr(high, name), getattr(low, name))

    def test_age_sex_and_heart_failure_act_on_hazards(self):
        effects, n = HazardEffects(), 80
        base = hazards(people(male=np.zeros(n, dtype=bool)), effects, -6.0)
        male = hazards(people(male=np.ones(n, dtype=bool)), effects, -6.0)
        failing = hazards(people(heart_failure=np.ones(n, dtype=bool)), effects, -6.0)
        older = hazards(people(age=np.full(n, 75.0)), effects, -6.0)
        np.testing.assert_allclose(male.arrhythmic / base.arrhythmic, np.exp(effects.arrhythmic_male))
        assert (failing.pump > hazards(people(), effects, -6.0).pump).all()
        assert (older.other > hazards(people(), effects, -6.0).other).all()
