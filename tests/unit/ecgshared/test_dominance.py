"""Who carries a figure: a few who stand out never do, scores as models give them mostly."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.dominance import carried, carriers, few_stand_out, ranked

LIMITS = DisclosureLimits()


@pytest.mark.parametrize("n", [30, 50, 200, 2000])
@pytest.mark.parametrize("few", [1, 2, 3])
def test_a_few_who_stand_out_carry_no_figure(n, few):
    values = np.full(n, 0.2)
    values[:few] = 1.0
    assert carriers(values, np.arange(n)) == pytest.approx(4 * few * (n - few) / n)
    assert not carried(values, np.arange(n), LIMITS)
    assert not carried(ranked(values), np.arange(n), LIMITS)


def test_seven_of_fifty_are_too_few_and_ten_of_two_hundred_carry():
    for n, k, told in ((52, 7, False), (200, 7, False), (400, 9, False), (400, 12, True)):
        assert carried(np.arange(n) < k, np.arange(n), LIMITS) == told


def test_one_patients_many_ecgs_are_one_patient():
    values, patient = np.repeat([1.0, 0.2], [30, 60]), np.concatenate([np.zeros(30, int), np.arange(1, 61)])
    assert not carried(values, patient, LIMITS)


@pytest.mark.parametrize(("draw", "share"), [("uniform", 0.75), ("normal", 2 / np.pi), ("exponential", 4 / np.e**2)])
def test_scores_as_models_give_them_are_carried(draw, share):
    rng = np.random.default_rng(3)
    values = getattr(rng, draw)(size=4000)
    assert carriers(values, np.arange(4000)) == pytest.approx(4000 * share, rel=0.05)
    told = [carried(getattr(rng, draw)(size=100), np.arange(100), LIMITS) for _ in range(50)]
    assert np.mean(told) > 0.9


def test_a_constant_score_tells_of_nobody():
    assert carried(np.full(30, 0.3), np.arange(30), LIMITS)
    assert carried(np.eye(1, 12)[0], np.arange(12), DisclosureLimits(min_patients=1, min_events=0))


def test_an_ecg_full_of_noise_does_not_close_a_score_but_a_window_does():
    rng = np.random.default_rng(5)
    noisy, who = rng.normal(size=60), np.arange(60)
    noisy[0] = 15
    assert not few_stand_out(noisy, who, LIMITS)
    for people in (1, 2):
        assert few_stand_out(np.where(who < people, 40.0, -40.0), who, LIMITS)
        assert few_stand_out(np.where(who < people, 30.0, rng.normal(size=60) / 10), who, LIMITS)
