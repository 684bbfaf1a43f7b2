"""Mortara (Welch Allyn, Hillrom, Baxter) ELI XML: one CHANNEL of base64 int16 per lead, and a typical cycle.

The rhythm is the record. No description is published; the meaning of the attributes is what three independent
open readers agree on. Where they do not (an OFFSET other than 0), the file is refused.

Source: exports of ELI Link as read by BRAVEHEART (load_elixml), EDFbrowser (mortara2edf) and ECGDataKit.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from client.readers._assemble import MAX_SAMPLES, assemble, check_rate
from client.readers._source import filter_label, label
from client.readers._xml import fail, number, optional_number, parse, root_name
from ecgshared.arrays import Floats
from ecgshared.ecg import person
from ecgshared.ecg.record import EcgRecord, Finding, Sex
from ecgshared.errors import EcgReadError

_MARKS = (b"ACQUISITION_TIME", b"<SUBJECT", b"<CHANNEL", b"<DEMOGRAPHIC_FIELDS")
_AGE_FIELD, _SEX_FIELD, _BIRTH_FIELD = "3", "4", "16"
"""Numbers of DEMOGRAPHIC_FIELD; their labels are in the language of the cart."""


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the root element is ECG, with what ELI carts put into it."""
    return root_name(head) == "ECG" and any(mark in head.replace(b"\0", b"") for mark in _MARKS)


def read(path: Path) -> EcgRecord:
    """Read the rhythm.

    Raises
    ------
    EcgReadError : damaged, without CHANNEL elements, or coded otherwise than 16-bit signed base64.
    """
    root = parse(path)
    channels = root.findall("CHANNEL")
    if not channels:
        fail("holds no CHANNEL", path, None, "an export with its waveforms")
    names, rows, rates, steps = [], [], set(), []
    findings: list[Finding] = []
    for channel in channels:
        name = (channel.get("NAME") or "").strip()
        where = f"{path}: CHANNEL {name[:10]}"
        rates.add(check_rate(number(channel.get("SAMPLE_FREQ"), "SAMPLE_FREQ", where), where))
        steps.append(1 / number(channel.get("UNITS_PER_MV"), "UNITS_PER_MV", where, low=1e-3, high=1e9))
        stored = _samples(channel, where)
        declared = optional_number(channel.get("DURATION"))
        # The number of samples; milliseconds in some versions.
        if declared and len(stored) < declared and len(stored) < round(declared * max(rates) / 1000):
            share = len(stored) / declared
            findings.append(
                Finding("truncated", f"{name[:10]} holds {len(stored)} of {declared:g} samples", None, share)
            )
        names.append(name)
        rows.append(stored * steps[-1])
    if len(rates) > 1:
        fail("the leads have different rates", path, sorted(rates), "one SAMPLE_FREQ")
    age, sex, about_age = _person(root)
    source = root.find("SOURCE")
    said = {} if source is None else source.attrib
    return assemble(
        names,
        rows,
        path,
        fs=rates.pop(),
        source_format="eli_xml",
        mv_per_step=max(steps),
        recorded_at=person.moment(root.get("ACQUISITION_TIME") or root.get("ACQUISITION_TIME_XML")),
        device=label(
            said.get("MODEL") or said.get("ACQUIRING_DEVICE_EXTENDED_MODEL_DESCRIPTION"),
            said.get("ACQUIRING_DEVICE_SW_VERSION"),
        ),
        manufacturer=label(said.get("MANUFACTURER")) or "Mortara",
        filters=filter_label(low_pass=optional_number(said.get("LOW_PASS_FILTER"))),
        age_years=age,
        sex=sex,
        machine=_measured(root),
        findings=(*findings, *about_age),
    )


def _measured(root: Element) -> dict[str, float | None]:
    """Return rate and RR of the recording, and the intervals of the typical cycle."""
    whole = {"rate_bpm": "VENT_RATE", "rr_ms": "AVERAGE_RR"}
    of_cycle = {"pr_ms": "PR_DURATION", "qrs_ms": "QRS_DURATION", "qt_ms": "QT"}
    cycle = root.find("TYPICAL_CYCLE")
    found = {name: optional_number(root.get(theirs)) for name, theirs in whole.items()}
    return found | {
        name: None if cycle is None else optional_number(cycle.get(theirs)) for name, theirs in of_cycle.items()
    }


def _samples(channel: Element, where: str) -> Floats:
    coding = [(channel.get(key) or usual).upper() for key, usual in (("BITS", "16"), ("FORMAT", "SIGNED"))]
    coding.append((channel.get("ENCODING") or "BASE64").upper())
    if coding != ["16", "SIGNED", "BASE64"]:
        fail("the samples are coded in an unknown way", where, coding, "BITS 16, FORMAT SIGNED, ENCODING BASE64")
    if optional_number(channel.get("OFFSET") or "0") != 0:
        fail("has an OFFSET, and readers disagree what it means", where, (channel.get("OFFSET") or "")[:20], "0")
    text = "".join((channel.get("DATA") or channel.text or "").split())
    if len(text) > 4 * MAX_SAMPLES:
        fail("holds more samples than a 12-lead ECG has", where, len(text), f"at most {MAX_SAMPLES} per lead")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EcgReadError(
            "the samples are no base64", where=where, remedy="export it again; the file is damaged"
        ) from None
    if not raw or len(raw) % 2:
        fail("the samples are no whole 16-bit words", where, len(raw), "an even number of bytes")
    return np.frombuffer(raw, dtype="<i2").astype(np.float64)


def _person(root: Element) -> tuple[float | None, Sex | None, list[Finding]]:
    subject = root.find("SUBJECT")
    said = {} if subject is None else subject.attrib
    fields = {f.get("ID"): f for f in root.iterfind("DEMOGRAPHIC_FIELDS/DEMOGRAPHIC_FIELD")}

    def field(number: str, key: str) -> str | None:
        return None if number not in fields else (fields[number].get(key) or "").strip() or None

    stated = person.years(root.get("AGE"), root.get("AGE_UNITS"))
    if stated is None:
        stated = person.years(field(_AGE_FIELD, "VALUE"), field(_AGE_FIELD, "UNITS"))
    born = person.moment(said.get("DOB") or said.get("DOB_XML") or field(_BIRTH_FIELD, "VALUE"))
    recorded = person.moment(root.get("ACQUISITION_TIME") or root.get("ACQUISITION_TIME_XML"))
    age, findings = person.age_at(
        stated, None if born is None else born.date(), None if recorded is None else recorded.date()
    )
    sex = person.sex_of(said.get("GENDER")) or person.sex_of(field(_SEX_FIELD, "VALUE"))
    return age, sex, findings
