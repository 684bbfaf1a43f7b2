"""What the cache keeps of one recording, and what it answers about many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED, REFUSED, UNREADABLE = 0, 1, 2
"""What became of a recording: its signal is here, the site's policy refused it, or it could not be read."""


@dataclass(frozen=True)
class Entry:
    """One recording as the cache keeps it.

    ``size_bytes``, ``mtime_ns`` and ``version`` (of the code that read it) say what it was made from; ``signal``
    is int16 microvolts, shape = (12, T), None unless STORED; ``content`` is a keyed hash of the recording's own
    samples; ``findings`` is JSON ``[[code, lead, value], ...]``; ``recorded_at`` is seconds since 1970, local.

    ``size`` is usual amplitude (mV), smallest step between values (mV) and stated units per mV: by it the recordings
    of a device are compared.

    ``fault`` (why it could not be read) and ``features`` (a row of numbers) are for the ledger of ingestion: the
    cache does not keep them.
    """

    record: bytes
    patient: bytes
    size_bytes: int
    mtime_ns: int
    version: int
    status: int
    signal: NDArray[np.int16] | None = None
    content: bytes | None = None
    findings: str = "[]"
    age: float | None = None
    sex: str = ""
    recorded_at: int | None = None
    fs: float | None = None
    seconds: float | None = None
    device: str = ""
    format: str = ""
    size: tuple[float | None, float | None, float | None] = (None, None, None)
    fault: str = ""
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class CacheLookup:
    """What the cache knows of the recordings asked for, each shape = (n,); ``status`` -1: nothing fresh.

    ``slot`` is -1 without a signal; ``content`` holds 16 bytes or b""; ``size``, shape = (n, 3), is NaN where unknown.
    """

    status: NDArray[np.int8]
    slot: NDArray[np.int64]
    content: NDArray[np.object_]
    findings: NDArray[np.object_]
    age: NDArray[np.float64]
    sex: NDArray[np.str_]
    recorded_at: NDArray[np.datetime64]
    fs: NDArray[np.float64]
    seconds: NDArray[np.float64]
    device: NDArray[np.object_]
    size: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> CacheLookup:
        """Return the answer about some of the recordings."""
        return CacheLookup(**{name: column[rows] for name, column in vars(self).items()})


def row_of(entry: Entry, slot: int | None, crc: int | None) -> tuple[Any, ...]:
    """Return an entry as a row of the index."""
    return (
        *(entry.record, entry.patient, entry.size_bytes, entry.mtime_ns, entry.version, entry.status, slot, crc),
        *(entry.content, entry.findings, entry.age, entry.sex, entry.recorded_at, entry.fs, entry.seconds),
        *(entry.device, entry.format, *entry.size),
    )


def nothing(n: int) -> CacheLookup:
    """Return the answer about ``n`` recordings of which nothing is known."""
    return CacheLookup(
        status=np.full(n, -1, dtype=np.int8),
        slot=np.full(n, -1, dtype=np.int64),
        content=np.full(n, b"", dtype=object),
        findings=np.full(n, "[]", dtype=object),
        age=np.full(n, np.nan),
        sex=np.full(n, "", dtype="<U1"),
        recorded_at=np.full(n, np.datetime64("NaT", "s"), dtype="datetime64[s]"),
        fs=np.full(n, np.nan),
        seconds=np.full(n, np.nan),
        device=np.full(n, "", dtype=object),
        size=np.full((n, 3), np.nan),
    )


UNITS_PER_MV = 1000.0
"""Signals are cached as int16 microvolts."""
