"""What electrodes, muscle and an amplifier add to an ECG: spectra fitted to the rests of real recordings.

:data:`SPECTRUM` holds the power between T and P of PTB-XL's NORM records of even patients, without the heart's own,
for limb and chest electrodes; noise is Gaussian of that spectrum, under an envelope that rises and falls. A record's
level is log-normal. Numbers alone: no sample of any recording is in here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from simulations.patients.scenario import NoiseConfig

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ELECTRODES = ("LA", "RA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
# Hz; power density at a limb and at a chest electrode, uV^2/Hz, in a median record.
SPECTRUM = np.array(
    [
        (0.8, 1.6, 1.3), (2.0, 0.75, 0.60), (4.0, 0.60, 0.30), (7.0, 0.62, 0.120), (10.0, 0.60, 0.070),
        (13.0, 0.50, 0.052), (16.7, 0.38, 0.044), (20.0, 0.26, 0.037), (25.0, 0.165, 0.031), (30.0, 0.150, 0.027),
        (36.7, 0.090, 0.0170), (46.7, 0.060, 0.0118), (60.0, 0.031, 0.0072), (80.0, 0.022, 0.0045),
        (95.0, 0.0135, 0.0024), (120.0, 0.0125, 0.0026), (150.0, 0.0078, 0.0013), (180.0, 0.0045, 0.0010),
        (200.0, 0.0010, 0.00030), (240.0, 0.0004, 0.00015), (500.0, 0.0001, 0.00005),
    ]
)  # fmt: skip
_PIECE = 25
"""Samples between those by which drift is made."""
REFERENCE_MUSCLE_UV = 5.0
"""``noise.muscle_uv`` at which the spectrum is the fitted one."""
_BETWEEN_LIMBS, _BESIDE, _CHEST_GAIN = 0.85, 0.17, 1.7
"""Share of the limbs' mean that is not there; what a chest electrode takes of each neighbour; and its size then."""
_LIMB_SD, _CHEST_SD, _TOGETHER = 0.45, 0.24, 0.65
"""SD of a record's logarithmic level on limb and chest electrodes, and how they go together."""


def machine_noise(
    rng: np.random.Generator, noise: NoiseConfig, breath_hz: F64, breath_phase: F64, fs: float, samples: int
) -> F32:
    """Return noise at nine electrodes, shape = (n, 9, T), mV: muscle, wander, mains, pops.

    Parameters
    ----------
    noise : sizes: ``muscle_uv`` scales the fitted spectrum, ``wander_uv`` and ``mains_uv`` are RMS at an electrode.
    breath_hz, breath_phase : arrays, shape = (n,): wander breathes with the chest.
    """
    n = len(breath_hz)
    hz = fft.rfftfreq(samples, 1 / fs)
    spread = noise.spread / 0.6
    level = _levels(rng, n, spread) * noise.muscle_uv / REFERENCE_MUSCLE_UV
    log_hz = np.log(np.maximum(hz, 0.8))
    density = np.exp([np.interp(log_hz, np.log(SPECTRUM[:, 0]), np.log(SPECTRUM[:, k])) for k in (1, 2)])
    density *= 1 / (1 + (0.5 / np.maximum(hz, 1e-3)) ** 4)
    shape = np.sqrt(np.concatenate([np.repeat(density[:1], 3, 0), np.repeat(density[1:], 6, 0)]) * fs * samples) / 2
    out = _neighbours(_gaussian(rng, shape, n, samples))
    out *= (level / 1000).astype(np.float32)[:, :, None]
    out *= _envelope(rng, n, hz, samples, fs)[:, None, :]
    out += _wander(rng, noise, breath_hz, breath_phase, fs, samples)
    out += _mains(rng, noise, n, fs, samples)
    if noise.white_uv:
        out += np.float32(noise.white_uv / 1000) * rng.standard_normal(out.shape, dtype=np.float32)
    _pop(rng, out, fs)
    return out


def _gaussian(rng: np.random.Generator, shape: F64, n: int, samples: int) -> F32:
    """Return noise whose spectrum has this size, shape = (n, electrodes, T); ``shape`` is (electrodes, F)."""
    draw = rng.standard_normal((n, *shape.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    draw *= shape.astype(np.float32)
    draw[..., 0] = 0
    return np.asarray(fft.irfft(draw, n=samples, axis=-1, overwrite_x=True).astype(np.float32, copy=False))


def _neighbours(electrodes: F32) -> F32:
    """Let neighbours go together: muscle lies between the limbs, so their mean, which chest leads are measured
    against, is quiet; a chest electrode shares some with those beside it."""
    limbs, chest = electrodes[:, :3], electrodes[:, 3:]
    limbs -= np.float32(_BETWEEN_LIMBS) * limbs.mean(axis=1, keepdims=True)
    beside = np.zeros_like(chest)
    beside[:, 1:] += chest[:, :-1]
    beside[:, :-1] += chest[:, 1:]
    chest += np.float32(_BESIDE) * beside
    chest *= np.float32(_CHEST_GAIN / np.sqrt(1 + 2 * _BESIDE**2))
    return electrodes


def _levels(rng: np.random.Generator, n: int, spread: float) -> F64:
    """Return how loud each electrode of each record is, shape = (n, 9)."""
    common, own = rng.standard_normal((n, 1)), rng.standard_normal((n, 2))
    part = np.sqrt(_TOGETHER) * common + np.sqrt(1 - _TOGETHER) * own
    log = np.concatenate([np.repeat(_LIMB_SD * part[:, :1], 3, 1), np.repeat(_CHEST_SD * part[:, 1:], 6, 1)], 1)
    log = spread * (log + 0.15 * rng.standard_normal((n, 9)))
    return np.asarray(np.exp(log))


def _envelope(rng: np.random.Generator, n: int, hz: F64, samples: int, fs: float) -> F32:
    """Return how muscle noise swells and fades, shape = (n, T), about 1; now and then a patient moves."""
    weight = np.where((hz > 0) & (hz < 6), 1 / np.sqrt(1 + (hz / 1.5) ** 2), 0.0)
    weight *= samples / (2 * np.sqrt((weight**2).sum()))
    slow = _gaussian(rng, weight[None], n, samples)[:, 0]
    depth = np.clip(0.14 * np.exp(0.6 * rng.standard_normal((n, 1))), 0.0, 0.9).astype(np.float32)
    out = np.exp(depth * slow - depth**2 / 2)
    t = np.arange(samples) / fs
    for i in np.flatnonzero(rng.random(n) < 0.05):
        at, wide = rng.uniform(0, samples / fs), rng.uniform(0.15, 0.7)
        out[i] *= (1 + rng.uniform(1.0, 4.0) * np.exp(-(((t - at) / wide) ** 2))).astype(np.float32)
    return np.asarray(out, dtype=np.float32)


def _wander(
    rng: np.random.Generator, noise: NoiseConfig, breath_hz: F64, breath_phase: F64, fs: float, samples: int
) -> F32:
    """Return the slow drift of each electrode, whose power falls faster than 1/f, and its share of breathing."""
    n = len(breath_hz)
    size = noise.wander_uv / 1000 * np.exp(noise.spread * rng.standard_normal((n, 1, 1)))
    # A drift below 1.5 Hz needs few samples; of twice the time, so that its end does not meet its beginning.
    pieces = -(-samples // _PIECE)
    coarse = 2 * (pieces + 1)
    hz = fft.rfftfreq(coarse, _PIECE / fs)
    weight = np.where(hz > 0.03, 1 / np.maximum(hz, 0.06) ** 1.3, 0.0) / (1 + (hz / 0.6) ** 4)
    weight *= coarse / (2 * np.sqrt((weight**2).sum()))
    slow = _gaussian(rng, np.repeat(weight[None], 9, 0), n, coarse)[..., : pieces + 1]
    share = (np.arange(_PIECE) / _PIECE).astype(np.float32)
    drift = (slow[..., :-1, None] + np.diff(slow)[..., None] * share).reshape(n, 9, -1)[..., :samples]
    t = np.arange(samples)[None] / fs
    breath = np.sin(2 * np.pi * breath_hz[:, None] * t + breath_phase[:, None] + 0.6).astype(np.float32)
    drift += (0.35 * rng.standard_normal((n, 9, 1))).astype(np.float32) * breath[:, None, :]
    return np.asarray(drift * size.astype(np.float32), dtype=np.float32)


def _mains(rng: np.random.Generator, noise: NoiseConfig, n: int, fs: float, samples: int) -> F32:
    """Return the mains' hum with its third harmonic, shape = (n, 9, T)."""
    t = (np.arange(samples) / fs)[None]
    phase = rng.random((n, 2)) * 2 * np.pi
    size = noise.mains_uv / 1000 * np.sqrt(2) * np.exp(noise.spread * rng.standard_normal((n, 1)))
    hum = np.sin(2 * np.pi * noise.mains_hz * t + phase[:, :1])
    if 3 * noise.mains_hz < fs / 2:
        hum += 0.25 * np.sin(6 * np.pi * noise.mains_hz * t + phase[:, 1:])
    share = rng.uniform(0.2, 1.0, (n, 9, 1)).astype(np.float32)
    return np.asarray(share * (size * hum)[:, None, :].astype(np.float32))


def _pop(rng: np.random.Generator, electrodes: F32, fs: float) -> None:
    """Let one electrode in twenty recordings lose hold for a moment: a step that dies away."""
    n, count, samples = electrodes.shape
    for i in np.flatnonzero(rng.random(n) < 0.05):
        at, which = int(rng.integers(0, samples)), int(rng.integers(0, count))
        since = np.arange(samples - at) / fs
        size = rng.choice([-1, 1]) * 0.12 * np.exp(0.6 * rng.standard_normal())
        electrodes[i, which, at:] += (size * np.exp(-since / rng.uniform(0.06, 0.4))).astype(np.float32)
