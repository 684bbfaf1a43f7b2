"""Every code is raised by the fault it names, and a clean recording raises none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site.settings import QualityPolicy
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.pulse import pulse
from ecgshared.ecg.quality import CODES, assess, decide
from ecgshared.ecg.record import EcgRecord, Finding

FS, SECONDS = 500, 10


def clean(fs: float = FS, seconds: float = SECONDS, bpm: float = 72, seed: int = 0) -> EcgRecord:
    """Gaussian P, QRS and T at a steady rate, with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(fs * seconds)) / fs
    phase = np.mod(t, 60 / bpm) - 0.25
    waves = ((-0.16, 0.025, 0.1), (-0.02, 0.008, -0.1), (0.0, 0.010, 1.0), (0.025, 0.009, -0.2), (0.24, 0.045, 0.25))
    beat = sum(height * np.exp(-0.5 * ((phase - at) / width) ** 2) for at, width, height in waves)
    scale = np.array([0.7, 1.2, 0.5, -0.95, 0.2, 0.85, -0.6, 1.5, 1.8, 2.0, 1.6, 1.2])[:, None]
    signal = scale * beat + rng.normal(0, 0.01, (12, len(t)))
    return EcgRecord(signal.astype(np.float32), fs=float(fs), adc_units_per_mv=1000.0)


def codes(record: EcgRecord) -> set[str]:
    return {finding.code for finding in assess(record)}


def spoil(change: Callable[[np.ndarray], None]) -> EcgRecord:
    record = clean()
    signal = record.p_signal.copy()
    change(signal)
    return replace(record, p_signal=signal)


@pytest.mark.parametrize("fs", [100, 250, 400, 500, 1000])
@pytest.mark.parametrize("bpm", [40, 72, 180])
def test_a_clean_recording_raises_nothing(fs: float, bpm: float) -> None:
    assert assess(clean(fs=fs, bpm=bpm)) == ()


def a_lead_is_missing(x: np.ndarray) -> None:
    x[7] = np.nan


def a_lead_is_flat(x: np.ndarray) -> None:
    x[7] = 0.3


def a_lead_is_flat_for_a_while(x: np.ndarray) -> None:
    x[7, 3000:] = x[7, 3000]


def samples_are_no_numbers(x: np.ndarray) -> None:
    x[7, 10:12] = np.inf


def a_lead_is_clipped(x: np.ndarray) -> None:
    np.clip(x[7], None, 0.7, out=x[7])


def a_lead_spikes(x: np.ndarray) -> None:
    x[7, 2000] = 25


def a_lead_is_low(x: np.ndarray) -> None:
    x[7] *= 0.02


def a_lead_wanders(x: np.ndarray) -> None:
    x[7] += 1.5 * np.sin(2 * np.pi * 0.2 * np.arange(x.shape[1]) / FS)


def mains_couples_in(x: np.ndarray) -> None:
    x[7] += 0.15 * np.sin(2 * np.pi * 60 * np.arange(x.shape[1]) / FS)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (a_lead_is_missing, "missing-lead"),
        (a_lead_is_flat, "flat-lead"),
        (a_lead_is_flat_for_a_while, "flat-lead"),
        (samples_are_no_numbers, "not-finite"),
        (a_lead_is_clipped, "clipped"),
        (a_lead_spikes, "spikes"),
        (a_lead_is_low, "low-amplitude"),
        (a_lead_wanders, "baseline-wander"),
        (mains_couples_in, "mains-noise"),
    ],
)
def test_a_fault_of_one_lead_is_named_and_no_other(change: Callable[[np.ndarray], None], code: str) -> None:
    findings = assess(spoil(change))
    assert {(finding.code, finding.lead) for finding in findings} == {(code, LEADS[7])}


def test_a_held_last_value_is_no_clipping() -> None:
    def hold(x: np.ndarray) -> None:
        x[9, -50:] = x[9].max()

    assert "clipped" not in codes(spoil(hold))


@pytest.mark.parametrize(("true_gain", "stated"), [(1000.0, 1.0), (100.0, 1000.0), (1000.0, 200.0), (200.0, 1000.0)])
def test_a_stale_gain_is_named_with_the_right_one(true_gain: float, stated: float) -> None:
    record = clean()
    signal = (record.p_signal * np.float32(true_gain / stated)).astype(np.float32)
    findings = assess(replace(record, p_signal=signal, adc_units_per_mv=stated))
    assert [(finding.code, finding.value) for finding in findings] == [("stale-gain", true_gain)]


def test_a_small_ecg_is_low_not_stale() -> None:
    signal = clean().p_signal
    signal *= (0.42 / np.ptp(signal, axis=1, keepdims=True)).astype(np.float32)
    assert codes(replace(clean(), p_signal=signal)) == {"low-amplitude"}


@pytest.mark.parametrize(("fs", "stated"), [(500, 2000), (250, 400), (400, 100), (500, 100)])
def test_a_wrong_rate_contradicts_length_or_heart_rate(fs: float, stated: float) -> None:
    assert "fs-contradicts-length" in codes(replace(clean(fs=fs), fs=float(stated)))


def test_lengths() -> None:
    assert codes(clean(seconds=2.5)) == {"too-short"}
    assert codes(clean(seconds=61)) == {"too-long"}
    nothing = replace(clean(), p_signal=np.full((12, 5000), 1.0, dtype=np.float32))
    assert codes(nothing) == {"flat-lead", "all-flat"}
    assert "all-flat" in codes(replace(clean(), p_signal=np.full((12, 5000), np.nan, dtype=np.float32)))


def test_readers_findings_are_kept() -> None:
    finding = Finding("checksum", "wrong", "II")
    assert assess(replace(clean(), findings=(finding,))) == (finding,)


@pytest.mark.parametrize("bpm", [45, 60, 100, 150, 200])
def test_pulse(bpm: float) -> None:
    found = pulse(clean(bpm=bpm).p_signal, FS)
    assert found is not None
    assert found.bpm == pytest.approx(bpm, rel=0.01)
    assert found.rhythmic


@given(st.integers(1, 40), st.floats(20, 2000), st.floats(0, 1e6), st.integers(0, 5))
def test_no_array_breaks_a_rule(samples: int, fs: float, scale: float, gaps: int) -> None:
    rng = np.random.default_rng(samples)
    signal = (rng.normal(0, 1, (12, samples)) * scale).astype(np.float32)
    signal[rng.integers(0, 12, gaps), rng.integers(0, samples, gaps)] = np.nan
    found = codes(EcgRecord(signal, fs=fs))
    assert found <= set(CODES)
    assert ("too-short" in found) == (samples / fs < 3)


def test_the_worst_action_decides() -> None:
    policy = QualityPolicy()
    assert set(policy.actions) <= set(CODES)
    spikes, checksum = Finding("spikes", ""), Finding("checksum", "")
    assert decide((), policy.actions, policy.default) == "keep"
    assert decide((spikes,), policy.actions, policy.default) == "flag"
    assert decide((checksum, spikes), policy.actions, policy.default) == "refuse"
    assert decide((spikes,), {"spikes": "keep"}, "refuse") == "keep"
