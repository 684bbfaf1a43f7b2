"""Schiller's XML (SEMA, CARDIOVIT): the rhythm as lists of whole numbers, a resolution, a rate.

No description is published; the elements are what two independent open readers agree on. A sampling rate with an
exponent other than 1 is refused: neither says what that means.

Source: exports of SEMA as read by BRAVEHEART (load_schillerxml) and the CVRG's Schiller library.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from xml.etree.ElementTree import Element

from client.readers._assemble import MAX_SAMPLES, assemble, check_rate, mv_per_unit
from client.readers._source import label
from client.readers._xml import fail, number, numbers, optional_number, parse, root_name, text_of
from ecgshared.arrays import Floats
from ecgshared.ecg import person
from ecgshared.ecg.record import EcgRecord, Finding

_RHYTHM = "ECG_RHYTHMS"


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the root element is SchillerEDI, which carries its Java package in its name."""
    return (root_name(head) or "").rpartition(".")[2] == "SchillerEDI"


def read(path: Path) -> EcgRecord:
    """Read the rhythm.

    Raises
    ------
    EcgReadError : damaged, without a rhythm, or coded in a way that nobody has described.
    """
    root = parse(path)
    waves = [w for w in root.iterfind("eventdata/event/wavedata") if (text_of(w, "type") or "").upper() == _RHYTHM]
    if not waves:
        kinds = [text_of(w, "type") for w in root.iterfind("eventdata/event/wavedata")][:5]
        fail("holds no rhythm", path, kinds or None, f"wavedata of type {_RHYTHM}")
    where = f"{path}: {_RHYTHM}"
    wave = waves[0]
    exponent = optional_number(text_of(wave, "resolution/samplerate/exponent") or "1")
    if exponent != 1:
        fail("the sampling rate has an exponent nobody has described", where, exponent, "1")
    fs = check_rate(number(text_of(wave, "resolution/samplerate/value"), "samplerate", where), where)
    step = number(text_of(wave, "resolution/yres/unitperbit"), "unitperbit", where, low=1e-6, high=1e6)
    step *= mv_per_unit(text_of(wave, "resolution/yres/units"), where)
    names, rows, findings = _channels(wave, where)
    birth, recorded_at = _date(text_of(root, "patdata/birthdate")), _recorded_at(root)
    stated = person.years(text_of(root, "patdata/age"))
    age, about_age = person.age_at(stated, birth, None if recorded_at is None else recorded_at.date())
    device = root.find("examdescript/aquiringdevice")
    return assemble(
        names,
        [row * step for row in rows],
        path,
        fs=fs,
        source_format="schiller_xml",
        mv_per_step=step,
        age_years=age,
        sex=person.sex_of(text_of(root, "patdata/gender")),
        recorded_at=recorded_at,
        device=label(text_of(device, "hardware/model"), text_of(device, "software/version")),
        manufacturer=label(text_of(device, "hardware/vendor")) or "Schiller",
        findings=(*findings, *about_age),
    )


def _channels(wave: Element, where: str) -> tuple[list[str], list[Floats], list[Finding]]:
    names, rows = [], []
    findings: list[Finding] = []
    for channel in wave.iterfind("channel"):
        name = text_of(channel, "name") or ""
        kind = (text_of(channel, "datastype") or "COMMASEPARATE").upper()
        if not kind.startswith("COMMASEPARATE"):
            fail(f"lead {name[:10]} is coded in an unknown way", where, kind[:20], "COMMASEPARATE")
        row = numbers(text_of(channel, "data"), f"lead {name[:10]}", where)
        if len(row) > MAX_SAMPLES:
            fail("holds more samples than a 12-lead ECG has", where, len(row), f"at most {MAX_SAMPLES} per lead")
        declared = optional_number(text_of(channel, "samplecount"))
        if declared and len(row) < declared:
            share = len(row) / declared
            findings.append(
                Finding("truncated", f"lead {name[:10]} holds {len(row)} of {declared:g} samples", None, share)
            )
        names.append(name)
        rows.append(row)
    if not rows:
        fail("holds no channel", where, None, "channel elements with name and data")
    return names, rows, findings


def _date(text: str | None) -> date | None:
    try:
        return person.parse_date(text or "").date()
    except ValueError:
        return None


def _recorded_at(root: Element) -> datetime | None:
    """Return date and time of the start, which stand in elements of their own; None unless both can be read."""
    on = _date(text_of(root, "examdescript/startdatetime/date"))
    digits = (text_of(root, "examdescript/startdatetime/time") or "").replace(":", "")[:6]
    at = person.clock(digits[:2], digits[2:4], digits[4:6] or 0) if digits.isdecimal() else None
    return None if on is None or at is None else datetime.combine(on, at)
