"""GE MUSE RestingECG XML: eight leads of base64 int16, a rhythm and a median waveform, the cart's measurements.

The rhythm is the record. ``LeadDataCRC32`` is the CRC-32 of a lead's bytes before base64. Filters are kept as
MUSE writes them: the high-pass in hundredths of a hertz.

Source: the element names of the MUSE XML export (restecg.dtd) and exports of versions 7 to 9.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MAX_SAMPLES, assemble, check_rate, mv_per_unit, twelve_leads
from client.readers._source import filter_label, label
from client.readers._xml import fail, number, optional_number, parse, root_name, text_of
from ecgshared.ecg import person
from ecgshared.ecg.leads import standard_name
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

MEASUREMENTS = (
    "VentricularRate",
    "AtrialRate",
    "PRInterval",
    "QRSDuration",
    "QTInterval",
    "QTCorrected",
    "PAxis",
    "RAxis",
    "TAxis",
    "QRSCount",
    "QOnset",
    "QOffset",
    "POnset",
    "POffset",
    "TOffset",
)


@dataclass(frozen=True)
class MedianBeat:
    """The cart's median beat: ``p_signal`` shape = (12, T) in mV, standard order; ``fs`` in Hz."""

    p_signal: NDArray[np.float32]
    fs: float


@dataclass(frozen=True)
class _Waveform:
    names: list[str]
    rows: list[NDArray[np.float64]]
    fs: float
    mv_per_step: float
    findings: list[Finding]


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the root element is RestingECG."""
    return root_name(head) == "RestingECG"


def read(path: Path) -> EcgRecord:
    """Read the rhythm waveform.

    Returns
    -------
    EcgRecord : 12 leads, III and the augmented ones derived where they are not stored. A wrong CRC, leads off
        and cut leads are findings.

    Raises
    ------
    EcgReadError : damaged, or without a rhythm waveform.
    """
    root = parse(path)
    element = _waveform(root, "rhythm", path)
    wave = _decode(element, path)
    recorded_at = _recorded_at(root)
    birth = _date(text_of(root, "PatientDemographics/DateofBirth"))
    stated = person.years(
        text_of(root, "PatientDemographics/PatientAge"), text_of(root, "PatientDemographics/AgeUnits")
    )
    age, findings = person.age_at(stated, birth, recorded_at.date() if recorded_at else None)
    high_pass = optional_number(text_of(element, "HighPassFilter"))
    notch = text_of(element, "ACFilter")
    return assemble(
        wave.names,
        wave.rows,
        path,
        fs=wave.fs,
        source_format="muse_xml",
        mv_per_step=wave.mv_per_step,
        age_years=age,
        sex=person.sex_of(text_of(root, "PatientDemographics/Gender")),
        recorded_at=recorded_at,
        device=label(
            text_of(root, "TestDemographics/AcquisitionDevice"),
            text_of(root, "TestDemographics/AcquisitionSoftwareVersion"),
        ),
        manufacturer="GE",
        filters=filter_label(
            None if high_pass is None else high_pass / 100,
            optional_number(text_of(element, "LowPassFilter")),
            None if notch is None else optional_number(notch),
        ),
        machine=_machine(root),
        findings=(*findings, *wave.findings),
    )


def median_beat(path: Path) -> MedianBeat:
    """Read the median beat the cart computed."""
    wave = _decode(_waveform(parse(path), "median", path), path)
    p_signal, _ = twelve_leads(wave.names, wave.rows, path)
    return MedianBeat(p_signal, wave.fs)


def measurements(path: Path) -> dict[str, float]:
    """Return the cart's global measurements by MUSE's names: rates per min, times in ms, axes in degrees.

    Onsets and offsets are samples of the median beat at ``ECGSampleBase`` Hz. Absent ones are left out.
    """
    block = parse(path).find("RestingECGMeasurements")
    values = {name: optional_number(text_of(block, name)) for name in MEASUREMENTS}
    return {name: value for name, value in values.items() if value is not None}


def _machine(root: Element) -> dict[str, float | None]:
    """Return rate and intervals as every reader names them."""
    block = root.find("RestingECGMeasurements")
    names = {"rate_bpm": "VentricularRate", "pr_ms": "PRInterval", "qrs_ms": "QRSDuration", "qt_ms": "QTInterval"}
    return {name: optional_number(text_of(block, theirs)) for name, theirs in names.items()}


def _waveform(root: Element, kind: str, path: Path) -> Element:
    found = [w for w in root.iter("Waveform") if (text_of(w, "WaveformType") or "").lower().startswith(kind)]
    if not found:
        kinds = [text_of(w, "WaveformType") for w in root.iter("Waveform")]
        raise EcgReadError(
            f"holds no {kind} waveform",
            where=path,
            value=kinds[:5],
            remedy="export it with waveforms; a report without them holds no ECG",
        )
    return found[0]


def _decode(element: Element, path: Path) -> _Waveform:
    where = f"{path}: Waveform {text_of(element, 'WaveformType')}"
    exponent = number(text_of(element, "SampleExponent") or "0", "SampleExponent", where, low=-6, high=6)
    fs = check_rate(number(text_of(element, "SampleBase"), "SampleBase", where) * 10.0**exponent, where)
    names: list[str] = []
    rows: list[NDArray[np.float64]] = []
    steps: list[float] = []
    findings: list[Finding] = []
    for data in element.iter("LeadData"):
        name = text_of(data, "LeadID") or ""
        stored = _samples(data, name, f"{where}, lead {name[:10]}", findings)
        step = number(text_of(data, "LeadAmplitudeUnitsPerBit"), "LeadAmplitudeUnitsPerBit", where, low=1e-6, high=1e6)
        step *= mv_per_unit(text_of(data, "LeadAmplitudeUnits") or "MICROVOLTS", where)
        if (text_of(data, "LeadOff") or "").upper() == "TRUE":
            findings.append(Finding("lead-off", f"the cart says that {name[:10]} was off", standard_name(name)))
        names.append(name)
        rows.append(stored * step)
        steps.append(step)
    if not rows:
        fail("holds no leads", where, None, "LeadData elements")
    return _Waveform(names, rows, fs, max(steps), findings)


def _samples(data: Element, name: str, where: str, findings: list[Finding]) -> NDArray[np.float64]:
    text = text_of(data, "WaveFormData") or ""
    size = number(text_of(data, "LeadSampleSize") or "2", "LeadSampleSize", where)
    if size != 2:
        fail("samples are not 16 bits wide", where, size, "LeadSampleSize 2")
    if len(text) > 4 * MAX_SAMPLES:
        fail("holds more samples than a 12-lead ECG has", where, len(text), f"at most {MAX_SAMPLES} per lead")
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EcgReadError(
            "the samples are no base64", where=where, remedy="export it again; the file is damaged"
        ) from error
    stated = text_of(data, "LeadDataCRC32")
    if stated is not None and stated.isdecimal() and stated != "0":
        crc = zlib.crc32(raw)
        if crc != int(stated[:20]):
            findings.append(
                Finding(
                    "checksum", f"CRC-32 of lead {name[:10]} is {crc}, the file says {stated[:20]}", value=float(crc)
                )
            )
    if not raw or len(raw) % 2:
        fail("the samples are no whole 16-bit words", where, len(raw), "an even number of bytes")
    stored = np.frombuffer(raw, dtype="<i2").astype(np.float64)
    declared = optional_number(text_of(data, "LeadSampleCountTotal"))
    if declared is not None and declared != len(stored):
        code = "truncated" if len(stored) < declared else "excess-samples"
        findings.append(
            Finding(
                code,
                f"lead {name[:10]} holds {len(stored)} of {declared:g} samples",
                value=len(stored) / max(declared, 1),
            )
        )
    return stored


def _date(text: str | None) -> date | None:
    """MUSE writes month-day-year; some sites' exports are ISO."""
    parts = (text or "").replace("/", "-").split("-")
    if len(parts) != 3:
        return None
    return person.day(*parts) if len(parts[0]) == 4 else person.day(parts[2], parts[0], parts[1])


def _recorded_at(root: Element) -> datetime | None:
    on = _date(text_of(root, "TestDemographics/AcquisitionDate"))
    parts = (text_of(root, "TestDemographics/AcquisitionTime") or "").split(":")
    at = person.clock(*parts) if 2 <= len(parts) <= 3 else None
    return None if on is None or at is None else datetime.combine(on, at)
