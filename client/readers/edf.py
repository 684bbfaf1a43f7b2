"""EDF, EDF+ and BDF, by edfio: signals with a physical range each; those named as leads are the record.

An EDF+ file states sex and birth date, a plain one neither. Interrupted recordings (EDF+D) are refused: their
samples do not follow each other.

Source: B. Kemp and J. Olivan, "EDF+", Clin. Neurophysiol. 114 (2003) 1755; https://www.edfplus.info/specs.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from client.readers._assemble import assemble, check_length, check_rate, mv_per_unit, refuse_leads
from client.readers._source import filter_label, label, read_bytes
from ecgshared.ecg import person
from ecgshared.ecg.leads import standard_name
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

_BDF = b"\xffBIOSEMI"
_EDF = b"0       "
_BAND = {key: re.compile(rf"\b{key}:\s*([\d.]+)\s*Hz", re.IGNORECASE) for key in ("HP", "LP", "N")}
_REMEDY = "export it again; the file is damaged"


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the header has EDF's or BDF's version and states its own length."""
    if not head.startswith((_BDF, _EDF)) or len(head) < 256:
        return False
    length, signals = head[184:192].strip(), head[252:256].strip()
    return length.isdigit() and signals.isdigit() and int(length) == 256 * (int(signals) + 1)


def read(path: Path) -> EcgRecord:
    """Read the signals that are leads.

    Raises
    ------
    EcgReadError : damaged, interrupted, or without a lead.
    """
    raw = read_bytes(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # edfio warns of values that break EDF's rules and reads them
        try:
            return _read(raw, path)
        except EcgReadError:
            raise
        except Exception as error:
            # edfio converts a field when it is asked for; its messages quote values, which may name a person.
            raise EcgReadError(
                f"its header cannot be decoded ({type(error).__name__})", where=path, remedy=_REMEDY
            ) from None


def _read(raw: bytes, path: Path) -> EcgRecord:
    import edfio

    if raw[192:197] == b"EDF+D":
        raise EcgReadError(
            "is an interrupted recording (EDF+D)",
            where=path,
            allowed="EDF, EDF+C, BDF",
            remedy="export one stretch of it",
        )
    if raw.startswith(_BDF):
        edf: Any = edfio.read_bdf(raw, header_encoding="latin-1")
    else:
        edf = edfio.read_edf(raw, lazy_load_data=True, header_encoding="latin-1")
    leads = [signal for signal in edf.signals if standard_name(_lead(signal)) is not None]
    if not leads:
        refuse_leads([signal.label for signal in edf.signals], path)
    # Of several rates or lengths the one that most leads have.
    shapes = [(signal.sampling_frequency, signal.samples_per_data_record) for signal in leads]
    shape = max(shapes, key=shapes.count)
    used = [signal for signal, own in zip(leads, shapes, strict=True) if own == shape]
    apart = [_lead(signal) for signal in leads if signal not in used]
    findings = [Finding("leads-apart", f"{', '.join(apart)} have another rate and are left out") for _ in apart[:1]]
    declared, held = _whole(raw[236:244]), _records_held(edf, raw)  # -1: not known when it was begun
    if held < declared:
        findings.append(Finding("truncated", f"holds {held} of {declared} data records", value=held / declared))
    names, rows, steps = [], [], []
    for signal in used:
        where = f"{path}: signal {_lead(signal)}"
        low, high = signal.digital_range
        if high <= low:
            raise EcgReadError("the digital range is not valid", where=where, value=(low, high), remedy=_REMEDY)
        step = (signal.physical_max - signal.physical_min) / (high - low)
        factor = mv_per_unit(signal.physical_dimension, where)
        check_length(len(signal.digital), where)
        rows.append(((signal.digital.astype(np.float64) - low) * step + signal.physical_min) * factor)
        names.append(_lead(signal))
        steps.append(abs(step * factor))
    sex, birth, recorded_at, device = _facts(edf)
    age, about_age = person.age_at(None, birth, None if recorded_at is None else recorded_at.date())
    band = {key: pattern.search(used[0].prefiltering) for key, pattern in _BAND.items()}
    return assemble(
        names,
        rows,
        path,
        fs=check_rate(float(used[0].sampling_frequency), path),
        source_format="edf",
        mv_per_step=max(steps),
        age_years=age,
        sex=person.sex_of(sex),
        recorded_at=recorded_at,
        device=device,
        filters=filter_label(*(None if found is None else float(found[1]) for found in band.values())),
        findings=(*findings, *about_age),
    )


def _lead(signal: Any) -> str:
    """Return a signal's label without the kind that EDF+ puts before it."""
    return str(signal.label).removeprefix("EKG").removeprefix("ECG").strip(" -_:")[:20]


def _records_held(edf: Any, raw: bytes) -> int:
    """Return how many whole data records there are."""
    width = 3 if raw.startswith(_BDF) else 2
    size = sum(_samples_per_record(raw)) * width
    return (len(raw) - edf.bytes_in_header_record) // size if size > 0 else 0


def _whole(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return -1


def _samples_per_record(raw: bytes) -> list[int]:
    signals = int(raw[252:256])
    at = 256 + 216 * signals
    return [_whole(raw[at + 8 * i : at + 8 * i + 8]) for i in range(signals)]


def _facts(edf: Any) -> tuple[str | None, date | None, datetime | None, str | None]:
    """Return sex, birth date, start and device; each None where a field is anonymous or not of EDF+."""
    sex = birth = recorded_at = device = None
    with contextlib.suppress(Exception):
        sex = edf.patient.sex
    with contextlib.suppress(Exception):
        birth = edf.patient.birthdate
    with contextlib.suppress(Exception):
        recorded_at = datetime.combine(edf.startdate, edf.starttime.replace(microsecond=0))
    with contextlib.suppress(Exception):
        code = edf.recording.equipment_code
        device = None if code == "X" else label(code.replace("_", " "))
    return sex, birth, recorded_at, device
