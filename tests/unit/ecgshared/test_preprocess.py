"""Preprocessing against scipy, and the shape of what the model sees."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from client.readers import read
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import baseline, fingerprint, preprocess, preprocess_record, resample, zero_phase
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError


def ecgs(n: int = 3, fs: float = 500, seconds: float = 10) -> np.ndarray:
    """Beats on an offset with noise, shape = (n, 12, T), float32."""
    rng = np.random.default_rng(5)
    t = np.arange(round(fs * seconds)) / fs
    beat = np.exp(-0.5 * ((np.mod(t, 0.8) - 0.4) / 0.012) ** 2)
    x = rng.uniform(-1, 2, (n, 12, 1)) * beat + rng.uniform(-2, 2, (n, 12, 1)) + rng.normal(0, 0.02, (n, 12, len(t)))
    return x.astype(np.float32)


@pytest.mark.parametrize("band", [(0.5, 40.0), (1.0, 30.0), (0.67, 150.0)])
def test_filter_equals_sosfiltfilt_away_from_the_ends(band: tuple[float, float]) -> None:
    """Scipy filters the longer recording of which ours is the middle: neither invents what lies beyond there."""
    fs, around = 500.0, 5000
    long = ecgs(fs=fs, seconds=34)
    sos = signal.butter(2, band, "bandpass", fs=fs, output="sos")
    inner = slice(round(2 * fs / band[0]), -round(2 * fs / band[0]))
    expected = signal.sosfiltfilt(sos, long.astype(np.float64))[..., around:-around]
    found = zero_phase(long[..., around:-around], fs, band_hz=band)
    np.testing.assert_allclose(found[..., inner], expected[..., inner], atol=5e-4)


def test_margins_of_real_recordings_are_nearly_as_right_as_their_middle(shared_data: Path) -> None:
    """Cut out of the recording, and filtered whole: half a second at either end, against scipy's own way."""
    sos = signal.butter(2, (0.5, 40.0), "bandpass", fs=500, output="sos")
    ours, theirs = [], []
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"].startswith("ptbxl")]
    for row in rows[:60]:
        x = read(shared_data / f"{row['file']}.hea").p_signal
        whole = signal.sosfiltfilt(sos, x.astype(np.float64))
        for start, stop in ((1100, 3900), (1210, 4050)):
            cut = x[:, start:stop]
            for errors, found in (
                (ours, zero_phase(cut, 500.0, band_hz=(0.5, 40.0))),
                (theirs, signal.sosfiltfilt(sos, cut.astype(np.float64))),
            ):
                gap = found - whole[:, start:stop]
                errors.append(np.concatenate([gap[:, :250], gap[:, -250:]], axis=1))
    rms = [float(np.sqrt(np.mean(np.square(errors)))) for errors in (ours, theirs)]
    assert rms[0] < 0.03
    assert rms[0] < 0.25 * rms[1]


@pytest.mark.parametrize("band", [None, (0.5, 40.0), (0.05, 150.0)])
@pytest.mark.parametrize("fs", [100, 125, 200, 240, 256, 333.3, 360, 400, 499.7, 512, 720, 977, 1000])
def test_the_last_tenth_of_a_second_is_right(fs: float, band: tuple[float, float] | None) -> None:
    """A sinusoid of 10 Hz at twelve phases, to 2%, at either end."""
    phases = np.linspace(0, 2 * np.pi, 12, endpoint=False)[:, None]
    n = round(10 * fs)
    x = np.sin(phases + 2 * np.pi * 10 * np.arange(n) / fs).astype(np.float32)[None]
    config = InputConfig(fs_hz=500, seconds=10, band_hz=band, baseline="none")
    found = preprocess(x, fs, config)[0]
    last = min(5000, int(n / fs * 500 + 1e-6))
    gain = 1.0
    if band is not None:
        sos = signal.butter(2, band, "bandpass", fs=500, output="sos")
        gain = abs(signal.sosfreqz(sos, [10.0], fs=500)[1][0]) ** 2
    expected = gain * np.sin(phases + 2 * np.pi * 10 * np.arange(5000) / 500)
    np.testing.assert_allclose(found[:, :50], expected[:, :50], atol=0.02)
    np.testing.assert_allclose(found[:, last - 50 : last], expected[:, last - 50 : last], atol=0.02)


@pytest.mark.parametrize("fs", [499.7, 333.3, 359.9, 500.3, 257.13, 997.3])
def test_an_awkward_rate_keeps_its_time(fs: float) -> None:
    """A beat near the end lies where it was, to a twentieth of a sample, after the longest resting ECG."""
    n = round(60 * fs)
    at = (n - 500) / fs
    beat = np.exp(-0.5 * ((np.arange(n) / fs - at) / 0.02) ** 2)
    found = resample(np.tile(beat.astype(np.float32), (1, 12, 1)), fs, 500)[0, 0].astype(np.float64)
    place = (found * np.arange(len(found))).sum() / found.sum()
    assert place == pytest.approx(500 * at, abs=0.06)


def test_the_mode_is_sought_about_the_median() -> None:
    """A DC-coupled recorder may stand 50 mV, or 300, from zero."""
    x = np.round(ecgs(n=2), 3)
    for offset in (50.0, -300.0):
        found = preprocess((x + np.float32(offset)).astype(np.float32), 500, InputConfig(baseline="mode"))
        np.testing.assert_allclose(found, preprocess(x, 500, InputConfig(baseline="mode")), atol=2e-3)


@pytest.mark.parametrize("band", [(0.5, 40.0), (0.05, 150.0)])
def test_filter_equals_sosfiltfilt_everywhere_where_nothing_lies_beyond_the_ends(band: tuple[float, float]) -> None:
    fs = 500.0
    quiet = round(1.5 * fs / band[0])
    x = np.pad(ecgs(n=1) - ecgs(n=1).mean(axis=-1, keepdims=True), ((0, 0), (0, 0), (quiet, quiet)))
    sos = signal.butter(2, band, "bandpass", fs=fs, output="sos")
    expected = signal.sosfiltfilt(sos, x.astype(np.float64))
    np.testing.assert_allclose(zero_phase(x, fs, band_hz=band), expected, atol=2e-3)


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_notch_equals_filtfilt_and_keeps_the_offset(mains: float) -> None:
    fs = 500.0
    x = ecgs(fs=fs) + 0.2 * np.sin(2 * np.pi * mains * np.arange(5000) / fs).astype(np.float32)
    b, a = signal.iirnotch(mains, 30, fs=fs)
    inner = slice(500, -500)
    expected = signal.filtfilt(b, a, x.astype(np.float64))[..., inner]
    found = zero_phase(x, fs, mains_hz=mains)[..., inner]
    np.testing.assert_allclose(found, expected, atol=5e-4)
    np.testing.assert_allclose(found.mean(axis=-1), x[..., inner].mean(axis=-1), atol=1e-3)


def test_filter_has_no_phase() -> None:
    x = np.zeros((1, 12, 5000), dtype=np.float32)
    x[..., 2500] = 1
    y = zero_phase(x, 500, band_hz=(0.5, 40))
    np.testing.assert_allclose(y[..., 1:], y[..., :0:-1], atol=1e-6)


@pytest.mark.parametrize("fs", [100, 128, 250, 257, 400, 977, 1000])
def test_polyphase_equals_scipy(fs: float) -> None:
    x = ecgs(n=1, fs=fs)
    found = resample(x, fs, 500)
    if fs in (100, 250, 400, 1000):
        up, down = {100: (5, 1), 250: (2, 1), 400: (5, 4), 1000: (1, 2)}[int(fs)]
        line = np.linspace(x[..., 0], x[..., -1], x.shape[-1], axis=-1, dtype=np.float64)
        expected = signal.resample_poly(x - line, up, down, axis=-1)
        ends = np.arange(expected.shape[-1]) * (down / up)
        slope = (line[..., -1] - line[..., 0]) / (x.shape[-1] - 1)
        expected += line[..., :1] + slope[..., None] * ends
        # Its margins differ: scipy takes nothing to lie beyond them.
        inner = slice(round(12 * max(1, up / down)), -round(12 * max(1, up / down)))
        np.testing.assert_allclose(found[..., inner], expected[..., inner], atol=2e-5)
    assert abs(found.shape[-1] - x.shape[-1] * 500 / fs) <= 1


@given(st.floats(0.5, 30), st.sampled_from([128.0, 250.0, 257.0, 400.0, 500.0, 1000.0]))
@settings(deadline=None, max_examples=25)
def test_a_sine_keeps_frequency_and_place(hz: float, fs: float) -> None:
    config = InputConfig(fs_hz=500, seconds=8, baseline="none")
    x = np.broadcast_to(
        np.sin(2 * np.pi * hz * np.arange(round(8 * fs)) / fs).astype(np.float32), (1, 12, round(8 * fs))
    )
    y = preprocess(x, fs, config)[0, 0]
    expected = np.sin(2 * np.pi * hz * np.arange(4000) / 500)
    np.testing.assert_allclose(y[400:-400], expected[400:-400], atol=5e-3)


def test_linear_equals_numpy_interp_and_never_aliases() -> None:
    x = ecgs(n=2, fs=250)
    found = resample(x, 250, 500, method="linear")
    expected = np.interp(np.arange(5000) / 2, np.arange(2500), x[1, 3].astype(np.float64))
    np.testing.assert_allclose(found[1, 3], expected, atol=1e-6)
    np.testing.assert_array_equal(resample(x, 250, 100, method="linear"), resample(x, 250, 100))


def test_baseline_equals_scipy_per_lead() -> None:
    x = np.round(ecgs(), 3)
    np.testing.assert_array_equal(baseline(x, "median")[..., 0], np.median(x, axis=-1))
    expected = stats.mode(np.rint(x * 1000).astype(int), axis=-1).mode / 1000
    np.testing.assert_allclose(baseline(x, "mode")[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("pad", ["right", "both"])
def test_short_records_are_padded_with_zeros(pad: str) -> None:
    config = InputConfig(fs_hz=400, seconds=10, pad=pad)
    x = ecgs(fs=400, seconds=7.335)
    y = preprocess(x, 400, config)
    start = 0 if pad == "right" else (4000 - 2934) // 2
    np.testing.assert_allclose(y[..., start : start + 2934], x - np.median(x, axis=-1, keepdims=True), atol=1e-6)
    assert not y[..., start + 2934 :].any()
    assert not y[..., :start].any()


def test_long_records_give_their_middle() -> None:
    x = ecgs(seconds=12)
    y = preprocess(x, 500, InputConfig(baseline="none"))
    np.testing.assert_array_equal(y, x[..., 500:5500])


def test_absent_leads_become_zero_and_gaps_are_closed() -> None:
    x = ecgs()
    whole = preprocess(x, 500, InputConfig(band_hz=(0.5, 40)))
    x[0, 3] = np.nan
    x[1, 5, 2000:2003] = [np.nan, np.inf, -np.inf]
    y = preprocess(x, 500, InputConfig(band_hz=(0.5, 40)))
    assert np.isfinite(y).all()
    assert not y[0, 3].any()
    others = np.ones((3, 12), dtype=bool)
    others[0, 3] = others[1, 5] = False
    np.testing.assert_allclose(y[others], whole[others], atol=1e-6)
    np.testing.assert_allclose(y[1, 5], whole[1, 5], atol=0.1)
    assert np.isnan(x[0, 3]).all(), "the input is left as it was"


@pytest.mark.parametrize("n", [1, 7])
def test_one_by_one_equals_all_at_once(n: int) -> None:
    config = InputConfig(fs_hz=250, band_hz=(0.5, 40), mains_hz=50, baseline="mode")
    x = ecgs(n=n)
    together = preprocess(x, 500, config)
    assert together.shape == (n, 12, config.samples)
    assert together.dtype == np.float32
    for i in range(n):
        np.testing.assert_allclose(preprocess_record(EcgRecord(x[i], fs=500), config), together[i], atol=2e-6)


def test_no_records_and_bad_shapes() -> None:
    assert preprocess(np.zeros((0, 12, 5000), np.float32), 500, InputConfig()).shape == (0, 12, 5000)
    for shape, fs in (((12, 5000), 500.0), ((1, 12, 1), 500.0), ((1, 12, 50), 0.0), ((1, 12, 50), np.nan)):
        with pytest.raises(EcgReadError):
            preprocess(np.zeros(shape, np.float32), fs, InputConfig())


def test_fingerprint_follows_every_setting() -> None:
    changes = {
        "fs_hz": 250, "seconds": 8, "band_hz": (0.5, 40.0), "mains_hz": 50, "baseline": "mode",
        "resample": "linear", "pad": "right",
    }  # fmt: skip
    assert set(changes) == set(InputConfig.model_fields)
    prints = {fingerprint(InputConfig(**{name: value})) for name, value in changes.items()}
    assert len(prints | {fingerprint(InputConfig())}) == len(changes) + 1
    assert fingerprint(InputConfig()) == fingerprint(InputConfig(fs_hz=500.0))
