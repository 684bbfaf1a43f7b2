"""Vendor files the simulations write: read back by our readers, by other libraries, and byte for byte again."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pydicom
import pytest
import sierraecg
from defusedxml import ElementTree
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sierraecg.xli import xli_decode

from client.readers import muse_xml, read
from client.readers import wfdb as wfdb_reader
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ConfigError, EcgReadError
from simulations.hospitals.exports import quantise, write_wfdb
from simulations.hospitals.formats import VENDOR_FORMATS, write
from simulations.hospitals.formats._beats import median_beat, r_peaks
from simulations.hospitals.formats.header import Header
from simulations.hospitals.formats.xli import encode_channel
from simulations.patients.scenario import DeviceConfig, FileFormat

USUAL_UNITS_PER_MV = {"philips_xml": 200.0, "muse_xml": 204.918, "hl7_aecg": 400.0, "dicom": 800.0}
DERIVED = slice(2, 6)


def signals(fs: int, seconds: float = 10.0, seed: int = 0) -> NDArray[np.float32]:
    """Return beats at 72 per minute with noise and wander, shape = (12, T), mV; limb leads follow on quantising."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(fs * seconds)) / fs
    phase = (t + 0.3) % (60 / 72)
    qrs, wave = np.exp(-(((phase - 0.4) / 0.012) ** 2)), np.exp(-(((phase - 0.65) / 0.06) ** 2))
    out = rng.uniform(-2.5, 2.5, (12, 1)) * qrs + rng.uniform(-0.4, 0.4, (12, 1)) * wave
    out += 0.01 * rng.standard_normal((12, len(t))) + 0.1 * np.sin(2 * np.pi * 0.2 * t)
    return out.astype(np.float32)


def header(format: str, *, fs: int = 500, units_per_mv: float | None = None, name: str = "Cart 5") -> Header:
    device = DeviceConfig(
        name=name,
        fs_hz=fs,  # type: ignore[arg-type]
        adc_units_per_mv=units_per_mv or USUAL_UNITS_PER_MV[format],
        format=format,  # type: ignore[arg-type]
    )
    return Header("no0000001", datetime(2015, 2, 28, 23, 59, 55), 64, "F", device, "N000123")


@pytest.mark.parametrize("fs", [250, 400, 500, 1000])
@pytest.mark.parametrize("format", VENDOR_FORMATS)
def test_reads_back_within_a_quantisation_step(tmp_path: Path, format: FileFormat, fs: int) -> None:
    head = header(format, fs=fs)
    units = quantise(signals(fs, seed=fs), head.device.adc_units_per_mv)
    record = read(write(format, tmp_path, head, units))
    assert record.source_format == format
    assert record.p_signal.shape == units.shape
    assert record.fs == fs
    error_units = np.abs(record.p_signal * head.device.adc_units_per_mv - units)
    independent = np.delete(error_units, DERIVED, axis=0)
    assert independent.max() < 0.01
    # MUSE stores no derived leads: a reader's are not rounded, the cart's are.
    assert error_units[DERIVED].max() < (0.51 if format == "muse_xml" else 0.01)
    assert (record.age_years, record.sex, record.recorded_at) == (64, "F", head.recorded_at)
    assert record.device is not None
    assert "Cart 5" in record.device
    assert record.adc_units_per_mv == pytest.approx(head.device.adc_units_per_mv, rel=1e-5)
    assert {finding.code for finding in record.findings} <= {"derived-lead"}


@pytest.mark.parametrize("format", VENDOR_FORMATS)
def test_same_ecg_as_wfdb(tmp_path: Path, format: FileFormat) -> None:
    head = header(format, units_per_mv=1000)
    units = quantise(signals(500), 1000)
    write_wfdb(tmp_path, head, units)
    twin = wfdb_reader.read(tmp_path / "no0000001.hea")
    record = read(write(format, tmp_path, head, units))
    assert np.abs(record.p_signal - twin.p_signal).max() < 1e-3
    assert (record.fs, record.age_years, record.sex) == (twin.fs, twin.age_years, twin.sex)
    assert record.recorded_at == twin.recorded_at


@pytest.mark.parametrize("format", VENDOR_FORMATS)
def test_same_input_same_bytes_other_input_other_identifiers(tmp_path: Path, format: FileFormat) -> None:
    head = header(format)
    units = quantise(signals(500), head.device.adc_units_per_mv)
    first = write(format, tmp_path, head, units).read_bytes()
    assert write(format, tmp_path, head, units.copy(order="F")).read_bytes() == first
    other = units.copy()
    other[6, 100] += 1
    second = write(format, tmp_path, head, other).read_bytes()
    assert second != first
    if format == "dicom":
        path = tmp_path / "no0000001.dcm"
        uids = [pydicom.dcmread(path).SOPInstanceUID]
        path.write_bytes(first)
        assert pydicom.dcmread(path).SOPInstanceUID not in uids


@pytest.mark.parametrize("format", VENDOR_FORMATS)
@pytest.mark.parametrize("name", ["A & <B> \"'", r"back\slash", "]]>"])
def test_any_device_name_leaves_the_file_whole(tmp_path: Path, format: FileFormat, name: str) -> None:
    head = header(format, name=name)
    units = quantise(signals(500), head.device.adc_units_per_mv)
    record = read(write(format, tmp_path, head, units))
    assert record.device is not None
    assert name.replace("\\", "/") in record.device.replace("\\", "/")


def texts(path: Path, *tags: str) -> list[str]:
    """Return all text and attribute values of elements with these local names, in any case, and of those below."""
    found: list[Element] = [
        below
        for element in ElementTree.parse(path).iter()
        if element.tag.rpartition("}")[2].lower() in tags
        for below in element.iter()
    ]
    return [value.strip() for e in found for value in [e.text or "", *e.attrib.values()] if value.strip()]


@pytest.mark.parametrize("format", VENDOR_FORMATS)
def test_holds_no_name_and_no_birth_date(tmp_path: Path, format: FileFormat) -> None:
    head = header(format)
    path = write(format, tmp_path, head, quantise(signals(500), head.device.adc_units_per_mv))
    if format == "dicom":
        ds = pydicom.dcmread(path)
        names = [element.value for element in ds.iterall() if element.VR == "PN"]
        assert names
        assert not any(map(str, names))
        assert ds.PatientBirthDate == ""
        assert ds.PatientID == "N000123"
        return
    kinds = {
        "philips_xml": ("lastname", "firstname", "middlename", "dateofbirth", "operator", "orderingclinician"),
        "muse_xml": ("patientlastname", "patientfirstname", "dateofbirth", "overreaderlastname"),
        "hl7_aecg": ("birthtime", "assignedperson", "investigatorperson"),
    }
    assert texts(path, *kinds[format]) == []
    person = {"philips_xml": "patient", "muse_xml": "patientdemographics", "hl7_aecg": "subject"}[format]
    stated = texts(path, person)
    assert "N000123" in stated
    assert not [text for text in stated if re.search(r"19\d\d|20\d\d", text) and "-" in text and len(text) == 10]


@pytest.mark.parametrize("fs", [500, 1000])
def test_sierraecg_reads_philips(tmp_path: Path, fs: int) -> None:
    head = header("philips_xml", fs=fs)
    units = quantise(signals(fs), 200)
    path = write("philips_xml", tmp_path, head, units)
    assert path.read_bytes()[:2] == b"\xff\xfe"
    file = sierraecg.read_file(str(path))
    assert (file.doc_type, file.doc_ver) == ("PhilipsECG", "1.04")
    assert [lead.label for lead in file.leads] == list(LEADS)
    for lead, row in zip(file.leads, units, strict=True):
        assert (lead.sampling_freq, lead.duration, len(lead.samples)) == (fs, 11000, 11 * fs)
        np.testing.assert_array_equal(lead.samples[: 10 * fs], row)
        pulse = lead.samples[10 * fs :]
        assert set(pulse.tolist()) == {0, 200}
        assert (pulse == 200).sum() == 0.2 * fs


def test_xli_gives_the_machine_s_own_bytes(shared_data: Path) -> None:
    channels = 0
    for path in sorted((shared_data / "vendor" / "philips_xml").glob("*_1-04_orig.xml")):
        text = path.read_bytes().decode("utf-16")
        match = re.search(r"<parsedwaveforms[^>]*>([^<]*)<", text)
        assert match is not None
        data = base64.b64decode(match[1])
        rows = xli_decode(data, [])
        assert b"".join(encode_channel(row) for row in rows) == data
        channels += len(rows)
    assert channels == 32


@given(
    arrays(np.int16, st.integers(3, 300), elements=st.integers(-8000, 8000))
    | arrays(np.int16, st.integers(3, 300), elements=st.integers(-2, 2))
)
def test_xli_decodes_to_what_went_in(samples: NDArray[np.int16]) -> None:
    (decoded,) = xli_decode(encode_channel(samples), [])
    np.testing.assert_array_equal(decoded, samples)


def test_xli_with_a_full_table() -> None:
    samples = np.random.default_rng(1).integers(-8000, 8000, 4001).astype(np.int16)
    (decoded,) = xli_decode(encode_channel(samples), [])
    np.testing.assert_array_equal(decoded, samples)


@pytest.mark.parametrize(
    ("format", "fs", "seconds", "change", "error", "what"),
    [
        ("philips_xml", 500, 10, lambda u: np.where(np.arange(5000) % 2, 16000, -16000).astype(np.int16) + 0 * u,
         EcgReadError, "jumps"),
        ("philips_xml", 500, 10, lambda u: np.full_like(u, 32000) * np.array([1, -1] * 6, np.int16)[:, None],
         EcgReadError, "do not follow"),
        ("dicom", 500, 40, lambda u: u, ConfigError, "cannot hold"),
        ("muse_xml", 500, 10, lambda u: u[:8], EcgReadError, "twelve leads"),
        ("hl7_aecg", 500, 10, lambda u: u.astype(np.int32), EcgReadError, "twelve leads"),
        ("scp", 500, 10, lambda u: u, ConfigError, "no writer"),
        ("wfdb", 500, 10, lambda u: u, ConfigError, "no writer"),
    ],
)  # fmt: skip
def test_refuses_what_a_format_cannot_hold(
    tmp_path: Path,
    format: str,
    fs: int,
    seconds: float,
    change: Callable[[NDArray[np.int16]], NDArray[np.int16]],
    error: type[Exception],
    what: str,
) -> None:
    units = change(quantise(signals(fs, seconds), 200))
    with pytest.raises(error, match=what):
        write(format, tmp_path, header("dicom", fs=fs, units_per_mv=200), units)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_r_peaks_and_median_beat_of_known_beats() -> None:
    fs, at = 500, np.array([300, 700, 1130, 1490, 2000, 2410, 2800])
    t = np.arange(3000)
    beat = np.exp(-(((t[:, None] - at) / 6) ** 2)).sum(axis=1) - 0.3 * np.exp(-(((t[:, None] - at - 12) / 5) ** 2)).sum(
        axis=1
    )
    x = np.stack([900 * beat, -400 * beat, 50 * beat]).astype(np.float32)
    peaks = r_peaks(x, fs)
    np.testing.assert_array_equal(peaks, at)
    median = median_beat(x, peaks, fs)
    assert median is not None
    assert median.shape == (3, 600)
    # The first four beats that fit whole have nothing but themselves within 0.3 s of the peak.
    np.testing.assert_allclose(median[:, 80:380], x[:, 1490 - 150 : 1490 + 150], atol=0.5)


def test_muse_states_what_it_measured(tmp_path: Path) -> None:
    head = header("muse_xml")
    units = quantise(signals(500), head.device.adc_units_per_mv)
    path = write("muse_xml", tmp_path, head, units)
    assert muse_xml.measurements(path) == {"VentricularRate": 72, "QRSCount": pytest.approx(12, abs=1)}
    beat = muse_xml.median_beat(path)
    assert (beat.p_signal.shape, beat.fs) == ((12, 600), 500)
    # One R peak, where the writer puts it, as tall as those of the rhythm.
    lead = int(np.abs(beat.p_signal).max(axis=1).argmax())
    assert abs(int(np.abs(beat.p_signal[lead]).argmax()) - 230) <= 2
    rhythm = np.abs(read(path).p_signal[lead]).max()
    assert np.abs(beat.p_signal[lead]).max() == pytest.approx(rhythm, rel=0.15)


@pytest.mark.parametrize("format", VENDOR_FORMATS)
def test_a_flat_recording_is_written(tmp_path: Path, format: FileFormat) -> None:
    head = header(format)
    record = read(write(format, tmp_path, head, np.zeros((12, 5000), dtype=np.int16)))
    assert record.p_signal.shape == (12, 5000)
    assert not record.p_signal.any()


def test_dicom_is_what_the_standard_says(tmp_path: Path) -> None:
    head = header("dicom")
    units = quantise(signals(500), 800)
    ds = pydicom.dcmread(write("dicom", tmp_path, head, units))
    assert ds.SOPClassUID.name == "12-lead ECG Waveform Storage"
    assert ds.PatientAge == "064Y"
    group = ds.WaveformSequence[0]
    codes = [c.ChannelSourceSequence[0].CodeValue for c in group.ChannelDefinitionSequence]
    assert codes == [f"2:{n}" for n in (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)]
    np.testing.assert_allclose(ds.waveform_array(0), units.T * 1.25, rtol=1e-6)
