"""SCP-ECG in every coding, from a writer of the standard: a lead comes back sample by sample."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import vendor_exports as exports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.readers import read
from client.readers._huffman import decode, default_table, parse_tables
from ecgshared.errors import EcgReadError

SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, content: bytes) -> Path:
    path = folder / "r"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("coding", ["plain", "default", "custom"])
@pytest.mark.parametrize("differences", [0, 1, 2])
def test_codings(tmp_path: Path, coding: str, differences: int) -> None:
    digital = exports.digital_ecg(2000, peak=2000)
    record = read(written(tmp_path, exports.scp(digital, coding=coding, differences=differences)))
    np.testing.assert_allclose(record.p_signal, digital * 2.5e-3, rtol=1e-6, atol=1e-6)
    assert not record.findings


@given(values=st.lists(st.integers(-32768, 32767), min_size=1, max_size=200))
@SOME
def test_default_table_codes_every_number(values: list[int]) -> None:
    np.testing.assert_array_equal(decode(exports._scp_code(values, "default"), [default_table()], len(values)), values)


@given(values=st.lists(st.integers(-32768, 32767), min_size=1, max_size=200))
@SOME
def test_tables_switch(values: list[int]) -> None:
    tables = parse_tables(custom_tables())
    assert tables is not None
    np.testing.assert_array_equal(decode(exports._scp_code(values, "custom"), tables, len(values)), values)


def custom_tables() -> bytes:
    content = exports.scp(exports.digital_ecg(600), coding="custom")
    at = content.index(b"\x02\x00\x04\x00\x01\x01\x01")
    return content[at:]


def test_default_table_is_a_complete_prefix_code() -> None:
    assert len(default_table()) == 19
    assert sum(2.0**-code.prefix_bits for code in default_table()) == 1
    prefixes = {f"{code.prefix:0{code.prefix_bits}b}" for code in default_table()}
    assert not any(a != b and b.startswith(a) for a in prefixes for b in prefixes)


@pytest.mark.parametrize("coding", ["plain", "default"])
@pytest.mark.parametrize("ratio", [1, 4])
def test_reference_beat_and_decimation(tmp_path: Path, coding: str, ratio: int) -> None:
    """The beat comes back exactly; between complexes, decimation keeps what a slow wave has."""
    n, fiducial = 2000, 100
    beat = np.rint(400 * np.exp(-0.5 * ((np.arange(200) - 99) / 5.0) ** 2) * np.linspace(-1, 1, 12)[:, None]).astype(
        int
    )
    at = (150, 700, 1250, 1990)
    slow = np.rint(40 * np.sin(np.arange(n) / 200) * np.linspace(1, 2, 12)[:, None]).astype(int)
    digital = slow.copy()
    for complex_at in at:
        first = complex_at - fiducial
        low, high = max(0, first), min(n, first + 200)
        digital[:, low:high] += beat[:, low - first : high - first]
    content = exports.scp(digital, coding=coding, beat=beat, beats_at=at, fiducial=fiducial, ratio=ratio)
    record = read(written(tmp_path, content))
    assert record.fs == 500
    assert record.p_signal.shape == (12, n)
    worst = np.abs(record.p_signal - digital * 2.5e-3).max()
    assert worst < (1e-5 if ratio == 1 else 1.6 * 2.5e-3)
    assert np.abs(digital * 2.5e-3).max() > 0.9


def test_leads_recorded_one_after_the_other(tmp_path: Path) -> None:
    digital = exports.digital_ecg(1000)
    starts = (1,) * 6 + (1001,) * 6
    record = read(written(tmp_path, exports.scp(digital, starts=starts)))
    assert record.p_signal.shape == (12, 2000)
    assert np.isnan(record.p_signal[:6, 1000:]).all()
    assert np.isnan(record.p_signal[6:, :1000]).all()
    np.testing.assert_allclose(record.p_signal[6:, 1000:], digital[6:] * 2.5e-3, rtol=1e-6, atol=1e-6)


def test_leads_counted_from_zero(tmp_path: Path) -> None:
    digital = exports.digital_ecg(1000)
    sections = {1: exports.scp_tags(), **body_sections(exports.scp(digital, coding="plain", differences=0))}
    sections[3] = sections[3].replace(struct.pack("<II", 1, 1000), struct.pack("<II", 0, 1000))
    record = read(written(tmp_path, exports.scp_file(sections)))
    np.testing.assert_allclose(record.p_signal, digital * 2.5e-3, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("section", "says"), [(b"SCPECG", "section 0"), (b"\x0c\x64\x01", "section 3")])
def test_a_wrong_crc_of_what_all_depends_on_is_an_error(tmp_path: Path, section: bytes, says: str) -> None:
    content = bytearray(exports.scp(exports.digital_ecg(600)))
    content[content.index(section) + 9] ^= 1
    with pytest.raises(EcgReadError, match="CRC is wrong") as caught:
        read(written(tmp_path, bytes(content)))
    assert says in str(caught.value)


def test_a_wrong_crc_elsewhere_is_a_finding(tmp_path: Path) -> None:
    content = bytearray(exports.scp(exports.digital_ecg(600), coding="plain", differences=0))
    content[-50] ^= 1
    record = read(written(tmp_path, bytes(content)))
    assert [f.code for f in record.findings] == ["checksum", "checksum"]
    assert "section 6" in record.findings[1].message


def test_a_cut_file_names_the_section(tmp_path: Path) -> None:
    content = exports.scp(exports.digital_ecg(600))
    with pytest.raises(EcgReadError, match="section 6") as caught:
        read(written(tmp_path, content[:-100]))
    assert caught.value.remedy


def test_a_beat_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    digital = exports.digital_ecg(600)
    content = exports.scp(digital, beat=digital[:, :200], beats_at=(100, 300))
    at = content.index(b"SCPECG") + 6 + 5 * 10
    without = bytearray(content)
    without[at : at + 10] = bytes(10)  # the pointer of section 5
    without[6:8] = b"\0\0"  # no CRC of section 0
    with pytest.raises(EcgReadError, match="reference beat"):
        read(written(tmp_path, bytes(without)))


def test_age_in_its_units(tmp_path: Path) -> None:
    digital = exports.digital_ecg(600)
    for value, years in ((b"\x2a\x00\x01", 42), (b"\x12\x00\x02", 1.5), (b"\x00\x00\x01", 36), (b"\xff\xff\x01", 36)):
        rebuilt = exports.scp_file({1: exports.scp_tags(tag4=value), **body_sections(exports.scp(digital))})
        assert read(written(tmp_path, rebuilt)).age_years == pytest.approx(years)


def body_sections(content: bytes) -> dict[int, bytes]:
    found = {}
    for number in (2, 3, 6):
        _, length, index = struct.unpack_from("<HII", content, 22 + 10 * number)
        if length:
            found[number] = content[index - 1 + 16 : index - 1 + length]
    return found
