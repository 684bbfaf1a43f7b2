"""Philips SierraECG and PhilipsECG XML, versions 1.03 to 1.04.02: UTF-8 or UTF-16, plain or XLI-compressed.

Leads III, aVR, aVL and aVF are stored as what is left after computing them from I and II. The second that holds
the calibration pulse is left out.

Source: sierra-ecg-tools by C. A. Watford; exports of versions 1.03 to 1.04.02.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MAX_SAMPLES, assemble, check_length, check_rate
from client.readers._source import filter_label, label
from client.readers._xli import inflate, undo_differences
from client.readers._xml import fail, number, optional_number, parse, root_name, text_of
from ecgshared.ecg import person
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

TYPES = ("SierraECG", "PhilipsECG")
VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")

MAX_XLI_SAMPLES = 120_000
"""Most samples of one compressed lead, two minutes at 1 kHz: LZW can blow 1 kB up to half a megabyte."""


@dataclass(frozen=True)
class _Stored:
    """What the file says about its samples."""

    names: list[str]
    fs: float
    mv_per_step: float
    samples: int


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the root element is restingecgdata."""
    return root_name(head) == "restingecgdata"


def read(path: Path) -> EcgRecord:
    """Read the recording.

    Returns
    -------
    EcgRecord : 12 leads without the second of the calibration pulse; fewer samples than declared are a finding.

    Raises
    ------
    EcgReadError : another document type or version, damaged, or compressed otherwise than by XLI.
    """
    root = parse(path)
    _check_version(root, path)
    signal = _need(root, "dataacquisition/signalcharacteristics", path)
    waveforms = _need(root, ".//parsedwaveforms", path)
    stored = _describe(signal, waveforms, path)
    raw = _bytes(waveforms, path)
    compression = waveforms.get("compression") or waveforms.get("compressmethod") or "Uncompressed"
    if compression == "XLI":
        digital = _reconstitute(_unpack(raw, stored, path), stored.names)
    elif compression in ("Uncompressed", "None"):
        digital = _plain(raw, stored, path)
    else:
        fail("the waveforms are compressed in an unknown way", path, compression[:20], "XLI, Uncompressed")
    findings = [
        Finding("truncated", f"{name} holds {len(row)} of {stored.samples} samples", value=len(row) / stored.samples)
        for name, row in zip(stored.names, digital, strict=True)
        if len(row) < stored.samples
    ]
    recorded_at = _recorded_at(root)
    age, about_age = _age(root, recorded_at)
    machine = root.find("dataacquisition/machine")
    band = (text_of(signal, "signalbandwidth") or "").split("-")
    notch = text_of(signal, "acsetting") if (text_of(signal, "notchfiltered") or "").lower() == "true" else None
    return assemble(
        stored.names,
        [row * stored.mv_per_step for row in digital],
        path,
        fs=stored.fs,
        source_format="philips_xml",
        mv_per_step=stored.mv_per_step,
        age_years=age,
        sex=person.sex_of(text_of(root, "patient/generalpatientdata/sex")),
        recorded_at=recorded_at,
        device=label(text_of(machine), None if machine is None else machine.get("detaildescription")),
        manufacturer="Philips",
        filters=filter_label(
            optional_number(text_of(signal, "hipass") or (band[0] if len(band) == 2 else None)),
            optional_number(text_of(signal, "lowpass") or (band[1] if len(band) == 2 else None)),
            optional_number(notch),
        ),
        machine=_measured(root),
        findings=(*findings, *about_age),
    )


def _measured(root: Element) -> dict[str, float | None]:
    """Return what the cart measured; words such as "Invalid" stand where it could not."""
    block = root.find("interpretations/interpretation/globalmeasurements")
    names = {"rate_bpm": "heartrate", "rr_ms": "rrint", "pr_ms": "print", "qrs_ms": "qrsdur", "qt_ms": "qtint"}
    return {name: optional_number(text_of(block, theirs)) for name, theirs in names.items()}


def _need(root: Element, name: str, path: Path) -> Element:
    found = root.find(name)
    if found is None:
        fail(f"holds no {name.rpartition('/')[2]}", path, None, "a resting ECG exported with its waveforms")
    return found


def _check_version(root: Element, path: Path) -> None:
    kind = text_of(root, "documentinfo/documenttype") or ""
    version = text_of(root, "documentinfo/documentversion") or ""
    if kind not in TYPES or version not in VERSIONS:
        raise EcgReadError(
            "is of a document type or version that is not supported",
            where=path,
            value=f"{kind[:20]} {version[:10]}",
            allowed=f"{' or '.join(TYPES)}, version {', '.join(VERSIONS)}",
            remedy="export it as PhilipsECG 1.04",
        )


def _describe(signal: Element, waveforms: Element, path: Path) -> _Stored:
    fs = check_rate(number(text_of(signal, "samplingrate"), "samplingrate", path), path)
    resolution = text_of(signal, "resolution") or text_of(signal, "signalresolution")
    microvolts = number(resolution, "resolution", path, low=1e-3, high=1e6)
    milliseconds = number(waveforms.get("durationperchannel"), "durationperchannel", path, low=1, high=1e9)
    samples = check_length(int(milliseconds * fs / 1000), path)
    names = (waveforms.get("leadlabels") or "").split()
    if names:
        count = optional_number(waveforms.get("numberofleads"))
        names = names[: int(count)] if count and 0 < count < 64 else names[:64]
    else:
        channels = number(text_of(signal, "numberchannelsallocated"), "numberchannelsallocated", path, low=1, high=64)
        layout = text_of(signal, "acquisitiontype") or text_of(signal, "leadset") or ""
        if not layout.upper().startswith(("STD-12", "10-WIRE")):
            fail(
                "the leads are not named, and their order is not the standard one", path, layout[:20], "STD-12, 10-WIRE"
            )
        names = [*LEADS, *(f"channel {i}" for i in range(13, 65))][: int(channels)]
    bits = optional_number(text_of(signal, "bitspersample"))
    if bits not in (None, 16.0):
        fail("the samples are not 16 bits wide", path, bits, "bitspersample 16")
    return _Stored(names, fs, microvolts / 1000, samples)


def _bytes(waveforms: Element, path: Path) -> bytes:
    if (waveforms.get("dataencoding") or "Base64").lower() != "base64":
        fail("the waveforms are not encoded in base64", path, (waveforms.get("dataencoding") or "")[:20], "Base64")
    try:
        raw = base64.b64decode("".join((waveforms.text or "").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EcgReadError(
            "the waveforms are no base64",
            where=path,
            remedy="export it again; the file is damaged",
        ) from error
    if not raw:
        fail("the waveforms are empty", path, None, "base64 text")
    return raw


def _plain(raw: bytes, stored: _Stored, path: Path) -> list[NDArray[np.int64]]:
    """Leads one after the other; told by Einthoven's law whether the limb leads are stored or their remainders."""
    values = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.int64)
    if len(values) < stored.samples:
        fail("the waveforms end within the first lead", path, len(values), f"{stored.samples} samples per lead")
    rows = [values[i * stored.samples : (i + 1) * stored.samples] for i in range(len(stored.names))]
    by_name = dict(zip(stored.names, rows, strict=True))
    limbs = [by_name.get(name) for name in ("I", "II", "III")]
    if all(row is not None and len(row) == stored.samples for row in limbs):
        one, two, three = (row for row in limbs if row is not None)
        if np.abs(three).mean() < np.abs(two - one - three).mean():
            return _reconstitute(rows, stored.names)
    return rows


def _unpack(raw: bytes, stored: _Stored, path: Path) -> list[NDArray[np.int64]]:
    """Return one array per lead out of XLI chunks: 4 bytes size, 2 unknown, 2 first difference, then LZW codes."""
    most = min(MAX_SAMPLES, MAX_XLI_SAMPLES)
    if stored.samples > most:
        fail("declares more samples than a compressed resting ECG has", path, stored.samples, f"at most {most}")
    rows: list[NDArray[np.int64]] = []
    at = 0
    while len(rows) < len(stored.names) and at + 8 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "little", signed=True)
        first = int.from_bytes(raw[at + 6 : at + 8], "little", signed=True)
        where = f"{path}: compressed lead {len(rows) + 1}"
        if size <= 0 or at + 8 + size > len(raw):
            fail("a compressed lead is cut short", where, size, f"1 to {len(raw) - at - 8} bytes")
        try:
            packed = inflate(raw[at + 8 : at + 8 + size], 2 * stored.samples + 2)
        except ValueError as error:
            raise EcgReadError(
                "a compressed lead cannot be unpacked", where=where, remedy="export it again; the file is damaged"
            ) from error
        rows.append(undo_differences(packed, first)[: stored.samples])
        at += 8 + size
    if len(rows) < len(stored.names):
        fail("holds fewer compressed leads than it names", path, len(rows), f"{len(stored.names)} leads")
    if min(len(row) for row in rows) < 3:
        fail("a compressed lead holds no samples", path, None, f"{stored.samples} samples")
    return rows


def _reconstitute(rows: list[NDArray[np.int64]], names: list[str]) -> list[NDArray[np.int64]]:
    """Add what I and II make of the other limb leads to the stored remainders, halves rounded down."""
    leads = dict(zip(names, rows, strict=True))
    if not {"I", "II", "III", "aVR", "aVL", "aVF"} <= set(leads):
        return rows
    n = min(len(leads[name]) for name in ("I", "II", "III", "aVR", "aVL", "aVF"))
    one, two = leads["I"][:n], leads["II"][:n]
    three = two - one - leads["III"][:n]
    leads |= {
        "III": three,
        "aVR": -leads["aVR"][:n] - (one + two) // 2,
        "aVL": (one - three) // 2 - leads["aVL"][:n],
        "aVF": (two + three) // 2 - leads["aVF"][:n],
    }
    return [leads[name] for name in names]


def _age(root: Element, recorded_at: datetime | None) -> tuple[float | None, list[Finding]]:
    """Age from years or birth date; ``defaultage`` is what the cart assumes when it knows neither, and no age."""
    element = root.find("patient/generalpatientdata/age")
    stated = None
    for unit in ("years", "months", "weeks", "days"):
        stated = person.years(text_of(element, unit), unit) if stated is None else stated
    born = person.moment(text_of(element, "dateofbirth"))
    return person.age_at(
        stated, None if born is None else born.date(), None if recorded_at is None else recorded_at.date()
    )


def _recorded_at(root: Element) -> datetime | None:
    element = root.find("dataacquisition")
    return None if element is None else person.moment(f"{element.get('date', '')}T{element.get('time', '')}")
