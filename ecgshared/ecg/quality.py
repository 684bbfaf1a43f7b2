"""What is wrong with a recording, in fixed codes, and what a site's policy makes of it.

Thresholds were set on 1,093 public 12-lead records (PTB-XL, CODE-15%, SaMi-Trop, Chapman, Ningbo):
physiological extremes stay quiet, gross faults speak. All rules work on the whole (12, T) array at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ecgshared.arrays import Floats
from ecgshared.ecg import contradictions as law
from ecgshared.ecg.amplitude import IMPLAUSIBLE, STALE, TWO_GAINS, extremes, implausible_amplitude, two_gains
from ecgshared.ecg.beat_quality import assess_beats, thinned, thinning
from ecgshared.ecg.chest_leads import DISORDERED, INVERTED
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.polarity import INVERTED as UPSIDE_DOWN
from ecgshared.ecg.pulse import pulse_and_centres
from ecgshared.ecg.rate import rate_doubts
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.ecg.reversals import ARM_LEG, REPAIRABLE, exchange
from ecgshared.ecg.rows import medians

Decision = Literal["keep", "flag", "repair", "refuse"]

_SEVERITY = ("keep", "flag", "repair", "refuse")

REPAIRED, EMPTY, DERIVED = "repaired", "empty", "derived-lead"

NOTES = frozenset({REPAIRED, DERIVED})
"""Findings that tell what was done and doubt nothing: a recording with no others is as good as one without any.
Limb leads follow from two of them, exactly; every MUSE and many SCP-ECG files hold eight leads."""

_CHEST_PAIRS = ((1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 3))

CODES: dict[str, str] = {
    "checksum": "the samples do not match the file's checksum: bytes were changed after export",
    "initial-value": "the first sample is not the one the file announces",
    "truncated": "the file holds fewer samples than it declares",
    "excess-samples": "the file holds more samples than it declares",
    "duplicate-lead": "a lead is stored twice",
    "leads-apart": "further leads in the file have another start, rate or length, and were left out",
    "lead-off": "the recorder says that the electrode of a lead was off",
    DERIVED: "limb leads were computed from two others",
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
    STALE: "the amplitude is plausible only at another gain than the file's",
    IMPLAUSIBLE: "the amplitude is one that no heart has, and no usual gain mends it",
    EMPTY: "so much of the twelve leads holds no signal: absent, invalid or constant",
    **law.CODES,
    INVERTED: "a chest lead looks upside down: its neighbours foretell the opposite",
    DISORDERED: "the chest leads look as if in another order",
    UPSIDE_DOWN: "the whole recording looks upside down: every lead has the sign of its opposite",
    TWO_GAINS: "the chest leads are of another size than the limb leads, as no heart makes them: two gains",
    "fs-contradicts-length": "the machine's own count, the mains or the heart agree only with another sampling rate",
    "fs-contradicts-table": "the table gives another sampling rate than the file",
    "too-short": "shorter than 3 s",
    "too-long": "longer than 60 s",
    "beats-disagree": "the beats differ from each other so much that noise must be the larger part",
    "pacing-spikes": "a pacemaker's spikes before the QRS complexes",
    "reversed-ra-la": "right and left arm electrodes look exchanged",
    "reversed-ra-ll": "right arm and left leg electrodes look exchanged",
    "reversed-la-ll": "left arm and left leg electrodes look exchanged",
    ARM_LEG: "an arm electrode looks exchanged with the right leg's",
    **{f"swapped-v{i}-v{j}": f"V{i} and V{j} look exchanged" for i, j in _CHEST_PAIRS},
    "amplitude-outlier": "much larger or smaller than the other recordings of its device",
    "step-outlier": "its values move in other steps than those of the other recordings of its device",
    "gain-outlier": "states another gain than the others of its device, and is in line with them only at theirs",
    "device-amplitude": "all recordings of its device are much larger or smaller than any hospital's",
    REPAIRED: "an exchange of limb electrodes was undone, as the site's policy asks",
}
"""Every code a finding can carry, and its meaning."""

SECONDS = (3.0, 60.0)
"""Shortest and longest recording that is taken as a resting ECG."""

FLAT_MV = 0.005
LOW_LEAD_MV, LOW_RECORD_MV = 0.1, 0.5
SPIKE_MV, SPIKE_MV_PER_S, SPIKE_STEP_MV = 20.0, 1500.0, 2.0
WANDER_MV, WANDER_HZ = 2.0, 0.5
SHORTEST_SPECTRUM_S = 2.0
"""A shorter spectrum cannot tell mains from its neighbours."""

ONE_LEAD = 0.1
"""Of the twelve leads, and a little: less without a signal is told lead by lead alone."""

CLIPPED_S, HELD_S = 0.02, 0.2
MAINS_MV, MAINS_RATIO = 0.1, 10.0


def assess(record: EcgRecord) -> tuple[Finding, ...]:
    """Return the reader's findings and those of every rule; empty where nothing is wrong."""
    return examine(record)[0]


def examine(record: EcgRecord) -> tuple[tuple[Finding, ...], float | None]:
    """Return :func:`assess`, and the usual amplitude: the mean over leads of their swing in 2 s, mV; None without one.

    By the amplitude a recording is compared with the others of its device.
    """
    x = record.p_signal
    findings = list(record.findings)
    findings += _length(record)
    finite = np.isfinite(x)
    sound = bool(finite.all())
    present = np.ones(12, dtype=bool) if sound else np.asarray(finite.any(axis=1))
    findings += [Finding("missing-lead", "absent, and not to be derived", LEADS[i]) for i in np.flatnonzero(~present)]
    if not present.any() or x.shape[1] < 2:
        return (*findings, Finding("all-flat", "no lead carries a signal")), None
    if not sound:
        bad = (~finite).sum(axis=1)
        findings += [
            Finding("not-finite", f"{bad[i]} samples are not numbers", LEADS[i], float(bad[i]))
            for i in np.flatnonzero(present & (bad > 0))
        ]
        x = np.where(finite, x, np.float32(0))
    # Limits are far wider than the error of a median over every fourth sample.
    centred = x - medians(x[:, ::4])[:, None]
    if not sound:
        centred[~finite & present[:, None]] = 0
    tops, bottoms = extremes(centred, record.fs)
    swing = tops - bottoms
    amplitude = medians(swing)
    constant = swing <= FLAT_MV
    flat = np.asarray(constant.any(axis=1) & present)
    live = np.asarray(present & (amplitude > FLAT_MV))
    findings += _flat(constant, flat, live)
    if not live.any():
        return (*findings, Finding("all-flat", "no lead carries a signal")), None
    findings += _empty(finite, constant)
    wrong = implausible_amplitude(float(np.median(amplitude[live])), record.adc_units_per_mv)
    findings += wrong + two_gains(amplitude, live & ~flat)
    spectrum = _Spectrum.of(centred, record.fs) if record.seconds >= SHORTEST_SPECTRUM_S else None
    top, bottom = tops.max(axis=1), bottoms.min(axis=1)
    # These limits are in mV: at a wrong gain they would only repeat the same fault under other names.
    if not any(finding.code == STALE for finding in wrong):
        findings += _spikes(centred, record.fs, top, bottom)
    if not wrong:
        findings += _low(amplitude, live)
        if spectrum is not None:
            findings += _wander(spectrum, live) + _mains(spectrum, live)
    findings += _clipped(centred, record.fs, live, top, bottom)
    if not wrong and amplitude.max() >= LOW_RECORD_MV:
        step = 0.0 if record.adc_units_per_mv is None else 1 / record.adc_units_per_mv
        whole = live & ~flat if sound else live & ~flat & finite.all(axis=1)
        findings += law.contradictions(centred, whole, step_mv=step)
    together = thinning(record.fs)
    thin, fs = thinned(centred, together), record.fs / together
    scaled = thin / np.maximum(amplitude, np.float32(FLAT_MV))[:, None]
    beats, centres = pulse_and_centres(scaled if live.all() else scaled[live], fs)
    power, hz_step = (np.zeros(0), 1.0) if spectrum is None else (spectrum.together(live), spectrum.hz_step)
    doubts = rate_doubts(record, beats, power, hz_step)
    if not wrong and not doubts and record.seconds >= SECONDS[0]:
        findings += assess_beats(
            centred, record.fs, thin=thin, swing=amplitude, centres=centres, machine=record.machine
        )
    return (*findings, *doubts), float(amplitude[live].mean())


def repair(record: EcgRecord, findings: Iterable[Finding], actions: Mapping[str, str]) -> tuple[EcgRecord, bool]:
    """Undo the exchange of limb electrodes for which the policy says "repair"; tell whether there was one.

    By the permutation of leads and signs that Einthoven's law gives: nothing is estimated, and chest leads, whose
    reference is the mean of all three limbs, are not touched.
    """
    for finding in findings:
        if finding.code in REPAIRABLE and actions.get(finding.code) == "repair":
            return replace(record, p_signal=exchange(record.p_signal, REPAIRABLE[finding.code])), True
    return record, False


def decide(
    findings: Iterable[Finding], actions: Mapping[str, str], default: str, *, most_empty: float = 1.0
) -> Decision:
    """Return the worst action any finding calls for; "keep" where there is none.

    Parameters
    ----------
    actions : action by code. default : the action of every other code, but "keep" for :data:`NOTES`.
    most_empty : the share of the twelve leads without a signal up to which a recording is used.
    """
    called = []
    for finding in findings:
        if finding.code == EMPTY and finding.value is not None and finding.value > most_empty:
            called.append("refuse")
        # What a repair left behind is news, not a fault.
        elif finding.code != REPAIRED:
            called.append(actions.get(finding.code, "keep" if finding.code in NOTES else default))
    return cast(Decision, max(called, key=_SEVERITY.index, default="keep"))


def _length(record: EcgRecord) -> list[Finding]:
    seconds = record.seconds
    if seconds < SECONDS[0]:
        return [Finding("too-short", f"{seconds:.2f} s, at least {SECONDS[0]:g} s is needed", value=seconds)]
    if seconds > SECONDS[1]:
        return [Finding("too-long", f"{seconds:.0f} s, at most {SECONDS[1]:g} s is a resting ECG", value=seconds)]
    return []


def _flat(constant: NDArray[np.bool_], flat: NDArray[np.bool_], live: NDArray[np.bool_]) -> list[Finding]:
    share = constant.mean(axis=1)
    return [
        Finding(
            "flat-lead",
            f"constant in {share[i]:.0%} of the recording" if live[i] else "carries no signal",
            LEADS[i],
            float(share[i]),
        )
        for i in np.flatnonzero(flat)
    ]


def _empty(finite: NDArray[np.bool_], constant: NDArray[np.bool_]) -> list[Finding]:
    """Return how much of all twelve leads holds no signal, where it is any lead's worth."""
    void = (~finite).mean(axis=1) if not finite.all() else np.zeros(12)
    share = float(np.maximum(void, constant.mean(axis=1)).mean())
    if share <= ONE_LEAD:
        return []
    return [Finding(EMPTY, f"{share:.0%} of the twelve leads is absent, invalid or constant", value=share)]


def _low(amplitude: NDArray[np.float32], live: NDArray[np.bool_]) -> list[Finding]:
    largest = float(amplitude[live].max())
    if largest < LOW_RECORD_MV:
        return [Finding("low-amplitude", f"no lead exceeds {largest:.2f} mV peak to peak", value=largest)]
    return [
        Finding("low-amplitude", f"{amplitude[i]:.3f} mV peak to peak", LEADS[i], float(amplitude[i]))
        for i in np.flatnonzero(live & (amplitude < LOW_LEAD_MV))
    ]


def _spikes(x: NDArray[np.float32], fs: float, top: NDArray[np.float32], bottom: NDArray[np.float32]) -> list[Finding]:
    """Find leads that go where no heart does; ``top`` and ``bottom`` are the extremes of each."""
    height = np.maximum(top, -bottom)
    steepest = max(SPIKE_STEP_MV, SPIKE_MV_PER_S / fs)
    findings = []
    # No step is larger than the lead's whole range.
    for i in np.flatnonzero((height > SPIKE_MV) | (top - bottom > steepest)):
        step = float(np.abs(np.diff(x[i])).max())
        if height[i] > SPIKE_MV or step > steepest:
            message = f"reaches {height[i]:.1f} mV, with a step of {step:.1f} mV between two samples"
            findings.append(Finding("spikes", message, LEADS[i], float(height[i])))
    return findings


def _clipped(
    x: NDArray[np.float32],
    fs: float,
    live: NDArray[np.bool_],
    top: NDArray[np.float32],
    bottom: NDArray[np.float32],
) -> list[Finding]:
    """Find leads that return to one extreme value, beat after beat, or stay there long."""
    findings = []
    at_limits = (x == top[:, None], x == bottom[:, None])
    counts = np.array([[np.count_nonzero(lead) for lead in at_limit] for at_limit in at_limits])
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


@dataclass(frozen=True)
class _Spectrum:
    """Squared magnitudes of all leads, shape = (12, bins), without what is slower than a bin.

    A sinusoid of amplitude a has rms a / sqrt(2), peak to peak 2 a.
    """

    squares: NDArray[np.float32]
    samples: int
    fs: float
    hz_step: float

    @classmethod
    def of(cls, x: NDArray[np.float32], fs: float) -> _Spectrum:
        # Zeros at the end, so that a length of large prime factors costs no more than another.
        size = int(fft.next_fast_len(x.shape[1], real=True))
        parts = fft.rfft(x, size, axis=1).view(np.float32)
        np.square(parts, out=parts)
        return cls(parts[:, ::2] + parts[:, 1::2], x.shape[1], fs, fs / size)

    def power(self, from_hz: float, to_hz: float) -> NDArray[np.float32]:
        """Return the mean square of each lead by frequency from one to the other, shape = (12, bins)."""
        first, last = int(np.ceil(from_hz / self.hz_step)), int(np.floor(to_hz / self.hz_step)) + 1
        scale = np.float32(2 * self.hz_step / (self.samples * self.fs))
        return np.asarray(self.squares[:, max(first, 1) : last] * scale)

    def together(self, live: NDArray[np.bool_]) -> Floats:
        """Return the sum over live leads by frequency, shape = (bins,)."""
        squares = self.squares if live.all() else self.squares[live]
        return np.asarray(squares.sum(axis=0), dtype=np.float64)


def _wander(spectrum: _Spectrum, live: NDArray[np.bool_]) -> list[Finding]:
    slow = spectrum.power(0, np.nextafter(WANDER_HZ, 0))
    swing = 2 * np.sqrt(2) * np.sqrt(slow.sum(axis=1)) * live
    worst = int(swing.argmax())
    if swing[worst] <= WANDER_MV:
        return []
    return [Finding("baseline-wander", f"about {swing[worst]:.1f} mV peak to peak", LEADS[worst], float(swing[worst]))]


def _mains(spectrum: _Spectrum, live: NDArray[np.bool_]) -> list[Finding]:
    findings = []
    for mains in (50.0, 60.0):
        if mains > spectrum.fs / 2 - 2:
            continue
        line = spectrum.power(mains - 0.5, mains + 0.5)
        inside = line.sum(axis=1)
        if not (live & (2 * np.sqrt(2) * np.sqrt(inside) > MAINS_MV)).any():
            continue  # even with nothing beside it
        beside = (spectrum.power(mains - 8, mains - 1.5), spectrum.power(mains + 1.5, mains + 8))
        floor = medians(np.concatenate(beside, axis=1)) * line.shape[1]
        swing = 2 * np.sqrt(2) * np.sqrt(np.maximum(inside - floor, 0))
        loud = live & (swing > MAINS_MV) & (inside > MAINS_RATIO * floor)
        if loud.any():
            worst = int(np.where(loud, swing, 0).argmax())
            message = f"{swing[worst]:.2f} mV peak to peak at {mains:g} Hz ({loud.sum()} leads)"
            findings.append(Finding("mains-noise", message, LEADS[worst], float(swing[worst])))
    return findings
