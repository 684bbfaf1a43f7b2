"""What is wrong with a recording, in fixed codes, and what a site's policy makes of it.

Thresholds were set on 1,093 public 12-lead records (PTB-XL, CODE-15%, SaMi-Trop, Chapman, Ningbo):
physiological extremes stay quiet, gross faults speak. All rules work on the whole (12, T) array at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ecgshared.ecg.beat_quality import assess_beats
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.pulse import PLAUSIBLE_BPM, pulse
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.ecg.reversals import ARM_LEG, REPAIRABLE, exchange

Decision = Literal["keep", "flag", "repair", "refuse"]

_SEVERITY = ("keep", "flag", "repair", "refuse")

REPAIRED = "repaired"
_CHEST_PAIRS = ((1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 3))

CODES: dict[str, str] = {
    "checksum": "the samples do not match the file's checksum: bytes were changed after export",
    "initial-value": "the first sample is not the one the file announces",
    "truncated": "the file holds fewer samples than it declares",
    "excess-samples": "the file holds more samples than it declares",
    "duplicate-lead": "a lead is stored twice",
    "leads-apart": "further leads in the file have another start, rate or length, and were left out",
    "lead-off": "the recorder says that the electrode of a lead was off",
    "derived-lead": "limb leads were computed from two others",
    "gain-assumed": "the file gives no gain; the format's default was used",
    "fs-assumed": "the file gives no sampling rate; the format's default was used",
    "age-implausible": "the age in the file cannot be one and was dropped",
    "age-unclear": "the age in the file cannot be read for certain and was left out",
    "age-contradicts-dates": "the age in the file is more than two years from what birth and recording date make",
    "sex-unclear": "the sex in the file is a number or no word for one, and was left out",
    "missing-lead": "a lead is absent and cannot be derived",
    "not-finite": "some samples are marked as invalid or are no numbers",
    "flat-lead": "a lead is constant for two seconds or longer",
    "all-flat": "no lead carries a signal",
    "clipped": "a lead stands at its highest or lowest value",
    "spikes": "single excursions no heart can make",
    "low-amplitude": "a lead, or all of them, is much smaller than an ECG",
    "baseline-wander": "the baseline wanders by millivolts",
    "mains-noise": "interference at 50 or 60 Hz",
    "stale-gain": "the amplitude is plausible only at another gain than the file's",
    "fs-contradicts-table": "the table gives another sampling rate than the file",
    "fs-contradicts-length": "length or heart rate is plausible only at another rate than the file's",
    "too-short": "shorter than 3 s",
    "too-long": "longer than 60 s",
    "beats-disagree": "the beats differ from each other so much that noise must be the larger part",
    "pacing-spikes": "a pacemaker's spikes before the QRS complexes",
    "reversed-ra-la": "right and left arm electrodes look exchanged",
    "reversed-ra-ll": "right arm and left leg electrodes look exchanged",
    "reversed-la-ll": "left arm and left leg electrodes look exchanged",
    ARM_LEG: "an arm electrode looks exchanged with the right leg's",
    **{f"swapped-v{i}-v{j}": f"V{i} and V{j} look exchanged" for i, j in _CHEST_PAIRS},
    REPAIRED: "an exchange of limb electrodes was undone, as the site's policy asks",
}
"""Every code a finding can carry, and its meaning."""

SECONDS = (3.0, 60.0)
"""Shortest and longest recording that is taken as a resting ECG."""

FLAT_MV = 0.005
LOW_LEAD_MV, LOW_RECORD_MV = 0.1, 0.5
SPIKE_MV, SPIKE_MV_PER_S, SPIKE_STEP_MV = 20.0, 1500.0, 2.0
WANDER_MV, WANDER_HZ = 2.0, 0.5
CLIPPED_S, HELD_S = 0.02, 0.2
MAINS_MV, MAINS_RATIO = 0.1, 10.0
PLAUSIBLE_MV = (0.35, 5.5)
TYPICAL_MV = (0.5, 4.0)
"""Peak-to-peak in two seconds, median over leads: outside the first is no ECG, inside the second most."""

USUAL_GAINS = (1.0, 100.0, 200.0, 204.8, 400.0, 500.0, 1000.0, 2000.0, 1e6)
"""Digital units per mV of 12-lead exports; 1e6 is a file in nV."""

MIN_GAIN_RATIO = 4.0
"""A smaller error of gain cannot be told from a large or a small heart."""

TYPICAL_BPM = (45.0, 130.0)

USUAL_FS_HZ = (100.0, 125.0, 240.0, 250.0, 256.0, 400.0, 500.0, 512.0, 1000.0, 1024.0)
"""Rates of 12-lead recorders."""

KNOWN_LENGTHS: dict[int, float] = {round(10 * fs): fs for fs in USUAL_FS_HZ} | {2934: 400.0}
"""Samples of a standard recording: its rate. Ten seconds, and the 7.335 s of the Minas Gerais tele-ECG."""


def assess(record: EcgRecord) -> tuple[Finding, ...]:
    """Return the reader's findings and those of every rule; empty where nothing is wrong."""
    x = record.p_signal
    findings = list(record.findings)
    findings += _length(record)
    finite = np.isfinite(x)
    present = finite.any(axis=1)
    findings += [Finding("missing-lead", "absent, and not to be derived", LEADS[i]) for i in np.flatnonzero(~present)]
    if not present.any() or x.shape[1] < 2:
        return (*findings, Finding("all-flat", "no lead carries a signal"))
    if not finite[present].all():
        bad = (~finite).sum(axis=1)
        findings += [
            Finding("not-finite", f"{bad[i]} samples are not numbers", LEADS[i], float(bad[i]))
            for i in np.flatnonzero(present & (bad > 0))
        ]
        x = np.where(finite, x, np.float32(0))
    # Limits are far wider than the error of a median over every fourth sample.
    centred = (x - np.median(x[:, ::4], axis=1, keepdims=True)).astype(np.float32, copy=False)
    swing = _window_swings(centred, record.fs)
    flat = np.asarray((swing <= FLAT_MV).any(axis=1) & present)
    live = np.asarray(present & (np.median(swing, axis=1) > FLAT_MV))
    findings += _flat(swing, flat, live)
    if not live.any():
        return (*findings, Finding("all-flat", "no lead carries a signal"))
    amplitude = np.median(swing, axis=1).astype(np.float32, copy=False)
    stale = _stale_gain(float(np.median(amplitude[live])), record.adc_units_per_mv)
    if stale:
        # Every limit below is in mV: at a wrong gain they would only repeat the same fault under other names.
        findings += stale
    else:
        findings += _low(amplitude, live)
        findings += _spikes(centred, record.fs)
        if record.seconds >= 2:  # a shorter spectrum cannot tell mains from its neighbours
            findings += _spectral(centred, record.fs, live)
    findings += _clipped(centred, record.fs, live)
    scaled = np.asarray(centred / np.maximum(amplitude, FLAT_MV)[:, None], dtype=np.float32)
    rate = _rate(scaled, record.fs, live)
    findings += rate
    if not stale and not rate and record.seconds >= SECONDS[0]:
        findings += assess_beats(x, record.fs)
    return tuple(findings)


def repair(record: EcgRecord, findings: Iterable[Finding], actions: Mapping[str, str]) -> tuple[EcgRecord, bool]:
    """Undo the exchange of limb electrodes for which the policy says "repair"; tell whether there was one.

    By the permutation of leads and signs that Einthoven's law gives: nothing is estimated, and chest leads, whose
    reference is the mean of all three limbs, are not touched.
    """
    for finding in findings:
        if finding.code in REPAIRABLE and actions.get(finding.code) == "repair":
            return replace(record, p_signal=exchange(record.p_signal, REPAIRABLE[finding.code])), True
    return record, False


def decide(findings: Iterable[Finding], actions: Mapping[str, str], default: str) -> Decision:
    """Return the worst action any finding calls for; "keep" where there is none.

    Parameters
    ----------
    actions : action by code. default : the action of every other code.
    """
    # What a repair left behind is news, not a fault.
    called = (actions.get(finding.code, default) for finding in findings if finding.code != REPAIRED)
    return cast(Decision, max(called, key=_SEVERITY.index, default="keep"))


def _length(record: EcgRecord) -> list[Finding]:
    seconds, n, fs = record.seconds, record.p_signal.shape[1], record.fs
    if seconds < SECONDS[0]:
        return [Finding("too-short", f"{seconds:.2f} s, at least {SECONDS[0]:g} s is needed", value=seconds)]
    if seconds > SECONDS[1]:
        return [Finding("too-long", f"{seconds:.0f} s, at most {SECONDS[1]:g} s is a resting ECG", value=seconds)]
    known = KNOWN_LENGTHS.get(n)
    whole = abs(seconds - round(seconds)) < 0.005 * seconds
    if known is not None and known != fs and not whole:
        return [
            Finding(
                "fs-contradicts-length",
                f"{n} samples are a standard recording of {n / known:g} s at {known:g} Hz; "
                f"at the stated {fs:g} Hz they would be {seconds:.2f} s",
                value=known,
            )
        ]
    return []


def _window_swings(x: NDArray[np.float32], fs: float) -> NDArray[np.float32]:
    """Peak-to-peak amplitude in windows of 2 s, shape = (12, windows); a shorter record is one window."""
    width = min(round(2 * fs), x.shape[1])
    count = x.shape[1] // width
    windows = x[:, : count * width].reshape(len(x), count, width)
    swings = windows.max(axis=2) - windows.min(axis=2)
    rest = x[:, -width:]
    return np.concatenate([swings, (rest.max(axis=1) - rest.min(axis=1))[:, None]], axis=1)


def _flat(swing: NDArray[np.float32], flat: NDArray[np.bool_], live: NDArray[np.bool_]) -> list[Finding]:
    share = (swing <= FLAT_MV).mean(axis=1)
    return [
        Finding(
            "flat-lead",
            f"constant in {share[i]:.0%} of the recording" if live[i] else "carries no signal",
            LEADS[i],
            float(share[i]),
        )
        for i in np.flatnonzero(flat)
    ]


def _stale_gain(amplitude: float, units_per_mv: float | None) -> list[Finding]:
    if PLAUSIBLE_MV[0] <= amplitude <= PLAUSIBLE_MV[1]:
        return []
    gain = 1000.0 if units_per_mv is None else units_per_mv
    fits = [
        g
        for g in USUAL_GAINS
        if max(g / gain, gain / g) >= MIN_GAIN_RATIO and TYPICAL_MV[0] <= amplitude * gain / g <= TYPICAL_MV[1]
    ]
    if not fits:
        return []
    best = min(fits, key=lambda g: abs(np.log(amplitude * gain / g / 1.5)))
    return [
        Finding(
            "stale-gain",
            f"amplitude {amplitude:.3g} mV at the stated {gain:g} units per mV; "
            f"at {best:g} it would be {amplitude * gain / best:.2g} mV",
            value=best,
        )
    ]


def _low(amplitude: NDArray[np.float32], live: NDArray[np.bool_]) -> list[Finding]:
    largest = float(amplitude[live].max())
    if largest < LOW_RECORD_MV:
        return [Finding("low-amplitude", f"no lead exceeds {largest:.2f} mV peak to peak", value=largest)]
    return [
        Finding("low-amplitude", f"{amplitude[i]:.3f} mV peak to peak", LEADS[i], float(amplitude[i]))
        for i in np.flatnonzero(live & (amplitude < LOW_LEAD_MV))
    ]


def _spikes(x: NDArray[np.float32], fs: float) -> list[Finding]:
    height = np.maximum(x.max(axis=1), -x.min(axis=1))
    step = np.diff(x, axis=1)
    step = np.maximum(step.max(axis=1), -step.min(axis=1))
    steep = step > max(SPIKE_STEP_MV, SPIKE_MV_PER_S / fs)
    return [
        Finding(
            "spikes",
            f"reaches {height[i]:.1f} mV, with a step of {step[i]:.1f} mV between two samples",
            LEADS[i],
            float(height[i]),
        )
        for i in np.flatnonzero((height > SPIKE_MV) | steep)
    ]


def _clipped(x: NDArray[np.float32], fs: float, live: NDArray[np.bool_]) -> list[Finding]:
    """Find leads that return to one extreme value, beat after beat, or stay there long."""
    findings = []
    at_limits = (x == x.max(axis=1, keepdims=True), x == x.min(axis=1, keepdims=True))
    counts = np.stack([at_limit.sum(axis=1) for at_limit in at_limits])
    for i in np.flatnonzero(live & (counts.max(axis=0) >= max(8, CLIPPED_S * fs))):
        side = int(counts[:, i].argmax())
        moments = np.flatnonzero(at_limits[side][i])
        longest = max(len(run) for run in np.split(moments, np.flatnonzero(np.diff(moments) > 1) + 1))
        # A single short stop is a recorder that held its last value, usually at the end of the file.
        if len(moments) - longest >= max(4, 0.5 * CLIPPED_S * fs) or longest > HELD_S * fs:
            word = ("highest", "lowest")[side]
            findings.append(
                Finding(
                    "clipped",
                    f"{len(moments)} samples stand at its {word} value",
                    LEADS[i],
                    float(len(moments)),
                )
            )
    return findings


def _spectral(x: NDArray[np.float32], fs: float, live: NDArray[np.bool_]) -> list[Finding]:
    """Amplitudes from one spectrum: a sinusoid of amplitude a has rms a / sqrt(2), peak to peak 2 a."""
    n = x.shape[1]
    spectrum = fft.rfft(x, axis=1)
    hz = np.arange(spectrum.shape[1]) * fs / n

    def power(bins: NDArray[np.bool_]) -> NDArray[np.float32]:
        return np.asarray(np.abs(spectrum[:, bins]) ** 2 * (2 / n**2), dtype=np.float32)

    findings = []
    wander = 2 * np.sqrt(2) * np.sqrt(power((hz > 0) & (hz < WANDER_HZ)).sum(axis=1)) * live
    if wander.max() > WANDER_MV:
        worst = int(wander.argmax())
        findings.append(
            Finding(
                "baseline-wander",
                f"about {wander[worst]:.1f} mV peak to peak",
                LEADS[worst],
                float(wander[worst]),
            )
        )
    for mains in (50.0, 60.0):
        if mains > fs / 2 - 2:
            continue
        distance = np.abs(hz - mains)
        line, around = distance <= 0.5, (distance > 1.5) & (distance <= 8)
        floor = np.median(power(around), axis=1) * line.sum()
        inside = power(line).sum(axis=1)
        swing = 2 * np.sqrt(2) * np.sqrt(np.maximum(inside - floor, 0))
        loud = live & (swing > MAINS_MV) & (inside > MAINS_RATIO * floor)
        if loud.any():
            worst = int(np.where(loud, swing, 0).argmax())
            findings.append(
                Finding(
                    "mains-noise",
                    f"{swing[worst]:.2f} mV peak to peak at {mains:g} Hz ({loud.sum()} leads)",
                    LEADS[worst],
                    float(swing[worst]),
                )
            )
    return findings


def _rate(x: NDArray[np.float32], fs: float, live: NDArray[np.bool_]) -> list[Finding]:
    found = pulse(x[live], fs)
    if found is None or PLAUSIBLE_BPM[0] <= found.bpm <= PLAUSIBLE_BPM[1] or not found.rhythmic:
        return []
    bpm = found.bpm
    fits = [other for other in USUAL_FS_HZ if TYPICAL_BPM[0] <= bpm * other / fs <= TYPICAL_BPM[1]]
    if not fits:
        return []
    best = min(fits, key=lambda other: abs(np.log(bpm * other / fs / 75)))
    return [
        Finding(
            "fs-contradicts-length",
            f"heart rate {bpm:.0f} per minute at the stated {fs:g} Hz; "
            f"at {best:g} Hz it would be {bpm * best / fs:.0f}",
            value=best,
        )
    ]
