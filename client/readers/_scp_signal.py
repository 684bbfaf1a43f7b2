"""The samples of an SCP-ECG record: sections 2 to 6 into millivolts.

Sample numbers count from 1 and both ends of a span belong to it, as in the standard.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MAX_SAMPLES, check_length
from client.readers._huffman import Decoder, Table, parse_tables
from client.readers._scp_compression import interpolate, stored_samples, undo_differences
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import Finding
from ecgshared.errors import EcgReadError

_LEAD_BY_NUMBER = dict(zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True))
_MAX_LEADS = 85
_REMEDY = "export it again; the file is damaged"


@dataclass(frozen=True)
class Lead:
    """One lead: number of the standard's table, first and last sample."""

    number: int
    start: int
    end: int

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.end - self.start + 1


@dataclass(frozen=True)
class Leads:
    """Section 3. ``subtracted``: a reference beat was taken off the rhythm."""

    leads: tuple[Lead, ...]
    subtracted: bool


@dataclass(frozen=True)
class Complex:
    """One QRS of section 4: beat type, span of the subtraction, fiducial sample."""

    kind: int
    start: int
    fiducial: int
    end: int


@dataclass(frozen=True)
class Complexes:
    """Section 4: fiducial sample of the reference beat, its length in ms, complexes, spans kept at full rate."""

    beat_ms: int
    fiducial: int
    complexes: tuple[Complex, ...]
    protected: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Coded:
    """Section 5 or 6 before decoding: nV a step, us a sample, differences (0, 1, 2), byte 6, bytes by lead."""

    nanovolts: int
    interval_us: int
    differences: int
    bimodal: bool
    data: tuple[bytes, ...]


def read_leads(sections: Mapping[int, bytes], path: Path) -> Leads:
    """Read section 3."""
    body, where = sections[3], f"{path}: section 3"
    count = body[0] if len(body) >= 2 else 0
    if not 0 < count <= _MAX_LEADS or len(body) < 2 + 9 * count:
        raise EcgReadError(
            "the leads are not valid", where=where, value=count, allowed=f"1 to {_MAX_LEADS}", remedy=_REMEDY
        )
    leads = []
    for i in range(count):
        start, end, number = struct.unpack_from("<IIB", body, 2 + 9 * i)
        start = max(start, 1)  # some writers count from 0, and the end is then the one behind the last
        if start > end:
            raise EcgReadError(
                "a lead has no valid span of samples", where=where, value=f"{start} to {end}", remedy=_REMEDY
            )
        check_length(end, where)
        leads.append(Lead(number, start, end))
    return Leads(tuple(leads), bool(body[1] & 1))


def rhythm_millivolts(
    leads: Leads, sections: Mapping[int, bytes], path: Path
) -> tuple[list[str], list[NDArray[np.float64]], float, float, list[Finding]]:
    """Decode the rhythm.

    Returns
    -------
    names, rows : the standard leads, each array in mV, on a common time axis; NaN where a lead was not recorded.
    fs : Hz. mv_per_step : the resolution. findings : leads that end early.
    """
    tables = _tables(sections, path)
    decoder = Decoder(tables) if tables else None
    rhythm = _coded(sections[6], len(leads.leads), f"{path}: section 6")
    beat_section = (
        _coded(sections[5], len(leads.leads), f"{path}: section 5") if len(sections.get(5, b"")) > 6 else None
    )
    complexes = _complexes(sections.get(4, b""), path)
    ratio, interval = _decimation(rhythm, beat_section, complexes, path)
    total = max(lead.end for lead in leads.leads)
    names: list[str] = []
    rows: list[NDArray[np.float64]] = []
    findings: list[Finding] = []
    for i, lead in enumerate(leads.leads):
        name = _LEAD_BY_NUMBER.get(lead.number)
        if name is None or name in names:
            continue
        where = f"{path}: section 6, lead {name}"
        spans = _protected_in(lead, complexes) if ratio > 1 else []
        wanted = stored_samples(lead.samples, spans, ratio)
        stored = undo_differences(_numbers(rhythm.data[i], decoder, wanted), rhythm.differences)
        if not len(stored):
            raise EcgReadError("holds no sample that can be decoded", where=where, remedy=_REMEDY)
        if len(stored) < wanted:
            findings.append(
                Finding("truncated", f"{name} holds {len(stored)} of {wanted} samples", name, len(stored) / wanted)
            )
        signal = stored.astype(np.float64) if ratio == 1 else interpolate(stored, lead.samples, spans, ratio)
        millivolts: NDArray[np.float64] = signal * (rhythm.nanovolts * 1e-6)
        if leads.subtracted:
            if beat_section is None or complexes is None:
                raise EcgReadError(
                    "a reference beat was subtracted, and sections 4 and 5 do not hold it", where=path, remedy=_REMEDY
                )
            beat = _reference_beat(beat_section, i, decoder, complexes, interval, path)
            _add_beats(millivolts, lead, beat, complexes)
        row = np.full(total, np.nan)
        row[lead.start - 1 : lead.start - 1 + len(millivolts)] = millivolts
        names.append(name)
        rows.append(row)
    return names, rows, 1e6 / interval, rhythm.nanovolts * 1e-6, findings


def _tables(sections: Mapping[int, bytes], path: Path) -> list[Table]:
    """Return the Huffman tables, none where the samples are plain 16-bit numbers."""
    body = sections.get(2)
    tables = [] if body is None else parse_tables(body)
    if tables is None or any(not table for table in tables):
        raise EcgReadError("the Huffman tables are not valid", where=f"{path}: section 2", remedy=_REMEDY)
    return tables


def _coded(body: bytes, count: int, where: str) -> Coded:
    if len(body) < 6 + 2 * count:
        raise EcgReadError("ends within its header", where=where, value=len(body), remedy=_REMEDY)
    nanovolts, interval, differences, flag = struct.unpack_from("<HHBB", body)
    if not nanovolts or not interval or differences > 2:
        raise EcgReadError(
            "resolution, interval or coding is not valid",
            where=where,
            value=(nanovolts, interval, differences),
            allowed="nV above 0, us above 0, 0 to 2 differences",
            remedy=_REMEDY,
        )
    sizes = struct.unpack_from(f"<{count}H", body, 6)
    at = 6 + 2 * count
    if at + sum(sizes) > len(body):
        raise EcgReadError(
            "holds fewer bytes than its leads declare",
            where=where,
            value=len(body) - at,
            allowed=f"{sum(sizes)} bytes",
            remedy=_REMEDY,
        )
    data = []
    for size in sizes:
        data.append(body[at : at + size])
        at += size
    return Coded(nanovolts, interval, differences, flag == 1, tuple(data))


def _complexes(body: bytes, path: Path) -> Complexes | None:
    if len(body) < 6:
        return None
    beat_ms, fiducial, count = struct.unpack_from("<HHH", body)
    at, found = 6, []
    for _ in range(count):
        if at + 14 > len(body):
            raise EcgReadError(
                "ends within its QRS complexes", where=f"{path}: section 4", value=len(body), remedy=_REMEDY
            )
        found.append(Complex(*struct.unpack_from("<HIII", body, at)))
        at += 14
    protected: list[tuple[int, int]] = []
    while len(protected) < count and at + 8 <= len(body):
        start, end = struct.unpack_from("<II", body, at)
        if 1 <= start <= end:
            protected.append((start, end))
        at += 8
    return Complexes(beat_ms, fiducial, tuple(found), tuple(sorted(protected)))


def _decimation(rhythm: Coded, beat: Coded | None, complexes: Complexes | None, path: Path) -> tuple[int, int]:
    """Return by how much the rhythm is decimated outside the protected spans, and the true interval in us.

    Section 5 keeps the recorder's rate; a coarser section 6 with the bimodal flag is decimated from it.
    """
    if beat is None or not rhythm.bimodal or rhythm.interval_us == beat.interval_us:
        return 1, rhythm.interval_us
    ratio, rest = divmod(rhythm.interval_us, beat.interval_us)
    if rest or not 2 <= ratio <= 16 or complexes is None or not complexes.protected:
        raise EcgReadError(
            "the bimodal compression is not valid",
            where=f"{path}: section 6",
            value=(rhythm.interval_us, beat.interval_us),
            allowed="an interval that is a multiple of section 5's, and protected spans in section 4",
            remedy=_REMEDY,
        )
    return ratio, beat.interval_us


def _protected_in(lead: Lead, complexes: Complexes | None) -> list[tuple[int, int]]:
    """Return protected spans of a lead as half-open ranges from 0, in order, without overlap."""
    spans: list[tuple[int, int]] = []
    for start, end in () if complexes is None else complexes.protected:
        low = max(start - lead.start, spans[-1][1] if spans else 0)
        high = min(end - lead.start + 1, lead.samples)
        if low < high:
            spans.append((low, high))
    return spans


def _numbers(data: bytes, decoder: Decoder | None, wanted: int) -> NDArray[np.int64]:
    if decoder is not None:
        return decoder(data, wanted)
    return np.frombuffer(data, dtype="<i2", count=min(wanted, len(data) // 2)).astype(np.int64)


def _reference_beat(
    section: Coded, lead: int, decoder: Decoder | None, complexes: Complexes, interval: int, path: Path
) -> NDArray[np.float64]:
    """Return the beat in mV at the rhythm's rate."""
    if section.interval_us != interval:
        raise EcgReadError(
            "reference beat and rhythm have different rates",
            where=f"{path}: section 5",
            value=section.interval_us,
            allowed=f"{interval} us",
            remedy=_REMEDY,
        )
    wanted = min(round(complexes.beat_ms * 1000 / interval), MAX_SAMPLES)
    beat = undo_differences(_numbers(section.data[lead], decoder, wanted), section.differences)
    return beat.astype(np.float64) * (section.nanovolts * 1e-6)


def _add_beats(millivolts: NDArray[np.float64], lead: Lead, beat: NDArray[np.float64], complexes: Complexes) -> None:
    """Add the beat back over each subtraction span of type 0, fiducial on fiducial."""
    for qrs in complexes.complexes:
        if qrs.kind != 0:
            continue
        first = qrs.fiducial - complexes.fiducial + 1  # the sample under the beat's first
        low = max(qrs.start, lead.start, first)
        high = min(qrs.end, lead.start + len(millivolts) - 1, first + len(beat) - 1)
        if low <= high:
            millivolts[low - lead.start : high - lead.start + 1] += beat[low - first : high - first + 1]
