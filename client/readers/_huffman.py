"""Huffman codes of SCP-ECG: the standard's table or the file's own, decoded for a whole lead at once.

At every bit of a lead, numpy finds the code that would start there; one walk along these then yields the
samples. Reading bit by bit takes many times as long.

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


def decode(data: bytes, tables: list[Table], limit: int) -> NDArray[np.int64]:
    """Return the numbers coded in ``data``, at most ``limit``; fewer where it ends or holds no code before that."""
    windows = _windows(data)
    lookups = [_lookup(table) for table in tables]
    codes = [_codes_at(windows, lookup) for lookup in lookups]
    # A zero length, also behind the last bit, ends the walk.
    lengths = [
        [*lookup.total[code].tolist(), *[0] * MAX_CODE_BITS] for lookup, code in zip(lookups, codes, strict=True)
    ]
    if all((lookup.switch < 0).all() for lookup in lookups):
        starts = np.array(_walk(lengths[0]), dtype=np.intp)
        if len(starts) and starts[-1] + lengths[0][starts[-1]] > len(windows):
            starts = starts[:-1]
        starts = starts[:limit]
        return _values(windows[starts], lookups[0], codes[0][starts])
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


def _walk(lengths: list[int]) -> list[int]:
    """Return the bits at which codes start."""
    starts: list[int] = []
    keep, at = starts.append, 0
    while length := lengths[at]:
        keep(at)
        at += length
    return starts


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
    """A table by the first 16 bits: ``which`` code, the last (of length 0) where none; the codes' parts by number."""

    which: NDArray[np.int16]
    long: tuple[tuple[int, Code], ...]
    total: NDArray[np.int64]
    extra: NDArray[np.int64]
    base: NDArray[np.int64]
    switch: NDArray[np.int64]


@lru_cache(maxsize=16)
def _lookup(table: Table) -> _Lookup:
    none = len(table)
    which = np.full(1 << _LOOKUP_BITS, none, dtype=np.int16)
    long = []
    for i, code in enumerate(table):
        if code.prefix_bits <= _LOOKUP_BITS:
            spare = _LOOKUP_BITS - code.prefix_bits
            block = which[code.prefix << spare : (code.prefix + 1) << spare]
            block[block == none] = i  # of two codes that begin alike, the first in the table
        else:
            long.append((i, code))
    return _Lookup(
        which,
        tuple(long[:MAX_LONG_CODES]),
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
