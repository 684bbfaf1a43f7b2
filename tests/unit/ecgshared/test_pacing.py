"""No interval measures a pacing spike: it is taken out, or nothing is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.features import SPIKES_LEFT, SPIKES_OUT, features_of
from ecgshared.ecg.pacing import pacing_spikes, without_spikes
from ecgshared.ecg.record import EcgRecord

SHARE = np.array([1.0, 0.8, -0.2, -0.9, 0.6, 0.3, 0.3, 0.5, 0.4, 0.6, 0.8, 0.7])


def paced(
    fs: float, spike_mv: float, *, atrial: bool = False, width_s: float = 0.0, before_s: float = 0.06
) -> EcgRecord:
    """A broad ventricular beat of 200 ms, 70 a minute, with a spike before each QRS, and one before an atrium's."""
    t = np.arange(round(10 * fs)) / fs
    phase = np.mod(t, 60 / 70) - 0.3
    beat = np.exp(-0.5 * (phase / 0.032) ** 2) - 0.35 * np.exp(-0.5 * ((phase - 0.33) / 0.05) ** 2)
    signal = np.outer(SHARE, beat)
    spikes = np.zeros(len(t))
    for number in range(12):
        for place in (-before_s, -before_s - 0.16) if atrial else (-before_s,):
            at = round((number * 60 / 70 + 0.3 + place) * fs)
            if 0 <= at < len(t):
                spikes[at] = 1
    if width_s:
        kernel = np.exp(-0.5 * (np.arange(-20, 21) / (width_s * fs)) ** 2)
        spikes = np.convolve(spikes, kernel, mode="same")
    x = signal + spike_mv * np.outer(SHARE, spikes) + np.random.default_rng(0).normal(0, 0.004, signal.shape)
    return EcgRecord(x.astype(np.float32), fs=fs, adc_units_per_mv=1000.0)


@pytest.mark.parametrize("fs", [500.0, 1000.0])
@pytest.mark.parametrize("spike_mv", [0.3, 0.8, 1.5, 4.0, 9.0])
@pytest.mark.parametrize("atrial", [False, True])
def test_figures_are_those_without_the_spike(fs: float, spike_mv: float, atrial: bool) -> None:
    plain, found = features_of(paced(fs, 0.0)), features_of(paced(fs, spike_mv, atrial=atrial))
    assert plain is not None
    assert found is not None
    assert plain.note == ""
    if spike_mv > 1:
        assert found.note == SPIKES_OUT
    assert found.rate_bpm == pytest.approx(plain.rate_bpm, abs=1)
    assert found.qrs_ms == pytest.approx(plain.qrs_ms, abs=14)
    assert found.qt_ms == pytest.approx(plain.qt_ms, abs=14)


@pytest.mark.parametrize("width_s", [0.001, 0.002])
def test_a_spike_that_a_filter_widened(width_s: float) -> None:
    plain, found = features_of(paced(500.0, 0.0)), features_of(paced(500.0, 3.0, width_s=width_s))
    assert plain is not None
    assert found is not None
    assert found.note in (SPIKES_OUT, SPIKES_LEFT)
    if found.note == SPIKES_OUT:
        assert found.qrs_ms == pytest.approx(plain.qrs_ms, abs=20)
        assert found.qt_ms == pytest.approx(plain.qt_ms, abs=20)
    else:
        assert np.isnan(found.qrs_ms)


def test_what_cannot_be_told_apart_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgshared.ecg.features.without_spikes", lambda x, fs, qrs: x)
    found = features_of(paced(500.0, 4.0))
    assert found is not None
    assert found.note == SPIKES_LEFT
    assert np.isfinite(found.rate_bpm)
    assert np.isnan(found.row()[1:]).all()


def test_a_recording_without_spikes_is_left_alone() -> None:
    record = paced(500.0, 0.0)
    beat = median_beat(record.p_signal, 500.0)
    assert beat is not None
    assert without_spikes(record.p_signal, 500.0, beat.qrs) is None
    assert pacing_spikes(record.p_signal, 500.0, beat.qrs) == []
    assert features_of(replace(record, p_signal=np.zeros_like(record.p_signal))) is None
