"""Real vendor exports: one ECG in several formats, and the carts' own measurements against ours.

Tolerances: SCP, DICOM and aECG of one ECG within one quantisation step. Philips and its conversion to aECG, which
was filtered on the way, within one step for nine samples in ten, four at most. A MUSE cart's rate within 3 per
minute, its QRS axis within 15 degrees.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import sierraecg
import vendor_exports as exports
import wfdb

from client.ingest.reading import _content
from client.readers import muse_xml, read
from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.pulse import pulse
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError

FILES = {
    "scp/Example.scp": (500.0, 5000, 49.0, "M"),
    "scp/Example.dcm": (500.0, 5000, 49.0, "M"),
    "scp/Example.xml": (500.0, 5000, 46.0, "M"),
    "dicom/anonymous_ecg.dcm": (1000.0, 10000, 42.0, "F"),
    "hl7_aecg/subject1_0.xml": (500.0, 5000, 46.0, "M"),
    "hl7_aecg/hl7aecg_example.xml": (100.0, 1000, None, None),
    "muse_xml/MUSE_20200923_093504_79000_example.xml": (500.0, 5000, 40.0, "M"),
    "muse_xml/example1.xml": (500.0, 5000, None, None),
    "philips_xml/3191723_ZZDEMOPTONLY_1-04_orig.xml": (500.0, 5000, 60.0, "M"),
    "philips_xml/ad4d3d80-d165_1-04_orig.xml": (500.0, 5000, 32.0, "F"),
    "philips_xml/ad4d3d80-d165_1-04_converted.xml": (500.0, 5000, 32.0, "F"),
}
"""Rate, samples, age (stated ages win over birth dates), sex."""

GENERATED = "hl7_aecg/hl7aecg_example.xml"
"""Written by a program; its limb leads do not obey Einthoven."""

SECRETS = [
    "Clark",
    "SBJ-123",
    "19530508",
    "1953",
    "JMK",
    "TESTONE",
    "201700237",
    "272924610",
    "29154347249",
    "06-10-1980",
    "GARG",
    "PATEL",
    "FITZGERALD",
    "CEDARS",
    "SAPERSTEIN",
    "ZZDEMOPTONLY",
    "9999",
    "120190145",
    "1950-01-01",
    "1976-01-01",
    "19760101",
    "642341",
    "19710123",
    "Galliera",
    "13002689",
    "03028041970546",
    "Anonymous",
    "25060897140",
    "subject1",
    "EKG1715",
    "EKG16296",
]
"""What the files say of patients, staff, places and accounts."""


@pytest.fixture(scope="module")
def vendor(shared_data: Path) -> Path:
    return shared_data / "vendor"


def test_one_ecg_in_nine_formats_is_one_record(tmp_path: Path) -> None:
    """The key by which a site finds duplicates is that of the samples, not of the file."""
    digital = exports.digital_ecg(5000, seed=3)
    steps = {"aecg.xml", "rhythm.scp", "rhythm.dcm", "holter.ecg", "eli.xml", "schiller.xml", "ecg.mwf", "ecg.edf"}
    paths = [tmp_path / name for name in sorted(steps)]
    for path in paths:
        path.write_bytes(exports.ALL[path.name](digital))
    wfdb.wrsamp(
        "r", fs=500, units=["mV"] * 12, sig_name=list(LEADS), d_signal=digital.T, fmt=["16"] * 12,
        adc_gain=[400.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    keys = {path.name: _content(read(path), b"k") for path in [*paths, tmp_path / "r.hea"]}
    assert len(set(keys.values())) == 1, keys
    assert _content(read(paths[0]), b"k") != _content(read_shifted(tmp_path, digital), b"k")


def read_shifted(folder: Path, digital: np.ndarray) -> EcgRecord:
    (folder / "other.xml").write_bytes(exports.aecg_xml(digital + 1))
    return read(folder / "other.xml")


@pytest.mark.parametrize("name", FILES)
def test_every_export_is_read(vendor: Path, name: str) -> None:
    fs, samples, age, sex = FILES[name]
    record = read(vendor / name)
    assert (record.fs, record.p_signal.shape, record.age_years, record.sex) == (fs, (12, samples), age, sex)
    assert np.isfinite(record.p_signal).all()
    assert isinstance(record.recorded_at, datetime) != name.endswith("example1.xml")
    # The guide's own example: born in May 1953, recorded in November 2002, "Reported Age" 46.
    contradicts = name in ("scp/Example.xml", "hl7_aecg/subject1_0.xml")
    assert {f.code for f in record.findings} - {"derived-lead"} == ({"age-contradicts-dates"} if contradicts else set())
    one, two, three, avr, avl, avf = record.p_signal[:6]
    step = 1 / (record.adc_units_per_mv or np.nan)
    for law in (three - (two - one), avr + (one + two) / 2, avl - (one - two / 2), avf - (two - one / 2)):
        assert np.mean(np.abs(law) <= 3.1 * step) > 0.99 or name == GENERATED


def test_one_ecg_as_scp_dicom_and_aecg(vendor: Path) -> None:
    records = [read(vendor / "scp" / f"Example.{ending}") for ending in ("scp", "dcm", "xml")]
    scp, dicom, aecg = records
    step = 1 / 400
    assert [r.adc_units_per_mv for r in records] == pytest.approx([400] * 3)
    assert np.abs(scp.p_signal - dicom.p_signal).max() <= step
    assert np.abs(scp.p_signal - aecg.p_signal).max() <= step
    assert np.ptp(scp.p_signal, axis=1).min() > 0.5
    assert len({r.recorded_at for r in records}) == 1
    assert {r.source_format for r in records} == {"scp", "dicom", "hl7_aecg"}


def test_philips_and_its_conversion(vendor: Path) -> None:
    original = read(vendor / "philips_xml" / "ad4d3d80-d165_1-04_orig.xml")
    converted = read(vendor / "philips_xml" / "ad4d3d80-d165_1-04_converted.xml")
    steps = np.abs(original.p_signal - converted.p_signal) / 5e-3
    assert np.mean(steps < 1.01) > 0.9
    assert steps.max() < 4.01
    for a, b in zip(original.p_signal, converted.p_signal, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.995
    assert (original.age_years, original.sex, original.recorded_at) == (
        converted.age_years,
        converted.sex,
        converted.recorded_at,
    )


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("philips_xml") and "orig" in name])
def test_philips_equals_the_library_before_the_calibration(vendor: Path, name: str) -> None:
    library = np.stack([lead.samples for lead in sierraecg.read_file(str(vendor / name)).leads])
    assert library.shape == (12, 5500)
    assert (library[:, 5350:5450] == 200).all()
    record = read(vendor / name)
    np.testing.assert_allclose(record.p_signal, library[:, :5000] * 5e-3, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["invalid-doc-type.xml", "invalid-doc-version.xml"])
def test_invalid_philips_files(vendor: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(EcgReadError, match="document type or version") as caught:
        read(vendor / "philips_xml" / name)
    assert caught.value.remedy
    assert "1.04.01" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("muse_xml")])
def test_muse_rate_and_axis_agree_with_the_carts(vendor: Path, name: str) -> None:
    record, stated = read(vendor / name), muse_xml.measurements(vendor / name)
    found = pulse(record.p_signal / np.ptp(record.p_signal, axis=1, keepdims=True), record.fs)
    assert found is not None
    assert abs(found.bpm - stated["VentricularRate"]) <= 3
    beat = muse_xml.median_beat(vendor / name)
    onset, offset = int(stated["QOnset"]), int(stated["QOffset"])
    assert (offset - onset) / beat.fs * 1000 == stated["QRSDuration"]
    qrs = beat.p_signal[:, onset : offset + 1] - beat.p_signal[:, onset, None]
    one, avf = qrs[0].sum(), qrs[5].sum()
    axis = np.degrees(np.arctan2(2 / np.sqrt(3) * avf, one))
    assert abs((axis - stated["RAxis"] + 180) % 360 - 180) <= 15


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("muse_xml")])
def test_muse_median_is_a_beat_of_its_rhythm(vendor: Path, name: str) -> None:
    record, beat = read(vendor / name), muse_xml.median_beat(vendor / name)
    stated = muse_xml.measurements(vendor / name)
    template = beat.p_signal[1, int(stated["QOnset"]) - 20 : int(stated["QOffset"]) + 20].astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(record.p_signal[1].astype(np.float64), len(template))
    centred = windows - windows.mean(axis=1, keepdims=True)
    template = template - template.mean()
    similar = centred @ template / (np.linalg.norm(centred, axis=1) * np.linalg.norm(template) + 1e-9)
    beats = np.flatnonzero(
        (similar > 0.97)
        & (similar == np.array([similar[max(0, i - 100) : i + 101].max() for i in range(len(similar))]))
    )
    assert abs(len(beats) - stated["QRSCount"]) <= 1


@pytest.mark.parametrize("name", FILES)
def test_nothing_that_identifies_comes_out(vendor: Path, name: str) -> None:
    record = read(vendor / name)
    kept = repr(record) + "".join(f"{f.message}" for f in record.findings)
    assert not [secret for secret in SECRETS if secret.lower() in kept.lower()]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("muse_xml")])
def test_the_carts_median_beat_is_ours(vendor: Path, name: str) -> None:
    """Brought into line by the eight stored leads together, the QRS-T complexes correlate above 0.95."""
    record, cart = read(vendor / name), muse_xml.median_beat(vendor / name)
    ours = median_beat(record.p_signal, record.fs)
    assert ours is not None
    assert cart.fs == ours.fs
    stored = [0, 1, 6, 7, 8, 9, 10, 11]
    half = int(0.2 * ours.fs)
    mine = ours.signal[stored, ours.centre - half // 2 : ours.centre + 2 * half]
    best = max(
        float(np.corrcoef(mine.ravel(), cart.p_signal[stored, at : at + mine.shape[1]].ravel())[0, 1])
        for at in range(cart.p_signal.shape[1] - mine.shape[1] + 1)
    )
    print(f"{name}: correlation of the median beats {best:.4f}")
    assert best > 0.95
