"""Intervals, axes and amplitudes of a recording, measured on its median beat, with the fiducials they rest on.

Onsets and ends are global: the earliest and latest any lead shows, from the spatial velocity of the eight independent
leads (CSE Working Party 1985, doi 10.1093/oxfordjournals.eurheartj.a061943, defines them so). The end of T is where,
lead by lead, the steepest tangent of its far slope meets the level before the QRS (Lepeschkin and Surawicz 1952,
doi 10.1161/01.CIR.6.3.378), and of all leads the upper quartile: late, but not the latest, which may be noise. Carts
end T where it is over: beside what MUSE, Philips and SCP-ECG machines wrote into five recordings this QT is 11 to 30
ms shorter, 15 in the middle. All at one fixed rate, so that values of different recorders compare.

A pacemaker's spikes are taken out before. Where that leaves any, nothing but the heart rate is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ecgshared.ecg.beats import MedianBeat, median_beat
from ecgshared.ecg.dipole import INDEPENDENT
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.pacing import without_spikes
from ecgshared.ecg.preprocess import resample
from ecgshared.ecg.record import EcgRecord
from ecgshared.ecg.rows import median_of, percentiles

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

FEATURE_FS_HZ = 500.0

QRS_SHARE = 0.045
"""Of the QRS's highest spatial velocity, above that of the flat stretch beside it: where the QRS begins and ends."""

LONGEST_QRS_S = 0.22
STANDS_OUT = 3.0
"""Times the quiet speed of a beat from which its highest is a QRS complex; in fibrillation nothing is quiet."""
MIN_P_MV, MIN_T_MV, MIN_T_LEAD_MV = 0.03, 0.03, 0.05
T_END_PERCENTILE = 75
P_HALF_S = 0.085
"""No P wave begins longer before its peak, nor ends longer after."""

P_SHARE, P_BEYOND_S = 0.35, 0.008
"""P lasts from where it first exceeds this share of its peak to where it last does, and a little beyond either."""

FIDUCIALS = ("p_onset", "p_peak", "p_end", "qrs_onset", "qrs_end", "t_peak", "t_end")
SCALARS = (
    *("rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "qtc_bazett_ms", "qtc_fridericia_ms", "p_ms"),
    *("p_axis_deg", "qrs_axis_deg", "t_axis_deg"),
)
AMPLITUDES = ("p", "q", "r", "s", "t")

NAMES: tuple[str, ...] = (
    *SCALARS,
    *(f"{name}_s" for name in FIDUCIALS),
    *(f"{wave}_{lead}_mv" for wave in AMPLITUDES for lead in LEADS),
)
"""Columns of :func:`feature_row`."""


QT_METHOD = "tangent to the far slope of T in each lead, upper quartile of the leads"
"""How QT is measured, in words for whoever compares it."""

SPIKES_OUT = "a pacemaker's spikes were taken out before measuring"
SPIKES_LEFT = "not measured: spikes of a pacemaker, or of a wrong gain, could not be told from the heart's own waves"


@dataclass(frozen=True)
class Features:
    """Measurements of one recording; NaN where a wave is absent or cannot be told.

    Attributes
    ----------
    rate_bpm : ventricular rate, from the median RR interval.
    pr_ms, qrs_ms, qt_ms, p_ms : intervals, and the duration of P.
    qtc_bazett_ms, qtc_fridericia_ms : QT over the square and the cube root of RR in seconds.
    p_axis_deg, qrs_axis_deg, t_axis_deg : frontal axes from net areas in I and aVF, -180 to 180.
    fiducials : seconds from the middle of QRS, by name of :data:`FIDUCIALS`.
    amplitudes_mv : array, shape = (5, 12): P, Q, R, S and T of each lead from the level before QRS; Q and S are
        negative or 0, R positive or 0.
    note : what was done before measuring, or why nothing was measured; empty where there is nothing to say.
    """

    rate_bpm: float
    pr_ms: float
    qrs_ms: float
    qt_ms: float
    qtc_bazett_ms: float
    qtc_fridericia_ms: float
    p_ms: float
    p_axis_deg: float
    qrs_axis_deg: float
    t_axis_deg: float
    fiducials: dict[str, float]
    amplitudes_mv: F64
    note: str = ""

    def row(self) -> F32:
        """Return the values in the order of :data:`NAMES`."""
        scalars = [getattr(self, name) for name in SCALARS]
        fiducials = [self.fiducials[name] for name in FIDUCIALS]
        return np.asarray([*scalars, *fiducials, *self.amplitudes_mv.ravel()], dtype=np.float32)


def features_of(record: EcgRecord) -> Features | None:
    """Measure a recording; None where no two whole beats show."""
    x, fs = np.nan_to_num(record.p_signal, nan=0.0, posinf=0.0, neginf=0.0), record.fs
    beat = median_beat(x, fs)
    if beat is None:
        return None
    cleaned = without_spikes(x, fs, beat.qrs[beat.alike])
    if cleaned is None:
        return measure(beat)
    beat = median_beat(cleaned, fs)
    if beat is None:
        return None
    found = measure(beat)
    if without_spikes(cleaned, fs, beat.qrs[beat.alike]) is not None:
        return _nothing_but(found)
    return replace(found, note=SPIKES_OUT)


def feature_row(record: EcgRecord) -> F32:
    """Return the measurements in the order of :data:`NAMES`, all NaN where no two whole beats show."""
    found = features_of(record)
    return np.full(len(NAMES), np.nan, dtype=np.float32) if found is None else found.row()


def measure(beat: MedianBeat) -> Features:
    """Measure a median beat."""
    x = resample(beat.signal[np.newaxis], beat.fs, FEATURE_FS_HZ)[0].astype(np.float64)
    fs, centre = FEATURE_FS_HZ, round(beat.centre * FEATURE_FS_HZ / beat.fs)
    normal = beat.alike[1:] & beat.alike[:-1]
    rr = beat.rr_s[normal] if normal.any() else beat.rr_s
    rr_s = median_of(rr) if len(rr) else np.nan
    eight = x[list(INDEPENDENT)]
    onset, end = _qrs(eight, centre, fs)
    x -= x[:, max(0, onset - round(0.016 * fs)) : max(1, onset - round(0.004 * fs))].mean(axis=1, keepdims=True)
    eight = x[list(INDEPENDENT)]
    t_peak, t_end = _t_wave(eight, end, centre, rr_s, fs)
    p_onset, p_peak, p_end = _p_wave(eight, onset, t_end, rr_s, fs)
    points = dict(zip(FIDUCIALS, (p_onset, p_peak, p_end, onset, end, t_peak, t_end), strict=True))
    qt_s = (t_end - onset) / fs
    return Features(
        rate_bpm=60 / rr_s,
        pr_ms=1000 * (onset - p_onset) / fs,
        qrs_ms=1000 * (end - onset) / fs,
        qt_ms=1000 * qt_s,
        qtc_bazett_ms=1000 * qt_s / rr_s**0.5,
        qtc_fridericia_ms=1000 * qt_s / rr_s ** (1 / 3),
        p_ms=1000 * (p_end - p_onset) / fs,
        p_axis_deg=_axis(_wave(x, p_onset, p_end, level=True)),
        qrs_axis_deg=_axis(_wave(x, onset, end)),
        t_axis_deg=_axis(_wave(x, end + round(0.04 * fs), t_end)),
        fiducials={name: (point - centre) / fs for name, point in points.items()},
        amplitudes_mv=_amplitudes(x, points),
    )


def _nothing_but(found: Features) -> Features:
    """Return the heart rate of ``found``, and NaN for all else."""
    nan = float("nan")
    return Features(
        *(found.rate_bpm, nan, nan, nan, nan, nan, nan, nan, nan, nan),
        fiducials=dict.fromkeys(FIDUCIALS, nan),
        amplitudes_mv=np.full((len(AMPLITUDES), 12), nan),
        note=SPIKES_LEFT,
    )


def qrs_ms(beat: MedianBeat) -> float:
    """Return the duration of QRS alone, at the beat's own rate."""
    onset, end = _qrs(beat.signal[list(INDEPENDENT)].astype(np.float64), beat.centre, beat.fs)
    return 1000 * (end - onset) / beat.fs


def qrs_limits(x: F64, centre: int, fs: float) -> tuple[int, int] | None:
    """Return onset and end of QRS in leads of one beat, samples; None where none stands out, or it does not end.

    Parameters
    ----------
    x : float array, shape = (12, W), mV. centre : sample of the QRS middle.
    """
    eight = x[list(INDEPENDENT)]
    if not np.ptp(eight) > 0:
        return None
    onset, end = _qrs(eight, centre, fs)
    speed = _velocity(eight, fs)
    near = slice(max(0, centre - round(0.08 * fs)), centre + round(0.08 * fs))
    highest = near.start + int(speed[near].argmax())
    stands_out = speed[highest] > STANDS_OUT * np.percentile(speed, 15)
    ends = end < min(highest + round(LONGEST_QRS_S * fs), x.shape[1]) - 1
    return (onset, end) if stands_out and ends and end > onset else None


def _velocity(eight: F64, fs: float) -> F64:
    """Return the spatial velocity over 8 ms, mV/s, shape = (W,)."""
    step = max(1, round(0.004 * fs))
    change = np.zeros_like(eight)
    change[:, step:-step] = (eight[:, 2 * step :] - eight[:, : -2 * step]) * (fs / (2 * step))
    return cast(F64, ndimage.uniform_filter1d(np.sqrt((change**2).sum(axis=0)), max(1, round(0.006 * fs))))


def _qrs(eight: F64, centre: int, fs: float) -> tuple[int, int]:
    speed = _velocity(eight, fs)
    near = slice(max(0, centre - round(0.08 * fs)), centre + round(0.08 * fs))
    top = near.start + int(speed[near].argmax())
    hold = round(0.012 * fs)
    reach = round(LONGEST_QRS_S * fs)
    before, after = speed[max(0, top - reach) : top + 1][::-1], speed[top : top + reach]
    return top - _falls_quiet(before, speed[top], hold), top + _falls_quiet(after, speed[top], hold)


def _falls_quiet(speed: F64, top: float, hold: int) -> int:
    """Return after how many samples the speed stays low for ``hold`` samples."""
    (floor,) = percentiles(speed, (15,))
    low = (speed < floor + QRS_SHARE * (top - floor)).tobytes()
    found = low.find(b"\1" * (hold if len(low) >= hold else 1))
    return found if found >= 0 else len(speed) - 1


def _t_wave(eight: F64, end: int, centre: int, rr_s: float, fs: float) -> tuple[float, float]:
    """Return peak and end of T, NaN where it is flat.

    The peak where the leads repolarise most along their common direction; the end by the tangents of those leads in
    which T stands out. Each lead's level is a line from before the QRS to after T, as a lead may drift.
    """
    first = end + round(0.04 * fs)
    last = min(eight.shape[1], centre + round((0.7 * rr_s if rr_s < 0.9 else 0.63) * fs))
    if last - first < round(0.1 * fs):
        return np.nan, np.nan
    window = ndimage.gaussian_filter1d(eight[:, first:last], 0.008 * fs, axis=1)
    after = window[:, -round(0.03 * fs) :].mean(axis=1, keepdims=True)
    window -= after * np.linspace((first - centre) / (last - centre), 1, last - first)
    directions, _, _ = np.linalg.svd(window, full_matrices=False)
    wave = directions[:, 0] @ window
    wave = wave if wave.max() >= -wave.min() else -wave
    peak = int(wave.argmax())
    if wave[peak] < MIN_T_MV:
        return np.nan, np.nan
    ends = [_tangent(lead, peak, fs) for lead in window]
    ends = [found for found in ends if first + found < eight.shape[1] + round(0.06 * fs)]
    if not ends:
        return float(first + peak), np.nan
    return float(first + peak), first + percentiles(np.asarray(ends), (T_END_PERCENTILE,))[0]


def _tangent(lead: F64, peak: int, fs: float) -> float:
    """Return where the tangent of T's far slope meets the level, NaN where the lead has no T wave to speak of."""
    reach = round(0.08 * fs)
    near = slice(max(0, peak - reach), peak + reach)
    own = near.start + int(np.abs(lead[near]).argmax())
    height = lead[own]
    slope = np.gradient(lead) * np.sign(height)
    falling = slope[own : own + round(0.22 * fs)]
    if abs(height) < MIN_T_LEAD_MV or len(falling) < round(0.02 * fs) or falling.min() >= 0:
        return float("nan")
    steepest = own + int(falling.argmin())
    found = steepest - abs(lead[steepest]) * np.sign(lead[steepest] * height) / slope[steepest]
    return float(found) if found >= steepest else float("nan")


def _p_wave(eight: F64, onset: int, t_end: float, rr_s: float, fs: float) -> tuple[float, float, float]:
    """Return onset, peak and end of P, NaN where none stands out."""
    earliest = max(0, onset - round(0.38 * fs))
    if np.isfinite(t_end) and np.isfinite(rr_s):
        earliest = max(earliest, round(t_end - rr_s * fs) + round(0.01 * fs))
    last = onset - round(0.006 * fs)
    if last - earliest < round(0.06 * fs):
        return np.nan, np.nan, np.nan
    window = ndimage.gaussian_filter1d(eight[:, earliest:last], 0.006 * fs, axis=1)
    peak = int(np.sqrt((_level(window) ** 2).sum(axis=0)).argmax())
    half = round(P_HALF_S * fs)
    first = max(0, peak - half)
    window = _level(window[:, first : peak + half])
    size = np.sqrt((window**2).sum(axis=0))
    peak = int(size.argmax())
    if np.abs(window[:, peak]).max() < MIN_P_MV or not 2 < peak < len(size) - 3:
        return np.nan, np.nan, np.nan
    # The outermost places where it is large: a biphasic P passes through nothing in between.
    large = np.flatnonzero(size > P_SHARE * size[peak])
    beyond = P_BEYOND_S * fs
    p_onset, p_end = max(0.0, large[0] - beyond), min(len(size) - 1.0, large[-1] + beyond)
    start = earliest + first
    return float(start + p_onset), float(start + peak), float(start + p_end)


def _level(window: F64) -> F64:
    """Take out the line between the means of the first and the last tenth."""
    n = max(1, window.shape[1] // 10)
    start, stop = window[:, :n].mean(axis=1, keepdims=True), window[:, -n:].mean(axis=1, keepdims=True)
    return cast(F64, window - (start + (stop - start) * np.linspace(0, 1, window.shape[1])))


def _wave(x: F64, first: float, last: float, *, level: bool = False) -> F64:
    """Return leads I and aVF between two points, shape = (2, n); empty where either is not known."""
    if not (np.isfinite(first) and np.isfinite(last)) or last - first < 2:
        return np.empty((2, 0))
    found = x[[0, 5], round(first) : min(round(last) + 1, x.shape[1])]
    if level:
        found = found - np.linspace(found[:, 0], found[:, -1], found.shape[1], axis=1)
    return found


def _axis(wave: F64) -> float:
    """Return the frontal axis of net areas, degrees; NaN where both are nothing. aVF spans 2/sqrt(3) of lead I."""
    area = wave.sum(axis=1)
    if not wave.size or float(np.hypot(*area)) < 1e-6:
        return float("nan")
    return float(np.degrees(np.arctan2(2 / np.sqrt(3) * area[1], area[0])))


def _amplitudes(x: F64, points: dict[str, float]) -> F64:
    out = np.full((len(AMPLITUDES), 12), np.nan)
    first, last = round(points["qrs_onset"]), round(points["qrs_end"]) + 1
    qrs = x[:, first:last]
    r = qrs.argmax(axis=1)
    place = np.arange(qrs.shape[1])
    out[1] = np.where(place < r[:, None], np.minimum(qrs, 0), 0).min(axis=1)
    out[2] = np.maximum(qrs.max(axis=1), 0)
    out[3] = np.where(place > r[:, None], np.minimum(qrs, 0), 0).min(axis=1)
    if np.isfinite(points["p_peak"]):
        p = x[:, round(points["p_onset"]) : round(points["p_end"]) + 1]
        p = p - np.linspace(p[:, 0], p[:, -1], p.shape[1], axis=1)
        out[0] = p[np.arange(12), np.abs(p).argmax(axis=1)]
    if np.isfinite(points["t_end"]):
        t = x[:, round(points["qrs_end"]) + 20 : round(points["t_end"]) + 1]
        out[4] = t[np.arange(12), np.abs(t).argmax(axis=1)]
    return out
