"""Whether a recording is as large as a heart, and by which gain it would be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.record import EcgRecord, Finding

STALE, IMPLAUSIBLE, TWO_GAINS = "stale-gain", "amplitude-implausible", "gains-differ"

PLAUSIBLE_MV = (0.35, 5.5)
TYPICAL_MV = (0.5, 4.0)
"""Peak-to-peak in two seconds, median over leads: outside the first is no ECG, inside the second most."""

USUAL_GAINS = (1.0, 100.0, 200.0, 204.8, 400.0, 500.0, 1000.0, 2000.0, 1e6)
"""Digital units per mV of 12-lead exports; 1e6 is a file in nV."""

MIN_GAIN_RATIO = 4.0
"""A smaller error of gain cannot be told from a large or a small heart."""

CONFUSED = (10.0, 100.0, 1000.0, 4.88, 5.0, 2.0)
"""Factors by which units are mistaken: 0.1 mV or 10 uV for 1 mV, uV for mV, steps of 4.88 or 5 uV for 1 uV."""

CHEST_PER_LIMB = (0.3, 7.0)
"""Size of the chest leads over that of the limb leads: 0.36 to 6.2 in 1,079 public records, 1.8 in the middle."""

STEP_SAMPLES, FEW_SAMPLES = 400, 41
"""Of each lead, from which the step of its values is told; where the fewer tell of the smallest, no more are needed."""


def extremes(x: NDArray[np.float32], fs: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the highest and the lowest value in windows of 2 s, each shape = (12, windows).

    A shorter record is one window. The last one ends with the recording, so that no sample is left out.
    """
    width = min(round(2 * fs), x.shape[1])
    count = x.shape[1] // width
    windows, rest = x[:, : count * width].reshape(len(x), count, width), x[:, -width:]
    highest, lowest = np.empty((2, len(x), count + 1), dtype=np.float32)
    windows.max(axis=2, out=highest[:, :-1])
    windows.min(axis=2, out=lowest[:, :-1])
    rest.max(axis=1, out=highest[:, -1])
    rest.min(axis=1, out=lowest[:, -1])
    return highest, lowest


def implausible_amplitude(amplitude: float, units_per_mv: float | None) -> list[Finding]:
    """Return a finding where no heart is so large or so small: with the gain that would mend it, if there is one.

    Parameters
    ----------
    amplitude : peak-to-peak in two seconds, median over leads, mV.
    units_per_mv : the file's gain; None where it has none.
    """
    if PLAUSIBLE_MV[0] <= amplitude <= PLAUSIBLE_MV[1]:
        return []
    gain = 1000.0 if units_per_mv is None else units_per_mv

    def fits(other: float) -> bool:
        ratio = max(other / gain, gain / other)
        return ratio >= MIN_GAIN_RATIO and TYPICAL_MV[0] <= amplitude * gain / other <= TYPICAL_MV[1]

    usual = [other for other in USUAL_GAINS if fits(other)]
    if usual:
        best = min(usual, key=lambda other: abs(np.log(amplitude * gain / other / 1.5)))
        message = (
            f"amplitude {amplitude:.3g} mV at the stated {gain:g} units per mV; "
            f"at {best:g} it would be {amplitude * gain / best:.2g} mV"
        )
        return [Finding(STALE, message, value=best)]
    message = f"amplitude {amplitude:.3g} mV peak to peak, which no heart has"
    larger = amplitude > PLAUSIBLE_MV[1]
    mistaken = [factor for factor in CONFUSED if fits(gain * factor if larger else gain / factor)]
    if mistaken:
        factor = mistaken[0]
        proper = gain * factor if larger else gain / factor
        side = "large" if larger else "small"
        message += f"; {factor:g} times too {side}? at {proper:g} units per mV it would be "
        message += f"{amplitude * gain / proper:.2g} mV"
    return [Finding(IMPLAUSIBLE, message, value=amplitude)]


def two_gains(amplitude: NDArray[np.float32], live: NDArray[np.bool_]) -> list[Finding]:
    """Return a finding where chest and limb leads cannot be at one gain, with the factor between them.

    Parameters
    ----------
    amplitude : peak-to-peak in two seconds, shape = (12,), mV. live : shape = (12,), whether a lead carries a signal.
    """
    limbs, chest = amplitude[:6][live[:6]], amplitude[6:][live[6:]]
    if min(len(limbs), len(chest)) < 4:
        return []
    ratio = float(np.median(chest) / np.median(limbs))
    if CHEST_PER_LIMB[0] <= ratio <= CHEST_PER_LIMB[1]:
        return []
    return [Finding(TWO_GAINS, f"the chest leads are {ratio:.2g} times the size of the limb leads", value=ratio)]


def step_mv(record: EcgRecord) -> float | None:
    """Return the smallest step between values of the recording, mV: a multiple of the file's own; None if not known.

    From I, II and the chest leads, as the others may have been computed.
    """
    units = record.adc_units_per_mv
    if units is None:
        return None
    step = _common_step(record.p_signal[:, :FEW_SAMPLES], units)
    if step != 1:
        step = _common_step(record.p_signal[:, :STEP_SAMPLES], units)
    return step / units if step else None


def _common_step(p_signal: NDArray[np.float32], units: float) -> int:
    raw = np.concatenate([p_signal[:2], p_signal[6:]]) * units
    raw = raw[np.isfinite(raw).all(axis=1)]
    return int(np.gcd.reduce(np.rint(raw[:, 1:] - raw[:, :-1]).astype(np.int64), axis=None))
