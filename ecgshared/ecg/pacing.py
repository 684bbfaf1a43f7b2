"""A pacemaker's spikes: finding them before the QRS complexes, and taking them out before anything is measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ecgshared.ecg.record import Finding
from ecgshared.ecg.rows import cut

MIN_BEATS = 3

SPIKE_S = 0.006
"""A pacing spike is narrower than this to either side: 0.5 to 2 ms as given, a few more once filtered."""

SPIKE_LEADS = 3
SPIKE_FROM_QRS_S, SPIKE_MV, SPIKE_IN_QRS_MV = 0.03, 0.25, 0.6
"""A spike well before the QRS middle must reach the first limit, one within it the second, where a sharp R or Q of
a child's heart reaches 0.58 mV."""

MIN_PACING_FS_HZ = 250.0

ALIKE_SHARE, NEAR_S = 0.4, 0.012
"""What stands out by this share of the usual spike is a spike too, that of an atrium or one without an answer, if it
is larger than any QRS; a smaller one only within this time of the usual place."""

BEYOND_S = 0.004
"""So much is taken out to either side of a spike besides, where a recorder's filter has spread it."""


def pacing_spikes(p_signal: NDArray[np.float32], fs: float, qrs: NDArray[np.int64]) -> list[Finding]:
    """Find narrow spikes at one place before the QRS of three beats in four, in three leads or more.

    Parameters
    ----------
    qrs : middle of the QRS of the usual beats, shape = (beats,).

    Below 250 Hz recorders have filtered them away, and a QRS complex is as narrow.
    """
    found = _usual_spike(p_signal, fs, qrs)
    if found is None:
        return []
    height, place = found
    message = f"{height:.2f} mV, {-1000 * place / fs:.0f} ms before the middle of QRS"
    return [Finding("pacing-spikes", message, value=height)]


def without_spikes(p_signal: NDArray[np.float32], fs: float, qrs: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Return the recording with a straight line in place of each pacing spike; None where there is none.

    Parameters
    ----------
    p_signal : array, shape = (12, T), finite, mV. qrs : middle of the QRS of the usual beats, shape = (beats,).
    """
    found = _usual_spike(p_signal, fs, qrs)
    if found is None:
        return None
    height, place = found
    width = max(1, round(SPIKE_S * fs))
    common = np.zeros(p_signal.shape[1], dtype=np.float32)
    common[width:-width] = _common(p_signal, width)
    spike = common > max(SPIKE_IN_QRS_MV, ALIKE_SHARE * height)
    near = np.zeros(p_signal.shape[1], dtype=bool)
    reach = round(NEAR_S * fs)
    places = qrs[:, None] + place + np.arange(-reach, reach + 1)
    near[places[(places >= 0) & (places < len(near))]] = True
    spike |= near & (common > ALIKE_SHARE * height)
    out = ndimage.binary_dilation(spike, iterations=width // 2 + max(1, round(BEYOND_S * fs)))
    kept = np.flatnonzero(~out)
    cleaned = p_signal.copy()
    gaps = np.flatnonzero(out)
    for row in cleaned:
        row[gaps] = np.interp(gaps, kept, row[kept])
    return cleaned


def _usual_spike(p_signal: NDArray[np.float32], fs: float, qrs: NDArray[np.int64]) -> tuple[float, int] | None:
    """Return height (mV) of the usual spike and its place from the middle of QRS (samples), None without one."""
    width = max(1, round(SPIKE_S * fs))
    reach = np.arange(-round(0.28 * fs), 0)
    qrs = qrs[(qrs + reach[0] - width >= 0) & (qrs + width < p_signal.shape[1])]
    if fs < MIN_PACING_FS_HZ or len(qrs) < MIN_BEATS:
        return None
    around = cut(p_signal, qrs + (reach[0] - width), len(reach) + 2 * width)  # (12, beats, W)
    stands_out = _stands_out(around, width)
    if not (np.partition(stands_out.max(axis=(1, 2)), -SPIKE_LEADS)[-SPIKE_LEADS] > SPIKE_MV):
        return None
    limit = np.where(reach < -SPIKE_FROM_QRS_S * fs, SPIKE_MV, SPIKE_IN_QRS_MV)
    # What follows asks for three beats in four; where not even half show anything, there is nothing.
    least = (0.999 * ndimage.minimum_filter1d(limit, 5)).astype(np.float32)
    leads = np.add.reduce(stands_out > least, axis=0, dtype=np.uint8)
    if 2 * np.count_nonzero((leads >= SPIKE_LEADS).any(axis=1)) < len(qrs):
        return None
    common = np.partition(stands_out, -SPIKE_LEADS, axis=0)[-SPIKE_LEADS]
    windows = ndimage.maximum_filter1d(common, 5, axis=1)
    usual = np.percentile(windows, 25, axis=0)
    over = np.flatnonzero(usual > limit)
    if not len(over):
        return None
    best = over[usual[over].argmax()]
    return float(usual[best]), int(reach[best])


def _common(p_signal: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return by how much each moment stands out in three leads or more, shape = (T - 2 width,)."""
    return np.asarray(np.partition(_stands_out(p_signal, width), -SPIKE_LEADS, axis=0)[-SPIKE_LEADS])


def _stands_out(x: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return by how much each value exceeds those ``width`` to either side, 0 where it lies between them."""
    rise = x[..., width:] - x[..., :-width]
    before, after = rise[..., :-width], -rise[..., width:]
    # To the same side of both neighbours: the slope of a QRS stands out from one of them only.
    out: NDArray[np.float32] = np.minimum(before, after)
    np.maximum(out, -np.maximum(before, after), out=out)
    np.maximum(out, np.float32(0), out=out)
    return out
