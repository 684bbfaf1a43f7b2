"""Single beats beside the cache: those of the recordings, their peaks found once, drawn in training, averaged after."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.cache import beats as beat_file
from client.cache.entries import STORED, Entry
from client.cache.signals import forget_everywhere, opened
from client.dataset import single_beats as module
from client.dataset.data import CachedSignals, SiteData
from client.dataset.median_beats import MedianBeats
from client.dataset.single_beats import SingleBeats
from client.rows.inputs import ModelRows, seen_by
from ecgshared.ecg.beats import r_peaks, single_beats
from ecgshared.learning.loop import predict
from ecgshared.models import HeadSpec, build, config_class
from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.torso import project, reference_anatomy, reference_electrodes, twelve

FS, SECONDS = 250.0, 6.0
SAMPLES = round(FS * SECONDS)
WIDTH = 150


def recordings(rates):
    n = len(rates)
    waves = dipole(reference_heart(n), regular_rhythm(np.array(rates, np.float32), SECONDS), fs=FS, seconds=SECONDS)
    leads = twelve(project(waves, reference_anatomy(n), reference_electrodes(n)))
    rng = np.random.default_rng(0)
    return np.rint(1000 * leads + 5 * rng.standard_normal(leads.shape)).astype(np.int16)


def data_over(signals):
    n = len(signals)
    known = np.zeros(n, dtype=np.float32)
    return SiteData(
        signals=signals,
        patient=np.arange(n),
        split=np.zeros(n, dtype=np.int8),
        heads=("a",),
        labels=np.zeros((n, 1), dtype=np.float32),
        age=known,
        male=known,
        covariates={},
        fs_hz=FS,
        patients_known=True,
        flow=(),
        descriptions={},
        follow_up_years=known,
    )


@pytest.fixture
def cache(tmp_path):
    """Three recordings with beats and a flat one, in a cache; and the cohort over them, in another order."""
    signals = np.concatenate([recordings([60, 72, 90]), np.zeros((1, 12, SAMPLES), np.int16)])
    folder = tmp_path / "cache" / "f"
    with opened(folder, SAMPLES) as store:
        store.store(
            [
                Entry(name, b"p" + name, 1, 1, 1, STORED, signal=signal, content=name, fs=FS, seconds=SECONDS)
                for name, signal in zip((b"A", b"B", b"C", b"D"), signals, strict=True)
            ]
        )
        slots = store.signals()
    order = np.array([2, 0, 3, 1])
    return folder, signals[order], data_over(CachedSignals(slots, order))


def own(signal):
    x = signal.astype(np.float32) / 1000
    return single_beats(x, FS, r_peaks(x[0], FS))[0]


def test_beats_are_those_of_the_recordings_and_a_flat_one_has_none(cache):
    _, signals, data = cache
    beats = SingleBeats(data)
    assert beats.samples == WIDTH
    rows = np.arange(4)
    assert beats.known(rows).tolist() == [True, True, False, True]
    found, of = beats.every(rows)
    for row in (0, 1, 3):
        wanted = own(signals[row])
        assert len(wanted) >= 3
        np.testing.assert_array_equal(found[of == row], wanted)
        np.testing.assert_array_equal(beats.batch(np.array([row]))[0], wanted[len(wanted) // 2])
    assert 2 not in of
    assert np.isnan(beats.batch(rows)[2]).all()
    assert beats.batch(np.arange(0)).shape == (0, 12, WIDTH)
    here = SingleBeats(data_over(signals)).every(rows)
    np.testing.assert_array_equal(here[0], found)
    np.testing.assert_array_equal(here[1], of)


def test_training_draws_all_beats_of_an_ecg_in_time(cache):
    _, signals, data = cache
    config = config_class("beat_risk")(name="beat_risk")
    drawn = seen_by(config, data, np.random.default_rng(1)).batch(np.zeros(200, dtype=np.int64))
    wanted = own(signals[0])
    counts = [(drawn == beat).all(axis=(1, 2)).sum() for beat in wanted]
    assert sum(counts) == 200
    assert min(counts) > 200 / len(wanted) / 2


def test_an_ecgs_output_is_the_mean_over_its_beats(cache):
    _, signals, data = cache
    config = config_class("beat_risk")(name="beat_risk")
    model = build(config, [HeadSpec("a")], WIDTH, 3).eval()
    rows = ModelRows(
        data, np.arange(4), covariates=(), standardise=np.zeros((2, 2)), heads=("a",), signals=seen_by(config, data)
    )
    found = predict(model, rows, np.arange(4), batch_size=3)
    assert np.isnan(found[2]).all()
    with torch.no_grad():
        for row in (0, 1, 3):
            beats = torch.as_tensor(own(signals[row]))
            want = model(beats, torch.zeros(len(beats), 0)).mean().item()
            assert found[row, 0] == pytest.approx(want, abs=1e-5)
    nobody = ModelRows(
        data, np.array([2]), covariates=(), standardise=np.zeros((2, 2)), heads=("a",), signals=seen_by(config, data)
    )
    assert np.isnan(predict(model, nobody, np.arange(1))).all()


def test_peaks_are_found_once_and_forgotten_with_the_recording(cache, monkeypatch):
    folder, _, data = cache
    made = []
    real = module.peaks_of
    monkeypatch.setattr(module, "peaks_of", lambda *a: made.append(1) or real(*a))
    before = SingleBeats(data).every(np.arange(4))[0]
    SingleBeats(data).known(np.arange(4))
    MedianBeats(data).known(np.arange(4))
    assert len(made) == 4
    path = folder / beat_file.PEAKS_FILE
    place = (path.stat().st_size - 24) // 4
    assert path.stat().st_mode & 0o777 == 0o600
    assert forget_everywhere(folder.parent, [b"pB"]) == [1]
    left = path.read_bytes()
    assert [any(left[24 + i * place : 24 + (i + 1) * place]) for i in range(4)] == [True, False, True, True]
    assert len(before) > 9


def test_more_beats_than_a_place_holds_are_thinned(monkeypatch):
    monkeypatch.setattr(module, "MOST_PEAKS", 3)
    peaks = module.peaks_of(recordings([110])[0].astype(np.float32) / 1000, FS)
    assert len(peaks) == 3
    assert np.diff(peaks).min() > FS / 2
