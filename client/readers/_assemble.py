"""From leads as a file names them to a record: order, derived leads, lengths, calibration, plausible numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from client.readers._calibration import signal_samples
from client.readers._machine import possible
from ecgshared.ecg.leads import LEADS, derive_limb_leads, standard_name
from ecgshared.ecg.record import EcgRecord, Finding, Sex
from ecgshared.errors import EcgReadError

FS_HZ = (20.0, 32_000.0)
"""Rates a recording may declare."""

MAX_SAMPLES = 2_000_000
"""Most samples of one lead: an hour at 500 Hz. Bounds the memory of a read."""

MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
MV_PER_UNIT |= {"microvolts": 1e-3, "millivolts": 1.0, "volts": 1e3, "microvolt": 1e-3, "millivolt": 1.0, "volt": 1e3}

_MAX_MV = 1e6


def mv_per_unit(unit: str | None, where: object) -> float:
    """Return the millivolts in one unit of voltage; raise :class:`EcgReadError` where it is not one."""
    factor = MV_PER_UNIT.get((unit or "").strip().lower())
    if factor is None:
        raise EcgReadError(
            "the unit of the samples is not known",
            where=where,
            value=None if unit is None else unit[:20],
            allowed="V, mV, uV, nV",
            remedy="export it again, in microvolts",
        )
    return factor


def check_rate(fs: float, where: object) -> float:
    """Return a sampling rate in Hz if an ECG can have it, else raise :class:`EcgReadError`."""
    if not FS_HZ[0] <= fs <= FS_HZ[1]:
        raise EcgReadError(
            "the sampling rate is not valid",
            where=where,
            value=fs,
            allowed=f"{FS_HZ[0]:g} to {FS_HZ[1]:g} Hz",
            remedy="export it again; the file is damaged",
        )
    return fs


def check_length(samples: int, where: object) -> int:
    """Return a number of samples per lead if it can be held, else raise :class:`EcgReadError`."""
    if not 0 < samples <= MAX_SAMPLES:
        raise EcgReadError(
            "holds no samples" if samples <= 0 else "holds or declares more samples than a 12-lead ECG has",
            where=where,
            value=samples,
            allowed=f"1 to {MAX_SAMPLES} per lead",
            remedy="export the resting ECG alone, and again if the file is damaged",
        )
    return samples


def refuse_leads(names: Sequence[str], where: object) -> NoReturn:
    """Raise :class:`EcgReadError`: none of these names is a lead's."""
    raise EcgReadError(
        "no signal is one of the twelve leads",
        where=where,
        value=[name[:20] for name in names[:15]],
        allowed=", ".join(LEADS),
        remedy="export a 12-lead ECG; a file that names its leads otherwise has to be corrected",
    )


def twelve_leads(
    names: Sequence[str], rows: Sequence[NDArray[np.floating]] | NDArray[np.floating], path: Path
) -> tuple[NDArray[np.float32], list[Finding]]:
    """Arrange named leads (mV) in standard order; absent limb leads are derived, short leads end in NaN.

    One array of all twelve, in order and in single precision, is taken as it is.

    Returns
    -------
    p_signal : array, shape = (12, T), float32. findings : duplicates, derived and cut leads.
    """
    findings: list[Finding] = []
    chosen: dict[str, NDArray[np.floating]] = {}
    for name, row in zip(names, rows, strict=True):
        lead = standard_name(name)
        if lead is None:
            continue
        if lead in chosen:
            findings.append(Finding("duplicate-lead", f"{lead} is stored more than once; the first is used", lead))
        else:
            chosen[lead] = row
    if not chosen:
        refuse_leads(names, path)
    samples = check_length(max(len(row) for row in chosen.values()), path)
    if isinstance(rows, np.ndarray) and rows.dtype == np.float32 and len(rows) == 12 and tuple(chosen) == LEADS:
        p_signal = rows
    else:
        p_signal = np.empty((12, samples), dtype=np.float32)
        for place, lead in enumerate(LEADS):
            row = chosen.get(lead, ())
            p_signal[place, : len(row)] = row
            p_signal[place, len(row) :] = np.nan
    findings += [
        Finding("truncated", f"{lead} holds {len(row)} of {samples} samples", lead, len(row) / samples)
        for lead, row in chosen.items()
        if len(row) < samples
    ]
    with np.errstate(invalid="ignore"):
        sound = p_signal.max() <= _MAX_MV and p_signal.min() >= -_MAX_MV  # and no NaN
        if not sound:
            p_signal[~(np.abs(p_signal) <= _MAX_MV)] = np.nan
    if not sound and np.isnan(p_signal).all():
        raise EcgReadError("no lead holds a sample", where=path, remedy="export it again; the file is damaged")
    derived = [] if sound else derive_limb_leads(p_signal)
    if derived:
        findings.append(
            Finding("derived-lead", f"{', '.join(derived)} computed from the other limb leads, not recorded")
        )
    return p_signal, findings


def assemble(
    names: Sequence[str],
    rows: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    path: Path,
    *,
    fs: float,
    source_format: str,
    mv_per_step: float | None,
    age_years: float | None = None,
    age_capped: bool = False,
    sex: Sex | None = None,
    recorded_at: datetime | None = None,
    device: str | None = None,
    manufacturer: str | None = None,
    filters: str | None = None,
    machine: Mapping[str, float | None] | None = None,
    findings: Sequence[Finding] = (),
) -> EcgRecord:
    """Make the record: standard order, mV, without a calibration pulse at its end.

    Parameters
    ----------
    names, rows : the leads as the file has them, each array in mV.
    mv_per_step : one quantisation step.
    machine : what the recording machine measured, see :class:`EcgRecord`; values no heart has are left out.

    Raises
    ------
    EcgReadError : no lead, no sample, an impossible rate, length or resolution.
    """
    check_rate(fs, path)
    p_signal, noticed = twelve_leads(names, rows, path)
    if mv_per_step is not None and not 1e-9 <= mv_per_step <= 1e3:
        raise EcgReadError(
            "the resolution is not valid",
            where=path,
            value=mv_per_step,
            allowed="1e-9 to 1000 mV a step",
            remedy="export it again; the file is damaged",
        )
    kept = signal_samples(p_signal, fs)
    if kept < p_signal.shape[1]:
        p_signal = np.ascontiguousarray(p_signal[:, :kept])
    return EcgRecord(
        p_signal=p_signal,
        fs=fs,
        age_years=age_years,
        age_capped=age_capped,
        sex=sex,
        recorded_at=recorded_at,
        source_format=source_format,
        device=device,
        manufacturer=manufacturer,
        filters=filters,
        machine=possible(machine or {}),
        adc_units_per_mv=None if mv_per_step is None else 1 / mv_per_step,
        findings=(*findings, *noticed),
    )
