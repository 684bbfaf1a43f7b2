"""Faults that only the beats show: exchanged electrodes, a pacemaker's spikes, beats that do not agree."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.beats import MedianBeat, median_beat
from ecgshared.ecg.pacing import MIN_BEATS, pacing_spikes
from ecgshared.ecg.rate import LONG_QRS_MS, SHORT_QRS_MS, by_intervals, by_machine_intervals
from ecgshared.ecg.record import Finding
from ecgshared.ecg.reversals import reversals
from ecgshared.ecg.rows import median_of

MIN_AGREEMENT = 0.8
"""Median correlation of the beats' QRS with the median beat's; 99 in 100 real records exceed 0.95.

It is the idea of NeuroKit2's ``averageQRS`` index, which is scaled within each record from its worst beat to its
best and so cannot compare records.
"""

ENOUGH_HZ = 240.0
"""Signals are thinned to no less than this before their beats are compared."""


def assess_beats(
    p_signal: NDArray[np.float32],
    fs: float,
    *,
    thin: NDArray[np.float32] | None = None,
    swing: NDArray[np.float32] | None = None,
    centres: NDArray[np.int64] | None = None,
    machine: Mapping[str, float] | None = None,
) -> list[Finding]:
    """Return what the beats betray; nothing where too few show to tell.

    Parameters
    ----------
    p_signal : array, shape = (12, T), finite, mV.
    thin, swing, centres : the same :func:`thinned`, each lead's usual swing in 2 s (mV), and the middles of the QRS
        complexes in ``thin``, where known already.
    machine : what the machine measured, see :class:`ecgshared.ecg.record.EcgRecord`.
    """
    # Half of it is enough to compare beats and leads, at half the cost; a spike needs every sample.
    step = thinning(fs)
    beat = median_beat(thinned(p_signal, step) if thin is None else thin, fs / step, swing=swing, centres=centres)
    if beat is None or beat.alike.sum() < MIN_BEATS:
        return []
    seen = beat.signal.max(axis=1) - beat.signal.min(axis=1) > 0.02
    agreement = median_of(beat.agreement[seen]) if seen.any() else np.nan if beat.signal.any() else 0.0
    if agreement < MIN_AGREEMENT:
        # Beats that are not alike say nothing about electrodes either.
        return [
            Finding("beats-disagree", f"beats agree with their median only by r = {agreement:.2f}", None, agreement)
        ]
    return (
        reversals(beat)
        + pacing_spikes(p_signal, fs, step * beat.qrs[beat.alike])
        + _durations(fs, p_signal.shape[1], beat, machine or {})
    )


def _durations(fs: float, samples: int, beat: MedianBeat, machine: Mapping[str, float]) -> list[Finding]:
    """Doubt the sampling rate where all durations are wrong by one factor.

    They are only measured where QRS is odd, or where the machine's own are all there is to compare with.
    """
    from ecgshared.ecg.features import measure, qrs_ms

    usual = SHORT_QRS_MS <= qrs_ms(beat) <= LONG_QRS_MS
    if usual and ("qt_ms" not in machine or "rate_bpm" in machine or "rr_ms" in machine):
        return []
    found = measure(beat)
    measured = {"pr_ms": found.pr_ms, "qrs_ms": found.qrs_ms, "qt_ms": found.qt_ms}
    told = by_machine_intervals(fs, samples, machine, measured)
    if told is not None or usual:
        return told or []
    return by_intervals(fs, samples, 60 / found.rate_bpm, found.pr_ms, found.qrs_ms, found.qt_ms)


def thinning(fs: float) -> int:
    """Return how many samples are enough as one to compare beats."""
    return max(1, int(fs // ENOUGH_HZ))


def thinned(x: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Return means of ``step`` samples each, shape = (12, T // step)."""
    if step == 1:
        return x
    length = x.shape[1] // step * step
    out: NDArray[np.float32] = x[:, :length:step].copy()
    for k in range(1, step):
        out += x[:, k:length:step]
    out /= np.float32(step)
    return out
