"""Atria without a sinus beat: the circling front of flutter, the wavelets of fibrillation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulations.physics.fronts import atrial_fronts

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_BINS = 64


@lru_cache(maxsize=1)
def flutter_cycle() -> F32:
    """Return both atria's dipoles over one turn of a front about the tricuspid valve, shape = (6, 64), unit of source.

    The front goes up the septum and down the free wall (counter-clockwise, as most do); the left atrium follows.
    """
    fronts = atrial_fronts()
    tissue = fronts.tissue
    axis = np.array([0.6, -0.7, -0.2]) / np.linalg.norm([0.6, -0.7, -0.2])  # left, posterior, superior: to the valve
    up = np.array([0.0, 0.0, 1.0]) - axis[2] * axis
    up /= np.linalg.norm(up)
    side = np.cross(axis, up)
    centred = tissue.position_cm - np.where(tissue.left[:, None], tissue.centres_cm()[1], tissue.centres_cm()[0])
    turn = np.arctan2(centred @ side, centred @ up) / (2 * np.pi)
    septal = 0.25 * np.sign(side @ np.array([1.0, 0.0, 0.0]))
    # The left atrium is reached from the septum, and crossed in a third of a turn.
    phase = np.where(tissue.left, septal + 0.1 + 0.35 * (centred @ np.array([0.7, 0.6, -0.3]) / 4.6 + 0.5), -turn) % 1
    since = (np.arange(_BINS)[:, None] / _BINS - phase[None]) % 1
    rise = np.clip(since / 0.05, 0, 1)
    potential = rise * (1 - np.clip((since - 0.35) / 0.5, 0, 1))
    return np.asarray(fronts.sources @ potential.T, dtype=np.float32)


def flutter(cycle_s: float, phase: float, times_s: F64) -> F32:
    """Return both atria's dipoles during flutter, shape = (6, T)."""
    held = flutter_cycle()
    at = ((times_s / cycle_s + phase) % 1) * _BINS
    first = at.astype(np.int64)
    share = (at - first).astype(np.float32)
    return np.asarray(held[:, first % _BINS] * (1 - share) + held[:, (first + 1) % _BINS] * share)


def fibrillation(rng: np.random.Generator, times_s: F64) -> F32:
    """Return both atria's dipoles during fibrillation, shape = (6, T): wavelets that turn, drift, come and go."""
    out = np.zeros((6, len(times_s)), dtype=np.float32)
    usual = float(rng.uniform(4.8, 7.2))
    for wavelet in range(5):
        hz = usual * (1 + 0.09 * rng.standard_normal())
        drift = 0.8 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * times_s + rng.uniform(0, 6.3))
        phase = 2 * np.pi * hz * times_s + drift + rng.uniform(0, 6.3)
        size = 1 + 0.6 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * times_s + rng.uniform(0, 6.3))
        plane = np.linalg.qr(rng.standard_normal((3, 2)))[0]
        # Steeper where the front breaks: a second harmonic.
        x, y = np.cos(phase) + 0.3 * np.cos(2 * phase), np.sin(phase) + 0.3 * np.sin(2 * phase)
        atrium = slice(0, 3) if wavelet < 3 else slice(3, 6)
        out[atrium] += (size * (plane @ np.stack([x, y]))).astype(np.float32)
    return out * np.float32(0.28 * flutter_cycle().std())
