"""What the recording machine measured, from a file of any kind: the words for it, and the values that can be true."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

LIMITS: dict[str, tuple[float, float]] = {
    "rate_bpm": (10.0, 400.0),
    "rr_ms": (150.0, 6000.0),
    "pr_ms": (40.0, 700.0),
    "qrs_ms": (30.0, 350.0),
    "qt_ms": (120.0, 900.0),
}
"""What a value must lie within: machines write 0, 999, 9999 or 29999 for what they could not measure."""

_IN_MS = {"": 1.0, "ms": 1.0, "msec": 1.0, "s": 1000.0, "sec": 1000.0, "us": 1e-3}
_PER_MINUTE = {"", "bpm", "/min", "1/min", "{beats}/min", "{h.b.}/min", "{heart beats}/min", "per min"}


def possible(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the values that a heart can have; what was not measured is left out."""
    return {
        name: float(value)
        for name, value in values.items()
        if value is not None and LIMITS[name][0] <= value <= LIMITS[name][1]
    }


def with_units(found: Iterable[tuple[str, float | None, str | None]]) -> dict[str, float]:
    """Return the first possible value of each name from (name, value, unit); a unit that is not known counts for none.

    Without one it is milliseconds, or beats per minute.
    """
    out: dict[str, float] = {}
    for name, value, unit in found:
        word = (unit or "").strip().lower()
        factor = (1.0 if word in _PER_MINUTE else math.nan) if name == "rate_bpm" else _IN_MS.get(word, math.nan)
        for known, real in possible({name: None if value is None else value * factor}).items():
            out.setdefault(known, real)
    return out
