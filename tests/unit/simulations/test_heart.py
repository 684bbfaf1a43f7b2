"""The dipole against its formula, and its rhythm against what a rhythm does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.physics.heart import ATRIAL, NORMAL, VENTRICULAR, dipole, draw_rhythm, reference_heart, regular_rhythm

# The published table (Sameni 2007): phase, amplitude, width along X.
X = np.array(
    [
        (-1.09, 0.03, 0.0906), (-0.83, 0.08, 0.1057), (-0.19, -0.13, 0.0453), (-0.07, 0.85, 0.0378),
        (0, 1.11, 0.0332), (0.06, 0.75, 0.0302), (0.22, 0.06, 0.0378), (1.2, 0.1, 0.604),
        (1.42, 0.17, 0.302), (1.68, 0.39, 0.1812), (2.9, 0.03, 0.5),
    ]
)  # fmt: skip


def rhythm(n=1, seed=0, *, rate=70.0, ectopic=0.0, af=False, seconds=10.0):
    return draw_rhythm(
        np.random.default_rng(seed),
        rate_per_min=np.full(n, rate, dtype=np.float32),
        respiration_hz=np.full(n, 0.25, dtype=np.float32),
        ectopic_share=np.full(n, ectopic, dtype=np.float32),
        af=np.full(n, af),
        seconds=seconds,
    )


def test_a_regular_beat_at_60_is_the_published_sum_of_gaussians():
    fs = 500.0
    made = dipole(reference_heart(), regular_rhythm(np.array([60.0]), 4.0), fs=fs, seconds=4.0)[0, 0]
    # The second R peak is at 1.5 s; phase runs -pi..pi around it.
    theta = (np.arange(1000, 1500) / fs - 2.5) * 2 * np.pi
    wrapped = (theta[:, None] - X[:, 0] + np.pi) % (2 * np.pi) - np.pi
    formula = (X[:, 1] * np.exp(-(wrapped**2) / (2 * X[:, 2] ** 2))).sum(1)
    # The last kernel is cut where the next beat begins, at a few microvolts.
    assert np.abs(made[1000:1500] - formula).max() < 0.015
    qrs = slice(1000 + 220, 1000 + 300)
    assert np.abs(made[qrs] - formula[220:300]).max() < 0.002


@pytest.mark.parametrize("part", ["p", "qrs", "t"])
def test_each_part_is_addressed_on_its_own(part):
    beats = regular_rhythm(np.array([60.0]), 3.0)
    whole = dipole(reference_heart(), beats, fs=250.0, seconds=3.0)
    heart = reference_heart()
    silent = replace(heart, **{part: replace(getattr(heart, part), vector=0 * getattr(heart, part).vector)})
    rest = dipole(silent, beats, fs=250.0, seconds=3.0)
    change = np.abs(whole - rest)[0].sum(0)[250:500]  # R at 1.5 s is sample 125
    peak = int(change.argmax()) - 125
    low, high = {"p": (-60, -20), "qrs": (-12, 12), "t": (40, 90)}[part]
    assert low <= peak <= high
    assert change[125 + low : 125 + high].sum() > 0.5 * change.sum()


def test_repolarisation_follows_the_rate():
    ends = []
    for rate in (50.0, 110.0):
        rr = 60 / rate
        made = dipole(reference_heart(), regular_rhythm(np.array([rate]), 6.0), fs=1000.0, seconds=6.0)[0, 0]
        r = int(2.5 * rr * 1000)
        ends.append(np.argmax(made[r + 120 : r + 450]) + 120)
    assert ends[1] / ends[0] == pytest.approx((50 / 110) ** (1 / 3), rel=0.05)


def test_beat_to_beat_variability_and_mean_rate():
    drawn = rhythm(200, rate=75.0)
    rr = np.diff(drawn.r_s, axis=1)
    inside = np.isfinite(rr)
    assert np.nanmean(rr) == pytest.approx(60 / 75, rel=0.02)
    spread = np.array([row[ok].std() for row, ok in zip(rr, inside, strict=True)])
    assert 0.008 < np.median(spread) < 0.06
    assert drawn.gain.std() > 0.01


def test_atrial_fibrillation_is_irregular_and_has_no_p():
    regular, fibrillating = rhythm(100), rhythm(100, af=True)
    spread = [np.nanstd(np.diff(r.r_s, axis=1)) for r in (regular, fibrillating)]
    assert spread[1] > 3 * spread[0]
    heart = reference_heart(100)
    silent = replace(heart, p=replace(heart.p, vector=0 * heart.p.vector))
    np.testing.assert_array_equal(
        dipole(heart, fibrillating, fs=250.0, seconds=4.0), dipole(silent, fibrillating, fs=250.0, seconds=4.0)
    )
    calm = replace(fibrillating, af_mv=0 * fibrillating.af_mv)
    waves = dipole(heart, fibrillating, fs=250.0, seconds=4.0) - dipole(heart, calm, fs=250.0, seconds=4.0)
    power = np.abs(np.fft.rfft(waves[:, 2], axis=-1)) ** 2
    hz = np.fft.rfftfreq(1000, 1 / 250.0)
    assert power[:, (hz > 2) & (hz < 25)].sum() > 0.9 * power.sum()


def test_ectopic_beats_come_early_and_ventricular_ones_are_wide_and_followed_by_a_pause():
    drawn = rhythm(300, seed=3, ectopic=0.1)
    assert set(np.unique(drawn.kind)) == {NORMAL, ATRIAL, VENTRICULAR}
    before, after = drawn.r_s[:, 1:-1] - drawn.r_s[:, :-2], drawn.r_s[:, 2:] - drawn.r_s[:, 1:-1]
    kind = drawn.kind[:, 1:-1]
    usual = np.nanmedian(before)
    assert np.nanmean(before[kind == VENTRICULAR]) < 0.75 * usual
    assert np.nanmean(before[kind == ATRIAL]) < 0.8 * usual
    assert np.nanmean(after[kind == VENTRICULAR]) > 1.25 * usual

    beats = regular_rhythm(np.array([60.0]), 2.0)
    wide = replace(beats, kind=np.full_like(beats.kind, VENTRICULAR))
    area = [np.abs(dipole(reference_heart(), r, fs=500.0, seconds=2.0)[0, :, 200:340]).sum() for r in (beats, wide)]
    assert area[1] > 1.4 * area[0]


def test_records_do_not_depend_on_their_company():
    together = rhythm(4, ectopic=0.1)
    alone = replace(
        together,
        **{name: getattr(together, name)[2:3] for name in ("r_s", "kind", "rr_s", "gain", "af", "af_hz", "af_mv")},
    )
    np.testing.assert_allclose(
        dipole(reference_heart(4), together, fs=250.0, seconds=5.0)[2:3],
        dipole(reference_heart(1), alone, fs=250.0, seconds=5.0),
        atol=2e-4,
    )
