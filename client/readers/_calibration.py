"""The calibration pulse some recorders append: a square of 1 mV, the same in every lead.

Philips carts write 11 s, of which the last holds the pulse at its end; an export to another format carries it
along. It is told by its form, not by the length, and the second it stands in is left out whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PULSE_MV, TOLERANCE_MV = 1.0, 0.1
SAME_MV = 0.06
"""Leads differ by less in a calibration; a conversion may have filtered it."""

MIN_PULSE_S, MIN_ZERO_S = 0.1, 0.04


def signal_samples(p_signal: NDArray[np.float32], fs: float) -> int:
    """Return how many samples are signal: all, or those before the second that ends in a calibration pulse.

    Parameters
    ----------
    p_signal : array, shape = (12, T), mV.
    """
    second, samples = round(fs), int(p_signal.shape[1])
    recorded = ~np.isnan(p_signal[:, -1])
    if samples < 3 * second or recorded.sum() < 3:
        return samples
    last = p_signal[recorded, -second:]
    # Where a median is high, half of the leads are: a second without such moments ends in no pulse, at less cost.
    high_leads = np.add.reduce(last >= PULSE_MV - 1.01 * TOLERANCE_MV, axis=0, dtype=np.uint8)
    if np.count_nonzero(high_leads >= len(last) // 2) < MIN_PULSE_S * fs:
        return samples
    # The limb leads derived from a pulse common to all leads are no copies of it: only agreement of most counts.
    common = np.median(last, axis=0)
    agree = (np.abs(last - common) <= SAME_MV).mean(axis=0) >= 0.6
    differ = np.flatnonzero(~agree)
    tail = common[differ[-1] + 1 :] if len(differ) else common
    high = np.abs(tail - PULSE_MV) <= TOLERANCE_MV
    low = np.abs(tail) <= TOLERANCE_MV
    is_pulse = bool(
        high.sum() >= MIN_PULSE_S * fs
        and low.sum() >= MIN_ZERO_S * fs
        and (high | low).mean() >= 0.9
        and np.count_nonzero(np.diff(high.astype(np.int8))) <= 4
    )
    return samples - second if is_pulse else samples
