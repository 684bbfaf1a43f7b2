"""A file's bytes and the strings in it, taken with a limit on each."""

from __future__ import annotations

from pathlib import Path

from ecgshared.errors import EcgReadError

MAX_FILE_BYTES = 64 << 20
"""Largest file read whole: a resting ECG takes under 1 MB, a stress test in XML about 10."""

MAX_LABEL = 80


def read_bytes(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return a file's bytes; raise :class:`EcgReadError` where it cannot be read or is larger than ``limit``."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise EcgReadError(
                "is too large for one ECG",
                where=path,
                value=size,
                allowed=f"at most {limit} bytes",
                remedy="export the resting ECG alone",
            )
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise EcgReadError(
            f"cannot be read ({type(error).__name__})", where=path, remedy="check path and permissions"
        ) from error


def label(*parts: object) -> str | None:
    """Join what a device says about itself into one short line without control characters; None if empty."""
    words = [" ".join("".join(c if c.isprintable() else " " for c in str(part)).split()) for part in parts if part]
    return " ".join(word for word in words if word)[:MAX_LABEL].strip() or None


def filter_label(high_pass: object = None, low_pass: object = None, notch: object = None) -> str | None:
    """Return filter settings as one line, such as ``0.05-150 Hz, notch 50 Hz``; None where none is stated."""
    high_pass, low_pass, notch = (value or None for value in (high_pass, low_pass, notch))  # 0 is "off"
    band = None
    if high_pass is not None and low_pass is not None:
        band = f"{_number(high_pass)}-{_number(low_pass)} Hz"
    elif high_pass is not None:
        band = f"high-pass {_number(high_pass)} Hz"
    elif low_pass is not None:
        band = f"low-pass {_number(low_pass)} Hz"
    parts = [part for part in (band, None if notch is None else f"notch {_number(notch)} Hz") if part]
    return label(", ".join(parts))


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
