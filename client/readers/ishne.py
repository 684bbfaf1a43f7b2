"""ISHNE Holter format, version 1.0: a 522-byte header and int16 samples, one lead after the other in each frame.

Source: F. Badilini, "The ISHNE Holter standard output file format", Ann. Noninvasive Electrocardiol. 3 (1998) 263.
"""

from __future__ import annotations

import binascii
import struct
from datetime import datetime
from pathlib import Path

import numpy as np

from client.readers._assemble import MAX_SAMPLES, assemble, check_length, check_rate
from client.readers._source import label, read_bytes
from ecgshared.ecg import person
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

MAGIC = b"ISHNE1.0"
HEADER_BYTES = 522
MAX_BYTES = HEADER_BYTES + (1 << 20) + 24 * MAX_SAMPLES

_LEAD_BY_NUMBER = dict(enumerate(LEADS, start=5))
_FIXED = struct.Struct("<iiiih")
_INVALID = -32768
_REMEDY = "export it again; the header is damaged"


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the file starts with ISHNE's magic number."""
    return head.startswith(MAGIC)


def read(path: Path) -> EcgRecord:
    """Read the recording; a wrong header checksum is a finding.

    Raises
    ------
    EcgReadError : cut, damaged, longer than an hour, or without a lead of the twelve.
    """
    raw = read_bytes(path, MAX_BYTES)
    if len(raw) < HEADER_BYTES:
        raise EcgReadError("ends within its header", where=path, value=len(raw), remedy=_REMEDY)
    _, samples, _, ecg_at, _ = _FIXED.unpack_from(raw, 10)
    sex, _, *dates = struct.unpack_from("<2h12h", raw, 128)
    n_leads = struct.unpack_from("<h", raw, 156)[0]
    if not 1 <= n_leads <= 12:
        raise EcgReadError(
            "the number of leads is not valid", where=path, value=n_leads, allowed="1 to 12", remedy=_REMEDY
        )
    if not HEADER_BYTES <= ecg_at <= len(raw):
        raise EcgReadError(
            "the samples lie outside the file",
            where=path,
            value=ecg_at,
            allowed=f"{HEADER_BYTES} to {len(raw)}",
            remedy=_REMEDY,
        )
    kinds = struct.unpack_from("<12h", raw, 158)[:n_leads]
    nanovolts = struct.unpack_from("<12h", raw, 206)[:n_leads]
    recorder = raw[232:272].split(b"\0")[0].decode("latin-1")
    fs = check_rate(float(struct.unpack_from("<h", raw, 272)[0]), path)
    if min(nanovolts) <= 0:
        raise EcgReadError(
            "a lead's resolution is not valid", where=path, value=nanovolts, allowed="nV, above 0", remedy=_REMEDY
        )
    held = (len(raw) - ecg_at) // (2 * n_leads)
    check_length(held, path)
    stored = np.frombuffer(raw, dtype="<i2", count=held * n_leads, offset=ecg_at).reshape(held, n_leads).T
    findings = []
    crc = binascii.crc_hqx(raw[10:ecg_at], 0xFFFF)
    stated = struct.unpack_from("<H", raw, 8)[0]
    if crc != stated:
        findings.append(Finding("checksum", f"the header's CRC is {crc}, the file says {stated}", value=float(crc)))
    # Writers disagree whether the size counts samples or frames; only fewer than either is a cut file.
    if held < samples // n_leads:
        findings.append(
            Finding(
                "truncated", f"holds {held} of {samples // n_leads} samples per lead", value=held * n_leads / samples
            )
        )
    birth, recorded = person.day(dates[2], dates[1], dates[0]), person.day(dates[5], dates[4], dates[3])
    at = person.clock(*dates[9:12])
    age, about_age = person.age_at(None, birth, recorded)
    rows = [
        np.where(row == _INVALID, np.nan, row.astype(np.float64) * (nv * 1e-6))
        for row, nv in zip(stored, nanovolts, strict=True)
    ]
    return assemble(
        [_LEAD_BY_NUMBER.get(kind, f"lead {kind}") for kind in kinds],
        rows,
        path,
        fs=fs,
        source_format="ishne",
        mv_per_step=max(nanovolts) * 1e-6,
        age_years=age,
        sex={1: "M", 2: "F"}.get(sex),  # type: ignore[arg-type]
        recorded_at=None if recorded is None or at is None else datetime.combine(recorded, at),
        device=label(recorder),
        findings=(*findings, *about_age),
    )
