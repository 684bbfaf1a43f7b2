"""WFDB records (.hea with .dat) and their CinC form (.hea with a MATLAB v4 .mat).

The wfdb library does not compare checksums; this reader does, for every format.

Source: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.readers._wfdb_header import Header, Signal, parse_header
from client.readers._wfdb_samples import Digital, read_digital
from ecgshared.ecg.leads import LEADS, standard_name, to_standard_order
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

MAX_HEADER_BYTES = 1 << 20

INVALID = {
    "16": -32768,
    "212": -2048,
    "80": -128,
    "310": -512,
    "311": -512,
    "24": -(1 << 23),
    "32": -(1 << 31),
}
"""The digital value that stands for "no sample", by format."""


_MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}


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
    chosen, findings = _choose_leads(header, header_path)
    digital, more = read_digital(header, header_path)
    findings += more
    rate = {header.signals[i].samples_per_frame for i in chosen.values()}
    oversampled = rate.pop() if len(rate) == 1 else 1
    rows = [_physical(header.signals[i], digital[i].samples, header_path, oversampled) for i in chosen.values()]
    p_signal = to_standard_order(np.stack(rows), list(chosen))
    findings += _verify(header, digital, chosen)
    derived = [
        lead
        for i, lead in enumerate(LEADS)
        if not np.isnan(p_signal[i]).all() and (lead not in chosen or np.isnan(rows[list(chosen).index(lead)]).all())
    ]
    if derived:
        findings.append(
            Finding("derived-lead", f"{', '.join(derived)} computed from the other limb leads, not recorded")
        )
    return EcgRecord(
        p_signal=p_signal,
        fs=header.fs * oversampled,
        age_years=header.person.age_years,
        age_capped=header.person.age_capped,
        sex=header.person.sex,
        recorded_at=header.recorded_at,
        source_format="wfdb",
        adc_units_per_mv=min(
            abs(header.signals[i].gain) / _mv_per_unit(header.signals[i], header_path) for i in chosen.values()
        ),
        findings=tuple(findings),
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
    named = path.name.encode()
    return header if any(named in line.split()[:1] for line in header.read_bytes().splitlines()) else None


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


def _choose_leads(header: Header, path: Path) -> tuple[dict[str, int], list[Finding]]:
    """Return signal numbers by standard lead name, the first of each."""
    chosen: dict[str, int] = {}
    findings = list(header.findings)
    for i, signal in enumerate(header.signals):
        lead = standard_name(signal.description)
        if lead is None:
            continue
        if lead in chosen:
            findings.append(Finding("duplicate-lead", f"{lead} is stored more than once; the first is used", lead))
            continue
        chosen[lead] = i
        _mv_per_unit(signal, path)
    if not chosen:
        raise EcgReadError(
            "no signal is one of the twelve leads",
            where=path,
            value=[signal.description[:20] for signal in header.signals[:15]],
            allowed=", ".join(LEADS),
            remedy="name the leads in the header's signal lines",
        )
    return chosen, findings


def _mv_per_unit(signal: Signal, path: Path) -> float:
    factor = _MV_PER_UNIT.get(signal.units.lower())
    if factor is None:
        raise EcgReadError(
            f"lead {signal.description!r} has an unknown unit",
            where=f"{path}:{signal.line}",
            value=signal.units,
            allowed="V, mV, uV, nV",
            remedy="correct the unit in the header",
        )
    return factor


def _physical(signal: Signal, samples: NDArray[np.integer], path: Path, oversampled: int) -> NDArray[np.float32]:
    """Return one signal in mV at the common rate; samples marked invalid are NaN."""
    millivolts = samples.astype(np.float32)
    millivolts -= np.float32(signal.baseline)
    millivolts /= np.float32(signal.gain / _mv_per_unit(signal, path))
    invalid = samples == INVALID.get(signal.fmt, np.iinfo(np.int32).min)
    if invalid.any():
        millivolts[invalid] = np.nan
    per_frame = signal.samples_per_frame
    return millivolts if per_frame == oversampled else millivolts.reshape(-1, per_frame).mean(axis=1)


def _verify(header: Header, digital: list[Digital], chosen: dict[str, int]) -> list[Finding]:
    """Compare 16-bit checksum and initial value of each used lead; a cut signal has no valid checksum."""
    findings = []
    for lead, i in chosen.items():
        signal, stored = header.signals[i], digital[i]
        if signal.initial_value is not None and int(stored.samples[0]) != signal.initial_value:
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
