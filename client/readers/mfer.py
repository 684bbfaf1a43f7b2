"""MFER (ISO 22077, .mwf), as Nihon Kohden and Fukuda Denshi carts write it: definitions, then frames of samples.

A file is a chain of tag, length, value. A frame is a number of sequences, each of one block of samples per channel.
A sample in its unit is ``(value + offset) * resolution``. Names, numbers and birth dates of people are skipped; of
the birth date only the age is made.

Source: MFER Part 1 (basic rules) and Part 3-1 (standard 12-lead ECG), https://www.mfer.org.
"""

from __future__ import annotations

import math
from datetime import date, datetime
from pathlib import Path

import numpy as np

from client.readers._assemble import MAX_SAMPLES, assemble, check_length, check_rate
from client.readers._mfer_definitions import (
    AGE,
    BLOCK,
    CHANNELS,
    INTERVAL,
    MAKER,
    PREAMBLE,
    REMEDY,
    RESOLUTION,
    SEQUENCES,
    SEX,
    TIME,
    TYPE,
    TYPES,
    Channel,
    Stated,
    definitions,
    walk,
)
from client.readers._source import filter_label, label, read_bytes
from ecgshared.arrays import Floats
from ecgshared.ecg import person
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord, Finding, Sex
from ecgshared.errors import EcgReadError

_LEAD_BY_CODE = dict(zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True))
_MEDIAN_BEAT = 9


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the file starts with MFER's preamble, or with a byte order and further definitions."""
    if head[:1] == bytes([PREAMBLE]) and head[2:5] == b"MFR":
        return True
    if head[:2] != b"\x01\x01" or head[2:3] not in (b"\0", b"\1"):
        return False
    tags: set[int] = set()
    try:
        for tag, _, _ in definitions(head, str(path)):
            tags.add(tag)
    except EcgReadError:
        pass  # the samples go on behind the head
    return len(tags) >= 4 and bool(tags & {BLOCK, CHANNELS, SEQUENCES, INTERVAL, RESOLUTION, TYPE})


def read(path: Path) -> EcgRecord:
    """Read the rhythm; median beats in the same file are left out.

    Raises
    ------
    EcgReadError : damaged, compressed, or without a voltage, a rate or a lead of the twelve.
    """
    state = Stated()
    walk(read_bytes(path), state, path, None)
    frames = [frame for frame in state.frames if frame[0] != _MEDIAN_BEAT]
    if not frames:
        raise EcgReadError("holds no rhythm", where=path, allowed="a waveform other than median beats", remedy=REMEDY)
    kind, big, channels, _ = frames[0]
    joined = [frame for frame in frames if frame[0] == kind and frame[2] == channels and frame[1] == big]
    findings = []
    if len(joined) < len(frames):
        findings.append(Finding("leads-apart", "further waveforms of the file are of another kind, rate or scale"))
    names, rows, steps, rates = [], [], [], set()
    parts = [_frame(frame[2], frame[1], frame[3], path, findings) for frame in joined]
    for i, channel in enumerate(channels):
        name = _LEAD_BY_CODE.get(channel.lead or 0)
        if name is None:
            continue
        where = f"{path}: lead {name}"
        step = _millivolts(channel, where)
        row = np.concatenate([part[i] for part in parts])
        offset = _number(channel.offset, channel.type, big)
        rows.append((row + (offset or 0.0)) * step)
        names.append(name)
        steps.append(abs(step))
        rates.add(_rate(channel, where))
    if len(rates) > 1:
        raise EcgReadError("the leads have different rates", where=path, value=sorted(rates), remedy=REMEDY)
    recorded_at, birth, stated, sex = _person(state)
    age, about_age = person.age_at(stated, birth, None if recorded_at is None else recorded_at.date())
    maker = state.facts.get(MAKER, b"").decode("latin-1").split("^")
    return assemble(
        names,
        rows,
        path,
        fs=rates.pop() if rates else 0.0,
        source_format="mfer",
        mv_per_step=max(steps, default=None),
        age_years=age,
        sex=sex,
        recorded_at=recorded_at,
        device=label(*maker[1:3]),
        manufacturer=label(maker[0]),
        filters=_filters(state.filters),
        findings=(*findings, *about_age),
    )


def _frame(channels: list[Channel], big: bool, data: bytes, path: Path, findings: list[Finding]) -> list[Floats]:
    """Return the samples of each channel as stored, NaN where the null value stands or the data end."""
    kinds = [np.dtype(TYPES[channel.type]).newbyteorder(">" if big else "<") for channel in channels]
    if min(channel.block for channel in channels) < 1 or max(channel.block for channel in channels) > MAX_SAMPLES:
        raise EcgReadError(
            "the length of a block is not valid", where=path, allowed=f"1 to {MAX_SAMPLES}", remedy=REMEDY
        )
    layout = np.dtype([(f"c{i}", kind, (c.block,)) for i, (kind, c) in enumerate(zip(kinds, channels, strict=True))])
    held = len(data) // layout.itemsize
    declared = max((c.sequences for c in channels if c.sequences is not None), default=held)
    if held < declared:
        findings.append(Finding("truncated", f"a frame holds {held} of {declared} sequences", value=held / declared))
    count = min(held, declared)
    if count < 1:
        raise EcgReadError("a frame holds no whole sequence", where=path, value=len(data), remedy=REMEDY)
    for channel in channels:
        check_length(count * channel.block, path)
    whole = np.frombuffer(data, dtype=layout, count=count)
    rows = []
    for i, channel in enumerate(channels):
        row = whole[f"c{i}"].reshape(-1).astype(np.float64)
        null = _number(channel.null, channel.type, big)
        if null is not None:
            row[row == null] = np.nan
        rows.append(row)
    return rows


def _number(value: bytes, kind: int, big: bool) -> float | None:
    """Return a number of the samples' own type."""
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if big else "<")
    return float(np.frombuffer(value[: dtype.itemsize], dtype=dtype)[0]) if len(value) >= dtype.itemsize else None


def _millivolts(channel: Channel, where: str) -> float:
    """Return one step in mV; unit 0 is the volt."""
    if channel.resolution is None or channel.resolution[0] != 0 or not channel.resolution[1]:
        raise EcgReadError(
            "states no resolution in volts",
            where=where,
            value=channel.resolution,
            remedy="export it with its resolution",
        )
    return 1000 * channel.resolution[1]


def _rate(channel: Channel, where: str) -> float:
    """Return samples per second from an interval (unit 1: s) or a rate (unit 0: Hz); 1 kHz is the format's default."""
    unit, value = channel.interval or (0, 1000.0)
    if unit not in (0, 1) or not value > 0:
        raise EcgReadError("the sampling interval is not valid", where=where, value=channel.interval, remedy=REMEDY)
    return check_rate(round(value if unit == 0 else 1 / value, 6), where)


def _person(state: Stated) -> tuple[datetime | None, date | None, float | None, Sex | None]:
    """Return time of recording, birth date, stated age and sex."""
    order = "big" if state.big else "little"
    time, age = state.facts.get(TIME, b""), state.facts.get(AGE, b"")

    def word(data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + 2], order)  # type: ignore[arg-type]

    on = person.day(word(time, 0), time[2], time[3]) if len(time) >= 4 else None
    at = person.clock(time[4], time[5], time[6]) if len(time) >= 7 else None
    birth = person.day(word(age, 3), age[5], age[6]) if len(age) >= 7 and word(age, 3) else None
    days = word(age, 1) if len(age) >= 3 else 0
    stated = None if not age or (age[0] == 0 and not days) else age[0] + days / 365.25 if age[0] < 18 else float(age[0])
    sex: Sex | None = {b"\1": "M", b"\2": "F"}.get(state.facts.get(SEX, b"")[:1])  # type: ignore[assignment]
    return None if on is None or at is None else datetime.combine(on, at), birth, stated, sex


def _filters(texts: list[str]) -> str | None:
    found: dict[str, float] = {}
    for text in texts:
        kind, _, rest = text.partition("=")
        try:
            hertz = float(rest.split("^")[0].strip().removesuffix("Hz"))
        except ValueError:
            continue
        if math.isfinite(hertz):
            found[kind.strip().upper()] = hertz
    return filter_label(found.get("HPF"), found.get("LPF"), found.get("BEF"))
