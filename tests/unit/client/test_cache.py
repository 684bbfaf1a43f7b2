from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from hospital import make_hospital, make_study, write_recording

import client.cache.signals
import client.ingest.reading
from client.cache.entries import STORED, Entry
from client.cache.signals import opened
from client.cohort.cells import normal_id
from client.dataset.data import CachedSignals
from client.dataset.opening import open_site
from client.ingest.reading import to_units
from client.operator.forget import forget_patient
from client.readers import read
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import fingerprint, preprocess_record
from ecgshared.errors import RunError


def rows(n):
    return [
        {
            "file": f"ward/exam-{i:05d}",
            "patient_id": f"1907{i:04d}-XQ",
            "age": "6" + str(i % 10),
            "sex": "F",
            "outcome": "1",
        }
        for i in range(n)
    ]


def cache_of(settings, study):
    return settings.state / "cache" / fingerprint(study.input)


def reads(monkeypatch):
    seen = []

    def counted(path, *options):
        seen.append(path.stem)
        return read(path, *options)

    monkeypatch.setattr(client.ingest.reading, "read", counted)
    return seen


def test_cached_signals_are_the_preprocessed_recordings_to_a_microvolt(tmp_path):
    study = make_study()
    settings = make_hospital(tmp_path, rows(4))
    data = open_site(settings, study)
    for i in range(4):
        record = read(tmp_path / "records" / f"ward/exam-{i:05d}.hea")
        np.testing.assert_allclose(data.batch(np.array([i]))[0], preprocess_record(record, study.input), atol=0.00051)
    assert isinstance(data.signals, CachedSignals)
    assert data.signals.shape == (4, 12, 500)
    assert np.asarray(data.signals).dtype == np.int16


def test_only_what_is_new_or_changed_is_read_again(tmp_path, monkeypatch):
    study, settings = make_study(), make_hospital(tmp_path, rows(4))
    seen = reads(monkeypatch)
    before = open_site(settings, study).batch(np.array([2]))
    assert len(seen) == 4
    open_site(settings, study)
    assert len(seen) == 4
    path = tmp_path / "records" / "ward" / "exam-00002"
    write_recording(path, 77)
    os.utime(path.with_suffix(".hea"), ns=(1, 1))
    data = open_site(settings, study)
    assert seen[4:] == ["exam-00002"]
    assert not np.array_equal(data.batch(np.array([2])), before)
    np.testing.assert_allclose(data.batch(np.array([2]))[0], preprocess_record(read(path), study.input), atol=0.00051)
    monkeypatch.setattr("client.dataset.opening.READING_VERSION", 99)
    monkeypatch.setattr(client.ingest.reading, "READING_VERSION", 99)
    open_site(settings, study)
    assert len(seen) == 9


def test_another_setting_is_another_cache(tmp_path):
    settings = make_hospital(tmp_path, rows(2))
    a = open_site(settings, make_study())
    b = open_site(settings, make_study(input=InputConfig(fs_hz=100, seconds=5, band_hz=(1, 30))))
    assert not np.array_equal(a.batch(np.arange(2)), b.batch(np.arange(2)))
    assert len(list((settings.state / "cache").iterdir())) == 2


def test_an_interrupted_reading_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(client.ingest.reading, "BATCH", 2)
    study, settings = make_study(), make_hospital(tmp_path, rows(6))

    def stop(done, total, text):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_site(settings, study, progress=stop)
    seen = reads(monkeypatch)
    data = open_site(settings, study)
    assert len(data) == 6
    assert sorted(seen) == ["exam-00004", "exam-00005"]


@pytest.mark.parametrize("checked_bytes", [0, 2**28], ids=["large", "small"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "index"])
def test_damage_is_found_and_mended(tmp_path, monkeypatch, damage, checked_bytes):
    monkeypatch.setattr(client.cache.signals, "ALWAYS_CHECKED_BYTES", checked_bytes)
    study, settings = make_study(), make_hospital(tmp_path, rows(4))
    before = open_site(settings, study).batch(np.arange(4))
    file = cache_of(settings, study) / "signals.i16"
    raw = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(raw[: len(raw) // 2 - 7])
    elif damage == "flipped":
        file.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    elif damage == "gone":
        file.unlink()
    else:
        (file.parent / "index.sqlite").write_bytes(b"no database at all" * 100)
    np.testing.assert_array_equal(open_site(settings, study).batch(np.arange(4)), before)


def test_signals_written_before_a_crash_but_not_indexed_do_no_harm(tmp_path):
    study, settings = make_study(), make_hospital(tmp_path, rows(3))
    before = open_site(settings, study).batch(np.arange(3))
    with (cache_of(settings, study) / "signals.i16").open("ab") as file:
        file.write(b"\x07" * 5000)
    np.testing.assert_array_equal(open_site(settings, study).batch(np.arange(3)), before)


def test_the_cache_names_nobody_and_is_its_owners_alone(tmp_path):
    study, settings = make_study(), make_hospital(tmp_path, rows(4))
    open_site(settings, study)
    folder = cache_of(settings, study)
    words = {"ward", "exam-", "1907", "-XQ", "outcome", "patient_id", str(tmp_path)}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"index.sqlite", "signals.i16"}
    for path in files:
        raw = path.read_bytes()
        assert [word for word in words if word.encode() in raw] == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (folder, folder.parent, settings.state):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_forgetting_overwrites_and_keeps_out(tmp_path):
    study, settings = make_study(), make_hospital(tmp_path, rows(4))
    data = open_site(settings, study)
    theirs = np.ascontiguousarray(np.asarray(data.signals)[2]).tobytes()
    file = cache_of(settings, study) / "signals.i16"
    assert theirs in file.read_bytes()
    done = forget_patient(settings, "19070002-XQ")
    assert (done.ecgs, done.caches, done.known_before) == (1, 1, False)
    assert theirs not in file.read_bytes()
    assert theirs[:64] not in file.read_bytes()
    assert b"1907" not in (settings.state / "opt-out.txt").read_bytes()
    after = open_site(settings, study)
    assert len(after) == 3
    assert {reason: ecgs for reason, ecgs, _ in after.flow}["opted out"] == 3
    assert theirs not in file.read_bytes()
    again = forget_patient(settings, " 19070002-XQ ")
    assert (again.ecgs, again.known_before) == (0, True)


def test_who_opts_out_on_the_sites_list_leaves_the_cache_too(tmp_path):
    study, settings = make_study(), make_hospital(tmp_path, rows(3), exclude="out.txt")
    (tmp_path / "out.txt").write_text("")
    theirs = np.ascontiguousarray(np.asarray(open_site(settings, study).signals)[1]).tobytes()
    (tmp_path / "out.txt").write_text("19070001-XQ\n")
    assert len(open_site(settings, study)) == 2
    assert theirs not in (cache_of(settings, study) / "signals.i16").read_bytes()


def test_a_disk_too_small_is_told_before_anything_is_read(tmp_path, monkeypatch):
    study, settings = make_study(), make_hospital(tmp_path, rows(3))
    seen = reads(monkeypatch)

    class Usage:
        free = 1000

    monkeypatch.setattr(client.cache.signals.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(RunError, match="for 3 ECGs"):
        open_site(settings, study)
    assert seen == []


def test_several_processes_read_the_same(tmp_path, monkeypatch):
    study = make_study()
    one = open_site(make_hospital(tmp_path / "one", rows(6)), study)
    monkeypatch.setattr(client.ingest.reading, "PARALLEL_FROM", 2)
    monkeypatch.setattr(client.ingest.reading, "BATCH", 3)
    two = open_site(make_hospital(tmp_path / "two", rows(6), compute={"threads": 2}), study)
    np.testing.assert_array_equal(one.batch(np.arange(6)), two.batch(np.arange(6)))


def test_microvolts_hold_at_their_limits():
    units = to_units(np.float32([[0.0004, -1.2345, 50, -50, np.nan]]))
    np.testing.assert_array_equal(units, [[0, -1234, 32767, -32767, 0]])


def test_a_signal_of_another_shape_is_refused(tmp_path):
    entry = Entry(b"r", b"p", 1, 1, 1, STORED, signal=np.zeros((12, 7), np.int16))
    with opened(tmp_path / "cache" / "x", 8) as cache, pytest.raises(RunError, match="wrong shape"):
        cache.store([entry])


def test_ids_that_a_spreadsheet_turned_into_fractions_are_the_same():
    assert normal_id(" 15709.0 ") == normal_id("15709") == "15709"
    assert normal_id("1.5") == "1.5"
