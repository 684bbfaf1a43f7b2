"""The forward model against the effects measured for it, and the algebra of the leads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.torso import (
    DOWER,
    REFERENCE_HEART_CM,
    Anatomy,
    calibrated,
    lead_field,
    project,
    reference_anatomy,
    reference_electrodes,
    twelve,
)

FS = 1000.0
# QRS of the beat whose R peak is at 0.5 s.
QRS = slice(440, 570)


@pytest.fixture(scope="module")
def beat():
    return dipole(reference_heart(), regular_rhythm(np.array([60.0]), 1.0), fs=FS, seconds=1.0)


def leads(beat, *, turn_deg=(0.0, 0.0, 0.0), heart_cm=REFERENCE_HEART_CM, up_cm=0.0, calibrate=False):
    electrodes = reference_electrodes()
    electrodes[:, 4:6, 2] += up_cm
    anatomy = Anatomy(np.array([heart_cm]), np.deg2rad([turn_deg]), np.ones(1))
    return twelve(project(beat, anatomy, electrodes, calibrate=calibrate))[0]


def axis_deg(ecg):
    """Frontal QRS axis from the net areas of I and aVF."""
    return np.degrees(np.arctan2(2 / np.sqrt(3) * ecg[5, QRS].sum(), ecg[0, QRS].sum()))


class TestMeasuredEffects:
    """Values of the plain infinite medium, each within 20%."""

    def test_v1_v2_up_4_cm(self, beat):
        at, up = leads(beat), leads(beat, up_cm=4.0)
        for lead, before, after in ((6, 0.38, 0.24), (7, 0.64, 0.38)):
            assert at[lead, QRS].max() == pytest.approx(before, rel=0.2)
            assert up[lead, QRS].max() == pytest.approx(after, rel=0.2)
            assert before - after == pytest.approx(at[lead, QRS].max() - up[lead, QRS].max(), rel=0.2)

    def test_limb_leads_are_unmoved_by_chest_electrodes(self, beat):
        for calibrate in (False, True):
            at = leads(beat, calibrate=calibrate)
            up = leads(beat, up_cm=4.0, calibrate=calibrate)
            np.testing.assert_array_equal(at[:6], up[:6])
            assert np.abs(at[7] - up[7]).max() > 0.1

    @pytest.mark.parametrize(("turn", "wanted"), [(0, 24), (20, 52), (-20, -4)])
    def test_frontal_rotation(self, beat, turn, wanted):
        # Within 20% of the 28 degrees by which the axis moves.
        assert axis_deg(leads(beat, turn_deg=(turn, 0, 0))) == pytest.approx(wanted, abs=0.2 * 28)

    def test_rotation_about_the_vertical(self, beat):
        at, turned = leads(beat), leads(beat, turn_deg=(0, 20, 0))
        assert at[7, QRS].min() == pytest.approx(-1.23, rel=0.2)
        assert turned[7, QRS].min() == pytest.approx(-1.76, rel=0.2)
        assert turned[7, QRS].min() / at[7, QRS].min() == pytest.approx(1.76 / 1.23, rel=0.1)
        # Later transition: R over S falls in V2..V4.
        for lead in (7, 8, 9):
            ratio = [-ecg[lead, QRS].max() / ecg[lead, QRS].min() for ecg in (at, turned)]
            assert ratio[1] < ratio[0]

    def test_anterior_shift(self, beat):
        at, moved = leads(beat), leads(beat, heart_cm=REFERENCE_HEART_CM + np.array([0, -2, 0]))
        change = np.sqrt(((moved - at) ** 2).sum(1) / (at**2).sum(1))[6:10]
        assert change.min() == pytest.approx(0.43, rel=0.2)
        assert change.max() == pytest.approx(0.57, rel=0.2)


class TestCalibrated:
    """The same effects survive the calibration to Dower, as relative changes."""

    def test_is_dower_at_the_reference(self):
        field = calibrated(lead_field(reference_anatomy(), reference_electrodes()))
        np.testing.assert_allclose(field[0], DOWER, atol=1e-12)

    def test_a_larger_source_is_larger_in_every_lead_alike(self):
        anatomy = Anatomy(REFERENCE_HEART_CM[None], np.zeros((1, 3)), np.array([1.3]))
        field = calibrated(lead_field(anatomy, reference_electrodes()), anatomy.scale)
        np.testing.assert_allclose(field[0], 1.3 * DOWER, atol=1e-12)

    def test_effects(self, beat):
        at = leads(beat, calibrate=True)
        up = leads(beat, up_cm=4.0, calibrate=True)
        assert up[6, QRS].max() / at[6, QRS].max() == pytest.approx(0.24 / 0.38, rel=0.2)
        assert up[7, QRS].max() / at[7, QRS].max() == pytest.approx(0.38 / 0.64, rel=0.2)
        turned = leads(beat, turn_deg=(0, 20, 0), calibrate=True)
        assert turned[7, QRS].min() / at[7, QRS].min() == pytest.approx(1.76 / 1.23, rel=0.2)
        for turn, moved in ((20, 28), (-20, -28)):
            new = axis_deg(leads(beat, turn_deg=(turn, 0, 0), calibrate=True))
            assert new - axis_deg(at) == pytest.approx(moved, rel=0.2)
        forward = leads(beat, heart_cm=REFERENCE_HEART_CM + np.array([0, -2, 0]), calibrate=True)
        change = np.sqrt(((forward - at) ** 2).sum(1) / (at**2).sum(1))[6:10]
        assert change.min() > 0.43 * 0.8
        assert change.max() < 0.57 * 1.2


@given(seed=st.integers(0, 2**32 - 1))
def test_einthoven_and_goldberger_hold_to_rounding(seed):
    rng = np.random.default_rng(seed)
    anatomy = Anatomy(
        REFERENCE_HEART_CM + rng.normal(size=(2, 3)), 0.3 * rng.normal(size=(2, 3)), rng.uniform(0.5, 2, 2)
    )
    electrodes = reference_electrodes(2) + rng.normal(size=(2, 10, 3))
    source = rng.normal(size=(2, 3, 40)).astype(np.float32)
    breath = np.sin(np.arange(40) / 7.0).astype(np.float32)[None].repeat(2, 0)
    one, two, three, avr, avl, avf = twelve(project(source, anatomy, electrodes, respiration=breath))[:, :6].swapaxes(
        0, 1
    )
    size = max(np.abs(one).max(), np.abs(two).max())
    for error in (one + three - two, avr + avl + avf, avl - (one - two / 2), avf - (two - one / 2)):
        assert np.abs(error).max() <= 1e-6 * size


def test_breathing_moves_the_leads_about_the_held_breath(beat):
    breath = np.ones((1, beat.shape[2]), dtype=np.float32)
    arguments = (beat, reference_anatomy(), reference_electrodes())
    inward, outward = (project(*arguments, respiration=sign * breath) for sign in (1.0, -1.0))
    held = project(*arguments)
    assert np.abs(inward - outward).max() > 0.1
    assert np.abs((inward + outward) / 2 - held).max() < 0.15 * np.abs(held).max()


def test_the_chest_wall_acts_on_its_own_lead_alone(beat):
    gain = np.ones((1, 6))
    gain[0, 2] = 0.5
    body = reference_anatomy()
    plain = project(beat, body, reference_electrodes())
    thick = project(beat, replace(body, chest_gain=gain), reference_electrodes())
    np.testing.assert_allclose(thick[:, 4], plain[:, 4] / 2, rtol=1e-5, atol=1e-6)
    others = [0, 1, 2, 3, 5, 6, 7]
    np.testing.assert_allclose(thick[:, others], plain[:, others], rtol=1e-6)
