"""The samples of a WFDB record as they are stored, in every signal format of WFDB, by numpy.

Sizes are checked before memory is taken. FLAC (508, 516, 524) is decoded by libsndfile; a MATLAB v5 matrix beside
a header is taken for what the header calls format 16 at an offset.

Source: https://physionet.org/physiotools/wag/signal-5.htm.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.readers._wfdb_header import Header, Signal
from ecgshared.arrays import Ints
from ecgshared.ecg.record import Finding
from ecgshared.errors import EcgReadError

MAX_VALUES = 32_000_000
"""Most samples, all signals together: five times 12 leads of 60 s at 8 kHz. Bounds the memory of a read."""

FLAC_BITS = {"508": 8, "516": 16, "524": 24}

_MATLAB_5 = b"MATLAB 5.0"


@dataclass(frozen=True)
class Format:
    """A signal format: bytes of one sample, the value that stands for "no sample", and from bytes to samples."""

    bytes_per_value: float
    invalid: int | None
    decode: Callable[[NDArray[np.uint8], int], NDArray[np.integer]]


def _aligned(dtype: str, zero: int = 0) -> Callable[[NDArray[np.uint8], int], NDArray[np.integer]]:
    """Return a decoder of whole bytes; ``zero`` is what an offset-binary format writes for 0."""

    def decode(raw: NDArray[np.uint8], count: int) -> NDArray[np.integer]:
        stored = raw[: count * np.dtype(dtype).itemsize].view(dtype)
        return stored if not zero else stored.astype(np.int32) - zero

    return decode


def _packed(group: int, width: int, parts: tuple[tuple[int, ...], ...]) -> Callable[..., NDArray[np.integer]]:
    """Return a decoder of ``group`` samples in a few bytes.

    ``parts`` holds, for each sample, (byte, shift right, mask, shift left) of each of its pieces, four at a time.
    """
    size = 1 + max(part[i] for part in parts for i in range(0, len(part), 4))

    def decode(raw: NDArray[np.uint8], count: int) -> NDArray[np.integer]:
        blocks = -(-count // group)
        whole = np.zeros(blocks * size, dtype=np.uint8)
        held = raw[: len(whole)]
        whole[: len(held)] = held
        octets = whole.reshape(blocks, size).T.astype(np.int16)
        out = np.zeros((blocks, group), dtype=np.int16)
        for i, part in enumerate(parts):
            for byte, right, mask, left in zip(*(iter(part),) * 4, strict=True):
                out[:, i] |= ((octets[byte] >> right) & mask) << left
        sign = 1 << (width - 1)
        return ((out.ravel()[:count] ^ sign) - sign).astype(np.int16)

    return decode


def _bytes_24(raw: NDArray[np.uint8], count: int) -> NDArray[np.integer]:
    wide = np.zeros((count, 4), dtype=np.uint8)
    wide[:, 1:] = raw[: 3 * count].reshape(count, 3)
    return wide.reshape(-1).view("<i4") >> 8


FORMATS: dict[str, Format] = {
    "8": Format(1, None, _aligned("i1")),  # first differences, summed in _signals
    "16": Format(2, -(1 << 15), _aligned("<i2")),
    "24": Format(3, -(1 << 23), _bytes_24),
    "32": Format(4, -(1 << 31), _aligned("<i4")),
    "61": Format(2, -(1 << 15), _aligned(">i2")),
    "80": Format(1, -(1 << 7), _aligned("u1", zero=1 << 7)),
    "160": Format(2, -(1 << 15), _aligned("<u2", zero=1 << 15)),
    "212": Format(1.5, -(1 << 11), _packed(2, 12, ((0, 0, 255, 0, 1, 0, 15, 8), (2, 0, 255, 0, 1, 4, 15, 8)))),
    "310": Format(
        4 / 3,
        -(1 << 9),
        _packed(3, 10, ((0, 1, 127, 0, 1, 0, 7, 7), (2, 1, 127, 0, 3, 0, 7, 7), (1, 3, 31, 0, 3, 3, 31, 5))),
    ),
    "311": Format(
        4 / 3,
        -(1 << 9),
        _packed(3, 10, ((0, 0, 255, 0, 1, 0, 3, 8), (1, 2, 63, 0, 2, 0, 15, 6), (2, 4, 15, 0, 3, 0, 63, 4))),
    ),
}

INVALID: dict[str, int | None] = {name: fmt.invalid for name, fmt in FORMATS.items()}
INVALID |= {name: -(1 << (bits - 1)) for name, bits in FLAC_BITS.items()}
"""The digital value that stands for "no sample", by format; 8 has none."""


class Digital(NamedTuple):
    """One signal's samples as stored, shape = (T * samples per frame,); ``complete`` if none is lacking."""

    samples: NDArray[np.integer]
    complete: bool


@dataclass(frozen=True)
class _File:
    """One signal file with the signals in it; ``frames`` is None where only decoding tells."""

    path: Path
    signals: list[Signal]
    frames: int | None

    @property
    def per_frame(self) -> int:
        return sum(signal.samples_per_frame for signal in self.signals)


def read_digital(header: Header, header_path: Path) -> tuple[list[Digital], list[Finding]]:
    """Return the stored samples of every signal, and findings about the files' lengths.

    Raises
    ------
    EcgReadError : a signal file is absent, empty, not what the header describes, or larger than
        :data:`MAX_VALUES`; a size is checked before memory is taken.
    """
    _check_size(header, header.n_frames or 0, f"{header_path}:{header.line}", "declares")
    groups: dict[str, list[Signal]] = {}
    for signal in header.signals:
        groups.setdefault(signal.file_name, []).append(signal)
    files = [_file(name, group, header, header_path) for name, group in groups.items()]
    held = min((file.frames for file in files if file.frames is not None), default=header.n_frames or 0)
    frames = held if header.n_frames is None else min(held, header.n_frames)
    if not frames and all(file.frames is not None for file in files):
        raise EcgReadError(
            "holds no samples",
            where=files[0].path,
            remedy="copy or export the signal file again; it is empty or cut short",
        )
    _check_size(header, frames, str(header_path), "holds")
    columns: dict[int, NDArray[np.integer]] = {}
    for file in files:
        columns |= _signals(file, frames)
    rows = [columns[i] for i in range(len(header.signals))]
    complete = header.n_frames is None or frames == header.n_frames
    return [Digital(row, complete) for row in rows], [f for file in files for f in _about_length(file, header)]


def _check_size(header: Header, frames: int, where: str, verb: str) -> None:
    if frames * header.values_per_frame > MAX_VALUES:
        raise EcgReadError(
            f"{verb} more samples than a 12-lead ECG can have",
            where=where,
            value=frames,
            allowed=f"at most {MAX_VALUES // header.values_per_frame} per signal",
            remedy="correct the header, or cut the recording to its ECG",
        )


def _about_length(file: _File, header: Header) -> list[Finding]:
    held, declared = file.frames, header.n_frames
    if held is None or declared is None or declared <= held <= declared + 1:  # packed formats pad by one sample
        return []
    share = held / declared
    if held < declared:
        message = f"{file.path.name} holds {held} of the {declared} samples per signal in the header"
        return [Finding("truncated", message, value=share)]
    message = f"{file.path.name} holds {held} samples per signal, the header declares {declared}"
    return [Finding("excess-samples", message, value=share)]


def beside(header_path: Path, name: str) -> Path:
    """Return the signal file a header names; a name without its ending means the one file that has it.

    Raises
    ------
    EcgReadError : there is no such file, or both a .mat and a .dat.
    """
    named = header_path.parent / name
    if named.is_file():
        return named
    found = [path for end in (".mat", ".dat") if (path := header_path.parent / f"{name}{end}").is_file()]
    if len(found) == 1:
        return found[0]
    raise EcgReadError(
        "the signal file named in the header is not there or cannot be read"
        if not found
        else "the header names a signal file without its ending, and both are there",
        where=named,
        value=[path.name for path in found] or None,
        remedy=f"put it beside {header_path.name}; both files make the record"
        if not found
        else "write the ending into the header's signal lines",
    )


def _file(name: str, group: list[Signal], header: Header, header_path: Path) -> _File:
    """Look at a signal file: how many whole frames it holds."""
    path = beside(header_path, name)
    fmt = group[0].fmt
    if fmt not in FORMATS and fmt not in FLAC_BITS:
        raise EcgReadError(
            "its samples are in a format that ecgfed cannot decode",
            where=f"{header_path}:{group[0].line}",
            value=fmt,
            allowed=", ".join([*FORMATS, *FLAC_BITS]),
            remedy="write the record again in format 16",
        )
    if any(signal.fmt != fmt for signal in group):
        raise EcgReadError(
            "one signal file is given in several formats",
            where=f"{header_path}:{group[0].line}",
            value=sorted({signal.fmt for signal in group}),
            remedy="write the record again, one format a file",
        )
    try:
        size = path.stat().st_size
        head = b""
        if path.suffix == ".mat" and group[0].byte_offset:
            with path.open("rb") as file:
                head = file.read(20)
    except OSError as error:
        raise EcgReadError(
            f"the signal file cannot be read ({type(error).__name__})", where=path, remedy="check its permissions"
        ) from None
    if fmt in FLAC_BITS:
        return _File(path, group, None)
    if head.startswith(_MATLAB_5):
        return _File(path, group, _matlab_rows(path, group).shape[1])
    if head:
        _check_matlab_4(head, path, len(header.signals))
    values = (size - group[0].byte_offset) / FORMATS[fmt].bytes_per_value
    return _File(path, group, max(0, int(values + 1e-9) // sum(signal.samples_per_frame for signal in group)))


def _check_matlab_4(head: bytes, path: Path, n_sig: int) -> None:
    """Refuse a .mat that is not the CinC form's int16 MATLAB v4 matrix: its offset would lead to garbage."""
    # type 30: little-endian, two-byte signed integers, a full matrix (MAT-File Format, version 4).
    if len(head) < 20 or struct.unpack("<5i", head)[:2] != (30, n_sig):
        raise EcgReadError(
            "is not the MATLAB v4 int16 matrix, one row per lead, that the header describes",
            where=path,
            value=head[:8],
            remedy="save it with version 4 (scipy.io.savemat(..., format='4')), or correct the header",
        )


def _matlab_rows(path: Path, group: list[Signal]) -> NDArray[np.integer]:
    """Return the ``val`` of a MATLAB v5 file in digital units, shape = (signals, T)."""
    from client.readers._matlab import arrays

    val = arrays(path).get("val")
    if (
        val is None
        or val.ndim != 2
        or val.shape[0] != len(group)
        or any(signal.samples_per_frame != 1 for signal in group)
        or not (val.dtype.kind in "iu" or (val.dtype.kind == "f" and np.array_equal(val, np.rint(val))))
    ):
        raise EcgReadError(
            "holds no matrix of digital values, one row per lead, that the header describes",
            where=path,
            allowed="MATLAB v4 or v5 with val, (leads, samples) of whole numbers",
            remedy="export the record again",
        )
    return val.astype(np.int32)


def _signals(file: _File, frames: int) -> dict[int, NDArray[np.integer]]:
    """Return each signal of a file by its number, shape = (frames * samples per frame,)."""
    first = file.signals[0]
    if first.fmt in FLAC_BITS:
        block = _flac(file, frames)
    elif file.path.suffix == ".mat" and file.frames is not None and _is_matlab_5(file.path, first):
        block = _matlab_rows(file.path, file.signals).T[:frames]
    else:
        count = frames * file.per_frame
        fmt = FORMATS[first.fmt]
        size = int(np.ceil(count * fmt.bytes_per_value - 1e-9))
        if first.fmt in ("310", "311"):
            size = -(-count // 3) * 4  # whole words, of which the file may lack the end
        raw = np.fromfile(file.path, dtype=np.uint8, count=size, offset=first.byte_offset)
        block = fmt.decode(raw, count).reshape(frames, file.per_frame)
    # One transposition for the whole file: taking columns one by one is five times as slow.
    columns = np.ascontiguousarray(block.T)
    rows: dict[int, NDArray[np.integer]] = {}
    at = 0
    for signal in file.signals:
        each = columns[at : at + signal.samples_per_frame]
        at += signal.samples_per_frame
        row = each[0] if signal.samples_per_frame == 1 else each.T.reshape(-1)
        if signal.fmt == "8":
            row = np.cumsum(row, dtype=np.int64) + (signal.initial_value or 0)
        rows[signal.number] = _unskewed(row, signal)
    return rows


def _is_matlab_5(path: Path, signal: Signal) -> bool:
    with path.open("rb") as file:
        return signal.byte_offset > 0 and file.read(len(_MATLAB_5)) == _MATLAB_5


def _unskewed(row: NDArray[np.integer], signal: Signal) -> NDArray[np.integer]:
    """Move a signal that was sampled ``skew`` frames late to its place; its end then has no samples."""
    if not signal.skew:
        return row
    late = min(signal.skew * signal.samples_per_frame, len(row))
    out: Ints = np.full(len(row), INVALID[signal.fmt] or 0, dtype=np.int64)
    out[: len(row) - late] = row[late:]
    return out


def _flac(file: _File, frames: int) -> NDArray[np.integer]:
    """Decode a FLAC file, shape = (frames, values per frame)."""
    import soundfile

    per = {signal.samples_per_frame for signal in file.signals}
    bits = FLAC_BITS[file.signals[0].fmt]
    try:
        with soundfile.SoundFile(file.path) as sound:
            if sound.format != "FLAC" or sound.channels != len(file.signals) or len(per) != 1:
                raise EcgReadError(
                    "is not the FLAC stream the header describes",
                    where=file.path,
                    value=f"{sound.format}, {sound.channels} channels",
                    allowed=f"FLAC, {len(file.signals)} channels of one rate",
                    remedy="copy the record again, header and signal file together",
                )
            stored_bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(sound.subtype, 99)
            wanted = frames * per.pop() or sound.frames
            if stored_bits > bits or wanted > min(sound.frames, MAX_VALUES // len(file.signals)):
                raise EcgReadError(
                    "holds fewer or wider samples than the header describes",
                    where=file.path,
                    value=f"{sound.frames} samples of {stored_bits} bits",
                    allowed=f"{wanted} samples of at most {bits} bits",
                    remedy="copy the record again, header and signal file together",
                )
            sound.seek(file.signals[0].byte_offset)
            block = sound.read(wanted, dtype="int32", always_2d=True) >> (32 - stored_bits)
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError) as error:
        raise EcgReadError(
            f"the FLAC stream cannot be decoded ({type(error).__name__})",
            where=file.path,
            remedy="copy the signal file again; it is cut or damaged",
        ) from None
    if len(block) < wanted:
        raise EcgReadError(
            "the FLAC stream ends early", where=file.path, value=len(block), allowed=f"{wanted} samples",
            remedy="copy the signal file again; it is cut",
        )  # fmt: skip
    spf = file.signals[0].samples_per_frame
    in_frames: NDArray[np.integer] = block.reshape(-1, spf, len(file.signals)).transpose(0, 2, 1)
    return in_frames.reshape(-1, spf * len(file.signals))
