"""`ecgfed site ingest`: cut short anywhere it makes the same cache; its ledger tells every file; it names nobody."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hospital import make_hospital, make_study, write_recording
from typer.testing import CliRunner

import client.ingest.reading
from client.cohort.recordings import find_recordings, match, named, walk
from client.dataset.opening import open_site
from client.ingest.register import opened_ledger
from client.ingest.run import ingest_site
from client.operator.cli import app
from client.operator.forget import forget_patient
from client.readers import read
from client.site.keys import load_keys
from client.site.settings import QualityPolicy, RecordsConfig
from ecgshared.ecg.features import NAMES
from ecgshared.ecg.preprocess import fingerprint
from ecgshared.ecg.reversals import exchange
from ecgshared.errors import CohortError, ConfigError

ROOT = Path(__file__).resolve().parents[3]


def rows(n):
    return [
        {"file": f"ward/exam-{i:05d}", "patient_id": f"1907{i:04d}-XQ", "age": "61", "sex": "F", "outcome": "1"}
        for i in range(n)
    ]


def cache_of(settings, study=None):
    return settings.state / "cache" / fingerprint((study or make_study()).input)


def outcomes(settings):
    with opened_ledger(settings.state) as ledger:
        return {line.path: (line.outcome, line.codes) for line in ledger.lines()}


def entries(settings):
    with sqlite3.connect(cache_of(settings) / "index.sqlite") as database:
        found = database.execute("SELECT * FROM entry ORDER BY record").fetchall()
    database.close()
    return found


def reads(monkeypatch):
    seen = []

    def counted(path, *options):
        seen.append(path.stem)
        return read(path, *options)

    monkeypatch.setattr(client.ingest.reading, "read", counted)
    return seen


def test_every_file_is_told_and_nothing_is_read_twice(tmp_path, monkeypatch):
    settings = make_hospital(tmp_path, rows(6))
    records = tmp_path / "records"
    (records / "ward/exam-00001.hea").write_text("nonsense for 'Zweifel^Jon'\n")
    (records / "ward/exam-00002.hea").unlink()
    write_recording(records / "ward/stray", 99)
    write_recording(records / "ward/exam-00003", 3, seconds=2.0)
    seen = reads(monkeypatch)
    done = ingest_site(settings, [make_study()])
    assert (done.read, done.kept) == (5, 0)
    told = {path.removeprefix("ward/"): outcome for path, (outcome, _) in outcomes(settings).items()}
    assert told.pop("exam-00003.hea") == "refused"
    assert told.pop("exam-00001.hea") == "unreadable"
    assert told.pop("exam-00002.hea") == "missing"
    assert told.pop("stray.hea") == "without a row"
    assert set(told.values()) <= {"read", "flagged"}
    assert len(told) == 3
    with opened_ledger(settings.state) as ledger:
        ((why, files),) = ledger.reasons(5)
    assert files == 1
    assert why
    assert "Zweifel" not in why
    again = ingest_site(settings, [make_study()])
    assert (again.read, again.kept) == (0, 5)
    assert again.outcomes == done.outcomes
    assert len(seen) == 5
    assert len(open_site(settings, make_study())) == 3
    assert len(seen) == 5


def test_what_open_site_read_before_is_in_the_ledger_too_and_what_is_gone_is_not(tmp_path, monkeypatch):
    settings = make_hospital(tmp_path, rows(4))
    (tmp_path / "records/ward/exam-00001.hea").write_text("nonsense\n")
    open_site(settings, make_study())
    seen = reads(monkeypatch)
    ingest_site(settings, [make_study()])
    # Only why it cannot be read had to be learnt again.
    assert seen == ["exam-00001"]
    assert len(outcomes(settings)) == 4
    (tmp_path / "records/ward/exam-00003.hea").unlink()
    (tmp_path / "records/ward/exam-00003.dat").unlink()
    ingest_site(settings, [make_study()])
    assert outcomes(settings)["ward/exam-00003.hea"][0] == "missing"


def test_cut_short_by_ctrl_c_it_goes_on_to_the_same_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(client.ingest.reading, "BATCH", 4)
    monkeypatch.setattr("client.ingest.run.BATCH", 4)
    whole, cut = (make_hospital(tmp_path / name, rows(18)) for name in ("whole", "cut"))
    load_keys(whole)
    (cut.state / "keys").mkdir(parents=True, mode=0o700)
    (cut.state / "keys/site.key").write_bytes((whole.state / "keys/site.key").read_bytes())
    (cut.state / "keys/site.key").chmod(0o600)
    for path in (cut.records.folder).rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    for path in (whole.records.folder).rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    ingest_site(whole, [make_study()])
    seen = reads(monkeypatch)

    def stop_at(place):
        def stop(done, total, text):
            if done == place:
                raise KeyboardInterrupt

        return stop

    for place in (4, 12):
        with pytest.raises(KeyboardInterrupt):
            ingest_site(cut, [make_study()], progress=stop_at(place))
    ingest_site(cut, [make_study()])
    assert sorted(seen) == sorted(row["file"].removeprefix("ward/") for row in rows(18))
    assert (cache_of(cut) / "signals.i16").read_bytes() == (cache_of(whole) / "signals.i16").read_bytes()
    assert entries(cut) == entries(whole)
    assert outcomes(cut) == outcomes(whole)


_CHILD = """
import sys; sys.path.insert(0, {here!r})
import client.ingest.reading, client.ingest.run
from pathlib import Path
from client.site.settings import load_site
from hospital import make_study
client.ingest.reading.BATCH = client.ingest.run.BATCH = 5
client.ingest.reading.PARALLEL_FROM = 10
if __name__ == "__main__":
    client.ingest.run.ingest_site(load_site(Path({site!r})), [make_study()])
"""


def test_killed_it_leaves_no_worker_and_goes_on_to_the_same_cache(tmp_path):
    n = 120
    settings = make_hospital(tmp_path / "cut", rows(n), compute={"threads": 2})
    child = tmp_path / "child.py"
    child.write_text(_CHILD.format(here=str(ROOT / "tests"), site=str(tmp_path / "cut/site.yaml")))
    index = cache_of(settings) / "index.sqlite"
    process = subprocess.Popen([sys.executable, str(child)], cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        stored = 0
        while stored < 20 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
            if index.exists():
                database = sqlite3.connect(f"file:{index}?mode=ro", uri=True)
                try:
                    stored = database.execute("SELECT count(*) FROM entry").fetchone()[0]
                except sqlite3.OperationalError:
                    stored = 0
                finally:
                    database.close()
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
    while any_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any_alive(process.pid)
    done = ingest_site(settings, [make_study()])
    assert done.read + done.kept == n
    assert done.kept >= 20
    whole = make_hospital(tmp_path / "whole", rows(n), compute={"threads": 1})
    ingest_site(whole, [make_study()])
    ours, theirs = ((cache_of(s) / "signals.i16").read_bytes() for s in (settings, whole))
    assert ours == theirs
    assert sum(row[6] is not None for row in entries(settings)) == len(entries(whole)) == n
    assert len(outcomes(settings)) == n


def any_alive(session: int) -> bool:
    """Whether a process of that session lives on."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def test_repair_is_cached_flagged_and_taken_back_with_the_policy(tmp_path):
    from simulations.physics.heart import dipole, reference_heart, regular_rhythm
    from simulations.physics.torso import project, reference_anatomy, reference_electrodes, twelve

    settings = make_hospital(tmp_path, rows(1))
    waves = dipole(reference_heart(), regular_rhythm(np.float32([70]), 10.0), fs=250, seconds=10.0)
    right = twelve(project(waves, reference_anatomy(), reference_electrodes()))[0]
    right = np.rint(1000 * right) / 1000
    right[[2, 3, 4, 5]] = twelve(right[None, [0, 1, 6, 7, 8, 9, 10, 11]].astype(np.float32))[0][[2, 3, 4, 5]]
    path = tmp_path / "records/ward/exam-00000"

    def write(signal: np.ndarray) -> None:
        samples = np.rint(2000 * signal).astype("<i2")
        lines = ["exam-00000 12 250 2500"]
        names = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
        for lead, row in zip(names, samples, strict=True):
            checksum = int(row.astype(np.int64).sum().astype(np.int16))
            lines.append(f"exam-00000.dat 16 2000/mV 16 0 {row[0]} {checksum} 0 {lead}")
        path.with_suffix(".dat").write_bytes(samples.T.tobytes())
        path.with_suffix(".hea").write_text("\n".join(lines) + "\n")

    write(right)
    study = make_study()
    in_order = open_site(settings, study).batch(np.arange(1))
    write(exchange(right.astype(np.float32), "ra-la"))
    os.utime(path.with_suffix(".hea"), ns=(5, 5))
    repairing = settings.model_copy(update={"quality": QualityPolicy(actions={"reversed-ra-la": "repair"})})
    ingest_site(repairing, [study])
    assert outcomes(repairing) == {"ward/exam-00000.hea": ("repaired", "repaired reversed-ra-la")}
    np.testing.assert_allclose(open_site(repairing, study).batch(np.arange(1)), in_order, atol=0.0011)
    assert open_site(repairing, study).descriptions["findings"] == {"reversed-ra-la": 1, "repaired": 1}
    assert np.abs(open_site(settings, study).batch(np.arange(1)) - in_order).max() > 0.2
    ingest_site(settings, [study])
    assert outcomes(settings) == {"ward/exam-00000.hea": ("flagged", "reversed-ra-la")}


def test_features_are_measured_once_and_found_again(tmp_path, monkeypatch):
    settings = make_hospital(tmp_path, rows(3))
    ingest_site(settings, [make_study()])
    seen = reads(monkeypatch)
    ingest_site(settings, [make_study()], features=True)
    ingest_site(settings, [make_study()], features=True)
    assert len(seen) == 3
    keys = load_keys(settings)
    with opened_ledger(settings.state) as ledger:
        found = ledger.features([keys.record(f"ward/exam-{i:05d}.hea") for i in range(3)] + [b"nobody"])
    assert found.shape == (4, len(NAMES))
    rate = found[:3, NAMES.index("rate_bpm")]
    assert ((rate > 60) & (rate < 85)).all()
    assert np.isnan(found[3]).all()


def test_the_forgotten_leave_the_ledger(tmp_path):
    settings = make_hospital(tmp_path, rows(3))
    ingest_site(settings, [make_study()], features=True)
    forget_patient(settings, "19070001-XQ")
    assert "ward/exam-00001.hea" not in outcomes(settings)
    ingest_site(settings, [make_study()], features=True)
    assert outcomes(settings)["ward/exam-00001.hea"] == ("not needed", "")
    with opened_ledger(settings.state) as ledger:
        assert np.isnan(ledger.features([load_keys(settings).record("ward/exam-00001.hea")])).all()


def test_nobody_is_named_in_cache_ledger_columns_report_or_logs(tmp_path, capfd):
    n = 4
    settings = make_hospital(tmp_path, rows(n))
    for i in range(n):
        header = tmp_path / f"records/ward/exam-{i:05d}.hea"
        header.write_text(
            header.read_text() + "# Name: Zweifel^Jolanda\n# Age: 61\n# MRN: 4711-0815\n# DOB: 1931-02-03\n"
        )
    (tmp_path / "records/ward/exam-00003.hea").write_text("Zweifel^Jolanda 4711-0815 1931-02-03\n")
    done = ingest_site(settings, [make_study()], features=True)
    words = [b"Zweifel", b"Jolanda", b"4711-0815", b"1931-02-03", b"1907", b"-XQ"]
    files = [path for path in settings.state.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"ledger.sqlite", "quality.html", "index.sqlite", "signals.i16"}
    for path in files:
        raw = path.read_bytes()
        assert [word for word in words if word in raw] == [], path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert ("exam-" in raw.decode("latin-1")) == (path.parent.name == "ingest"), path
    said = capfd.readouterr()
    assert [word for word in words if word.decode() in said.out + said.err + json.dumps(done.outcomes)] == []


def test_report_shows_counts_and_sheets(tmp_path):
    settings = make_hospital(tmp_path, rows(3))
    write_recording(tmp_path / "records/ward/exam-00001", 1, seconds=2.5)
    done = ingest_site(settings, [make_study()])
    page = Path(done.report).read_text()
    assert "too-short" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert "ward/exam-00001.hea" in page


def test_command(tmp_path):
    settings = make_hospital(tmp_path, rows(2), studies=["study.yaml"])
    study = make_study().model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    result = CliRunner().invoke(app, ["ingest", str(tmp_path / "site.yaml")])
    assert result.exit_code == 0, result.output
    assert "2 recording(s) read now, 0 read before" in result.output
    assert len(outcomes(settings)) == 2
    with pytest.raises(ConfigError, match="no study"):
        ingest_site(settings, [])


PATTERNS = ["**/*.hea", "*.hea", "ward/*.hea", "*/*", "**/w*/**/*.hea", "ward/**/*", "?ard/exam-0000[01].hea", "**/*"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_walk_finds_what_glob_finds(tmp_path, pattern):
    for name in ("a.hea", "ward/exam-00000.hea", "ward/exam-00001.dat", "ward/x/y/b.hea", "other/.c.hea", "ward/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path / "ward")
    (tmp_path / "linked.hea").symlink_to(tmp_path / "a.hea")
    expected = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file()}
    found = list(walk(RecordsConfig(folder=tmp_path, pattern=pattern)))
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("pattern", ["", "/etc/*", "../*.hea", "x/**y/*.hea", "**"])
def test_what_is_no_pattern_is_refused(tmp_path, pattern):
    with pytest.raises(CohortError, match="no pattern"):
        walk(RecordsConfig(folder=tmp_path, pattern=pattern))


def test_names_without_a_listing_are_those_a_listing_gives(tmp_path):
    for name in ("a.hea", "ward/b.hea", "ward/c.x.hea", "ward/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    config = RecordsConfig(folder=tmp_path)
    wanted = ["a", "a.hea", "ward/b", "ward/c.x", "", "../a", "ward/../a", "/a"]
    direct = named(config, wanted)
    assert direct is not None
    listed = find_recordings(config)
    matches = match(listed, wanted)
    names = [direct[0].paths[i] if i >= 0 else None for i in direct[1].file]
    assert names == [listed.paths[i] if i >= 0 else None for i in matches.file]
    assert named(RecordsConfig(folder=tmp_path, pattern="**/*"), wanted) is None


def many_files(folder: Path, n: int) -> None:
    for part in range(0, n, 1000):
        below = folder / f"{part:07d}"
        below.mkdir(parents=True)
        for i in range(part, min(part + 1000, n)):
            os.close(os.open(below / f"e{i:07d}.hea", os.O_CREAT | os.O_WRONLY))


@pytest.mark.parametrize("n", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_the_first_record_comes_before_the_folder_is_listed(tmp_path, monkeypatch, capsys, n):
    settings = make_hospital(tmp_path, rows(3))
    many_files(tmp_path / "records" / "archive", n)
    listed = 0
    scandir = os.scandir

    def counted(path, *options):
        nonlocal listed
        listed += 1
        return scandir(path)

    monkeypatch.setattr("client.cohort.recordings.os.scandir", counted)
    start, first = time.perf_counter(), []

    def progress(done, total, text):
        if text == "reading recordings" and not first:
            first.append((listed, time.perf_counter() - start))

    done = ingest_site(settings, [make_study()], progress=progress)
    assert first[0][0] == 0
    assert done.outcomes["without a row"] == n
    listed, begun = 0, time.perf_counter()
    next(iter(walk(settings.records)))
    one = time.perf_counter() - begun
    assert listed <= 3
    with capsys.disabled():
        print(f"\n{n:,} files: first record out after {first[0][1]:.2f} s, first name listed after {1000 * one:.1f} ms")


def test_what_stands_out_among_its_devices_is_told_in_ledger_report_and_summary(tmp_path):
    settings = make_hospital(tmp_path, rows(24))
    large = tmp_path / "records/ward/exam-00007"
    samples = 4 * np.frombuffer(large.with_suffix(".dat").read_bytes(), dtype="<i2").astype(np.int64)
    large.with_suffix(".dat").write_bytes(samples.astype("<i2").tobytes())
    header = large.with_suffix(".hea").read_text().splitlines()
    by_lead = samples.reshape(-1, 12)
    for i in range(12):
        fields = header[1 + i].split()
        fields[5:7] = str(by_lead[0, i]), str(int(by_lead[:, i].sum().astype(np.int16)))
        header[1 + i] = " ".join(fields)
    large.with_suffix(".hea").write_text("\n".join(header) + "\n")
    done = ingest_site(settings, [make_study()])
    assert done.stand_out == 1
    (line,) = done.compared
    assert "1 x amplitude-outlier; e.g. ward/exam-00007.hea" in line
    outcome, codes = outcomes(settings)["ward/exam-00007.hea"]
    assert outcome == "flagged"
    assert "amplitude-outlier" in codes.split()
    assert "Unlike the others of their device" in Path(done.report).read_text()
    # Once it is as large as the others, nothing is left of it.
    write_recording(large, 7)
    again = ingest_site(settings, [make_study()])
    assert (again.stand_out, again.compared) == (0, [])
    assert "amplitude-outlier" not in outcomes(settings)["ward/exam-00007.hea"][1]
