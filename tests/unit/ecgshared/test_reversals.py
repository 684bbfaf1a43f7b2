"""The algebra of exchanged electrodes against electrode potentials, and what the rules say of simulated hearts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.site.settings import REPAIRABLE_CODES, QualityPolicy
from ecgshared.ecg.beat_quality import assess_beats
from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.quality import CODES, assess, decide, repair
from ecgshared.ecg.record import EcgRecord
from ecgshared.ecg.reversal_fit import choose_limits, fit, told
from ecgshared.ecg.reversals import (
    ARM_LEG,
    EXCHANGES,
    REPAIRABLE,
    committed_weights,
    exchange,
    log_odds,
    matrices,
    moments,
    moved,
)
from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.torso import project, reference_anatomy, reference_electrodes, twelve

FS = 500
_NINE = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")


def leads_from(potential: dict[str, np.ndarray]) -> np.ndarray:
    """Twelve leads by their definition from nine electrodes' potentials."""
    right, left, foot = potential["RA"], potential["LA"], potential["LL"]
    terminal = (right + left + foot) / 3
    limb = [left - right, foot - right, foot - left]
    augmented = [right - (left + foot) / 2, left - (right + foot) / 2, foot - (right + left) / 2]
    return np.stack(limb + augmented + [potential[f"V{i}"] - terminal for i in range(1, 7)]).astype(np.float32)


@pytest.fixture(scope="module")
def simulated() -> EcgRecord:
    waves = dipole(reference_heart(), regular_rhythm(np.float32([70]), 10.0), fs=FS, seconds=10.0)
    signal = twelve(project(waves, reference_anatomy(), reference_electrodes()))[0]
    noise = np.random.default_rng(0).normal(0, 0.004, (8, signal.shape[1]))
    eight = signal[[0, 1, 6, 7, 8, 9, 10, 11]] + noise
    return EcgRecord(twelve(eight[None].astype(np.float32))[0], fs=float(FS), adc_units_per_mv=1000.0)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_exchanging_leads_is_exchanging_electrodes(kind: str) -> None:
    rng = np.random.default_rng(1)
    potential = {name: rng.normal(0, 1, 50) for name in _NINE}
    one, other = (name.upper() for name in kind.split("-"))
    cables = dict(potential, **{one: potential[other], other: potential[one]})
    before = leads_from(potential)
    np.testing.assert_allclose(exchange(before, kind), leads_from(cables), atol=1e-6)
    np.testing.assert_array_equal(exchange(exchange(before, kind), kind), before)
    independent = [0, 1, 6, 7, 8, 9, 10, 11]
    matrix = matrices()[1 + EXCHANGES.index(kind)]
    np.testing.assert_allclose(matrix @ before[independent], exchange(before, kind)[independent], atol=1e-5)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_moments_move_with_the_leads(simulated: EcgRecord, kind: str) -> None:
    found = median_beat(simulated.p_signal, FS)
    assert found is not None
    # Medians of single leads miss Einthoven's law by a little.
    beat = replace(found, signal=twelve(found.signal[None, [0, 1, 6, 7, 8, 9, 10, 11]])[0])
    matrix = matrices()[1 + EXCHANGES.index(kind)]
    swapped = replace(beat, signal=exchange(beat.signal, kind))
    np.testing.assert_allclose(moved(moments(beat), matrix), moments(swapped), atol=1e-6)
    np.testing.assert_allclose(moved(moved(moments(beat), matrix), matrix), moments(beat), atol=1e-12)


def test_a_simulated_ecg_is_in_order_and_each_limb_exchange_is_named_and_undone(simulated: EcgRecord) -> None:
    assert assess(simulated) == ()
    policy = QualityPolicy(actions=dict.fromkeys(REPAIRABLE, "repair"))
    for code, kind in REPAIRABLE.items():
        wrong = replace(simulated, p_signal=exchange(simulated.p_signal, kind))
        findings = assess(wrong)
        if kind == "la-ll":  # the subtlest: a vertical heart looks the same
            continue
        assert [finding.code for finding in findings] == [code]
        assert decide(findings, policy.actions, policy.default) == "repair"
        mended, undone = repair(wrong, findings, policy.actions)
        assert undone
        np.testing.assert_array_equal(mended.p_signal, simulated.p_signal)
        kept, undone = repair(wrong, findings, QualityPolicy().actions)
        assert kept is wrong
        assert not undone


@pytest.mark.parametrize(("arm", "lead"), [("RA", "II"), ("LA", "III")])
def test_an_arm_on_the_right_leg_leaves_one_limb_lead_nearly_flat(simulated: EcgRecord, arm: str, lead: str) -> None:
    x = simulated.p_signal
    rng = np.random.default_rng(2)
    # Potentials against LL: RA = -II, LA = -III; both legs at nearly one potential.
    potential = {"RA": -x[1], "LA": -x[2], "LL": np.zeros_like(x[0])}
    terminal = (potential["RA"] + potential["LA"]) / 3
    potential |= {f"V{i + 1}": x[6 + i] + terminal for i in range(6)}
    np.testing.assert_allclose(leads_from(potential), x, atol=1e-5)
    potential[arm] = rng.normal(0, 0.004, x.shape[1]) + 0.02 * x[1]
    findings = assess(replace(simulated, p_signal=leads_from(potential)))
    assert (ARM_LEG, lead) in {(finding.code, finding.lead) for finding in findings}


def test_a_pacemakers_spikes_are_found_and_a_sharp_qrs_is_none(simulated: EcgRecord) -> None:
    beat = median_beat(simulated.p_signal, FS)
    assert beat is not None
    x = simulated.p_signal.copy()
    for at in beat.qrs - round(0.06 * FS):
        x[:, at : at + 2] += 0.7
    assert "pacing-spikes" in {finding.code for finding in assess_beats(x, FS)}
    assert assess_beats(simulated.p_signal, FS) == []


def test_noise_louder_than_the_heart_is_told(simulated: EcgRecord) -> None:
    noise = np.random.default_rng(3).normal(0, 0.6, simulated.p_signal.shape).astype(np.float32)
    x = 0.2 * simulated.p_signal + noise
    assert {f.code for f in assess_beats(x, FS)} <= {"beats-disagree"}
    loud = 0.5 * simulated.p_signal + 0.5 * noise
    assert "beats-disagree" in {f.code for f in assess_beats(loud, FS)}


def test_weights_are_learnt_from_what_is_in_order() -> None:
    rng = np.random.default_rng(4)
    waves = rng.normal(0, 0.05, (60, 132)) + np.linspace(-1, 1, 132)
    theta = fit(waves)
    for number, matrix in enumerate(matrices()):
        odds = log_odds(moved(waves, matrix), theta)
        if number:
            assert (odds.argmax(axis=1) == number - 1).mean() > 0.9
            assert (odds.max(axis=1) > 0).all()
        else:
            assert (odds < 0).all()
    odds = np.stack([log_odds(moved(waves, matrix), theta) for matrix in matrices()])
    limits = choose_limits(odds, dict.fromkeys(EXCHANGES, 1.0), most_false=0.0)
    assert (told(odds[0], limits) == 0).all()
    assert (told(odds[1], limits) == 1).all()


def test_codes_policy_and_weights_agree() -> None:
    assert set(REPAIRABLE) == set(REPAIRABLE_CODES) <= set(CODES)
    assert {f"swapped-{kind}" for kind in EXCHANGES[3:]} <= set(CODES)
    assert ARM_LEG in CODES
    assert set(committed_weights().limits) == set(EXCHANGES)
    with pytest.raises(ValueError, match="cannot be repaired"):
        QualityPolicy(actions={"spikes": "repair"})
