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
    units = [_mv_per_unit(signal, header_path) for signal in used]
    digital, findings = read_digital(header, header_path)
    rates = {signal.samples_per_frame for signal in used}
    oversampled = rates.pop() if len(rates) == 1 else 1
    rows = _physical(used, [digital[signal.number].samples for signal in used], units, oversampled)
    return assemble(
        [signal.description for signal in used],
        rows,
        path,
        fs=header.fs * oversampled,
        source_format="wfdb",
        mv_per_step=max(abs(mv / signal.gain) for mv, signal in zip(units, used, strict=True)),
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


def _physical(
    used: list[Signal], digital: list[NDArray[np.integer]], units: list[float], oversampled: int
) -> list[NDArray[np.floating]] | NDArray[np.floating]:
    """Return the signals in mV at the common rate; samples marked invalid are NaN.

    Signals of one kind together. The same samples are the same record, whatever the format: in double precision as in
    the other readers, or by a division in single precision where that gives the same number, rounded once.
    """
    kinds: dict[tuple[str, int], list[int]] = {}
    for place, signal in enumerate(used):
        kinds.setdefault((signal.fmt, signal.samples_per_frame), []).append(place)
    rows: dict[int, NDArray[np.floating]] = {}
    for (fmt, per_frame), places in kinds.items():
        stored = [digital[place] for place in places]
        gain = np.array([[used[place].gain] for place in places])
        baseline = np.array([[used[place].baseline] for place in places])
        # A whole number of less than 24 bits over one of less than 20 is never midway between two single numbers.
        exact = (
            stored[0].dtype == np.int16
            and all(units[place] == 1 for place in places)
            and bool((gain == np.rint(gain)).all() and (np.abs(gain) < 2**20).all())
            and bool((np.abs(baseline) < 2**23).all())
        )
        millivolts = np.empty((len(places), len(stored[0])), dtype=np.float32 if exact else np.float64)
        for row, samples in zip(millivolts, stored, strict=True):
            row[:] = samples
        absent = INVALID[fmt]
        invalid = millivolts == absent if absent is not None and millivolts.min() == absent else None
        if baseline.any():
            millivolts -= baseline.astype(millivolts.dtype)
        if exact:
            millivolts /= gain.astype(np.float32)
        else:
            millivolts *= np.array([[units[place]] for place in places]) / gain
        if invalid is not None:
            millivolts[invalid] = np.nan
        if per_frame != oversampled:
            millivolts = millivolts.reshape(len(places), -1, per_frame).mean(axis=2, dtype=np.float64)
        if len(kinds) == 1:
            return millivolts
        rows |= dict(zip(places, millivolts, strict=True))
    return [rows[place] for place in range(len(used))]


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
        # Of the sum no more than 16 bits count, so that it may run over.
        checksum = int(np.add.reduce(stored.samples, dtype=stored.samples.dtype)) & 0xFFFF
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
