"""Median beats beside the cache: the same as computed, computed once, made anew where the signal changed, forgotten."""

from __future__ import annotations

import stat
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from client.cache import beats as beat_file
from client.cache.entries import STORED, Entry
from client.cache.generation import connect, generation_of
from client.cache.signals import forget_everywhere, opened
from client.dataset import median_beats
from client.dataset.data import CachedSignals, SiteData
from client.dataset.median_beats import MedianBeats, window_of
from client.rows.inputs import seen_by
from ecgshared.errors import RunError
from ecgshared.models import config_class
from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.torso import project, reference_anatomy, reference_electrodes, twelve

FS, SECONDS = 250.0, 5.0
SAMPLES = round(FS * SECONDS)


def recordings(rates):
    n = len(rates)
    waves = dipole(reference_heart(n), regular_rhythm(np.array(rates, np.float32), SECONDS), fs=FS, seconds=SECONDS)
    leads = twelve(project(waves, reference_anatomy(n), reference_electrodes(n)))
    return np.rint(1000 * leads).astype(np.int16)


def entry(name, signal):
    return Entry(name, b"p" + name, 1, 1, 1, STORED, signal=signal, content=name, fs=FS, seconds=SECONDS)


def data_over(signals):
    n = len(signals)
    known = np.zeros(n, dtype=np.float32)
    return SiteData(
        signals=signals,
        patient=np.arange(n),
        split=np.zeros(n, dtype=np.int8),
        heads=(),
        labels=np.zeros((n, 0), dtype=np.float32),
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
        store.store([entry(bytes([65 + i]), signal) for i, signal in enumerate(signals)])
        slots = store.signals()
    order = np.array([2, 0, 3, 1])
    return folder, signals, data_over(CachedSignals(slots, order)), order


def test_beats_are_those_of_the_recordings_and_a_flat_one_has_none(cache):
    folder, signals, data, order = cache
    beats = MedianBeats(data)
    rows = np.arange(4)
    assert beats.known(rows).tolist() == [True, True, False, True]
    found = beats.batch(rows)
    assert found.shape == (4, 12, round(0.8 * FS))
    assert np.isnan(found[2]).all()
    for row in (0, 1, 3):
        wanted = window_of(signals[order[row]].astype(np.float32) / 1000, FS)
        np.testing.assert_allclose(found[row], wanted, atol=0.00051)
    np.testing.assert_array_equal(MedianBeats(data).batch(np.array([3, 1])), found[[3, 1]])
    assert MedianBeats(data).batch(np.arange(0)).shape == (0, 12, 200)
    assert stat.S_IMODE((folder / beat_file.FILE).stat().st_mode) == 0o600


def test_a_cohort_in_memory_gives_the_same(cache):
    _, signals, data, order = cache
    here = MedianBeats(data_over(signals[order])).batch(np.arange(4))
    np.testing.assert_allclose(here, MedianBeats(data).batch(np.arange(4)), atol=0.00051)


def test_each_beat_is_computed_once(cache, monkeypatch):
    _, _, data, _ = cache
    made = []
    real = median_beats.window_of
    monkeypatch.setattr(median_beats, "window_of", lambda *a: made.append(1) or real(*a))
    MedianBeats(data).batch(np.array([0, 1]))
    MedianBeats(data).batch(np.arange(4))
    MedianBeats(data).known(np.arange(4))
    assert len(made) == 4


def test_a_recording_that_changed_gets_a_slot_and_a_beat_of_its_own(cache):
    folder, signals, data, order = cache
    before = MedianBeats(data).batch(np.array([1]))
    with opened(folder, SAMPLES) as store:
        store.store([entry(b"A", recordings([110])[0])])
        slots, found = store.signals(), store.lookup([b"A"], [(1, 1)], 1)
    assert order[1] == 0
    assert found.slot.tolist() == [4]
    after = MedianBeats(data_over(CachedSignals(slots, found.slot))).batch(np.array([0]))
    assert np.abs(after - before).max() > 0.01
    with pytest.raises(RunError, match="taken out of the cache meanwhile"):
        MedianBeats(data).batch(np.array([1]))
    np.testing.assert_array_equal(np.asarray(data.signals)[[0, 2, 3]], signals[order[[0, 2, 3]]])


def test_a_cache_made_anew_in_the_same_folder_is_another_cache(cache):
    folder, signals, _, order = cache
    with opened(folder, SAMPLES) as store:
        old = CachedSignals(store.signals(), order, store.generation().made)
    assert MedianBeats(data_over(old)).known(np.array([0])).all()
    (folder / "index.sqlite").write_bytes(b"no database at all" * 100)
    with opened(folder, SAMPLES) as store:
        store.store([entry(b"Z", recordings([110])[0]), *(entry(bytes([70 + i]), s) for i, s in enumerate(signals))])
    with pytest.raises(RunError, match="taken out of the cache meanwhile"):
        MedianBeats(data_over(old)).batch(np.array([1]))


def test_who_is_forgotten_while_beats_are_made_leaves_none(cache):
    folder, signals, _, _ = cache
    store = beat_file.BeatStore(folder, round(0.8 * FS), None)
    forgetting = threading.Thread(target=forget_everywhere, args=(folder.parent, [b"pB"]))

    def compute(slot):
        if slot == 0:
            forgetting.start()
            while changes(folder) == 0:
                time.sleep(0.01)
        # What a reader holds of the forgotten: it is written after they left the index, and before the wiping.
        return window_of(signals[slot].astype(np.float32) / 1000, FS)

    store.fill(np.arange(3), compute)
    forgetting.join(20)
    assert not forgetting.is_alive()
    left = (folder / beat_file.FILE).read_bytes()
    place = (len(left) - 24) // 3
    assert [any(left[24 + i * place : 24 + (i + 1) * place]) for i in range(3)] == [True, False, True]
    with pytest.raises(RunError, match="taken out of the cache meanwhile"):
        beat_file.BeatStore(folder, round(0.8 * FS), None).fill(np.arange(3), compute)


def changes(folder):
    with closing(connect(folder)) as index:
        return generation_of(folder, index).changes


@pytest.mark.parametrize("damage", ["beat", "header", "truncated"])
def test_a_damaged_file_is_made_anew(cache, damage):
    folder, _, data, _ = cache
    before = MedianBeats(data).batch(np.arange(4))
    path = folder / beat_file.FILE
    content = bytearray(path.read_bytes())
    if damage == "beat":
        content[len(content) // 2] ^= 255
        content[600] ^= 255
    elif damage == "header":
        content[3] ^= 255
    else:
        content = content[: len(content) - 100]
    path.write_bytes(content)
    np.testing.assert_array_equal(MedianBeats(data).batch(np.arange(4)), before)


def test_a_forgotten_patient_leaves_no_beat(cache):
    folder, _, data, _ = cache
    MedianBeats(data).known(np.arange(4))
    path = folder / beat_file.FILE
    place = (path.stat().st_size - 24) // 4
    whole = path.read_bytes()
    assert any(whole[24 + place : 24 + 2 * place])
    assert forget_everywhere(folder.parent, [b"pB"]) == [1]
    left = path.read_bytes()
    assert not any(left[24 + place : 24 + 2 * place])
    assert left[24 : 24 + place] == whole[24 : 24 + place]
    assert left[24 + 2 * place :] == whole[24 + 2 * place :]


def test_a_model_gets_what_it_says_it_sees():
    data = data_over(recordings([70, 80]))
    rows = np.arange(2)
    beats = seen_by(config_class("cvae")(name="cvae"), data)
    assert np.array_equal(beats.batch(rows), MedianBeats(data).batch(rows))
    whole = seen_by(config_class("resnet1d")(), data)
    assert whole.batch(rows).shape == (2, 12, SAMPLES)
    assert whole.known(rows).all()
