"""The newer formats against independent decoders where there are any, and in the corners of their descriptions.

Oracles: pyEDFlib (EDF, BDF), ECGDataKit (ELI XML, MFER, EDF), scipy (MATLAB). Schiller's XML has no decoder here: it
is held to the elements that two open readers describe. No real file of ELI, Schiller, MFER or EDF was at hand.
"""

from __future__ import annotations

import struct
import warnings
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pyedflib
import pytest
import scipy.io
import vendor_exports as exports

from client.readers import exams, formats, read, readers
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import EcgReadError


def written(folder: Path, content: bytes, name: str = "export") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def codes(path: Path) -> set[str]:
    return {finding.code for finding in read(path).findings}


@pytest.mark.parametrize(("name", "suffix"), [("eli.xml", ".xml"), ("ecg.mwf", ".mwf"), ("ecg.edf", ".edf")])
def test_ecgdatakit_reads_the_same(tmp_path: Path, name: str, suffix: str) -> None:
    from ecgdatakit import FileParser

    digital = exports.digital_ecg(2500)
    path = written(tmp_path, exports.ALL[name](digital), f"export{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = FileParser.parse(str(path))
    record = read(path)
    assert {lead.sampling_rate for lead in oracle.leads} == {record.fs}
    scale = {"uV": 1e-3, "mV": 1.0}
    for lead in oracle.leads:
        values = np.asarray(lead.samples, dtype=float)
        if lead.is_raw:
            values = values * lead.resolution * scale[lead.resolution_unit] + lead.offset * 1e-3
        else:
            values = values * scale[lead.units]
        name_here = lead.label.replace("ECG", "").strip()
        np.testing.assert_allclose(record.p_signal[LEADS.index(name_here)], values, rtol=1e-6, atol=1e-6)
    assert len(oracle.leads) == 12


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("unit", ["uV", "mV"])
def test_edf_and_bdf_as_pyedflib_writes_and_reads_them(tmp_path: Path, bits: int, unit: str) -> None:
    kind = pyedflib.FILETYPE_EDFPLUS if bits == 16 else pyedflib.FILETYPE_BDFPLUS
    path = tmp_path / "e"
    path = path.with_suffix(".edf" if bits == 16 else ".bdf")
    digital = exports.digital_ecg(3000)[[0, 1, 6, 7, 8, 9, 10, 11]]
    factor = 1.0 if unit == "uV" else 1e-3
    with warnings.catch_warnings(), pyedflib.EdfWriter(str(path), 9, file_type=kind) as writer:
        warnings.simplefilter("ignore")  # of decimals that EDF has no room for
        top = (1 << (bits - 1)) - 1
        labels = ["EKG I", "ECG II", "V1", "V2", "V3", "V4", "V5", "V6", "Resp"]
        for i, label in enumerate(labels):
            writer.setSignalHeader(
                i,
                {
                    "label": label, "dimension": unit, "sample_frequency": 500 if i < 8 else 50,
                    "physical_max": top * factor, "physical_min": (-top - 1) * factor, "digital_max": top,
                    "digital_min": -top - 1, "prefilter": "HP:0.05Hz", "transducer": "",
                },
            )  # fmt: skip
        writer.setStartdatetime(datetime(2020, 5, 1, 10, 20, 30))
        writer.setSex(1)
        writer.setBirthdate(datetime(1950, 1, 1))
        writer.setEquipment("Cart9")
        writer.writeSamples([*(row * factor for row in digital), np.zeros(300)])
    with pyedflib.EdfReader(str(path)) as oracle:
        expected = [oracle.readSignal(i) * (1e-3 if unit == "uV" else 1.0) for i in range(8)]
    record = read(path)
    assert (record.source_format, record.fs, record.age_years, record.sex) == ("edf", 500, 70, "M")
    assert record.recorded_at == datetime(2020, 5, 1, 10, 20, 30)
    assert {finding.code for finding in record.findings} == {"derived-lead"}
    for row, name in zip(expected, ("I", "II", *LEADS[6:]), strict=True):
        np.testing.assert_allclose(record.p_signal[LEADS.index(name)], row, rtol=1e-5, atol=1e-6)


def test_a_plain_edf_says_nothing_of_the_person(tmp_path: Path) -> None:
    record = read(written(tmp_path, exports.edf(exports.digital_ecg(), plus=False)))
    assert (record.age_years, record.sex, record.device) == (None, None, None)


def test_edf_cut_interrupted_and_without_leads(tmp_path: Path) -> None:
    content = exports.edf(exports.digital_ecg())
    cut = read(written(tmp_path, content[:-5000]))
    assert "truncated" in {finding.code for finding in cut.findings}
    assert 2000 < cut.p_signal.shape[1] < 2500
    with pytest.raises(EcgReadError, match="interrupted"):
        read(written(tmp_path, content.replace(b"EDF+C", b"EDF+D")))
    with pytest.raises(EcgReadError, match="no signal"):
        read(written(tmp_path, content.replace(b"ECG ", b"EEG ")))


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("block", [None, 250])
@pytest.mark.parametrize("preamble", [True, False])
def test_mfer_orders_of_bytes_and_blocks(tmp_path: Path, big: bool, block: int | None, preamble: bool) -> None:
    digital = exports.digital_ecg(2500)
    record = read(written(tmp_path, exports.mfer(digital, big=big, block=block, preamble=preamble)))
    np.testing.assert_allclose(record.p_signal, digital * 2.5e-3, rtol=1e-6, atol=1e-6)
    assert (record.age_years, record.sex, record.device) == (36, "F", "ECG-2550 01-02")


def test_mfer_null_offset_interval_and_indefinite_lengths(tmp_path: Path) -> None:
    """An interval in seconds instead of a rate, a null value, an offset; a channel's definitions ended by zeros."""
    rows = np.array([[1, 2, -32768, 4], [10, 20, 30, 40]], dtype=">i2")
    tag = exports.mfer_tag
    content = (
        tag(0x40, b"MFR x")
        + tag(0x05, b"\2")
        + b"\x3f\0\x80" + tag(0x09, b"\0\1") + tag(0x0D, b"\0\2") + b"\0\0"
        + b"\x3f\1\x80" + tag(0x09, b"\0\2") + b"\0\0"
        + tag(0x0B, b"\1\xfd\0\4")  # 4 ms
        + tag(0x0C, b"\0\xfa\0\x05")  # 5 uV
        + tag(0x12, b"\x80\0")
        + tag(0x04, b"\4")
        + tag(0x1E, rows.tobytes())
    )  # fmt: skip
    record = read(written(tmp_path, content))
    assert record.fs == 250
    np.testing.assert_allclose(record.p_signal[0], (np.array([1, 2, np.nan, 4]) + 2) * 5e-3, rtol=1e-6)
    np.testing.assert_allclose(record.p_signal[1], np.array([10, 20, 30, 40]) * 5e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("tag", "value", "says"),
    [
        (0x0C, b"\1\xfa\0\x05", "no resolution in volts"),
        (0x0A, b"\x09", "not supported"),
        (0x0E, b"\0\1", "compressed"),
        (0x0B, b"\2\0\0\1", "interval"),
        (0x04, b"\0", "length of a block"),
    ],
)
def test_mfer_that_cannot_be_read_for_certain_is_refused(tmp_path: Path, tag: int, value: bytes, says: str) -> None:
    content = exports.mfer(exports.digital_ecg(600))
    at = content.rindex(b"\x08\x02\x00\x01")
    with pytest.raises(EcgReadError, match=says):
        read(
            written(
                tmp_path,
                content[:at]
                + exports.mfer_tag(tag, value)
                + (
                    content[at:]
                    if tag != 0x04
                    else content[at:].replace(b"\x04\x04" + struct.pack(">I", 600), b"\x04\x01\0")
                ),
            )
        )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('OFFSET="0"', 'OFFSET="7"', "disagree what it means"),
        ('ENCODING="BASE64" DATA', 'ENCODING="HEX" DATA', "coded in an unknown way"),
        ('UNITS_PER_MV="400"', 'UNITS_PER_MV="0"', "UNITS_PER_MV"),
        ("<CHANNEL ", "<KANAL ", "holds no CHANNEL"),
    ],
)
def test_eli_that_cannot_be_read_for_certain_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    content = exports.eli_xml(exports.digital_ecg(600)).decode().replace(old, new)
    with pytest.raises(EcgReadError, match=says):
        read(written(tmp_path, content.encode()))


@pytest.mark.parametrize("units_per_mv", [200, 400, 1000])
def test_eli_gain(tmp_path: Path, units_per_mv: int) -> None:
    digital = exports.digital_ecg(1500)
    record = read(written(tmp_path, exports.eli_xml(digital, units_per_mv=units_per_mv)))
    np.testing.assert_allclose(record.p_signal, digital / units_per_mv, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("unit", "step", "mv"), [("uV", 2.5, 2.5e-3), ("mV", 0.005, 5e-3), ("UV", 1, 1e-3)])
def test_schiller_units(tmp_path: Path, unit: str, step: float, mv: float) -> None:
    digital = exports.digital_ecg(1500)
    record = read(written(tmp_path, exports.schiller_xml(digital, unit=unit, step=step)))
    np.testing.assert_allclose(record.p_signal, digital * mv, rtol=1e-6, atol=1e-6)


def test_schiller_exponent_and_kinds(tmp_path: Path) -> None:
    with pytest.raises(EcgReadError, match="exponent"):
        read(written(tmp_path, exports.schiller_xml(exports.digital_ecg(600), exponent=2)))
    averages = exports.schiller_xml(exports.digital_ecg(600)).replace(b"ECG_RHYTHMS", b"ECG_OTHER")
    with pytest.raises(EcgReadError, match="no rhythm"):
        read(written(tmp_path, averages))


@pytest.mark.parametrize("compress", [False, True])
def test_matlab_v5_as_cpsc_2018_writes_it(tmp_path: Path, compress: bool) -> None:
    millivolts = exports.digital_ecg(3000) * 5e-3
    path = tmp_path / "A0001.mat"
    scipy.io.savemat(path, {"ECG": {"sex": "Female", "age": 64, "data": millivolts}}, do_compression=compress)
    record = read(path)
    np.testing.assert_allclose(record.p_signal, millivolts, rtol=1e-6, atol=1e-7)
    assert (record.fs, record.sex, record.age_years, record.source_format) == (500, "F", 64, "matlab")
    assert codes(path) == {"fs-assumed"}
    scipy.io.savemat(path, {"val": millivolts})
    with pytest.raises(EcgReadError, match="does not say what its numbers mean") as caught:
        read(path)
    assert "described" in str(caught.value.remedy)


def test_a_matlab_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.mat"
    scipy.io.savemat(path, {"val": np.zeros(200_000_000 // 8)}, do_compression=True)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(EcgReadError, match="larger unpacked"):
        read(path)


def test_one_exam_a_file_as_sph_is_published(tmp_path: Path) -> None:
    millivolts = (exports.digital_ecg(5000) * 5e-3).astype(np.float16)
    path = tmp_path / "A00001.h5"
    with h5py.File(path, "w") as file:
        file["ecg"] = millivolts
    record = read(path)
    np.testing.assert_array_equal(record.p_signal, millivolts.astype(np.float32))
    assert (record.fs, codes(path)) == (500, {"fs-assumed"})
    assert list(exams(path)) == [path]
    by_table = read(path, fs_hz=250)
    assert (by_table.fs, by_table.findings) == (250, ())
    with h5py.File(path, "a") as file:
        file.attrs["fs"] = 500
    assert read(path).findings == ()
    assert {finding.code for finding in read(path, fs_hz=250).findings} == {"fs-contradicts-table"}
    assert read(path, fs_hz=250).fs == 500


def test_aecg_in_two_sequence_sets(tmp_path: Path) -> None:
    digital = exports.digital_ecg(1500)
    whole = exports.aecg_xml(digital).decode()
    before, rest = whole.split("<component><sequenceSet>", 1)
    inside, after = rest.split("</sequenceSet></component>", 1)
    parts = inside.split("</component><component>")
    time, limbs, chest = parts[0], parts[1:7], parts[7:]

    def both(second_time: str) -> bytes:
        first = "</component><component>".join([time, *limbs]) + "</component>"
        second = "</component><component>".join([second_time, *chest])
        sets = f"<component><sequenceSet>{first}</sequenceSet></component><component><sequenceSet>{second}"
        return f"{before}{sets}</sequenceSet></component>{after}".encode()

    record = read(written(tmp_path, both(time)))
    np.testing.assert_allclose(record.p_signal, digital * 2.5e-3, rtol=1e-6, atol=1e-6)
    assert record.findings == ()
    later = read(written(tmp_path, both(time.replace("18521127090332", "18521127090342"))))
    assert "leads-apart" in {finding.code for finding in later.findings}
    assert np.isnan(later.p_signal[6:]).all() or np.isnan(later.p_signal[:6]).all()


def test_the_formats_are_listed_with_what_they_are() -> None:
    listed = {row["format"]: row["what"] for row in formats()}
    assert set(listed) == {*readers(), "described"}
    assert all(what.endswith((".", "header.")) or len(what) > 20 for what in listed.values())
