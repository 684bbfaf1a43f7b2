"""Huffman codes of SCP-ECG: the standard's table or the file's own, decoded for a whole lead at once.

A table of all sequences of 16 bits says which whole codes each holds: a lead is walked in steps of many samples.
Files whose codes switch between tables, or have longer prefixes, go code by code.

Source: EN 1064:2005, clause 5.5 and annex C (default table).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DEFAULT_TABLE = 19999
"""What section 2 gives for the number of tables where it means the standard's."""

MAX_CODE_BITS = 56
MAX_TABLES, MAX_CODES, MAX_LONG_CODES = 8, 1024, 64

_LOOKUP_BITS = 16
_SHIFTS = np.arange(8, 0, -1)


@dataclass(frozen=True)
class Code:
    """One code: ``prefix`` of ``prefix_bits``, then ``total_bits - prefix_bits`` of a signed number.

    ``switch_to`` is the table in force from the next code on, None for a sample of ``base`` plus that number.
    """

    prefix_bits: int
    total_bits: int
    prefix: int
    base: int
    switch_to: int | None = None


Table = tuple[Code, ...]


def default_table() -> Table:
    """Return the standard's table: 0 to +-8 by unary length and a sign, then 8 and 16 bit originals."""
    codes = [Code(1, 1, 0, 0)]
    for value in range(1, 9):
        ones = (1 << value) - 1
        codes += [
            Code(value + 2, value + 2, ones << 2, value),
            Code(value + 2, value + 2, ones << 2 | 1, -value),
        ]
    return (*codes, Code(10, 18, 0b1111111110, 0), Code(10, 26, 0b1111111111, 0))


def parse_tables(body: bytes) -> list[Table] | None:
    """Read section 2; None where its tables are cut or no codes can have been made of them.

    The prefix of each code is stored with its first bit as the lowest.
    """
    count = struct.unpack_from("<H", body)[0] if len(body) >= 2 else 0
    if count == DEFAULT_TABLE:
        return [default_table()]
    at, tables = 2, []
    if count > MAX_TABLES:
        return None
    for _ in range(count):
        if at + 2 > len(body):
            return None
        codes = struct.unpack_from("<H", body, at)[0]
        at += 2
        if codes > MAX_CODES or at + 9 * codes > len(body):
            return None
        table = []
        for _ in range(codes):
            prefix_bits, total_bits, mode, base, stored = struct.unpack_from("<BBBhI", body, at)
            at += 9
            if not (0 < prefix_bits <= 32 and prefix_bits <= total_bits <= MAX_CODE_BITS) or stored >> prefix_bits:
                return None
            prefix = int(f"{stored:0{prefix_bits}b}"[::-1], 2)
            table.append(Code(prefix_bits, total_bits, prefix, base, None if mode else base - 1))
        tables.append(tuple(table))
    targets = {code.switch_to for table in tables for code in table} - {None}
    return tables if all(0 <= target < len(tables) for target in targets if target is not None) else None


class Decoder:
    """Decodes the leads of one file; what it works in is kept from lead to lead, as to take it anew costs more."""

    def __init__(self, tables: list[Table]) -> None:
        self._lookups = [_lookup(table) for table in tables]
        self._plain = _windows_of(tables[0]) if self._lookups[0].plain else None
        self._room = _Room(0)

    def __call__(self, data: bytes, limit: int) -> NDArray[np.int64]:
        """Return the numbers coded in ``data``, at most ``limit``; fewer where it ends or holds no code before."""
        if self._plain is None:
            return _code_by_code(data, self._lookups, limit)
        if self._room.octets < len(data):
            self._room = _Room(len(data) + len(data) // 4)
        return _by_windows(data, self._plain, self._lookups[0], self._room)[:limit]


def decode(data: bytes, tables: list[Table], limit: int) -> NDArray[np.int64]:
    """Decode one lead; see :class:`Decoder`, which serves a file's leads faster."""
    return Decoder(tables)(data, limit)


def _code_by_code(data: bytes, lookups: list[_Lookup], limit: int) -> NDArray[np.int64]:
    windows = _windows(data)
    codes = [_codes_at(windows, lookup) for lookup in lookups]
    # A zero length, also behind the last bit, ends the walk.
    lengths = [
        [*lookup.total[code].tolist(), *[0] * MAX_CODE_BITS] for lookup, code in zip(lookups, codes, strict=True)
    ]
    switches = [lookup.switch[code].tolist() for lookup, code in zip(lookups, codes, strict=True)]
    values = [_values(windows, lookup, code).tolist() for lookup, code in zip(lookups, codes, strict=True)]
    out: list[int] = []
    at = current = 0
    while len(out) < limit and (length := lengths[current][at]) and at + length <= len(windows):
        target = switches[current][at]
        if target < 0:
            out.append(values[current][at])
        else:
            current = target
        at += length
    return np.array(out, dtype=np.int64)


class _Room:
    """Arrays for leads of up to so many ``octets``; all indices are of the machine's own width, as others are cast."""

    def __init__(self, octets: int) -> None:
        bits = 8 * octets
        self.octets = octets
        self.count = np.arange(bits + 1, dtype=np.intp)
        self.windows = np.empty((octets, 8), dtype=np.intp)
        self.skip = np.empty(bits, dtype=np.uint8)
        self.hops = tuple(np.empty(bits + 1, dtype=np.intp) for _ in range(4))


@dataclass(frozen=True)
class _Windows:
    """What each sequence of 16 bits stands for, shape = (65536,): its whole codes, one after the other.

    ``skip`` bits hold ``count`` codes; ``numbers`` and ``ends`` (in bits), 16 for each window, are theirs. Where
    even the first code is longer than the window (``wide``), it is the only one, and its number has to be taken from
    the data. No code: no bits.
    """

    skip: NDArray[np.uint8]
    count: NDArray[np.uint8]
    wide: NDArray[np.bool_]
    ends: NDArray[np.uint8]
    numbers: NDArray[np.int16]


@lru_cache(maxsize=16)
def _windows_of(table: Table) -> _Windows:
    lookup = _lookup(table)
    window = np.arange(1 << _LOOKUP_BITS, dtype=np.int64)
    length = lookup.total[lookup.which]
    at = np.zeros(len(window), dtype=np.int64)
    count = np.zeros(len(window), dtype=np.uint8)
    ends = np.zeros((len(window), _LOOKUP_BITS), dtype=np.uint8)
    numbers = np.zeros((len(window), _LOOKUP_BITS), dtype=np.int16)
    for i in range(_LOOKUP_BITS):
        rest = (window << at) & 0xFFFF
        bits = length[rest]
        fits = np.flatnonzero((bits > 0) & (at + bits <= _LOOKUP_BITS) & (count == i))
        if not len(fits):
            break
        at[fits] += bits[fits]
        ends[fits, i] = at[fits]
        wide_enough = rest[fits].astype(np.uint64) << np.uint64(MAX_CODE_BITS - _LOOKUP_BITS)
        numbers[fits, i] = _values(wide_enough, lookup, lookup.which[rest[fits]])
        count[fits] += 1
    wide = length > _LOOKUP_BITS
    at[wide], count[wide], ends[wide, 0] = length[wide], 1, length[wide]
    return _Windows(at.astype(np.uint8), count, wide, ends.ravel(), numbers.ravel())


def _by_windows(data: bytes, known: _Windows, lookup: _Lookup, room: _Room) -> NDArray[np.int64]:
    """Decode with one plain table: a window leads to the next, hence to the eighth, and the walk takes these steps."""
    octets = np.frombuffer(data + bytes(8), dtype=np.uint8)
    wide = octets.astype(np.intp)
    n, bits = len(data), 8 * len(data)
    by_octet = room.windows[:n]
    np.right_shift((wide[:n] << 16 | wide[1 : n + 1] << 8 | wide[2 : n + 2])[:, None], _SHIFTS, out=by_octet)
    np.bitwise_and(by_octet, (1 << _LOOKUP_BITS) - 1, out=by_octet)
    windows = by_octet.reshape(-1)
    skip = known.skip.take(windows, out=room.skip[:bits], mode="clip")
    starts = _starts(skip, room)
    here = windows.take(starts)
    counts = known.count.take(here)
    first = counts.cumsum(dtype=np.intp)
    first -= counts
    total = int(first[-1]) + int(counts[-1]) if len(first) else 0
    each = (here * _LOOKUP_BITS - first).repeat(counts)
    each += np.arange(total)
    numbers: NDArray[np.int64] = known.numbers.take(each).astype(np.int64)
    longer = known.wide.take(here).nonzero()[0]
    if len(longer):
        numbers[first[longer]] = _values(_windows_at(octets, starts[longer]), lookup, lookup.which[here[longer]])
    # What lies beyond the end are zeros, no codes.
    tail = int(starts.searchsorted(bits - MAX_CODE_BITS))
    if tail < len(starts):
        ends = known.ends.take(each[first[tail] :]) + starts[tail:].repeat(counts[tail:])
        numbers = numbers[: first[tail] + ends.searchsorted(bits, side="right")]
    return numbers


def _starts(skip: NDArray[np.uint8], room: _Room) -> NDArray[np.intp]:
    """Return the bits at which the windows of a walk start; ``skip`` is the length of each bit's window."""
    bits = len(skip)
    following, two, four, eight = (hop[: bits + 1] for hop in room.hops)
    np.add(room.count[:bits], skip, out=following[:bits])
    following[-MAX_CODE_BITS:].clip(max=bits, out=following[-MAX_CODE_BITS:])
    following[bits] = bits
    if not skip.all():  # where no code starts is the end
        following[:bits][skip == 0] = bits
    following.take(following, out=two, mode="clip")
    two.take(two, out=four, mode="clip")
    four.take(four, out=eight, mode="clip")
    leaps: list[int] = []
    keep, hop_to, at = leaps.append, eight.data, 0
    while at < bits:
        keep(at)
        at = hop_to[at]
    starts = np.array(leaps, dtype=np.intp)
    for hop in (four, two, following):
        both = np.empty((len(starts), 2), dtype=np.intp)
        both[:, 0], both[:, 1] = starts, hop.take(starts)
        starts = both.reshape(-1)
    return starts[: starts.searchsorted(bits)]


def _windows_at(octets: NDArray[np.uint8], starts: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return the 56 bits that start at each of some bits, the first as the highest; 8 octets follow the last."""
    shift = (starts & 7).astype(np.uint64)
    whole: NDArray[np.uint64] = octets[(starts >> 3)[:, None] + np.arange(8)].view(">u8").ravel().astype(np.uint64)
    return (whole << shift) >> np.uint64(8)


def _windows(data: bytes) -> NDArray[np.uint64]:
    """Return, for each bit, the 56 bits that start there, the first as the highest; zeros follow the end."""
    padded = np.frombuffer(data + bytes(8), dtype=np.uint8).astype(np.uint64)
    n = len(data)
    whole = np.zeros(n, dtype=np.uint64)
    for i in range(8):
        whole = (whole << np.uint64(8)) | padded[i : i + n]
    shifts = np.arange(8, dtype=np.uint64)
    return ((whole[:, None] << shifts) >> np.uint64(8)).ravel()


@dataclass(frozen=True)
class _Lookup:
    """A table by the first 16 bits: ``which`` code, the last (of length 0) where none; the codes' parts by number.

    ``plain``: no code switches tables, has a longer prefix, or begins like another.
    """

    which: NDArray[np.int16]
    long: tuple[tuple[int, Code], ...]
    plain: bool
    total: NDArray[np.int64]
    extra: NDArray[np.int64]
    base: NDArray[np.int64]
    switch: NDArray[np.int64]


@lru_cache(maxsize=16)
def _lookup(table: Table) -> _Lookup:
    none = len(table)
    which = np.full(1 << _LOOKUP_BITS, none, dtype=np.int16)
    long = []
    plain = True
    for i, code in enumerate(table):
        if code.prefix_bits <= _LOOKUP_BITS:
            spare = _LOOKUP_BITS - code.prefix_bits
            block = which[code.prefix << spare : (code.prefix + 1) << spare]
            plain &= code.switch_to is None and bool((block == none).all())
            block[block == none] = i  # of two codes that begin alike, the first in the table
        else:
            long.append((i, code))
    return _Lookup(
        which,
        tuple(long[:MAX_LONG_CODES]),
        plain and not long,
        total=np.array([*(code.total_bits for code in table), 0]),
        extra=np.array([*(code.total_bits - code.prefix_bits for code in table), 0]),
        base=np.array([*(code.base for code in table), 0]),
        switch=np.array([*(-1 if code.switch_to is None else code.switch_to for code in table), -1]),
    )


def _codes_at(windows: NDArray[np.uint64], lookup: _Lookup) -> NDArray[np.int16]:
    """Return the number of the code that would start at each bit."""
    found = lookup.which[(windows >> np.uint64(MAX_CODE_BITS - _LOOKUP_BITS)).astype(np.intp)]
    for i, code in lookup.long:
        same = (windows >> np.uint64(MAX_CODE_BITS - code.prefix_bits)) == np.uint64(code.prefix)
        found[same & (lookup.total[found] == 0)] = i
    return found


def _values(windows: NDArray[np.uint64], lookup: _Lookup, codes: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return base plus the signed number behind the prefix."""
    extra = lookup.extra[codes]
    number = (windows >> (MAX_CODE_BITS - lookup.total[codes]).astype(np.uint64)).astype(np.int64) & ((1 << extra) - 1)
    negative = (extra > 0) & (number >> np.maximum(extra - 1, 0) & 1 == 1)
    return lookup.base[codes] + np.where(negative, number - (1 << extra), number)
