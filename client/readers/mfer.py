"""MFER (ISO 22077, .mwf), as Nihon Kohden and Fukuda Denshi carts write it: definitions, then frames of samples.

A file is a chain of tag, length, value. A frame is a number of sequences, each of one block of samples per channel.
A sample in its unit is ``(value + offset) * resolution``. Names, numbers and birth dates of people are skipped; of
the birth date only the age is made.

Source: MFER Part 1 (basic rules) and Part 3-1 (standard 12-lead ECG), https://www.mfer.org.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

import numpy as np

from client.readers._assemble import MAX_SAMPLES, assemble, check_length, check_rate
from client.readers._source import filter_label, label, read_bytes
from ecgshared.arrays import Floats
from ecgshared.ecg import person
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import EcgRecord, Finding, Sex
from ecgshared.errors import EcgReadError

_END, _ZERO, _CHANNEL = 0x80, 0x00, 0x3F
_BYTE_ORDER, _BLOCK, _CHANNELS, _SEQUENCES, _KIND, _LEAD, _TYPE = 0x01, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0A
_INTERVAL, _RESOLUTION, _OFFSET, _COMPRESSION, _FILTER, _NULL, _MAKER, _WAVE = (
    0x0B,
    0x0C,
    0x0D,
    0x0E,
    0x11,
    0x12,
    0x17,
    0x1E,
)
_PREAMBLE, _AGE, _SEX, _TIME = 0x40, 0x83, 0x84, 0x85
_TYPES = {0: "i2", 1: "u2", 2: "i4", 3: "u1", 5: "i1", 6: "u4", 7: "f4", 8: "f8"}
_LEAD_BY_CODE = dict(zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True))
_MEDIAN_BEAT = 9
MAX_CHANNELS, MAX_DEFINITIONS = 64, 20_000
_REMEDY = "export it again; the file is damaged or cut"


@dataclass(frozen=True)
class _Channel:
    """What is in force for one channel; None where nothing was said."""

    block: int = 1
    sequences: int | None = None
    type: int = 0
    lead: int | None = None
    interval: tuple[int, float] | None = None
    resolution: tuple[int, float] | None = None
    offset: bytes = b""
    null: bytes = b""


@dataclass
class _State:
    """The definitions so far, and the frames."""

    big: bool = True
    channels: int = 1
    kind: int | None = None
    common: _Channel = _Channel()
    own: dict[int, dict[str, object]] = field(default_factory=dict)
    frames: list[tuple[int | None, bool, list[_Channel], bytes]] = field(default_factory=list)
    facts: dict[int, bytes] = field(default_factory=dict)
    filters: list[str] = field(default_factory=list)


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the file starts with MFER's preamble, or with a byte order and further definitions."""
    if head[:1] == bytes([_PREAMBLE]) and head[2:5] == b"MFR":
        return True
    if head[:2] != b"\x01\x01" or head[2:3] not in (b"\0", b"\1"):
        return False
    tags: set[int] = set()
    try:
        for tag, _, _ in _definitions(head, str(path)):
            tags.add(tag)
    except EcgReadError:
        pass  # the samples go on behind the head
    return len(tags) >= 4 and bool(tags & {_BLOCK, _CHANNELS, _SEQUENCES, _INTERVAL, _RESOLUTION, _TYPE})


def read(path: Path) -> EcgRecord:
    """Read the rhythm; median beats in the same file are left out.

    Raises
    ------
    EcgReadError : damaged, compressed, or without a voltage, a rate or a lead of the twelve.
    """
    state = _State()
    _walk(read_bytes(path), state, path, None)
    frames = [frame for frame in state.frames if frame[0] != _MEDIAN_BEAT]
    if not frames:
        raise EcgReadError("holds no rhythm", where=path, allowed="a waveform other than median beats", remedy=_REMEDY)
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
        raise EcgReadError("the leads have different rates", where=path, value=sorted(rates), remedy=_REMEDY)
    recorded_at, birth, stated, sex = _person(state)
    age, about_age = person.age_at(stated, birth, None if recorded_at is None else recorded_at.date())
    maker = state.facts.get(_MAKER, b"").decode("latin-1").split("^")
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


def _definitions(data: bytes, where: str) -> Iterator[tuple[int, int | None, bytes]]:
    """Yield tag, channel (of a channel's own definitions) and value; ends at the end mark."""
    at = 0
    for _ in range(MAX_DEFINITIONS):
        if at >= len(data) or data[at] == _END:
            return
        tag, channel = data[at], None
        at += 1
        if tag == _ZERO:
            continue
        if tag == _CHANNEL:
            channel = 0
            while at < len(data):
                channel = channel << 7 | data[at] & 0x7F
                at += 1
                if not data[at - 1] & 0x80 or channel > MAX_CHANNELS:
                    break
        size = data[at] if at < len(data) else _END
        at += 1
        if size == _END:
            size = _up_to_end_of_contents(data, at)
        elif size > _END:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big") if count <= 4 else len(data)
            at += count
        if at + size > len(data):
            raise EcgReadError(
                "a definition is longer than the file", where=where, value=f"tag {tag:#x}, {size} bytes", remedy=_REMEDY
            )
        yield tag, channel, data[at : at + size]
        at += size
    raise EcgReadError(
        "holds more definitions than an ECG needs", where=where, allowed=f"{MAX_DEFINITIONS}", remedy=_REMEDY
    )


def _up_to_end_of_contents(data: bytes, start: int, depth: int = 0) -> int:
    """Return the length of definitions that are ended by two zero bytes instead of being counted."""
    at = start
    while at + 1 < len(data) and data[at : at + 2] != b"\0\0" and depth < 4:
        tag = data[at]
        at += 1
        while tag == _CHANNEL and at < len(data) and data[at] & 0x80:
            at += 1
        at += tag == _CHANNEL
        size = data[at] if at < len(data) else 0
        at += 1
        if size == _END:
            size = _up_to_end_of_contents(data, at, depth + 1) + 2
        elif size > _END:
            at, size = at + (size & 0x7F), int.from_bytes(data[at : at + (size & 0x7F)], "big")
        at += size
    return max(0, at - start)


def _walk(data: bytes, state: _State, path: Path, channel: int | None) -> None:
    for tag, own, value in _definitions(data, str(path)):
        if own is not None:
            if channel is not None:
                raise EcgReadError("a channel's definitions hold those of another", where=path, remedy=_REMEDY)
            _walk(value, state, path, own)
        elif tag == _WAVE:
            effective = [replace(state.common, **state.own.get(i, {})) for i in range(state.channels)]  # type: ignore[arg-type]
            state.frames.append((state.kind, state.big, effective, value))
        elif tag in _CHANNEL_FIELDS:
            name, decode = _CHANNEL_FIELDS[tag]
            found = decode(value, state.big, path) if value else getattr(_Channel(), name)
            if channel is None:
                state.common = replace(state.common, **{name: found})
            else:
                state.own.setdefault(channel, {})[name] = found
        else:
            _define(tag, value, state, path)


def _define(tag: int, value: bytes, state: _State, path: Path) -> None:
    """Take a definition of the whole file."""
    if tag == _BYTE_ORDER:
        state.big = value != b"\1"
    elif tag == _CHANNELS:
        state.channels = _whole(value, state.big, path)
        if not 1 <= state.channels <= MAX_CHANNELS:
            raise EcgReadError(
                "the number of channels is not valid", where=path, value=state.channels, allowed=f"1 to {MAX_CHANNELS}",
                remedy=_REMEDY,
            )  # fmt: skip
        state.own = {}
    elif tag == _KIND:
        state.kind = _whole(value[:2], state.big, path)
    elif tag == _COMPRESSION and value and _whole(value[:2], state.big, path):
        raise EcgReadError("is compressed", where=path, allowed="plain samples", remedy="export it uncompressed")
    elif tag == _FILTER:
        state.filters.append(value[:40].decode("latin-1"))
    elif tag in (_MAKER, _AGE, _SEX, _TIME):
        state.facts[tag] = value


def _whole(value: bytes, big: bool, path: Path) -> int:
    if len(value) > 4:
        raise EcgReadError("a number is too long", where=path, value=len(value), allowed="4 bytes", remedy=_REMEDY)
    return int.from_bytes(value, "big" if big else "little")


def _scaled(value: bytes, big: bool, path: Path) -> tuple[int, float]:
    """Return the code of a unit, and mantissa times ten to the exponent."""
    if not 3 <= len(value) <= 6:
        raise EcgReadError("an interval or a resolution is not valid", where=path, value=len(value), remedy=_REMEDY)
    exponent = int.from_bytes(value[1:2], "big", signed=True)
    mantissa = int.from_bytes(value[2:], "big" if big else "little", signed=True)
    return value[0], mantissa * 10.0**exponent


def _type(value: bytes, big: bool, path: Path) -> int:
    if value[0] not in _TYPES:
        raise EcgReadError(
            "the samples are coded in a way that is not supported", where=path, value=value[0],
            allowed=", ".join(map(str, _TYPES)), remedy="export it as 16-bit integers",
        )  # fmt: skip
    return value[0]


_CHANNEL_FIELDS = {
    _BLOCK: ("block", _whole),
    _SEQUENCES: ("sequences", _whole),
    _TYPE: ("type", _type),
    _LEAD: ("lead", lambda value, big, path: _whole(value[:2], big, path)),
    _INTERVAL: ("interval", _scaled),
    _RESOLUTION: ("resolution", _scaled),
    _OFFSET: ("offset", lambda value, big, path: value),
    _NULL: ("null", lambda value, big, path: value),
}


def _frame(channels: list[_Channel], big: bool, data: bytes, path: Path, findings: list[Finding]) -> list[Floats]:
    """Return the samples of each channel as stored, NaN where the null value stands or the data end."""
    kinds = [np.dtype(_TYPES[channel.type]).newbyteorder(">" if big else "<") for channel in channels]
    if min(channel.block for channel in channels) < 1 or max(channel.block for channel in channels) > MAX_SAMPLES:
        raise EcgReadError(
            "the length of a block is not valid", where=path, allowed=f"1 to {MAX_SAMPLES}", remedy=_REMEDY
        )
    layout = np.dtype([(f"c{i}", kind, (c.block,)) for i, (kind, c) in enumerate(zip(kinds, channels, strict=True))])
    held = len(data) // layout.itemsize
    declared = max((c.sequences for c in channels if c.sequences is not None), default=held)
    if held < declared:
        findings.append(Finding("truncated", f"a frame holds {held} of {declared} sequences", value=held / declared))
    count = min(held, declared)
    if count < 1:
        raise EcgReadError("a frame holds no whole sequence", where=path, value=len(data), remedy=_REMEDY)
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
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    return float(np.frombuffer(value[: dtype.itemsize], dtype=dtype)[0]) if len(value) >= dtype.itemsize else None


def _millivolts(channel: _Channel, where: str) -> float:
    """Return one step in mV; unit 0 is the volt."""
    if channel.resolution is None or channel.resolution[0] != 0 or not channel.resolution[1]:
        raise EcgReadError(
            "states no resolution in volts",
            where=where,
            value=channel.resolution,
            remedy="export it with its resolution",
        )
    return 1000 * channel.resolution[1]


def _rate(channel: _Channel, where: str) -> float:
    """Return samples per second from an interval (unit 1: s) or a rate (unit 0: Hz); 1 kHz is the format's default."""
    unit, value = channel.interval or (0, 1000.0)
    if unit not in (0, 1) or not value > 0:
        raise EcgReadError("the sampling interval is not valid", where=where, value=channel.interval, remedy=_REMEDY)
    return check_rate(round(value if unit == 0 else 1 / value, 6), where)


def _person(state: _State) -> tuple[datetime | None, date | None, float | None, Sex | None]:
    """Return time of recording, birth date, stated age and sex."""
    order = "big" if state.big else "little"
    time, age = state.facts.get(_TIME, b""), state.facts.get(_AGE, b"")

    def word(data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + 2], order)  # type: ignore[arg-type]

    on = person.day(word(time, 0), time[2], time[3]) if len(time) >= 4 else None
    at = person.clock(time[4], time[5], time[6]) if len(time) >= 7 else None
    birth = person.day(word(age, 3), age[5], age[6]) if len(age) >= 7 and word(age, 3) else None
    days = word(age, 1) if len(age) >= 3 else 0
    stated = None if not age or (age[0] == 0 and not days) else age[0] + days / 365.25 if age[0] < 18 else float(age[0])
    sex: Sex | None = {b"\1": "M", b"\2": "F"}.get(state.facts.get(_SEX, b"")[:1])  # type: ignore[assignment]
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
