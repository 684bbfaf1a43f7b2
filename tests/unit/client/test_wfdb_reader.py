"""WFDB against the wfdb library, a written record, and bytes nobody should have to trust."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.readers import read
from client.site.settings import QualityPolicy
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.quality import CODES, assess, decide
from ecgshared.errors import EcgReadError

ANY_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Written:
    """A record as written: folder, millivolts by standard lead, header text."""

    header: Path
    millivolts: dict[str, np.ndarray]


def limbs(rng: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
    """Twelve leads in whole microvolts that obey Einthoven and Goldberger to half a microvolt."""
    t = np.arange(samples)
    beat = 900 * np.exp(-0.5 * ((t % 400 - 200) / 6.0) ** 2)
    leads = {
        name: np.rint(beat * scale + rng.normal(0, 20, samples))
        for name, scale in zip(("I", "II", *LEADS[6:]), rng.uniform(0.4, 1.5, 8), strict=True)
    }
    i, ii = leads["I"], leads["II"]
    leads |= {"III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}
    return {name: np.rint(values).astype(np.int16) for name, values in leads.items()}


def write(
    folder: Path,
    leads: dict[str, np.ndarray],
    *,
    spelling: dict[str, str] | None = None,
    gain: str = "1000(0)/mV",
    fs: str = "500",
    comments: str = "# Age: 56\n# Sex: Male\n",
    record_tail: str = "",
) -> Path:
    """Write one format-16 record by hand, header fields and checksums included."""
    spelling = spelling or {}
    block = np.stack(list(leads.values()), axis=1).astype("<i2")
    block.tofile(folder / "r.dat")
    lines = [f"r {len(leads)} {fs} {len(block)}{record_tail}"]
    for j, name in enumerate(leads):
        checksum = int(block[:, j].sum(dtype=np.int64)) & 0xFFFF
        lines.append(f"r.dat 16 {gain} 16 0 {block[0, j]} {checksum} 0 {spelling.get(name, name)}")
    header = folder / "r.hea"
    header.write_text("\n".join(lines) + "\n" + comments)
    return header


def codes(path: Path) -> set[str]:
    return {finding.code for finding in assess(read(path))}


# --- oracles -----------------------------------------------------------------------------------------------


def test_every_real_record_reads_and_few_are_refused(shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data / "records.csv").read_text().splitlines()))
    policy, refused, spiked = QualityPolicy(), [], set()
    for row in rows:
        record = read(shared_data / row["file"])
        assert (record.fs, record.p_signal.shape) == (float(row["fs"]), (12, int(row["n"])))
        findings = assess(record)
        if row["site"].startswith(("code15", "samitrop", "ningbo", "chapman")):
            assert (record.sex, record.age_years) == (row["sex"], float(row["age"]) if row["age"] else None)
        if decide(findings, policy.actions, policy.default) == "refuse":
            refused.append(row["file"])
        flat = {f.lead for f in findings if f.code == "flat-lead"}
        assert len(flat) >= int(row["flat_leads"])
        if np.abs(record.p_signal).max() > 20:
            assert any(f.code == "spikes" for f in findings)
            spiked.add(row["file"])
    assert len(rows) == 1093
    assert len(rows) - len(refused) >= 1060, refused
    assert len(spiked) == 13


def test_samples_equal_the_wfdb_library_on_real_records(shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data / "records.csv").read_text().splitlines()))
    chosen = rows[::40] + [row for row in rows if row["site"] in ("ningbo", "chapman")][::8]
    for row in chosen:
        oracle = wfdb.rdrecord(str(shared_data / row["file"]))
        names = [name.upper() for name in oracle.sig_name]
        expected = oracle.p_signal[:, [names.index(lead.upper()) for lead in LEADS]].T
        record = read(shared_data / f"{row['file']}.hea")
        np.testing.assert_allclose(record.p_signal, expected, rtol=2e-7, atol=1e-9)


def test_edge_cases_are_caught(shared_data: Path) -> None:
    folder = shared_data / "code15" / "edge_cases"
    assert "all-flat" in codes(folder / "9190_all_data_is_zero.hea")
    assert "fs-contradicts-length" in codes(folder / "9190_low_sample_rate.hea")


@pytest.mark.parametrize("fmt", ["16", "24", "32", "80", "212"])
def test_other_formats_equal_what_wfdb_wrote(tmp_path: Path, fmt: str, rng: np.random.Generator) -> None:
    leads = limbs(rng, 2500)
    shrink = 16 if fmt == "80" else 1  # eight bits hold no more
    digital = np.stack([np.clip(leads[name] // shrink, -127, 127) if fmt == "80" else leads[name] for name in LEADS])
    gain = 1000.0 / shrink
    wfdb.wrsamp(
        "r", fs=250, units=["mV"] * 12, sig_name=list(LEADS), d_signal=digital.T.astype(np.int64), fmt=[fmt] * 12,
        adc_gain=[gain] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    record = read(tmp_path / "r")
    np.testing.assert_allclose(record.p_signal, digital / gain, rtol=2e-7)
    assert record.fs == 250
    assert not {f.code for f in record.findings} & {"checksum", "truncated", "initial-value"}


@given(data=st.data())
@ANY_FOLDER
def test_round_trip_in_any_order_and_spelling(tmp_path: Path, data: st.DataObject) -> None:
    full = limbs(np.random.default_rng(data.draw(st.integers(0, 2**16))), 1600)
    dropped = data.draw(st.sets(st.sampled_from(["III", "aVR", "aVL", "aVF"])))
    order = data.draw(st.permutations([lead for lead in LEADS if lead not in dropped]))
    styles = [str, str.upper, str.lower, lambda s: f"Lead {s}", lambda s: f"MDC_ECG_LEAD_{s}"]
    spelling = {lead: data.draw(st.sampled_from(styles))(lead) for lead in order}
    header = write(tmp_path, {lead: full[lead] for lead in order}, spelling=spelling)
    record = read(header)
    expected = np.stack([full[lead] for lead in LEADS]) / 1000
    np.testing.assert_allclose(record.p_signal, expected, atol=0.0011)
    kept = [LEADS.index(lead) for lead in order]
    np.testing.assert_allclose(record.p_signal[kept], expected[kept], rtol=2e-7)
    assert ({f.code for f in record.findings} == {"derived-lead"}) == bool(dropped)


# --- faults the library reads without a word -----------------------------------------------------------------


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def header(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write(tmp_path, limbs(rng, 5000))


def test_a_flipped_byte_is_named_by_lead(header: Path) -> None:
    dat = header.with_suffix(".dat")
    data = bytearray(dat.read_bytes())
    data[24 * 1000 + 2 * 3] ^= 0x10  # sample 1000 of the fourth signal
    dat.write_bytes(data)
    fourth = list(limbs(np.random.default_rng(0), 10))[3]
    assert [f.lead for f in read(header).findings if f.code == "checksum"] == [fourth]


def test_a_truncated_file_gives_what_is_there(header: Path) -> None:
    whole = read(header).p_signal
    dat = header.with_suffix(".dat")
    dat.write_bytes(dat.read_bytes()[: 24 * 3000 + 7])
    record = read(header)
    assert {f.code for f in record.findings} == {"truncated"}
    np.testing.assert_array_equal(record.p_signal, whole[:, :3000])
    dat.write_bytes(b"\0" * 23)
    with pytest.raises(EcgReadError, match="holds no samples"):
        read(header)


@pytest.mark.parametrize(
    ("gain", "factor"), [("1(0)/uV", 1.0), ("1e6/V", 1.0), ("200(0)/mV", 5.0), ("1000(100)", 1.0), ("1000/µV", 1e-3)]
)
def test_units_gain_and_baseline(tmp_path: Path, rng: np.random.Generator, gain: str, factor: float) -> None:
    leads = limbs(rng, 2000)
    record = read(write(tmp_path, leads, gain=gain))
    offset = 100 if "100)" in gain else 0
    np.testing.assert_allclose(record.p_signal[1], (leads["II"] - offset) / 1000 * factor, rtol=3e-7, atol=1e-12)


def test_invalid_samples_are_no_numbers(tmp_path: Path, rng: np.random.Generator) -> None:
    leads = limbs(rng, 2000)
    leads["V3"][100:110] = -32768
    leads["V5"][:] = -32768
    record = read(write(tmp_path, leads))
    assert np.flatnonzero(np.isnan(record.p_signal[LEADS.index("V3")])).tolist() == list(range(100, 110))
    assert {(f.code, f.lead) for f in assess(record)} >= {("not-finite", "V3"), ("missing-lead", "V5")}


@pytest.mark.parametrize(
    ("comments", "age", "capped", "sex"),
    [
        ("# Age: 300\n# Sex: 1\n", 90, True, None),
        ("#age: 47.5\n#Sex: 0\n", 47.5, False, None),
        ("# Age: 63 M\n", 63, False, "M"),
        ("# Age: 45 m\n", 45, False, "M"),
        ("#Age: 58 male\n", 58, False, "M"),
        ("# Age: 71, Sex: F\n", 71, False, "F"),
        ("# Sex: D\n# Age: 18M\n", None, False, None),
        ("# Age: NaN\n# Gender: Unknown\n", None, False, None),
        ("# <age>: 72 <sex>: F <diagnoses> none\n", 72, False, "F"),
        ("# Age: 6 months\n# SEX: female\n", 0.5, False, "F"),
        ("# 69 M 1085 1629 x1\n", 69, False, "M"),
        ("# Age: 290\n", None, False, None),
        ("", None, False, None),
    ],
)
def test_age_and_sex_in_their_spellings(
    tmp_path: Path, rng: np.random.Generator, comments: str, age: float | None, capped: bool, sex: str | None
) -> None:
    record = read(write(tmp_path, limbs(rng, 1600), comments=comments))
    assert (record.age_years, record.age_capped, record.sex) == (age, capped, sex)


@pytest.mark.parametrize(
    ("comments", "code"),
    [
        ("# Age: 290\n", "age-implausible"),
        ("# Age: 18M\n", "age-unclear"),
        ("# Age: sixty 3\n", "age-unclear"),
        ("# Sex: 1\n", "sex-unclear"),
        ("# Sex: qwerty\n", "sex-unclear"),
        ("# Age: NaN\n# Sex: Unknown\n", None),
    ],
)
def test_what_cannot_be_told_of_a_person_is_a_finding(
    tmp_path: Path, rng: np.random.Generator, comments: str, code: str | None
) -> None:
    record = read(write(tmp_path, limbs(rng, 1600), comments=comments))
    assert [finding.code for finding in record.findings] == ([] if code is None else [code])
    assert (record.age_years, record.sex) == (None, None)


@pytest.mark.parametrize("tail", [" 20:20:47 23/03/2021", " 23-Mar-2021 20:20:47"])
def test_recording_time(tmp_path: Path, rng: np.random.Generator, tail: str) -> None:
    record = read(write(tmp_path, limbs(rng, 1600), record_tail=tail))
    assert record.recorded_at == datetime(2021, 3, 23, 20, 20, 47)


def test_found_by_content_header_signal_file_and_bare_name(header: Path) -> None:
    expected = read(header).p_signal
    renamed = header.with_name("export.txt")
    renamed.write_bytes(header.read_bytes())
    for path in (header.with_suffix(".dat"), header.with_suffix(""), renamed):
        np.testing.assert_array_equal(read(path).p_signal, expected)


# --- bytes of any kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("r 12 500 5000", "r 12 500 1000000000", "more samples than"),
        ("r 12 500 5000", "r 12 -500 5000", "sampling rate"),
        ("r 12 500 5000", "r 0 500 5000", "number of signals"),
        ("r 12 500 5000", "r 13 500 5000", "fewer signal lines"),
        ("r 12 500 5000", "r/4 12 500 5000", "multi-segment"),
        ("r.dat 16", "../r.dat 16", "beside the header"),
        ("r.dat 16", "gone.dat 16", "is not there"),
        ("1000(0)/mV", "nan/mV", "gain"),
        ("1000(0)/mV", "1000(0)/mmHg", "unknown unit"),
        ("r.dat 16 ", "r.dat 999 ", "cannot decode"),
        ("mV 16 0 ", "mV 16-1 0 ", "resolution is not valid"),
        ("mV 16 0 ", f"mV 16 {'1' * 5000}x ", "ADC zero is not valid"),
    ],
)
def test_a_wrong_header_is_explained(header: Path, old: str, new: str, says: str) -> None:
    header.write_text(header.read_text().replace(old, new))
    with pytest.raises(EcgReadError, match=says) as caught:
        read(header)
    assert caught.value.where is not None
    assert caught.value.remedy is not None


def test_a_mat_of_another_kind_is_refused(header: Path) -> None:
    header.write_text(header.read_text().replace("r.dat 16 ", "r.mat 16+24 "))
    header.with_name("r.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200_000)
    with pytest.raises(EcgReadError, match="MATLAB v4"):
        read(header)


def test_paths_that_are_no_recording(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello\nworld\n")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "empty", tmp_path / "text", tmp_path / "nul\0"):
        with pytest.raises(EcgReadError) as caught:
            read(path)
        assert caught.value.remedy is not None


@given(data=st.data())
@ANY_FOLDER
def test_mutated_files_give_a_record_or_a_read_error(tmp_path: Path, data: st.DataObject) -> None:
    header = write(tmp_path, limbs(np.random.default_rng(1), 800))
    target = data.draw(st.sampled_from([header, header, header.with_suffix(".dat")]))
    content = bytearray(target.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, max(0, min(len(content), 900) - 1)))
        piece = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from([b"9" * 12, b"-1", b"x0", b"\n", b"1e308"])))
        content[place : place + data.draw(st.integers(0, 8))] = piece
    target.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        record = read(header)
    except EcgReadError as error:
        unexplained = error.where is None or error.remedy is None
    else:
        assert record.p_signal.shape[0] == 12
        assert record.p_signal.dtype == np.float32
        unexplained = any(finding.code not in CODES for finding in assess(record))
    assert not unexplained


@given(st.binary(max_size=400))
@ANY_FOLDER
def test_any_bytes_as_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.hea"
    path.write_bytes(content)
    with pytest.raises(EcgReadError):
        read(path)


# --- the command ---------------------------------------------------------------------------------------------


def run(*args: str) -> subprocess.CompletedProcess[str]:
    code = "from ecgshared.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, "read", *args], capture_output=True, text=True, check=False)


def test_command_prints_json_and_draws_to_scale(header: Path, tmp_path: Path) -> None:
    from matplotlib import image

    plot = tmp_path / "sheet.png"
    done = run(str(header), "--json", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["fs_hz"], facts["samples"], facts["sex"], facts["age_years"]) == (500.0, 5000, "M", 56.0)
    assert set(facts["leads"]) == set(LEADS)
    height, width, _ = image.imread(plot).shape
    assert width / 297 == pytest.approx(height / 210, rel=0.002)


def test_command_explains_garbage_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.hea").write_bytes(b"\xff\x00garbage")
    for path in (tmp_path, tmp_path / "absent.hea", tmp_path / "x.hea"):
        done = run(str(path))
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "to do:" in done.stderr
