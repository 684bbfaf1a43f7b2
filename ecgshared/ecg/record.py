"""One ECG as every reader returns it and every later step receives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS

Sex = Literal["F", "M"]


@dataclass(frozen=True)
class Finding:
    """One thing a reader or the quality rules noticed.

    ``code`` is a kebab-case word of :data:`ecgshared.ecg.quality.CODES`, ``lead`` a standard lead name or None
    for the whole record, ``value`` the measured number (unit in ``message``).
    """

    code: str
    message: str
    lead: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class EcgRecord:
    """A 12-lead ECG in standard order and units.

    Attributes
    ----------
    p_signal : array, shape = (12, T), float32, mV, rows in :data:`ecgshared.ecg.leads.LEADS`; an absent lead is NaN.
    fs : samples per second.
    age_years : at recording; None where unknown. ``age_capped`` marks "over 89" (PTB-XL writes 300): age is 90.
    sex : "F", "M" or None.
    recorded_at : local time of the recording, None where unknown.
    source_format : the reader's name, ``wfdb`` and so on.
    adc_units_per_mv : the file's resolution, the reciprocal of one quantisation step; None where it has none.
    machine : what the machine that recorded it measured, where the file says so: of ``rate_bpm``, ``rr_ms``, ``pr_ms``,
        ``qrs_ms``, ``qt_ms``. Evidence about the sampling rate, no label.
    findings : what the reader itself noticed (wrong checksum, derived leads, ...).

    No name, birth date or medical record number: readers drop those.
    """

    p_signal: NDArray[np.float32]
    fs: float
    age_years: float | None = None
    age_capped: bool = False
    sex: Sex | None = None
    recorded_at: datetime | None = None
    source_format: str = "unknown"
    device: str | None = None
    manufacturer: str | None = None
    filters: str | None = None
    adc_units_per_mv: float | None = None
    machine: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    sig_name: tuple[str, ...] = field(default=LEADS)

    @property
    def seconds(self) -> float:
        """Duration of the recording in seconds."""
        return float(self.p_signal.shape[1] / self.fs)

    @property
    def invalid_share(self) -> float:
        """Share of samples that are marked invalid or are no numbers, among the leads that are there at all; 0..1."""
        absent = ~np.isfinite(self.p_signal)
        there = ~absent.all(axis=1)
        return float(absent[there].mean()) if there.any() else 1.0
