"""The definitions of an MFER file: tag, length, value; some of one channel, all in force until said otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecgshared.errors import EcgReadError

_END, _ZERO, _CHANNEL = 0x80, 0x00, 0x3F
_BYTE_ORDER, BLOCK, CHANNELS, SEQUENCES, _KIND, _LEAD, TYPE = 0x01, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0A
INTERVAL, RESOLUTION, _OFFSET, _COMPRESSION, _FILTER, _NULL, MAKER, _WAVE = (
    0x0B,
    0x0C,
    0x0D,
    0x0E,
    0x11,
    0x12,
    0x17,
    0x1E,
)
PREAMBLE, AGE, SEX, TIME = 0x40, 0x83, 0x84, 0x85
TYPES = {0: "i2", 1: "u2", 2: "i4", 3: "u1", 5: "i1", 6: "u4", 7: "f4", 8: "f8"}
MAX_CHANNELS, MAX_DEFINITIONS = 64, 20_000
REMEDY = "export it again; the file is damaged or cut"


@dataclass(frozen=True)
class Channel:
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
class Stated:
    """The definitions so far, and the frames."""

    big: bool = True
    channels: int = 1
    kind: int | None = None
    common: Channel = Channel()
    own: dict[int, dict[str, object]] = field(default_factory=dict)
    frames: list[tuple[int | None, bool, list[Channel], bytes]] = field(default_factory=list)
    facts: dict[int, bytes] = field(default_factory=dict)
    filters: list[str] = field(default_factory=list)


def definitions(data: bytes, where: str) -> Iterator[tuple[int, int | None, bytes]]:
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
                "a definition is longer than the file", where=where, value=f"tag {tag:#x}, {size} bytes", remedy=REMEDY
            )
        yield tag, channel, data[at : at + size]
        at += size
    raise EcgReadError(
        "holds more definitions than an ECG needs", where=where, allowed=f"{MAX_DEFINITIONS}", remedy=REMEDY
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


def walk(data: bytes, state: Stated, path: Path, channel: int | None) -> None:
    """Take all definitions into ``state``; ``channel`` where they are one channel's own.

    Raises
    ------
    EcgReadError : a definition is damaged, or says what is not supported.
    """
    for tag, own, value in definitions(data, str(path)):
        if own is not None:
            if channel is not None:
                raise EcgReadError("a channel's definitions hold those of another", where=path, remedy=REMEDY)
            walk(value, state, path, own)
        elif tag == _WAVE:
            effective = [replace(state.common, **state.own.get(i, {})) for i in range(state.channels)]  # type: ignore[arg-type]
            state.frames.append((state.kind, state.big, effective, value))
        elif tag in _CHANNEL_FIELDS:
            name, decode = _CHANNEL_FIELDS[tag]
            found = decode(value, state.big, path) if value else getattr(Channel(), name)
            if channel is None:
                state.common = replace(state.common, **{name: found})
            else:
                state.own.setdefault(channel, {})[name] = found
        else:
            _define(tag, value, state, path)


def _define(tag: int, value: bytes, state: Stated, path: Path) -> None:
    """Take a definition of the whole file."""
    if tag == _BYTE_ORDER:
        state.big = value != b"\1"
    elif tag == CHANNELS:
        state.channels = _whole(value, state.big, path)
        if not 1 <= state.channels <= MAX_CHANNELS:
            raise EcgReadError(
                "the number of channels is not valid", where=path, value=state.channels, allowed=f"1 to {MAX_CHANNELS}",
                remedy=REMEDY,
            )  # fmt: skip
        state.own = {}
    elif tag == _KIND:
        state.kind = _whole(value[:2], state.big, path)
    elif tag == _COMPRESSION and value and _whole(value[:2], state.big, path):
        raise EcgReadError("is compressed", where=path, allowed="plain samples", remedy="export it uncompressed")
    elif tag == _FILTER:
        state.filters.append(value[:40].decode("latin-1"))
    elif tag in (MAKER, AGE, SEX, TIME):
        state.facts[tag] = value


def _whole(value: bytes, big: bool, path: Path) -> int:
    if len(value) > 4:
        raise EcgReadError("a number is too long", where=path, value=len(value), allowed="4 bytes", remedy=REMEDY)
    return int.from_bytes(value, "big" if big else "little")


def _scaled(value: bytes, big: bool, path: Path) -> tuple[int, float]:
    """Return the code of a unit, and mantissa times ten to the exponent."""
    if not 3 <= len(value) <= 6:
        raise EcgReadError("an interval or a resolution is not valid", where=path, value=len(value), remedy=REMEDY)
    exponent = int.from_bytes(value[1:2], "big", signed=True)
    mantissa = int.from_bytes(value[2:], "big" if big else "little", signed=True)
    return value[0], mantissa * 10.0**exponent


def _type(value: bytes, big: bool, path: Path) -> int:
    if value[0] not in TYPES:
        raise EcgReadError(
            "the samples are coded in a way that is not supported", where=path, value=value[0],
            allowed=", ".join(map(str, TYPES)), remedy="export it as 16-bit integers",
        )  # fmt: skip
    return value[0]


_CHANNEL_FIELDS = {
    BLOCK: ("block", _whole),
    SEQUENCES: ("sequences", _whole),
    TYPE: ("type", _type),
    _LEAD: ("lead", lambda value, big, path: _whole(value[:2], big, path)),
    INTERVAL: ("interval", _scaled),
    RESOLUTION: ("resolution", _scaled),
    _OFFSET: ("offset", lambda value, big, path: value),
    _NULL: ("null", lambda value, big, path: value),
}
