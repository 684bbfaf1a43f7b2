"""What an electrocardiograph makes of a person: electrode placement, rhythm, noise, filters, mishaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from simulations.patients.scenario import DeviceConfig, HabitsConfig, HospitalConfig, NoiseConfig
from simulations.physics.body import Physique, anatomy_of, heart_of
from simulations.physics.disease import People, WaveformEffects
from simulations.physics.heart import dipole, draw_rhythm, regular_rhythm
from simulations.physics.torso import ELECTRODES, project, reference_electrodes, twelve

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_NOISY = ("LA", "RA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")


def place_electrodes(rng: np.random.Generator, habits: HabitsConfig, n: int) -> F64:
    """Draw electrode positions, shape = (n, 10, 3), cm: own scatter, and V1-V2 too high by the house's habit.

    Mean error near 2-3 cm and V1-V2 high in most: Wenger 1996.
    """
    position = reference_electrodes(n)
    chest = slice(ELECTRODES.index("V1"), None)
    error = rng.standard_normal((n, 6, 3)) * habits.placement_sd_cm * np.array([0.8, 0.15, 1.0])
    position[:, chest] += error
    high = habits.v1_v2_high_cm * rng.gamma(2.0, 0.5, n)
    position[:, 4:6, 2] += high[:, None]
    return position


def electrode_noise(
    rng: np.random.Generator, noise: NoiseConfig, breath_hz: F64, n: int, fs: float, samples: int
) -> F32:
    """Return noise at nine electrodes, (n, 9, T), mV: wander, muscle, mains, white; made in the spectrum."""

    def size(uv: float) -> F64:
        return np.asarray(uv / 1000 * np.exp(noise.spread * rng.standard_normal((n, 1))))

    hz = fft.rfftfreq(samples, 1 / fs).astype(np.float32)
    # Wander falls as 1/f below 0.7 Hz; muscle is a hump from 20 to 150 Hz; both as weights on white noise.
    wander = np.where(hz < 0.06, 0.0, 1 / np.maximum(hz, 0.06) ** 1.3) * (hz < 0.8)
    muscle = hz**2 / (hz**2 + 25.0**2) / (1 + (hz / 130.0) ** 4)
    white = np.ones_like(hz)
    power = np.zeros((n, len(hz)))
    for shape, uv in ((wander, noise.wander_uv), (muscle, noise.muscle_uv), (white, noise.white_uv)):
        power += (size(uv) * shape / np.sqrt(2 * (shape**2).sum()) * samples) ** 2
    root = np.sqrt(power).astype(np.float32)[:, None, :]
    draw = rng.standard_normal((n, 9, len(hz), 2), dtype=np.float32) / np.float32(np.sqrt(2))
    spectrum = root * draw.view(np.complex64)[..., 0]
    spectrum[..., 0] = 0
    out: F32 = fft.irfft(spectrum, n=samples, axis=-1).astype(np.float32)
    out *= np.float32(np.sqrt(2))
    t = (np.arange(samples) / fs)[None]
    phase = rng.random((n, 2)) * 2 * np.pi
    amplitude = size(noise.mains_uv) * np.sqrt(2)
    hum = amplitude * (
        np.sin(2 * np.pi * noise.mains_hz * t + phase[:, :1])
        + 0.25 * np.sin(6 * np.pi * noise.mains_hz * t + phase[:, 1:]) * (3 * noise.mains_hz < fs / 2)
    )
    out += rng.uniform(0.2, 1.0, (n, 9, 1)).astype(np.float32) * hum[:, None, :].astype(np.float32)
    breath = np.sin(2 * np.pi * breath_hz[:, None] * t + phase[:, :1]) * size(noise.wander_uv / 3)
    out += rng.standard_normal((n, 9, 1)).astype(np.float32) * breath[:, None, :].astype(np.float32)
    return out


def leads_of(electrodes: F32) -> F32:
    """Return I, II, V1..V6 from nine electrodes in the order LA, RA, LL, V1..V6; (n, 9, T) -> (n, 8, T)."""
    left, right, foot = electrodes[:, 0:1], electrodes[:, 1:2], electrodes[:, 2:3]
    terminal = (left + right + foot) / 3
    return np.concatenate([left - right, foot - right, electrodes[:, 3:] - terminal], axis=1)


def lowpass(x: F32, cutoff_hz: float, fs: float) -> F32:
    """Second-order Butterworth magnitude without phase, applied in the spectrum."""
    if cutoff_hz >= fs / 2:
        return x
    spectrum = fft.rfft(x, axis=-1)
    hz = fft.rfftfreq(x.shape[-1], 1 / fs)
    spectrum *= (1 / np.sqrt(1 + (hz / cutoff_hz) ** 4)).astype(np.float32)
    return np.asarray(fft.irfft(spectrum, n=x.shape[-1], axis=-1).astype(np.float32))


def clean_beats(
    people: People,
    effects: WaveformEffects,
    electrodes_cm: F64 | None = None,
    fs: float = 500.0,
    physique: Physique | None = None,
) -> F32:
    """Return one noiseless beat of each person at a rate of 60, R peak at 0.5 s; shape = (n, 12, fs), mV."""
    n = len(people.age)
    waves = dipole(
        heart_of(people, effects, physique), regular_rhythm(np.full(n, 60.0, np.float32), 1.0), fs=fs, seconds=1.0
    )
    place = reference_electrodes(n) if electrodes_cm is None else electrodes_cm
    return twelve(project(waves, anatomy_of(people, physique), place))


def record_ecgs(
    rng: np.random.Generator,
    people: People,
    af: NDArray[np.bool_],
    hospital: HospitalConfig,
    device: DeviceConfig,
    effects: WaveformEffects,
    seconds: float,
    electrodes_cm: F64 | None = None,
    physique: Physique | None = None,
) -> F32:
    """Record one ECG of each person with one kind of device.

    Parameters
    ----------
    electrodes_cm : array, shape = (n, 10, 3): where the electrodes sit; None draws it by the hospital's habits.

    Returns
    -------
    array, shape = (n, 12, T), float32 mV in standard lead order, T = round(fs * seconds).
    """
    n, fs = len(people.age), float(device.fs_hz)
    samples = round(fs * seconds)
    failing = people.heart_failure
    body = Physique() if physique is None else physique
    rate = body.rate + 5.0 * failing + 9.0 * af - 2.0 * people.male + body.rate_sd * rng.standard_normal(n)
    rate = np.clip(rate, 42, 135)
    breath_hz = np.clip(0.25 + 0.04 * rng.standard_normal(n), 0.12, 0.45)
    ectopic = np.where(rng.random(n) < 0.10 + 0.05 * failing, rng.uniform(0.03, 0.15, n), 0.0)
    rhythm = draw_rhythm(
        rng,
        rate_per_min=rate.astype(np.float32),
        respiration_hz=breath_hz.astype(np.float32),
        ectopic_share=ectopic.astype(np.float32),
        af=af,
        seconds=seconds,
    )
    waves = dipole(heart_of(people, effects, body), rhythm, fs=fs, seconds=seconds)
    t = (np.arange(samples) / fs)[None]
    breath = np.sin(2 * np.pi * breath_hz[:, None] * t + 2 * np.pi * rng.random((n, 1))).astype(np.float32)
    depth = np.exp(np.log(0.25) + 0.4 * rng.standard_normal(n))  # quiet breathing is a quarter of a full one
    anatomy = anatomy_of(people, body)
    place = place_electrodes(rng, hospital.habits, n) if electrodes_cm is None else electrodes_cm
    eight = project(waves, anatomy, place, respiration=breath, depth=depth)
    eight = eight + leads_of(electrode_noise(rng, hospital.noise, breath_hz, n, fs, samples))
    eight = lowpass(eight, device.lowpass_hz, fs)
    eight = mishaps(rng, eight, hospital.habits)
    return twelve(eight)


def mishaps(rng: np.random.Generator, eight: F32, habits: HabitsConfig) -> F32:
    """Exchange the arm electrodes or V1 and V2; take a chest electrode off (a flat line)."""
    n = len(eight)
    kind, which = rng.random((n, 2)), rng.integers(2, 8, n)
    swapped = kind[:, 0] < habits.swapped_share
    arms, chest = swapped & (which < 5), swapped & (which >= 5)
    one, two = eight[arms, 0].copy(), eight[arms, 1].copy()
    eight[arms, 0], eight[arms, 1] = -one, two - one
    eight[chest, 2:4] = eight[chest, 3:1:-1].copy()
    dead = np.flatnonzero(kind[:, 1] < habits.dead_share)
    eight[dead, which[dead]] = 0.0
    return eight
