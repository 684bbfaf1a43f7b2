"""Every vendor format from a file of known samples: amplitudes, rate, person, device, and nothing that identifies."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import sierraecg
import vendor_exports as exports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.readers import cardiosoft_xml, muse_xml, read, readers
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.quality import CODES
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STEP_MV = {"muse.xml": 4.88e-3, "aecg.xml": 2.5e-3, "cardiosoft.xml": 5e-3, "philips.xml": 5e-3}


def written(folder: Path, content: bytes, name: str = "export") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def codes(record: EcgRecord) -> set[str]:
    return {finding.code for finding in record.findings}


@pytest.mark.parametrize("name", exports.ALL)
def test_samples_person_and_device(tmp_path: Path, name: str) -> None:
    digital = exports.digital_ecg()
    record = read(written(tmp_path, exports.ALL[name](digital), "a-file.of-no-kind"))
    step = STEP_MV.get(name, 2.5e-3)
    np.testing.assert_allclose(record.p_signal, digital * step, rtol=1e-6, atol=1e-6)
    assert record.p_signal.dtype == np.float32
    assert record.fs == 500
    assert record.adc_units_per_mv == pytest.approx(1 / step)
    assert (record.age_years, record.sex) == (36, "F")
    assert record.recorded_at == datetime(1852, 11, 27, 9, 3, 32)
    assert record.device
    assert codes(record) <= {"derived-lead"}
    assert record.source_format in readers()
    assert bool(record.manufacturer) == (name not in ("holter.ecg", "ecg.edf"))  # those that have no place for it


@pytest.mark.parametrize("name", exports.ALL)
def test_filters_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    filters = read(written(tmp_path, exports.ALL[name](exports.digital_ecg(600)))).filters
    assert (
        filters
        == {
            "muse.xml": "0.05-150 Hz, notch 50 Hz",
            "aecg.xml": "0.05-150 Hz, notch 50 Hz",
            "cardiosoft.xml": "0.1-100 Hz, notch 50 Hz",
            "philips.xml": "0.05-150 Hz",
            "rhythm.scp": "0.05-150 Hz, notch 50 Hz",
            "rhythm.dcm": "0.05-150 Hz",
            "holter.ecg": None,
            "eli.xml": "low-pass 150 Hz",
            "schiller.xml": None,
            "ecg.mwf": "0.05-150 Hz",
            "ecg.edf": "0.05-150 Hz, notch 50 Hz",
        }[name]
    )


@pytest.mark.parametrize("name", exports.ALL)
def test_what_identifies_a_person_is_not_kept(tmp_path: Path, name: str) -> None:
    content = exports.ALL[name](exports.digital_ecg(600))
    plain = content.replace(b"\0", b"").decode("latin-1")
    assert sum(secret in plain for secret in exports.SECRETS) >= 3
    kept = repr(read(written(tmp_path, content)))
    assert not [secret for secret in exports.SECRETS if secret.lower() in kept.lower()]


@pytest.mark.parametrize("name", exports.ALL)
def test_errors_of_damaged_files_name_nobody(tmp_path: Path, name: str) -> None:
    content = exports.ALL[name](exports.digital_ecg(600))
    for cut in range(300, len(content), max(1, len(content) // 25)):
        path = written(tmp_path, content[:cut])
        try:
            said = repr(read(path))
        except EcgReadError as error:
            said = str(error) if error.remedy and str(path) in str(error) else "no file, or no remedy"
        assert said != "no file, or no remedy"
        assert not [secret for secret in exports.SECRETS if secret in said]


def test_no_file_is_claimed_by_two_readers(tmp_path: Path) -> None:
    contents = {name: write(exports.digital_ecg(600)) for name, write in exports.ALL.items()}
    contents["exams.hdf5"] = exports.hdf5(tmp_path / "x", np.ones((1, 900, 12))).read_bytes()
    for name, content in contents.items():
        path = written(tmp_path, content, "nameless")
        claims = [reader for reader, module in readers().items() if module.sniff(content[:4096], path)]
        assert len(claims) == 1, (name, claims)


# --- one format at a time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "factor"), [("MICROVOLTS", 1e-3), ("MILLIVOLTS", 1.0)])
@pytest.mark.parametrize("fs", [250, 500])
def test_muse_gain_and_rate(tmp_path: Path, units: str, factor: float, fs: int) -> None:
    digital = exports.digital_ecg(1500, peak=90)
    record = read(written(tmp_path, exports.muse_xml(digital, fs=fs, units=units, step=0.5)))
    np.testing.assert_allclose(record.p_signal, digital * 0.5 * factor, rtol=1e-5, atol=1e-6)
    assert record.fs == fs


def test_muse_rhythm_median_and_measurements_are_told_apart(tmp_path: Path) -> None:
    digital = exports.digital_ecg(2500)
    path = written(tmp_path, exports.muse_xml(digital))
    beat = muse_xml.median_beat(path)
    assert beat.p_signal.shape == (12, 600)
    np.testing.assert_allclose(beat.p_signal, digital[:, :600] * 4.88e-3, rtol=1e-5, atol=1e-6)
    assert read(path).p_signal.shape == (12, 2500)
    assert muse_xml.measurements(path) == {"VentricularRate": 75.0, "PRInterval": 160.0}


def test_muse_crc_is_compared(tmp_path: Path) -> None:
    assert "checksum" in codes(read(written(tmp_path, exports.muse_xml(exports.digital_ecg(600), crc=False))))


def test_muse_lead_off_is_said(tmp_path: Path) -> None:
    content = exports.muse_xml(exports.digital_ecg(600))
    content = content.replace(b"<LeadID>V3</LeadID>", b"<LeadID>V3</LeadID><LeadOff>TRUE</LeadOff>")
    found = {f.code: f.lead for f in read(written(tmp_path, content)).findings}
    assert found["lead-off"] == "V3"
    assert set(found) <= set(CODES)


def test_muse_without_a_rhythm_is_refused(tmp_path: Path) -> None:
    content = exports.muse_xml(exports.digital_ecg(600)).replace(b"<WaveformType>Rhythm", b"<WaveformType>Other")
    with pytest.raises(EcgReadError, match="no rhythm waveform"):
        read(written(tmp_path, content))


@pytest.mark.parametrize(
    ("scale", "origin", "increment", "factor", "offset"),
    [
        (("2.5", "uV"), ("0", "uV"), ("0.002", "s"), 2.5e-3, 0.0),
        (("0.005", "mV"), ("0.1", "mV"), ("2", "ms"), 5e-3, 0.1),
        (("2500", "nV"), ("-50", "uV"), ("2000", "us"), 2.5e-3, -0.05),
        (("-2.5", "uV"), ("0", "uV"), ("0.002", "s"), -2.5e-3, 0.0),
    ],
)
def test_aecg_units(
    tmp_path: Path,
    scale: tuple[str, str],
    origin: tuple[str, str],
    increment: tuple[str, str],
    factor: float,
    offset: float,
) -> None:
    digital = exports.digital_ecg(700)
    record = read(written(tmp_path, exports.aecg_xml(digital, scale=scale, origin=origin, increment=increment)))
    np.testing.assert_allclose(record.p_signal, digital * factor + offset, rtol=1e-5, atol=1e-6)
    assert record.fs == 500
    assert record.adc_units_per_mv == pytest.approx(1 / abs(factor))


@pytest.mark.parametrize(
    ("options", "factor", "offset"),
    [
        ({"unit": "uV", "sensitivity": 1.25, "correction": 2}, 2.5e-3, 0.0),
        ({"unit": "mV", "sensitivity": 0.005, "baseline": 0.2}, 5e-3, 0.2),
        ({"scheme": "SCPECG"}, 2.5e-3, 0.0),
        ({"split": True}, 2.5e-3, 0.0),
        ({"padding": 0}, 2.5e-3, 0.0),
    ],
)
def test_dicom_units_codes_and_groups(tmp_path: Path, options: dict[str, object], factor: float, offset: float) -> None:
    digital = exports.digital_ecg(1500)
    record = read(written(tmp_path, exports.dicom(digital, **options)))  # type: ignore[arg-type]
    np.testing.assert_allclose(record.p_signal, digital * factor + offset, rtol=1e-5, atol=1e-6)


def test_dicom_padding_is_no_signal(tmp_path: Path) -> None:
    digital = exports.digital_ecg(1500)
    digital[:, 1400:] = -32768
    record = read(written(tmp_path, exports.dicom(digital, padding=-32768)))
    assert np.isnan(record.p_signal[:, 1400:]).all()
    assert np.isfinite(record.p_signal[:, :1400]).all()


@pytest.mark.parametrize(
    ("age", "years"), [("036Y", 36), ("018M", 1.5), ("026W", 0.498), ("010D", 0.0274), ("", 36), ("999Y", 36)]
)
def test_dicom_age_strings(tmp_path: Path, age: str, years: float) -> None:
    assert read(written(tmp_path, exports.dicom(exports.digital_ecg(600), age=age))).age_years == pytest.approx(
        years, abs=1e-3
    )


def test_dicom_deflated_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    content = exports.dicom(exports.digital_ecg(600)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0", 1)
    with pytest.raises(EcgReadError, match="deflated"):
        read(written(tmp_path, content))


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01"])
@pytest.mark.parametrize("xli", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_philips_versions(tmp_path: Path, version: str, xli: bool, encoding: str) -> None:
    digital = exports.digital_ecg(5000)
    path = written(tmp_path, exports.philips_xml(digital, xli=xli, version=version, encoding=encoding))
    record = read(path)
    np.testing.assert_allclose(record.p_signal, digital * 5e-3, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 1000), samples=st.integers(200, 3000), peak=st.integers(5, 3000))
@FEW
def test_philips_equals_the_library_on_what_it_unpacks(tmp_path: Path, seed: int, samples: int, peak: int) -> None:
    digital = exports.digital_ecg(samples, seed, peak)
    path = written(tmp_path, exports.philips_xml(digital))
    library = np.stack([lead.samples for lead in sierraecg.read_file(str(path)).leads])
    np.testing.assert_array_equal(library[:, :samples], digital)
    np.testing.assert_allclose(read(path).p_signal, library[:, :samples] * 5e-3, rtol=1e-6, atol=1e-6)


def with_pulse(digital: np.ndarray) -> np.ndarray:
    digital = digital.copy()
    digital[:, -200:] = 0
    digital[:, -150:-50] = 200
    return digital


def test_philips_calibration_second_is_left_out_and_only_that(tmp_path: Path) -> None:
    digital = exports.digital_ecg(5500)
    assert read(written(tmp_path, exports.philips_xml(with_pulse(digital)))).p_signal.shape == (12, 5000)
    assert read(written(tmp_path, exports.philips_xml(digital))).p_signal.shape == (12, 5500)
    flat = digital.copy()
    flat[:, -200:] = 0
    assert read(written(tmp_path, exports.philips_xml(flat))).p_signal.shape == (12, 5500)


def test_philips_default_age_is_no_age(tmp_path: Path) -> None:
    digital = exports.digital_ecg(600)
    assert read(written(tmp_path, exports.philips_xml(digital, age="<editor/>"))).age_years is None
    assert read(written(tmp_path, exports.philips_xml(digital, age="<years>71</years>"))).age_years == 71


@pytest.mark.parametrize(("unit", "step", "factor"), [("uVperLsb", 5, 5e-3), ("mVperLsb", 0.001, 1e-3)])
def test_cardiosoft_resolution_and_median(tmp_path: Path, unit: str, step: float, factor: float) -> None:
    digital = exports.digital_ecg(1200)
    path = written(tmp_path, exports.cardiosoft_xml(digital, unit=unit, step=step))
    np.testing.assert_allclose(read(path).p_signal, digital * factor, rtol=1e-5, atol=1e-6)
    beat, fs = cardiosoft_xml.median_beat(path)
    np.testing.assert_allclose(beat, digital[:, :600] * factor, rtol=1e-5, atol=1e-6)
    assert fs == 500


def test_ishne_checks_its_header(tmp_path: Path) -> None:
    content = bytearray(exports.ishne(exports.digital_ecg(600)))
    content[300] ^= 1
    assert "checksum" in codes(read(written(tmp_path, bytes(content))))


# --- documents nobody should have to trust -------------------------------------------------------------------------


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
LEAK = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("bomb", [BOMB, LEAK])
@pytest.mark.parametrize("name", [name for name in exports.ALL if name.endswith(".xml")])
def test_entities_are_refused(tmp_path: Path, name: str, bomb: bytes) -> None:
    text = exports.ALL[name](exports.digital_ecg(600))
    if name == "philips.xml":
        text = text.decode("utf-16").replace('encoding="utf-16"', 'encoding="utf-8"').encode()
    text = text.replace(b'<!DOCTYPE RestingECG SYSTEM "restecg.dtd">', b"")
    head, _, body = text.partition(b"?>")
    with pytest.raises(EcgReadError, match="entities"):
        read(written(tmp_path, head + b"?>" + bomb + body))


def test_too_much_markup_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(EcgReadError, match="tags"):
        read(written(tmp_path, b"<RestingECG>" + b"<a/>" * 500_000 + b"</RestingECG>"))
    deep = b"<RestingECG>" + b"<a>" * 150_000 + b"</a>" * 150_000 + b"</RestingECG>"
    with pytest.raises(EcgReadError):
        read(written(tmp_path, deep))


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, b"<RestingECG>")
    os.truncate(path, 1 << 34)
    with pytest.raises(EcgReadError, match="too large"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"<SampleBase>500", b"<SampleBase>-500", "sampling rate"),
        (b"<SampleBase>500", b"<SampleBase>nan", "SampleBase"),
        (b"<SampleBase>500", b"<SampleBase>", "SampleBase is missing"),
        (b"<LeadAmplitudeUnits>MICROVOLTS", b"<LeadAmplitudeUnits>PARSECS", "unit"),
        (b"<LeadAmplitudeUnitsPerBit>4.88", b"<LeadAmplitudeUnitsPerBit>inf", "LeadAmplitudeUnitsPerBit"),
        (b"<WaveFormData>\n", b"<WaveFormData>\n!!", "base64"),
        (b"<LeadSampleSize>2", b"<LeadSampleSize>4", "16 bits"),
        (b"</RestingECG>", b"</RestingECG", "well-formed"),
    ],
)
def test_a_wrong_muse_field_is_explained(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    content = exports.muse_xml(exports.digital_ecg(600)).replace(old, new)
    with pytest.raises(EcgReadError, match=says) as caught:
        read(written(tmp_path, content))
    assert caught.value.remedy
    assert "cannot decode" not in str(caught.value)


def test_leads_are_in_standard_order() -> None:
    assert exports.LEADS == LEADS


def test_a_date_that_is_none_is_dropped(tmp_path: Path) -> None:
    content = exports.cardiosoft_xml(exports.digital_ecg(600)).replace(b"<Year>1852", b"<Year>" + b"9" * 30)
    record = read(written(tmp_path, content))
    assert (record.recorded_at, record.age_years) == (None, None)
