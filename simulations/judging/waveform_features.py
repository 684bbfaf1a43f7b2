"""What is measured of an ECG to compare made recordings with real ones: intervals, axis, amplitudes, spectrum.

The same plain rules are put to both, so that what differs is the recordings. Intervals and amplitudes come from the
median beat over all leads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import welch

from ecgshared.ecg.beats import median_beat
from ecgshared.ecg.leads import LEADS

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BANDS_HZ = ((0.1, 0.6), (0.6, 4.0), (4.0, 12.0), (12.0, 25.0), (25.0, 45.0), (55.0, 95.0), (105.0, 145.0))
"""Bands of the spectrum; mains frequencies lie between them."""
FEATURES: tuple[str, ...] = (
    "heart rate",
    "PR",
    "QRS",
    "QT",
    "frontal axis",
    *(f"R {lead}" for lead in LEADS),
    *(f"S {lead}" for lead in LEADS),
    *(f"{low:g}-{high:g} Hz" for low, high in BANDS_HZ),
)


def waveform_features(p_signal: F32, fs: float) -> F64:
    """Return the features of one recording in the order of :data:`FEATURES`; NaN where one cannot be measured.

    Parameters
    ----------
    p_signal : array, shape = (12, T), mV in standard lead order.

    Heart rate per minute, intervals in ms, the axis in degrees (from the net area of QRS in I and aVF), amplitudes in
    mV from the level before QRS (S: the deepest point of QRS, as a positive number), bands as log10 of the mean power
    over the eight independent leads (mV^2).
    """
    out = np.full(len(FEATURES), np.nan)
    beat = median_beat(p_signal, fs)
    if beat is not None:
        out[: 5 + 24] = beat_features(beat.signal, fs, beat.centre, float(np.median(beat.rr_s)))
    out[5 + 24 :] = band_powers(p_signal, fs)
    return out


def beat_features(signal: F32, fs: float, centre: int, rr_s: float) -> F64:
    """Return the features of a median beat, shape = (29,); ``signal`` is (12, W), its QRS middle at ``centre``."""
    out = np.full(29, np.nan)
    out[0] = 60.0 / rr_s
    independent = signal[[0, 1, 6, 7, 8, 9, 10, 11]]
    steep = np.abs(np.gradient(uniform_filter1d(independent, max(round(0.008 * fs), 1), axis=1), axis=1)).mean(axis=0)
    top = steep[centre - round(0.06 * fs) : centre + round(0.06 * fs)].max()
    on, off = _edge(steep, centre, -1, 0.07 * top, fs), _edge(steep, centre, 1, 0.07 * top, fs)
    out[2] = 1000 * (off - on) / fs
    x = signal - signal[:, max(on - round(0.012 * fs), 0) : on + 1].mean(axis=1, keepdims=True)
    size = uniform_filter1d(np.sqrt((x[[0, 1, 6, 7, 8, 9, 10, 11]] ** 2).mean(axis=0)), max(round(0.02 * fs), 1))
    out[1] = 1000 * (on - _p_onset(x, on, fs)) / fs
    out[3] = 1000 * (_t_end(size, off, fs, rr_s) - on) / fs
    qrs = x[:, on : off + 1]
    area = qrs.sum(axis=1)
    out[4] = np.degrees(np.arctan2(area[5] * 2 / np.sqrt(3), area[0]))
    out[5:17] = np.maximum(qrs.max(axis=1), 0)
    out[17:29] = np.maximum(-qrs.min(axis=1), 0)
    return out


def band_powers(p_signal: F32, fs: float) -> F64:
    """Return log10 of the mean power in each band, shape = (len(BANDS_HZ),)."""
    hz, power = welch(p_signal[[0, 1, 6, 7, 8, 9, 10, 11]], fs, nperseg=min(p_signal.shape[1], round(10 * fs)), axis=1)
    mean = power.mean(axis=0)
    return np.array([np.log10(mean[(hz >= low) & (hz < high)].mean() + 1e-12) for low, high in BANDS_HZ])


def _edge(steep: F32, centre: int, step: int, level: float, fs: float) -> int:
    """Walk from 50 ms off the centre inwards or outwards to where the beat stays quiet for 12 ms."""
    quiet = max(round(0.012 * fs), 2)
    at = centre
    limit = round(0.11 * fs)
    for _ in range(limit):
        at += step
        span = steep[at : at + quiet] if step > 0 else steep[max(at - quiet + 1, 0) : at + 1]
        if abs(at - centre) > 0.012 * fs and (span < level).all():
            break
    return at


def _p_onset(x: F32, qrs_on: int, fs: float) -> float:
    """Return where P begins: the foot of the tangent to the rise of the P wave, over leads II, I, V1 and aVF."""
    start, end = max(qrs_on - round(0.26 * fs), 0), qrs_on - round(0.02 * fs)
    wave = uniform_filter1d(np.abs(x[[0, 1, 5, 6]] - np.median(x[[0, 1, 5, 6], start:end], axis=1)[:, None]).mean(0), 5)
    part = wave[start:end]
    if len(part) < round(0.06 * fs):
        return float("nan")
    peak = int(part.argmax())
    base = np.percentile(part, 15)
    rising = part[: peak + 1]
    below = np.flatnonzero(rising < base + 0.3 * (rising[-1] - base))
    return start + (float(below[-1]) if len(below) else 0.0)


def _t_end(size: F32, qrs_off: int, fs: float, rr_s: float) -> float:
    """Return where T ends: the tangent at the steepest descent of T's size meets the level after it."""
    start, end = qrs_off + round(0.06 * fs), min(qrs_off + round(min(0.62 * rr_s, 0.46) * fs), len(size) - 1)
    peak = start + int(size[start:end].argmax())
    stop = min(peak + round(0.16 * fs), len(size) - 1)
    fall = np.gradient(size)[peak : stop + 1]
    steepest = peak + int(fall.argmin())
    slope = float(fall.min())
    base = float(size[steepest : min(steepest + round(0.12 * fs), len(size))].min())
    return steepest + (size[steepest] - base) / -slope if slope < 0 else float("nan")
