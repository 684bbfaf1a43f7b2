"""WFDB records (.hea with its signal files) and their CinC form (.hea with a MATLAB .mat).

The wfdb library does not compare checksums; this reader does, for every format.

Source: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MV_PER_UNIT, assemble, refuse_leads
from client.readers._wfdb_header import Header, Signal, parse_header
from client.readers._wfdb_samples import INVALID, Digital, read_digital
from ecgshared.arrays import Floats
from ecgshared.ecg.leads import standard_name
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

MAX_HEADER_BYTES = 1 << 20


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether ``path`` is a WFDB header, a signal file its header names, or a bare record name."""
    if path.suffix == ".hea" and head:
        return True
    if head:
        return _is_header(head) or _header_of(path) is not None
    return _with_hea(path).is_file()


def read(path: Path) -> EcgRecord:
    """Read a record by its header, its signal file or its bare name.

    Returns
    -------
    EcgRecord : leads in standard order, absent limb leads derived. A wrong checksum, a wrong initial value, a
        short or overlong file, derived leads and assumed values are findings.

    Raises
    ------
    EcgReadError : where nothing usable can be read.
    """
    header_path = _locate(path)
    header = _read_header(header_path)
    used = [signal for signal in header.signals if standard_name(signal.description) is not None]
    if not used:
        refuse_leads([signal.description for signal in header.signals], header_path)
    step = [_mv_per_unit(signal, header_path) / signal.gain for signal in used]
    digital, findings = read_digital(header, header_path)
    rates = {signal.samples_per_frame for signal in used}
    oversampled = rates.pop() if len(rates) == 1 else 1
    rows = [
        _physical(signal, digital[signal.number].samples, mv, oversampled)
        for signal, mv in zip(used, step, strict=True)
    ]
    return assemble(
        [signal.description for signal in used],
        rows,
        path,
        fs=header.fs * oversampled,
        source_format="wfdb",
        mv_per_step=max(abs(mv) for mv in step),
        age_years=header.person.age_years,
        age_capped=header.person.age_capped,
        sex=header.person.sex,
        recorded_at=header.recorded_at,
        findings=(*header.findings, *findings, *_verify(used, digital)),
    )


def _with_hea(path: Path) -> Path:
    return path.with_name(path.name + ".hea") if path.name else path


def _is_header(head: bytes) -> bool:
    if b"\0" in head or head.lstrip()[:1] in (b"<", b"{", b"["):
        return False
    for line in head.decode("latin-1").splitlines():
        fields = line.split()
        if fields and not line.startswith("#"):
            if len(fields) < 3 or not fields[1].isdecimal():
                return False
            try:
                return float(fields[2].split("/")[0]) > 0
            except ValueError:
                return False
    return False


def _header_of(path: Path) -> Path | None:
    """Return the header beside a signal file if it names that very file."""
    header = path.with_suffix(".hea")
    if not header.is_file() or header.stat().st_size > MAX_HEADER_BYTES:
        return None
    named = [path.name.encode(), *([path.stem.encode()] if path.suffix in (".mat", ".dat") else [])]
    lines = header.read_bytes().splitlines()
    signal_lines = [line.split()[0] for line in lines if line.strip() and not line.startswith(b"#")][1:]
    return header if any(name in named for name in signal_lines) else None


def _locate(path: Path) -> Path:
    if not path.is_file():
        header = _with_hea(path)
    elif path.suffix == ".hea":
        header = path
    else:
        header = _header_of(path) or path
    return header


def _read_header(path: Path) -> Header:
    try:
        size = path.stat().st_size
        if size > MAX_HEADER_BYTES:
            raise EcgReadError(
                "is too long for a WFDB header",
                where=path,
                value=size,
                allowed=f"{MAX_HEADER_BYTES} bytes",
                remedy="give the .hea file",
            )
        raw = path.read_bytes()
    except OSError as error:
        raise EcgReadError(
            f"the header cannot be read ({type(error).__name__})",
            where=path,
            remedy="check path and permissions",
        ) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return parse_header(text, path)


def _mv_per_unit(signal: Signal, path: Path) -> float:
    factor = MV_PER_UNIT.get(signal.units.lower())
    if factor is None:
        raise EcgReadError(
            f"lead {signal.description[:20]!r} has an unknown unit",
            where=f"{path}:{signal.line}",
            value=signal.units[:20],
            allowed="V, mV, uV, nV",
            remedy="correct the unit in the header",
        )
    return factor


def _physical(signal: Signal, samples: NDArray[np.integer], mv_per_step: float, oversampled: int) -> Floats:
    """Return one signal in mV at the common rate; samples marked invalid are NaN.

    In double precision, as in the other readers: the same samples are the same record, whatever the format.
    """
    millivolts: Floats = np.subtract(samples, signal.baseline, dtype=np.float64)
    millivolts *= mv_per_step
    absent = INVALID[signal.fmt]
    if absent is not None:
        invalid = samples == absent
        if invalid.any():
            millivolts[invalid] = np.nan
    per_frame = signal.samples_per_frame
    if per_frame == oversampled:
        return millivolts
    averaged: Floats = millivolts.reshape(-1, per_frame).mean(axis=1)
    return averaged


def _verify(used: list[Signal], digital: list[Digital]) -> list[Finding]:
    """Compare 16-bit checksum and initial value of each used lead; a cut signal has no valid checksum.

    Where every lead has 0 for both, the writer left them out.
    """
    if all(signal.initial_value == 0 and signal.checksum == 0 for signal in used):
        return []
    findings = []
    first_of_each: dict[str | None, Signal] = {}
    for signal in used:
        first_of_each.setdefault(standard_name(signal.description), signal)
    for lead, signal in first_of_each.items():
        stored = digital[signal.number]
        if signal.initial_value is not None and signal.fmt != "8" and int(stored.samples[0]) != signal.initial_value:
            findings.append(
                Finding(
                    "initial-value",
                    f"the first sample is {int(stored.samples[0])}, the header says {signal.initial_value}",
                    lead,
                    float(stored.samples[0]),
                )
            )
        if signal.checksum is None or not stored.complete:
            continue
        checksum = int(stored.samples.sum(dtype=np.int64)) & 0xFFFF
        if checksum != signal.checksum & 0xFFFF:
            findings.append(
                Finding(
                    "checksum",
                    f"the samples sum to {checksum}, the header says {signal.checksum & 0xFFFF}: "
                    "bytes were changed after export",
                    lead,
                    float(checksum),
                )
            )
    return findings
