"""The samples of a WFDB record as they are stored.

Format 16, which nearly all 12-lead exports use, is read with one ``numpy.fromfile`` a file: ``wfdb.rdrecord``
spends several times as long on the header alone. Every other format goes through the wfdb library.

Source: https://physionet.org/physiotools/wag/signal-5.htm.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.readers._wfdb_header import Header, Signal
from ecgshared.ecg.record import Finding
from ecgshared.errors import EcgReadError

MAX_VALUES = 32_000_000
"""Most samples, all signals together: five times 12 leads of 60 s at 8 kHz. Bounds the memory of a read."""

_BYTES_PER_VALUE = {"8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5}
_BYTES_PER_VALUE |= {"310": 4 / 3, "311": 4 / 3}


@dataclass(frozen=True)
class Digital:
    """One signal's samples as stored, shape = (T * samples per frame,); ``complete`` if none is lacking."""

    samples: NDArray[np.integer]
    complete: bool


def read_digital(header: Header, header_path: Path) -> tuple[list[Digital], list[Finding]]:
    """Return the stored samples of every signal, and findings about the files' lengths.

    Raises
    ------
    EcgReadError : a signal file is absent, empty, not what the header describes, or larger than
        :data:`MAX_VALUES`; a size is checked before memory is taken.
    """
    if header.n_frames is not None and header.n_frames * header.values_per_frame > MAX_VALUES:
        raise EcgReadError(
            "declares more samples than a 12-lead ECG can have",
            where=f"{header_path}:{header.line}",
            value=header.n_frames,
            allowed=f"at most {MAX_VALUES // header.values_per_frame} per signal",
            remedy="correct the header, or cut the recording to its ECG",
        )
    findings: list[Finding] = []
    frames = header.n_frames
    files: dict[str, list[Signal]] = {}
    for signal in header.signals:
        files.setdefault(signal.file_name, []).append(signal)
    for name, group in files.items():
        held = _frames_in(header_path.parent / name, group, len(header.signals), header_path)
        if held is None:
            continue
        if header.n_frames is None:
            frames = held if frames is None else min(frames, held)
        elif held < header.n_frames:
            findings.append(
                Finding(
                    "truncated",
                    f"{name} holds {held} of the {header.n_frames} samples per signal in the header",
                    value=held / header.n_frames,
                )
            )
            frames = min(frames or held, held)
        elif held > header.n_frames + 1:  # one sample of padding is usual in packed formats
            findings.append(
                Finding(
                    "excess-samples",
                    f"{name} holds {held} samples per signal, the header declares {header.n_frames}",
                    value=held / header.n_frames,
                )
            )
    if not frames:
        raise EcgReadError(
            "holds no samples",
            where=header_path.parent / header.signals[0].file_name,
            remedy="copy or export the signal file again; it is empty or cut short",
        )
    if frames * header.values_per_frame > MAX_VALUES:
        raise EcgReadError(
            "holds more samples than a 12-lead ECG can have",
            where=header_path,
            value=frames,
            allowed=f"at most {MAX_VALUES // header.values_per_frame} per signal",
            remedy="cut the recording to its ECG",
        )
    complete = header.n_frames is None or frames == header.n_frames
    if all(s.fmt == "16" and s.samples_per_frame == 1 and not s.skew for s in header.signals):
        return [Digital(x, complete) for x in _read_16(header, header_path, files, frames)], findings
    return [Digital(x, complete) for x in _read_by_library(header, header_path, frames)], findings


def _frames_in(path: Path, group: list[Signal], n_sig: int, header_path: Path) -> int | None:
    """Return how many whole frames a signal file holds; None for compressed formats, which do not tell."""
    offset = group[0].byte_offset
    try:
        size = path.stat().st_size
        if path.suffix == ".mat" and offset:
            with path.open("rb") as file:
                _check_matlab(file.read(20), path, n_sig)
    except OSError:
        raise EcgReadError(
            "the signal file named in the header is not there or cannot be read",
            where=path,
            remedy=f"put it beside {header_path.name}; both files make the record",
        ) from None
    width = _BYTES_PER_VALUE.get(group[0].fmt)
    if width is None:
        return None
    per_frame = sum(signal.samples_per_frame for signal in group)
    return max(0, int((size - offset) / width + 1e-9) // per_frame)


def _check_matlab(head: bytes, path: Path, n_sig: int) -> None:
    """Refuse a .mat that is not the CinC form's int16 MATLAB v4 matrix: its offset would lead to garbage."""
    # type 30: little-endian, two-byte signed integers, a full matrix (MAT-File Format, version 4).
    if len(head) < 20 or struct.unpack("<5i", head)[:2] != (30, n_sig):
        raise EcgReadError(
            "is not the MATLAB v4 int16 matrix, one row per lead, that the header describes",
            where=path,
            value=head[:8],
            remedy="save it with version 4 (scipy.io.savemat(..., format='4')), or correct the header",
        )


def _read_16(
    header: Header, header_path: Path, files: dict[str, list[Signal]], frames: int
) -> list[NDArray[np.integer]]:
    columns: dict[int, NDArray[np.integer]] = {}
    for name, group in files.items():
        raw = np.fromfile(
            header_path.parent / name, dtype="<i2", count=frames * len(group), offset=group[0].byte_offset
        )
        block = np.ascontiguousarray(raw.reshape(frames, len(group)).T)
        columns.update({signal.number: row for signal, row in zip(group, block, strict=True)})
    return [columns[i] for i in range(len(header.signals))]


def _read_by_library(header: Header, header_path: Path, frames: int) -> list[NDArray[np.integer]]:
    import wfdb

    record = wfdb.rdrecord(
        str(header_path.with_suffix("")), sampto=frames, physical=False, smooth_frames=False, return_res=32
    )
    return list(record.e_d_signal)
