"""SCP-ECG (EN 1064): pointers, header, Huffman tables, leads, reference beat, rhythm.

The rhythm may be plain or Huffman-coded, differenced once or twice, decimated outside the QRS complexes (bimodal
compression), and short of a reference beat that is added back. Of the header, age, sex, times, filters and
machine are read; the tags of people and institutions are skipped.

Source: EN 1064:2005+A1:2007, clauses 5.1 to 5.9; https://www.openecg.net tutorials.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from client.readers._assemble import assemble, check_rate
from client.readers._scp_signal import read_leads, rhythm_millivolts
from client.readers._source import filter_label, label, read_bytes
from ecgshared.ecg import person
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

MAX_BYTES = 8 << 20
"""Twelve leads of the longest form a section can hold take under 1 MB."""

_MEASUREMENTS = 7
_MAGIC_AT, _MAGIC = 16, b"SCPECG"
_HEADER = struct.Struct("<HHIBB6s")
_POINTER = struct.Struct("<HII")
_MAKERS = (
    "unknown",
    "Burdick",
    "Cambridge",
    "Compumed",
    "Datamed",
    "Fukuda",
    "Hewlett-Packard",
    "Marquette Electronics",
    "Mortara Instruments",
    "Nihon Kohden",
    "Okin",
    "Quinton",
    "Siemens",
    "Spacelabs",
    "Telemed",
    "Hellige",
    "ESAOTE",
    "Schiller",
    "Picker-Schwarzer",
    "Elettronica Trentina",
    "Zwönitz",
)
_AGE_UNITS = {1: "y", 2: "m", 3: "w", 4: "d", 5: "h"}
_NOT_MEASURED = 29_999
"""From here on a number of section 7 says why there is none."""

_REMEDY = "export it again; the file is damaged or cut"


@dataclass(frozen=True)
class _Header:
    """What section 1 says that is kept."""

    age_years: float | None
    sex: int
    born: date | None
    recorded_at: datetime | None
    recorded_on: date | None
    device: str | None
    manufacturer: str | None
    filters: str | None


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether section 0 carries its name, or its pointers have their fixed form without it."""
    if len(head) < 32 or head[8:10] != b"\0\0":
        return False
    if head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC:
        return True
    # Old writers leave the name out: section 0 then still points at itself, at byte 7, with its own length.
    number, length, index = _POINTER.unpack_from(head, 22)
    return bool(number == 0 and index == 7 and length == struct.unpack_from("<I", head, 10)[0] > 0)


def read(path: Path) -> EcgRecord:
    """Read the rhythm of section 6.

    Returns
    -------
    EcgRecord : a wrong CRC of the file, or of a section whose structure still holds, is a finding.

    Raises
    ------
    EcgReadError : pointers, leads or tables damaged (their CRC is wrong), a section missing or cut.
    """
    raw = read_bytes(path, MAX_BYTES)
    findings = _check_file(raw, path)
    sections = _sections(raw, path, findings)
    for number, what in ((3, "leads"), (6, "rhythm")):
        if number not in sections:
            raise EcgReadError(f"holds no section {number} ({what})", where=path, remedy="export it with its waveforms")
    header = _header(sections.get(1, b""))
    leads = read_leads(sections, path)
    names, rows, fs, mv_per_step, more = rhythm_millivolts(leads, sections, path)
    stated = header.age_years
    age, about_age = person.age_at(stated, header.born, header.recorded_on)
    return assemble(
        names,
        rows,
        path,
        fs=check_rate(fs, path),
        source_format="scp",
        mv_per_step=mv_per_step,
        age_years=age,
        sex={1: "M", 2: "F"}.get(header.sex),  # type: ignore[arg-type]
        recorded_at=header.recorded_at,
        device=header.device,
        manufacturer=header.manufacturer,
        filters=header.filters,
        machine=_measured(sections.get(_MEASUREMENTS, b"")),
        findings=(*findings, *more, *about_age),
    )


def _check_file(raw: bytes, path: Path) -> list[Finding]:
    if len(raw) < 22 + 12 * _POINTER.size:
        raise EcgReadError("ends within its pointers", where=path, value=len(raw), remedy=_REMEDY)
    stated, length = struct.unpack_from("<HI", raw)
    findings = []
    if length > len(raw):
        findings.append(
            Finding("truncated", f"holds {len(raw)} of the {length} bytes it declares", value=len(raw) / length)
        )
    end = length if 22 < length < len(raw) else len(raw)
    crc = binascii.crc_hqx(raw[2:end], 0xFFFF)
    if crc != stated:
        findings.append(Finding("checksum", f"the CRC of the file is {crc}, it says {stated}", value=float(crc)))
    return findings


def _sections(raw: bytes, path: Path, findings: list[Finding]) -> dict[int, bytes]:
    """Return the sections' bodies by number, those present."""
    length = struct.unpack_from("<I", raw, 10)[0]
    count = (length - 16) // _POINTER.size
    if not 12 <= count <= 1024 or 6 + length > len(raw):
        raise EcgReadError(
            "the table of sections is not valid", where=f"{path}: section 0", value=length, remedy=_REMEDY
        )
    found: dict[int, bytes] = {}
    _check_section(0, raw[6 : 6 + length], path, findings)
    for i in range(count):
        number, length, index = _POINTER.unpack_from(raw, 22 + i * _POINTER.size)
        if not length or number not in (1, 2, 3, 4, 5, 6, _MEASUREMENTS):
            continue
        start = index - 1
        if number == _MEASUREMENTS and not _sound(raw[max(0, start) : start + length], number, length):
            continue  # evidence about the rate, no more: an ECG can do without
        where = f"{path}: section {number}"
        if length < 16 or start < 22 or start + length > len(raw):
            raise EcgReadError(
                "a section lies outside the file",
                where=where,
                value=f"{length} bytes at {start}",
                allowed=f"within {len(raw)} bytes",
                remedy=_REMEDY,
            )
        section = raw[start : start + length]
        if _HEADER.unpack_from(section)[1] != number:
            raise EcgReadError(
                "the table of sections points at another section",
                where=where,
                value=_HEADER.unpack_from(section)[1],
                remedy=_REMEDY,
            )
        _check_section(number, section, path, findings)
        found[number] = section[16:]
    return found


def _sound(section: bytes, number: int, length: int) -> bool:
    """Tell whether a section lies within the file, is the one pointed at, and has no wrong CRC."""
    if length < 16 or len(section) < length:
        return False
    stated, found = _HEADER.unpack_from(section)[:2]
    return found == number and stated in (0, binascii.crc_hqx(section[2:], 0xFFFF))


def _check_section(number: int, section: bytes, path: Path, findings: list[Finding]) -> None:
    """Compare a section's CRC; 0 stands for none, which the standard does not allow and some carts write."""
    stated = struct.unpack_from("<H", section)[0]
    crc = binascii.crc_hqx(section[2:], 0xFFFF)
    if crc == stated or stated == 0:
        return
    if number in (0, 2, 3):
        raise EcgReadError(
            "its CRC is wrong, and all samples depend on it",
            where=f"{path}: section {number}",
            value=crc,
            allowed=str(stated),
            remedy=_REMEDY,
        )
    findings.append(Finding("checksum", f"the CRC of section {number} is {crc}, it says {stated}", value=float(crc)))


def _header(body: bytes) -> _Header:
    tags = _tags(body)
    age = None
    if len(tags.get(4, b"")) >= 3:
        value, unit = struct.unpack_from("<HB", tags[4])
        age = person.years(str(value), _AGE_UNITS[unit]) if value and unit in _AGE_UNITS else None
    on = _date(tags.get(25, b""))
    at = person.clock(*tags[26][:3]) if len(tags.get(26, b"")) >= 3 else None
    device, maker, mains = _machine(tags.get(14, b""))
    high_pass = _u16(tags.get(27, b""))
    bits = tags.get(29, b"\0")[:1] or b"\0"
    notch = 60 if bits[0] & 1 else 50 if bits[0] & 2 else mains if bits[0] & 3 else None
    return _Header(
        age_years=age,
        sex=(tags.get(8) or b"\0")[0],
        born=_date(tags.get(5, b"")),
        recorded_at=None if on is None or at is None else datetime.combine(on, at),
        recorded_on=on,
        device=device,
        manufacturer=maker,
        filters=filter_label(None if high_pass is None else high_pass / 100, _u16(tags.get(28, b"")), notch),
    )


def _tags(body: bytes) -> dict[int, bytes]:
    """Return the values of section 1 by tag, the first of each."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 3 <= len(body) and body[at] != 255:
        tag, length = struct.unpack_from("<BH", body, at)
        found.setdefault(tag, body[at + 3 : at + 3 + length])
        at += 3 + length
    return found


def _u16(value: bytes) -> int | None:
    return struct.unpack_from("<H", value)[0] if len(value) >= 2 else None


def _date(value: bytes) -> date | None:
    return person.day(*struct.unpack_from("<HBB", value)) if len(value) >= 4 else None


def _measured(body: bytes) -> dict[str, float | None]:
    """Return RR and the intervals of the first reference beat from section 7: onsets and ends in ms of that beat."""
    if len(body) < 16:
        return {}
    rr, _, p_onset, _, qrs_onset, qrs_end, t_end = struct.unpack_from("<7H", body, 2)

    def between(start: int, stop: int) -> float | None:
        return float(stop - start) if max(start, stop) < _NOT_MEASURED else None

    return {
        "rr_ms": float(rr),
        "pr_ms": between(p_onset, qrs_onset),
        "qrs_ms": between(qrs_onset, qrs_end),
        "qt_ms": between(qrs_onset, t_end),
    }


def _machine(value: bytes) -> tuple[str | None, str | None, int | None]:
    """Return model with software, maker and mains frequency from tag 14."""
    if len(value) < 19:
        return None, None, None
    model = value[8:14].split(b"\0")[0].decode("latin-1")
    texts = [part.decode("latin-1") for part in value[36:].split(b"\0")] + [""] * 5
    code = value[7]
    maker = texts[4] or (_MAKERS[code] if code < len(_MAKERS) else "")
    software = "" if texts[2] == "unknown" else texts[2]
    return label(model, software), label("" if maker == "unknown" else maker), {1: 50, 2: 60}.get(value[18])
