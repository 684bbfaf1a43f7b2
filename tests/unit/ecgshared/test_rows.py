"""The quick ways of ingestion against the plain ones: NumPy's own functions, and definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, signal

from ecgshared.ecg import pacing, pulse
from ecgshared.ecg.beats import _median
from ecgshared.ecg.preprocess import _foreseen
from ecgshared.ecg.rows import cut, means, median_of, medians, percentiles


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 4), (12, 1250), (5, 12, 77), (3, 4, 5000), (7, 2001)])
def test_medians_and_means_are_numpys(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape).round(1).astype(np.float32)
    np.testing.assert_array_equal(medians(x), np.median(x, axis=-1))
    np.testing.assert_array_equal(means(x), np.mean(x, axis=-1))
    assert median_of(x.ravel()) == np.median(x)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 51])
def test_percentiles_are_numpys(count: int) -> None:
    rng = np.random.default_rng(count)
    for values in (rng.normal(size=count), rng.integers(0, 900, count)):
        places = (0, 15, 20, 25, 50, 75, 80, 98, 100)
        assert percentiles(values, places) == np.percentile(values, places).tolist()


def test_medians_of_long_rows_that_a_sample_misleads_on() -> None:
    steps = np.zeros((5, 4000), dtype=np.float32)
    steps[0, 1::16] = 9  # never seen by the sample
    steps[1, ::16] = 5  # nothing else is
    steps[2] = np.arange(4000) % 16
    steps[3, 2000:] = 1  # two values, half of each
    steps[4] = np.random.default_rng(2).integers(-1, 2, 4000)
    np.testing.assert_array_equal(medians(steps), np.median(steps, axis=-1))


@pytest.mark.parametrize("apart_s", [0.25, 0.1, 0.01])
def test_tops_apart_are_scipys_peaks(apart_s: float) -> None:
    rng = np.random.default_rng(3)
    for number in range(200):
        x = np.abs(rng.normal(size=rng.integers(5, 2500))).astype(np.float32)
        x = np.round(4 * x) / 4 if number % 3 == 0 else ndimage.uniform_filter1d(x, 5)  # with plateaus, and without
        level = float(x.max() * rng.uniform())
        tops = pulse._tops(x, level)
        found = pulse._apart(tops, x[tops], 250.0, refractory_s=apart_s)
        wanted, _ = signal.find_peaks(x, height=0.5 * level, distance=max(1, round(apart_s * 250)))
        np.testing.assert_array_equal(found, wanted)


def test_windows_are_the_samples_from_their_start_on() -> None:
    x = np.random.default_rng(2).normal(size=(12, 300)).astype(np.float32)
    starts = np.array([0, 7, 130])
    for rows in (x, x[:, ::2], x[::2], x[:, 5:]):
        np.testing.assert_array_equal(cut(rows, starts, 20), [[row[at : at + 20] for at in starts] for row in rows])


@pytest.mark.parametrize("beats", [1, 2, 3, 7, 8, 13, 16, 31, 40, 65])
def test_the_network_gives_the_median_beat(beats: int) -> None:
    windows = np.random.default_rng(beats).normal(size=(12, beats, 25)).astype(np.float32)
    np.testing.assert_array_equal(_median(windows), np.median(windows, axis=1))


def test_both_ends_are_foreseen_as_by_burgs_recursion_row_by_row() -> None:
    rng, count = np.random.default_rng(3), 50
    x = np.cumsum(rng.normal(size=(6, 400)), axis=1).astype(np.float32)

    def foreseen(row: np.ndarray) -> np.ndarray:
        known = row[-200:].astype(np.float64)
        forward, backward, a = known, known, np.ones(1)
        for _ in range(12):
            ahead, behind = forward[1:], backward[:-1]
            k = -2 * (ahead @ behind) / (ahead @ ahead + behind @ behind)
            forward, backward = ahead + k * behind, behind + k * ahead
            a = np.append(a, 0) + k * np.append(a, 0)[::-1]
        out = known.tolist()
        for _ in range(count):
            out.append(float(-(a[1:] @ out[:-13:-1])))
        return np.array(out[-count:])

    before, after = _foreseen(x, count)
    np.testing.assert_allclose(after, [foreseen(row) for row in x], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(before[:, ::-1], [foreseen(row[::-1]) for row in x], rtol=1e-5, atol=1e-5)


def test_spikes_are_looked_for_as_they_are_defined() -> None:
    """With noise, spikes of many heights at and off their usual place, in few leads or all: the same answer, always."""
    fs, told = 500.0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 0.03, (12, 5000)).astype(np.float32)
        qrs = np.arange(200, 4900, 400) + rng.integers(-5, 5, 12)
        leads = rng.choice(12, rng.integers(1, 12), replace=False)
        place, apart = rng.integers(2, 60), 1 + 20 * (seed % 4 == 0)
        for at in qrs[rng.random(12) < rng.uniform(0.5, 1.3)]:
            x[leads, at - place - rng.integers(0, apart)] += np.float32(rng.uniform(0.2, 1.2))
        found = pacing._usual_spike(x, fs, qrs)
        assert found == _usual_spike(x, fs, qrs)
        told += found is not None
    assert 20 < told < 180


def _usual_spike(x: np.ndarray, fs: float, qrs: np.ndarray) -> tuple[float, int] | None:
    width, reach = 3, np.arange(-140, 0)
    middle = x[:, qrs[:, None] + reach]
    before, after = middle - x[:, qrs[:, None] + reach - width], middle - x[:, qrs[:, None] + reach + width]
    stands_out = np.where(before * after > 0, np.minimum(np.abs(before), np.abs(after)), 0)
    third = np.sort(stands_out, axis=0)[-3]
    usual = np.percentile(ndimage.maximum_filter1d(third, 5, axis=1), 25, axis=0)
    over = np.flatnonzero(usual > np.where(reach < -0.03 * fs, 0.25, 0.6))
    if not len(over) or np.sort(stands_out.max(axis=(1, 2)))[-3] <= 0.25:
        return None
    best = over[usual[over].argmax()]
    return float(usual[best]), int(reach[best])
