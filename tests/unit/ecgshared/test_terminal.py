"""The end of QRS: against plain NumPy and SciPy on 200 real records, at 250 as at 500 Hz, slurred less steep."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import butter, filtfilt

from client.readers import read
from ecgshared.ecg.beats import MedianBeat, median_beat
from ecgshared.ecg.features import qrs_limits
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import preprocess_record
from ecgshared.ecg.terminal import AT_END, FLAT, NO_END, terminal_slopes
from ecgshared.errors import EcgFedError

AVL = 4
INPUT = InputConfig(fs_hz=500, seconds=10, band_hz=(0.5, 100))


@pytest.fixture(scope="module")
def records(shared_data):
    """200 records of PTB-XL at 500 Hz."""
    found = []
    with (shared_data / "records.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file"].startswith("ptbxl") and len(found) < 200:
                try:
                    found.append(read(shared_data / f"{row['file']}.hea"))
                except EcgFedError:
                    continue
    assert len(found) == 200
    return found


def independent(x, onset, end, centre):
    """Every lead's mean |d1| and |d2| from its R peak to ``end``; NaN where it has none. x: (12, W), 500 Hz."""
    b, a = butter(4, 40 / 250)
    x = filtfilt(b, a, x, axis=1)
    out = np.full((12, 2), np.nan)
    for lead in range(12):
        near = x[lead, centre - 100 : centre + 200]
        low, high = near.min(), near.max()
        if high - low < 0.02:
            continue
        y = (x[lead] - low) / (high - low)
        qrs = x[lead, onset : end + 1]
        peak = int(np.argmax(qrs))
        if peak == 0 or peak > len(qrs) - 4:
            peak = int(np.argmax(np.abs(qrs - qrs[0])))
        if end - onset - peak < 3:
            continue
        piece = [y[i] for i in range(onset + peak, end + 1)]
        first = [abs(piece[i + 1] - piece[i]) for i in range(len(piece) - 1)]
        second = [abs(piece[i + 2] - 2 * piece[i + 1] + piece[i]) for i in range(len(piece) - 2)]
        out[lead] = sum(first) / len(first), sum(second) / len(second)
    return out


def test_it_equals_an_independent_computation_on_real_records(records):
    measured = 0
    for record in records:
        beat = median_beat(preprocess_record(record, INPUT), 500.0)
        if beat is None:
            continue
        found = terminal_slopes(beat)
        x = beat.signal.astype(np.float64)
        limits = qrs_limits(x, beat.centre, 500.0)
        if limits is None:
            assert set(found.reason) == {NO_END}
            continue
        assert found.end == limits[1]
        want = independent(x, *limits, beat.centre)
        np.testing.assert_allclose(np.stack([found.d1, found.d2], axis=1), want, atol=1e-6)
        assert [reason == "" for reason in found.reason] == np.isfinite(want[:, 0]).tolist()
        measured += int(np.isfinite(want[AVL, 0]))
    print(f"aVL of {measured} of {len(records)} records measured")
    assert measured > 185


def test_at_250_hz_it_is_what_it_is_at_500(records):
    pairs = []
    for record in records:
        pair = []
        for fs in (500.0, 250.0):
            beat = median_beat(preprocess_record(record, INPUT.model_copy(update={"fs_hz": fs})), fs)
            found = None if beat is None else terminal_slopes(beat)
            pair.append([np.nan, np.nan] if found is None else [found.d1[AVL], found.d2[AVL]])
        pairs.append(pair)
    both = np.array(pairs)
    both = both[np.isfinite(both).all(axis=(1, 2))]
    r = [np.corrcoef(both[:, 0, i], both[:, 1, i])[0, 1] for i in (0, 1)]
    print(f"250 against 500 Hz, {len(both)} records: r of d1 {r[0]:.3f}, of d2 {r[1]:.3f}")
    assert len(both) > 180
    assert min(r) > 0.95


def beat(slur=0.0, fs=500.0, size=1.0):
    """A median beat whose R has a slower end where slurred."""
    t = np.arange(round(1.1 * fs)) / fs - 0.45
    fall = 0.012 + 0.02 * slur
    wave = np.where(t < 0, np.exp(-((t / 0.012) ** 2)), np.exp(-((t / fall) ** 2)))
    t_wave = 0.3 * np.exp(-(((t - 0.28) / 0.05) ** 2))
    signal = size * np.outer(np.linspace(0.4, 1.5, 12), wave + t_wave)
    return MedianBeat(
        signal.astype(np.float32),
        fs,
        round(0.45 * fs),
        np.array([0, round(0.9 * fs)]),
        np.ones(2, dtype=bool),
        np.ones(12, dtype=np.float32),
    )


def test_a_slurred_end_is_less_steep_and_size_does_not_matter():
    plain, slurred, large = (terminal_slopes(b) for b in (beat(), beat(slur=1.0), beat(size=3.0)))
    assert (slurred.d1 < 0.8 * plain.d1).all()
    assert (slurred.d2 < 0.8 * plain.d2).all()
    np.testing.assert_allclose(large.d1, plain.d1, rtol=1e-4)
    half = terminal_slopes(beat(fs=250.0))
    np.testing.assert_allclose(half.d1, plain.d1, rtol=0.05)


def test_a_reason_stands_where_there_is_no_value():
    usual = beat()
    flat = usual.signal.copy()
    flat[AVL] = 0.001
    assert terminal_slopes(replace(usual, signal=flat)).reason[AVL] == FLAT
    nothing = terminal_slopes(replace(usual, signal=np.zeros_like(flat)))
    assert set(nothing.reason) == {NO_END}
    assert np.isnan(nothing.d1).all()
    # As in ventricular fibrillation, where nothing ends: the spatial velocity never falls.
    phase = 2 * np.pi * 6 * np.arange(flat.shape[1]) / 500
    waves = np.stack([np.cos(phase), np.sin(phase)] * 3 + [np.cos(phase), np.sin(phase)] * 3).astype(np.float32)
    assert set(terminal_slopes(replace(usual, signal=waves)).reason) == {NO_END}
    late = usual.signal.copy()
    end = terminal_slopes(usual).end
    late[AVL] = 0.0
    late[AVL, end - 1 :] = np.linspace(0.5, 0.0, late.shape[1] - end + 1)
    assert terminal_slopes(replace(usual, signal=late)).reason[AVL] in (AT_END, "")
