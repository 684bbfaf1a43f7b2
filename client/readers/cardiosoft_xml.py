"""GE CardioSoft XML, as UK Biobank distributes it (fields 20205 resting, 6025 exercise).

``StripData`` is the recording; ``RestingECGMeasurements/MedianSamples`` the median beat. ``FullDisclosure`` of an
exercise test is not read: it is no 12-lead ECG.

Source: UK Biobank, "12-lead ECG" resource 20205 and its descriptions; the element names are GE's.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MAX_SAMPLES, assemble, check_rate, twelve_leads
from client.readers._source import filter_label, label
from client.readers._xml import fail, number, numbers, optional_number, parse, root_name, text_of
from ecgshared.ecg import person
from ecgshared.ecg.record import EcgRecord, Finding

_MEASURED = {
    "rate_bpm": "VentricularRate",
    "rr_ms": "RRInterval",
    "pr_ms": "PQInterval",
    "qrs_ms": "QRSDuration",
    "qt_ms": "QTInterval",
}
_MV_PER_STEP = {"uvperlsb": 1e-3, "mvperlsb": 1.0, "nvperlsb": 1e-6}


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the root element is CardiologyXML."""
    return root_name(head) == "CardiologyXML"


def read(path: Path) -> EcgRecord:
    """Read the strip of a resting ECG.

    Raises
    ------
    EcgReadError : damaged, or without StripData.
    """
    root = parse(path)
    names, rows, fs, step, findings = _samples(root.find("StripData"), "StripData", path)
    recorded_at = _recorded_at(root)
    age_element = root.find("PatientInfo/Age")
    stated = person.years(text_of(age_element), None if age_element is None else age_element.get("units"))
    birth = _date(root.find("PatientInfo/BirthDateTime"))
    age, about_age = person.age_at(stated, birth, None if recorded_at is None else recorded_at.date())
    device = root.find("ClinicalInfo/DeviceInfo")
    settings = root.find("FilterSetting")
    notch = next(
        (hz for hz in (50, 60) if (text_of(settings, f"Filter{hz}Hz") or "").lower() in ("yes", "true", "on")), None
    )
    return assemble(
        names,
        rows,
        path,
        fs=fs,
        source_format="cardiosoft_xml",
        mv_per_step=step,
        age_years=age,
        sex=person.sex_of(text_of(root, "PatientInfo/Gender")),
        recorded_at=recorded_at,
        device=label(text_of(device, "Desc") or text_of(root, "Device-Type"), text_of(device, "SoftwareVer")),
        manufacturer="GE",
        filters=filter_label(
            optional_number(text_of(settings, "HighPass")), optional_number(text_of(settings, "LowPass")), notch
        ),
        machine={
            name: optional_number(text_of(root, f"RestingECGMeasurements/{theirs}"))
            for name, theirs in _MEASURED.items()
        },
        findings=(*findings, *about_age),
    )


def median_beat(path: Path) -> tuple[NDArray[np.float32], float]:
    """Return the recorder's median beat, shape = (12, T) in mV, and its rate in Hz."""
    element = parse(path).find("RestingECGMeasurements/MedianSamples")
    names, rows, fs, _, _ = _samples(element, "MedianSamples", path)
    return twelve_leads(names, rows, path)[0], fs


def _samples(
    element: Element | None, what: str, path: Path
) -> tuple[list[str], list[NDArray[np.float64]], float, float, list[Finding]]:
    where = f"{path}: {what}"
    if element is None:
        fail(f"holds no {what}", path, None, "a resting ECG exported with its waveforms")
    fs = check_rate(number(text_of(element, "SampleRate"), "SampleRate", where), where)
    resolution = element.find("Resolution")
    unit = "uVperLsb" if resolution is None else resolution.get("units", "uVperLsb")
    factor = _MV_PER_STEP.get(unit.lower())
    if factor is None:
        fail("the unit of Resolution is not known", where, unit[:20], ", ".join(_MV_PER_STEP))
    step = factor * number(text_of(resolution), "Resolution", where, low=1e-6, high=1e6)
    declared = optional_number(text_of(element, "ChannelSampleCountTotal"))
    names: list[str] = []
    rows: list[NDArray[np.float64]] = []
    findings: list[Finding] = []
    for data in element.iterfind("WaveformData"):
        name = (data.get("lead") or "").strip()
        row = numbers(data.text, f"lead {name[:10]}", where)
        if len(row) > MAX_SAMPLES:
            fail("holds more samples than a 12-lead ECG has", where, len(row), f"at most {MAX_SAMPLES} per lead")
        if declared and len(row) < declared:
            findings.append(
                Finding(
                    "truncated", f"lead {name[:10]} holds {len(row)} of {declared:g} samples", value=len(row) / declared
                )
            )
        names.append(name)
        rows.append(row * step)
    if not rows:
        fail("holds no WaveformData", where, None, '<WaveformData lead="I">')
    return names, rows, fs, step, findings


def _date(element: Element | None) -> date | None:
    parts = [text_of(element, part) for part in ("Year", "Month", "Day")]
    return person.day(*parts) if all(parts) else None


def _recorded_at(root: Element) -> datetime | None:
    element = root.find("ObservationDateTime")
    on = _date(element)
    at = person.clock(text_of(element, "Hour"), text_of(element, "Minute"), text_of(element, "Second") or 0)
    return None if on is None or at is None else datetime.combine(on, at)
