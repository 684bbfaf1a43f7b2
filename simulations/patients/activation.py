"""Record the ECGs of hearts whose muscle is activated: the physics ``activation`` of a scenario.

The counterpart of :func:`simulations.patients.recording.record_ecgs`: the same people, hospitals and devices; beats
come from :mod:`simulations.physics.beats`, and machines add what :mod:`simulations.patients.machine` says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulations.patients.ailments import States
from simulations.patients.machine import machine_noise
from simulations.patients.recording import leads_of, lowpass, mishaps, place_electrodes
from simulations.patients.scenario import DeviceConfig, HospitalConfig
from simulations.physics.atrial import fibrillation, flutter
from simulations.physics.beats import Bodies, atrial_beats, atrial_fields, ventricular_beats
from simulations.physics.cycle import LEAD_STEPS, STEP_MS, Waves
from simulations.physics.disease import People, WaveformEffects
from simulations.physics.rhythms import FOCUS, SINUS_P, Pace, Rhythm, draw_rhythm
from simulations.physics.torso import twelve
from simulations.physics.traits import draw_traits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BREATH_DEPTH = 0.25
"""Quiet breathing is a quarter of a full breath."""
_RATE, _RATE_SD = 68.0, 0.15
_VARIABILITY, _VARIABILITY_SD = 0.032, 0.62


def bodies_of(
    people: People, states: States, effects: WaveformEffects, electrodes_cm: F64, depth: F64, scatter: float = 1.0
) -> Bodies:
    """Return the hearts of n persons in their chests; fibrosis shows by ``effects.conduction`` of itself."""
    return Bodies(
        draw_traits(people, scatter),
        states.ailments,
        people.fibrosis * effects.conduction,
        people.shape[:, -3:].astype(np.float64),
        electrodes_cm,
        depth,
    )


def record_activation(
    rng: np.random.Generator,
    people: People,
    states: States,
    hospital: HospitalConfig,
    device: DeviceConfig,
    effects: WaveformEffects,
    seconds: float,
    electrodes_cm: F64 | None = None,
    scatter: float = 1.0,
) -> F32:
    """Record one ECG of each person with one kind of device.

    Parameters
    ----------
    states : of the persons, see :func:`simulations.patients.ailments.draw_states`.
    electrodes_cm : array, shape = (n, 10, 3): where the electrodes sit; None draws it by the hospital's habits.
    scatter : multiplies how far persons differ in what was fitted.

    Returns
    -------
    array, shape = (n, 12, T), float32 mV in standard lead order, T = round(fs * seconds).
    """
    n, fs = len(people.age), float(device.fs_hz)
    samples = round(fs * seconds)
    place = place_electrodes(rng, hospital.habits, n) if electrodes_cm is None else electrodes_cm
    depth = BREATH_DEPTH * np.exp(0.4 * rng.standard_normal(n))
    bodies = bodies_of(people, states, effects, place, depth, scatter)
    breath_hz = np.clip(0.25 + 0.05 * rng.standard_normal(n), 0.12, 0.45)
    breath_phase = rng.uniform(0, 2 * np.pi, n)
    rhythms = _rhythms(rng, people, states, bodies, breath_hz, breath_phase, seconds)
    eight = beats_to_leads(rng, bodies, rhythms, states, breath_hz, breath_phase, fs, samples)
    eight += leads_of(machine_noise(rng, hospital.noise, breath_hz, breath_phase, fs, samples))
    eight = mishaps(rng, lowpass(eight, device.lowpass_hz, fs), hospital.habits)
    if device.flat_end_ms:
        eight[:, :, samples - round(device.flat_end_ms * fs / 1000) :] = 0.0
    return twelve(eight)


def _rhythms(
    rng: np.random.Generator,
    people: People,
    states: States,
    bodies: Bodies,
    breath_hz: F64,
    breath_phase: F64,
    seconds: float,
) -> list[Rhythm]:
    """Draw the rhythm of each recording: slower in men, faster with heart failure and without sinus rhythm."""
    n, names = len(people.age), states.rhythm_names()
    log_rate = np.log(_RATE) + 0.07 * people.heart_failure - 0.03 * people.male + _RATE_SD * rng.standard_normal(n)
    rate = np.clip(np.exp(log_rate) + np.where(names == "fibrillation", 14, 0), 42, 150)
    # Variability falls with age and with rate: vagal tone is what carries it.
    spread = _VARIABILITY * np.exp(
        _VARIABILITY_SD * rng.standard_normal(n) - 0.012 * (people.age - 45) - 1.2 * (log_rate - np.log(_RATE))
    )
    pr = np.clip(bodies.traits["pr"] + states.long_pr_ms, 90, 360) / 1000
    found = []
    for i, name in enumerate(names):
        pace = Pace(
            float(rate[i]), float(min(spread[i], 0.16)), float(breath_hz[i]), float(breath_phase[i]), float(pr[i]),
            float(states.ventricular[i]), float(states.atrial[i]), float(states.coupling[i]),
        )  # fmt: skip
        found.append(draw_rhythm(rng, name, pace, seconds))
    return found


def beats_to_leads(
    rng: np.random.Generator,
    bodies: Bodies,
    rhythms: list[Rhythm],
    states: States,
    breath_hz: F64,
    breath_phase: F64,
    fs: float,
    samples: int,
) -> F32:
    """Return eight leads without noise, shape = (n, 8, T), mV: every beat laid where its rhythm has it."""
    own, sinus = ventricular_beats(bodies), atrial_beats(bodies)
    wild = np.array([i for i, r in enumerate(rhythms) if (r.source == FOCUS).any()], dtype=np.int64)
    ectopic = ventricular_beats(bodies.rows(wild), states.focus[wild]) if len(wild) else own
    early_p = np.array([i for i, r in enumerate(rhythms) if (r.p_kind != SINUS_P).any()], dtype=np.int64)
    low = atrial_beats(bodies.rows(early_p), 1) if len(early_p) else sinus
    out = np.zeros((len(rhythms), samples, 8), dtype=np.float32)
    for i, rhythm in enumerate(rhythms):
        ways = (_row(own, i), _row(ectopic, int(np.searchsorted(wild, i))) if i in wild else None)
        size = 1 + 0.025 * rng.standard_normal(len(rhythm.qrs_s))
        breath = np.sin(2 * np.pi * breath_hz[i] * rhythm.qrs_s + breath_phase[i])
        for at, source, rr, gain, air in zip(rhythm.qrs_s, rhythm.source, rhythm.rr_s, size, breath, strict=True):
            way = ways[int(source)]
            assert way is not None
            _lay(out[i], way, float(at), float(gain), float(air), float(np.cbrt(rr)), fs)
        atria = (_row(sinus, i), _row(low, int(np.searchsorted(early_p, i))) if i in early_p else None)
        breath = np.sin(2 * np.pi * breath_hz[i] * rhythm.p_s + breath_phase[i])
        for at, kind, air in zip(rhythm.p_s, rhythm.p_kind, breath, strict=True):
            way = atria[int(kind)]
            assert way is not None
            _lay(out[i], way, float(at), 1.0, float(air), 1.0, fs)
    leads = np.ascontiguousarray(out.transpose(0, 2, 1))
    _without_p(rng, leads, bodies, rhythms, states, fs)
    return leads


def regular_leads(bodies: Bodies, fs: float, seconds: float) -> F32:
    """Return eight leads of hearts that beat once a second, breath held and without noise, shape = (n, 8, T), mV."""
    own, sinus = ventricular_beats(bodies), atrial_beats(bodies)
    out = np.zeros((len(bodies.fibrosis), round(fs * seconds), 8), dtype=np.float32)
    for i, pr in enumerate(bodies.traits["pr"] / 1000):
        for at in np.arange(0.5, seconds, 1.0):
            _lay(out[i], _row(own, i), float(at), 1.0, 0.0, 1.0, fs)
            _lay(out[i], _row(sinus, i), float(at - pr), 1.0, 0.0, 1.0, fs)
    return np.ascontiguousarray(out.transpose(0, 2, 1))


def _row(waves: Waves, row: int) -> tuple[F32, F32]:
    """Return one heart's waves with time first: early and late, shape = (T, 16) each."""
    return np.ascontiguousarray(waves.early[row].T), np.ascontiguousarray(waves.late[row].T)


def _lay(out: F32, waves: tuple[F32, F32], at_s: float, gain: float, breath: float, stretch: float, fs: float) -> None:
    """Add one beat that begins at ``at_s`` to (T, 8); what comes of repolarisation is stretched in time."""
    samples = len(out)
    step = 1000 / STEP_MS
    for part, wide in zip(waves, (1.0, stretch), strict=True):
        start = at_s - LEAD_STEPS / step * wide
        first = max(int(np.ceil(start * fs)), 0)
        last = min(int((start + (len(part) - 2) / step * wide) * fs), samples)
        if last <= first:
            continue
        leads = part[:, 8:] * np.float32(gain * breath)
        leads += part[:, :8] if gain == 1 else part[:, :8] * np.float32(gain)
        pace = step / wide / fs
        begin = (first / fs - start) * (step / wide)
        if pace == 1:  # a step is a sample: the same share of two neighbours all along
            whole, share = int(begin), np.float32(begin - int(begin))
            found = leads[whole : whole + last - first] * (1 - share)
            found += leads[whole + 1 : whole + 1 + last - first] * share
        else:
            place = begin + pace * np.arange(last - first)
            index = place.astype(np.int64)
            shares = (place - index).astype(np.float32)[:, None]
            found = leads[index]
            found += (leads[index + 1] - found) * shares
        out[first:last] += found


def _without_p(
    rng: np.random.Generator, out: F32, bodies: Bodies, rhythms: list[Rhythm], states: States, fs: float
) -> None:
    """Add the waves of atria that fibrillate or flutter."""
    names = states.rhythm_names()
    rows = np.flatnonzero((names == "fibrillation") | (names == "flutter"))
    if not len(rows):
        return
    fields = atrial_fields(bodies.rows(rows))[:, :8]
    times = np.arange(out.shape[2]) / fs
    for field, i in zip(fields, rows, strict=True):
        cycle = rhythms[i].flutter_s
        dipoles = flutter(cycle, float(rng.random()), times) if cycle else fibrillation(rng, times)
        out[i] += field @ dipoles
