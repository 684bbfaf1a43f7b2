"""Every signal format of WFDB against the wfdb library: bytes of any kind, several samples a frame, skew, FLAC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb

from client.readers import read
from client.readers import wfdb as reader
from client.readers._wfdb_header import parse_header
from client.readers._wfdb_samples import FORMATS, INVALID, read_digital
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import EcgReadError

SAMPLES = 701  # no multiple of the groups of 2 and 3 that packed formats make


def record(folder: Path, fmt: str, data: bytes, *, suffix: str = "", samples: int = SAMPLES) -> Path:
    """Write a header of twelve leads over ``data``."""
    (folder / "r.dat").write_bytes(data)
    lines = [f"r {len(LEADS)} 500 {samples}"]
    lines += [f"r.dat {fmt}{suffix} 200(0)/mV 12 0 7 0 0 {lead}" for lead in LEADS]
    (folder / "r.hea").write_text("\n".join(lines) + "\n")
    return folder / "r.hea"


def ours(header: Path) -> list[np.ndarray]:
    return [d.samples for d in read_digital(parse_header(header.read_text(), header), header)[0]]


def theirs(header: Path, **options: object) -> list[np.ndarray]:
    found = wfdb.rdrecord(str(header.with_suffix("")), physical=False, smooth_frames=False, return_res=32, **options)
    return list(found.e_d_signal)


def bytes_for(fmt: str, values: int) -> int:
    return int(np.ceil(values * FORMATS[fmt].bytes_per_value / 4) * 4 + 4)


@pytest.mark.parametrize("fmt", sorted(set(FORMATS) - {"61"}))
@pytest.mark.parametrize("suffix", ["", "x2", "+24"])
def test_bytes_of_any_kind_equal_the_library(tmp_path: Path, fmt: str, suffix: str) -> None:
    """Format 311 leaves two bits of each word unused; the library reads one of them, so they are 0 here."""
    size = 24 + bytes_for(fmt, 24 * SAMPLES)
    data = np.random.default_rng(int(fmt)).integers(0, 256, size, dtype=np.uint8)
    if fmt == "311":
        data[(24 if suffix == "+24" else 0) + 3 :: 4] &= 0x3F
    header = record(tmp_path, fmt, data.tobytes(), suffix=suffix)
    for mine, oracle in zip(ours(header), theirs(header), strict=True):
        np.testing.assert_array_equal(mine, oracle)


@pytest.mark.parametrize("suffix", ["", "x2", "+24"])
def test_format_61_is_16_with_its_bytes_exchanged(tmp_path: Path, suffix: str) -> None:
    """By its definition; the library (4.3.1) cannot read it."""
    words = np.random.default_rng(61).integers(-(1 << 15), 1 << 15, 12 + 24 * SAMPLES).astype("<i2")
    expected = theirs(record(tmp_path, "16", words.tobytes(), suffix=suffix))
    header = record(tmp_path, "61", words.byteswap().tobytes(), suffix=suffix)
    for mine, oracle in zip(ours(header), expected, strict=True):
        np.testing.assert_array_equal(mine, oracle)


def test_unused_bits_of_format_311_are_not_read(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, bytes_for("311", 12 * SAMPLES), dtype=np.uint8)
    plain = ours(record(tmp_path, "311", data.tobytes()))
    data[3::4] ^= 0xC0
    for one, other in zip(plain, ours(record(tmp_path, "311", data.tobytes())), strict=True):
        np.testing.assert_array_equal(one, other)
    words = data.view("<u4")  # the definition: three numbers of ten bits from the lowest on
    by_hand = np.stack([(words >> shift) & 0x3FF for shift in (0, 10, 20)], axis=1).ravel()[: 12 * SAMPLES]
    signed = ((by_hand.astype(np.int64) ^ 512) - 512).reshape(SAMPLES, 12)
    np.testing.assert_array_equal(np.stack(plain, axis=1), signed)


@pytest.mark.parametrize("fmt", ["16", "212", "80"])
def test_skew_moves_signals_to_their_place(tmp_path: Path, fmt: str) -> None:
    """Late signals end in "no sample", as the library has it."""
    data = np.random.default_rng(3).integers(0, 256, bytes_for(fmt, 12 * SAMPLES), dtype=np.uint8)
    header = record(tmp_path, fmt, data.tobytes())
    lines = header.read_text().splitlines()
    lines[3] = lines[3].replace(f" {fmt} ", f" {fmt}:5 ")
    header.write_text("\n".join(lines))
    for mine, oracle in zip(ours(header), theirs(header), strict=True):
        np.testing.assert_array_equal(mine, oracle)
    assert (ours(header)[2][-5:] == INVALID[fmt]).all()
    assert np.isnan(read(header).p_signal[2, -5:]).all()


@pytest.mark.parametrize("fmt", ["508", "516", "524"])
def test_flac(tmp_path: Path, fmt: str) -> None:
    bits = int(fmt) - 500
    digital = np.random.default_rng(5).integers(-(1 << (bits - 1)) + 1, 1 << (bits - 1), (SAMPLES, 12))
    wfdb.wrsamp(
        "r", fs=500, units=["mV"] * 12, sig_name=list(LEADS), d_signal=digital, fmt=[fmt] * 12,
        adc_gain=[200.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    header = tmp_path / "r.hea"
    np.testing.assert_array_equal(np.stack(ours(header), axis=1), digital)
    found = read(header)
    assert found.findings == ()
    np.testing.assert_allclose(found.p_signal, digital.T / 200, rtol=2e-7)
    stream = tmp_path / header.read_text().splitlines()[1].split()[0]
    stream.write_bytes(stream.read_bytes()[:900])
    with pytest.raises(EcgReadError, match="FLAC"):
        read(header)


def cinc(folder: Path, *, mat_format: str, named: str = "A1.mat", compress: bool = False) -> tuple[Path, np.ndarray]:
    digital = np.random.default_rng(8).integers(-900, 900, (12, 2000)).astype(np.int16)
    scipy.io.savemat(folder / "A1.mat", {"val": digital}, format=mat_format, do_compression=compress)
    lines = ["A1 12 500 2000 12-May-2020 12:33:59"]
    for lead, row in zip(LEADS, digital, strict=True):
        lines.append(f"{named} 16+24 1000/mV 16 0 {row[0]} {int(row.sum(dtype=np.int64)) & 0xFFFF} 0 {lead}")
    (folder / "A1.hea").write_text("\n".join([*lines, "#Age: 74", "#Sex: Male"]) + "\n")
    return folder / "A1.hea", digital


@pytest.mark.parametrize(("mat_format", "compress"), [("4", False), ("5", False), ("5", True)])
def test_the_challenge_form_in_both_matlab_formats(tmp_path: Path, mat_format: str, compress: bool) -> None:
    header, digital = cinc(tmp_path, mat_format=mat_format, compress=compress)
    found = read(header)
    np.testing.assert_allclose(found.p_signal, digital / 1000, rtol=2e-7)
    assert (found.findings, found.sex, found.age_years, found.fs) == ((), "M", 74, 500)


def test_a_signal_file_named_without_its_ending(tmp_path: Path) -> None:
    header, digital = cinc(tmp_path, mat_format="4", named="A1")
    for path in (header, header.with_suffix(""), header.with_suffix(".mat")):
        np.testing.assert_allclose(read(path).p_signal, digital / 1000, rtol=2e-7)
    (tmp_path / "A1.dat").write_bytes(b"\0" * 48_024)
    with pytest.raises(EcgReadError, match="both are there"):
        read(header)


def test_a_pulse_at_the_end_is_no_signal(tmp_path: Path) -> None:
    """As in every other reader: a Philips export carries its calibration along."""
    pulse = np.zeros(500)
    pulse[200:400] = 200
    digital = np.random.default_rng(2).integers(-90, 90, (5500, 12))
    digital[-500:] = pulse[:, None]
    wfdb.wrsamp(
        "r", fs=500, units=["mV"] * 12, sig_name=list(LEADS), d_signal=digital, fmt=["16"] * 12,
        adc_gain=[200.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    assert read(tmp_path / "r.hea").p_signal.shape == (12, 5000)


def test_one_file_in_two_formats_is_named(tmp_path: Path) -> None:
    header = record(tmp_path, "16", b"\0" * 24 * SAMPLES)
    header.write_text(header.read_text().replace("r.dat 16", "r.dat 24", 1))
    with pytest.raises(EcgReadError, match="several formats"):
        reader.read(header)
