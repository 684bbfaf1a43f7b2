"""Whether the stated sampling rate can be right: by what the machine itself counted, the mains, and the heart.

An unusual rate or length is no reason to doubt: 240 Hz x 2500 is what some carts write. Doubt needs evidence, and
names the usual rate that agrees with it. In order of weight: the heart rate the machine wrote into the file; a line of
the mains that stands where no mains is; a heart rate no heart has; and P, QRS and T all too short or too long by the
same factor, which no disease does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.pulse import PLAUSIBLE_BPM, Pulse
from ecgshared.ecg.record import EcgRecord, Finding

CODE = "fs-contradicts-length"

USUAL_FS_HZ: tuple[float, ...] = (
    *(100.0, 125.0, 128.0, 200.0, 240.0, 250.0, 256.0, 300.0, 360.0, 400.0, 500.0, 512.0, 600.0),
    *(1000.0, 1024.0, 2000.0),
)
"""Rates of 12-lead recorders."""

TYPICAL_BPM = (45.0, 130.0)

AGREES, DISAGREES = 0.012, 0.02
"""Two counts of a steady heart agree within the first (machines round to whole beats), and differ from the second on;
for a less steady one both are four times as wide."""

STEADY = 0.05

INTERVALS_AGREE, INTERVALS_DISAGREE, INTERVALS_APART = 0.1, 0.18, 0.25
"""In logs: PR, QRS and QT as measured here and by a machine. Two methods differ by up to a tenth; a rate wrong by 1.25
makes 0.22 of every one of them."""

OWN_SHIFT = -0.04
"""By how much those measured here are usually shorter."""

MAINS_HZ = (50.0, 60.0)
LINE_FROM_HZ, LINE_RATIO, LINE_ALONE = 35.0, 60.0, 6.0
"""A line stands out so far from the median of its surroundings, and from the next line: the beats of a paced heart
make a comb of them."""

WITH_LENGTH = 0.3
"""As SHORTER and LONGER, where the rate found makes a standard length of what is none at the stated one."""

SHIFT_MEAN: Floats = np.log([0.85, 151.8, 88.5, 377.6])
SHIFT_COVARIANCE: Floats = np.array(
    [[0.0406, 0.0045, 0.0028, 0.0130], [0.0045, 0.0273, 0.0036, 0.0025], [0.0028, 0.0036, 0.0233, 0.0036],
     [0.0130, 0.0025, 0.0036, 0.0089]]
)  # fmt: skip
"""Of log RR (s), PR, QRS and QT (ms) in 1,057 public records."""

SHORT_QRS_MS, LONG_QRS_MS = 66.0, 150.0
SHORTER, LONGER, MAX_DISTANCE = 0.45, 0.55, 14.0
"""By how much, in logs, all durations together must be too short or too long; and how far they may lie from usual ones
once mended. Of 1,093 public records none is off so far; at half or twice the true rate 9 in 10 are, at 1.6 times half.
A factor of 1.25 is within what hearts do: there only the machine's count or the mains tell."""


def rate_doubts(record: EcgRecord, beats: Pulse | None, power: Floats, hz_step: float) -> list[Finding]:
    """Return a finding where evidence contradicts the stated rate and agrees with another usual one.

    Parameters
    ----------
    beats : the rough pulse at the stated rate. power : of all leads together by frequency; ``hz_step`` apart.
    """
    fs = record.fs
    counted = record.machine.get("rate_bpm") if record.machine else None
    if counted is None and record.machine and record.machine.get("rr_ms"):
        counted = 60_000 / record.machine["rr_ms"]
    if counted and beats is not None and PLAUSIBLE_BPM[0] <= counted <= PLAUSIBLE_BPM[1]:
        found = _by_machine(fs, beats, counted)
        if found is not None:
            return found
    return _by_mains(fs, beats, power, hz_step) or _by_pulse(fs, beats)


def _doubt(fs: float, better: float, evidence: str) -> list[Finding]:
    return [Finding(CODE, f"{evidence} at the stated {fs:g} Hz; the rate would be {better:g} Hz", value=better)]


def _by_machine(fs: float, beats: Pulse, counted: float) -> list[Finding] | None:
    """Compare with what the machine counted; None where the heart is too unsteady to tell."""
    width = 1.0 if beats.scatter <= STEADY else 4.0
    if beats.scatter > 0.2:
        return None
    off = abs(np.log(beats.bpm / counted))
    if off <= width * AGREES:
        return []
    if off < width * DISAGREES:
        return None
    others = [fs_hz for fs_hz in USUAL_FS_HZ if abs(np.log(beats.bpm * fs_hz / fs / counted)) <= width * AGREES]
    if not others:
        return None
    best = min(others, key=lambda fs_hz: abs(np.log(beats.bpm * fs_hz / fs / counted)))
    return _doubt(fs, best, f"the machine counted {counted:g} beats per minute, and there are {beats.bpm:.1f}")


def _by_mains(fs: float, beats: Pulse | None, power: Floats, hz_step: float) -> list[Finding]:
    first, last = int(LINE_FROM_HZ / hz_step), int((fs / 2 - 2) / hz_step)
    width = max(8, int(8 / hz_step))
    count = (min(last, len(power)) - first) // width
    if count < 1:
        return []
    blocks = power[first : first + count * width].reshape(count, width)
    floor = np.partition(blocks, width // 2, axis=1)[:, width // 2]
    # A line between two bins is in both.
    paired = blocks[:, 1:] + blocks[:, :-1]
    ratio = paired.max(axis=1) / np.maximum(2 * floor, 1e-12)
    block = int(ratio.argmax())
    if ratio[block] < LINE_RATIO:
        return []
    place = first + block * width + int(paired[block].argmax())
    two = power[place : place + 2]
    hz = hz_step * (place + float(two[1] / max(two.sum(), 1e-12)))
    near = power[max(first, place - width) : place + 2 + width].copy()
    own = min(place, place - max(first, place - width))
    near[max(0, own - int(1 / hz_step) - 1) : own + int(1 / hz_step) + 3] = 0
    if near.max() * LINE_ALONE > two.max():
        return []
    if any(abs(hz - mains * k) <= max(0.4, 0.005 * hz) for mains in MAINS_HZ for k in range(1, 11)):
        return []
    for mains in MAINS_HZ:
        for other in USUAL_FS_HZ:
            bpm = None if beats is None else beats.bpm * other / fs
            possible = bpm is None or PLAUSIBLE_BPM[0] <= bpm <= PLAUSIBLE_BPM[1]
            if abs(hz * other / fs / mains - 1) <= 0.002 and possible and other != fs:
                return _doubt(fs, other, f"the mains of {mains:g} Hz stand at {hz:.1f} Hz")
    return []


def _by_pulse(fs: float, beats: Pulse | None) -> list[Finding]:
    if beats is None or PLAUSIBLE_BPM[0] <= beats.bpm <= PLAUSIBLE_BPM[1] or not beats.rhythmic:
        return []
    fits = [other for other in USUAL_FS_HZ if TYPICAL_BPM[0] <= beats.bpm * other / fs <= TYPICAL_BPM[1]]
    if not fits:
        return []
    best = min(fits, key=lambda other: abs(np.log(beats.bpm * other / fs / 75)))
    return _doubt(fs, best, f"the heart beats {beats.bpm:.0f} times a minute")


def by_intervals(fs: float, samples: int, rr_s: float, pr_ms: float, qrs_ms: float, qt_ms: float) -> list[Finding]:
    """Return a finding where P, QRS and T are all too short, or all too long, and right at another usual rate.

    NaN where a wave is absent; without QRS and QT nothing is told. The recording's ``samples`` alone are no evidence;
    but where durations point to a rate at which they make a standard recording, less is enough.
    """
    values = np.log(np.maximum([rr_s, pr_ms, qrs_ms, qt_ms], 1e-9))
    known = np.isfinite(values)
    if not known[[0, 2, 3]].all() or SHORT_QRS_MS <= qrs_ms <= LONG_QRS_MS:
        return []
    mean, precision = SHIFT_MEAN[known], np.linalg.inv(SHIFT_COVARIANCE[np.ix_(known, known)])
    off = values[known] - mean
    shift = float(precision.sum(axis=0) @ off / precision.sum())

    def distance(factor: float) -> float:
        rest = off + np.log(factor)
        return float(rest @ precision @ rest)

    others = [other for other in USUAL_FS_HZ if TYPICAL_BPM[0] <= 60 / rr_s * other / fs <= TYPICAL_BPM[1]]
    standard = [other for other in others if _standard(samples, other)] if not _standard(samples, fs) else []
    enough = (WITH_LENGTH, WITH_LENGTH) if standard else (SHORTER, LONGER)
    far = shift < -enough[0] if qrs_ms < SHORT_QRS_MS else shift > enough[1]
    if not far or not others:
        return []
    others = standard or others
    best = min(others, key=lambda other: distance(fs / other))
    if distance(fs / best) > (2 if standard else 1) * MAX_DISTANCE:
        return []
    evidence = f"QRS of {qrs_ms:.0f} ms and QT of {qt_ms:.0f} ms at {60 / rr_s:.0f} beats per minute are no heart's"
    return _doubt(fs, best, evidence)


def by_machine_intervals(
    fs: float, samples: int, machine: Mapping[str, float], measured: Mapping[str, float]
) -> list[Finding] | None:
    """Compare PR, QRS and QT with what the machine wrote; None where that cannot tell, empty where they agree.

    At a wrong rate all are off by one factor, which nothing else does. Of several rates that agree one that makes the
    recording's ``samples`` a standard length is more likely, if they are none at the stated rate.
    """
    both = {name for name, value in measured.items() if name in machine and np.isfinite(value) and value > 0}
    if "qt_ms" not in both or len(both) < 2:
        return None
    off = np.array([np.log(measured[name] / machine[name]) for name in sorted(both)])
    shift = float(np.median(off)) - OWN_SHIFT
    if np.ptp(off) > INTERVALS_APART:
        return None
    if abs(shift) <= INTERVALS_AGREE:
        return []

    def left(other: float) -> float:
        return float(abs(shift + np.log(fs / other)))

    near = [other for other in USUAL_FS_HZ if left(other) <= 1.5 * INTERVALS_AGREE and _standard(samples, other)]
    others = near if near and not _standard(samples, fs) else [o for o in USUAL_FS_HZ if left(o) <= INTERVALS_AGREE]
    if abs(shift) < INTERVALS_DISAGREE or not others:
        return None
    evidence = f"the machine measured a QT of {machine['qt_ms']:g} ms, and it is {measured['qt_ms']:.0f}"
    return _doubt(fs, min(others, key=left), evidence)


def _standard(samples: int, fs: float) -> bool:
    """Tell whether so many samples are ten whole seconds, or the 7.335 s of the tele-ECG of Minas Gerais."""
    return samples == round(10 * fs) or (samples, fs) == (2934, 400.0)
