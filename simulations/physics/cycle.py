"""One beat as the leads see it: action potentials of all voxels, summed region by region, each through its lead field.

A voxel's potential rises when the front comes and falls when its action potential is over. What the leads see is
linear in both, so each beat is three histograms over time (of the currents at activation, at activation by what the
plateau lacks, and at repolarisation) folded with the shape of the potential.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.special import ndtr

from simulations.physics.torso import Anatomy, breathing_field, rotation

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

STEP_MS = 2.0
"""Step of what is made here; a recording is read off in between."""
EARLY_STEPS, LATE_STEPS, LATE_BIN = 160, 450, 4
"""Length of what comes of activation and of repolarisation, in steps; repolarisation is binned four steps wide."""
LEAD_STEPS = 15
"""Steps before a beat's beginning with which every wave starts."""
UPSTROKE_MS = 0.7
"""Standard deviation of the rise of a voxel's potential: what is left of it beside the spread of arrivals."""


@dataclass(frozen=True)
class Waves:
    """What eight leads see of n beats, mV, from 30 ms before each beat's beginning, at held breath and per breath.

    Attributes
    ----------
    early : array, shape = (n, 16, EARLY_STEPS): of activation (QRS, or P); eight leads, then their change with breath.
    late : array, shape = (n, 16, LATE_STEPS): of plateau and repolarisation (ST, T).
    """

    early: F32
    late: F32


@dataclass(frozen=True)
class RepolarisationShape:
    """How the potential falls: time constants of its slow beginning and its faster end, ms, shape = (n,) each."""

    rise_ms: F64
    fall_ms: F64


def region_fields(
    anatomy: Anatomy, electrodes_cm: F64, offsets_cm: F64, *, apart: float, depth: F64 | None = None
) -> F32:
    """Return what eight leads see of a dipole in each region, and how that changes with breath.

    Parameters
    ----------
    anatomy : n hearts. electrodes_cm : array, shape = (n, 10, 3).
    offsets_cm : array, shape = (R, 3) or (n, R, 3): of the regions from the heart's centre, before it is turned.
    apart : how far apart the leads see them, 1 as in an empty chest; bone, lung and fat blur what is near.
    depth : array, shape = (n,): of breathing, see :func:`simulations.physics.torso.project`.

    Returns
    -------
    array, shape = (n, 16, 3 R), mV per unit of source.
    """
    n = len(anatomy.scale)
    offsets = np.broadcast_to(offsets_cm, (n, *np.shape(offsets_cm)[-2:]))
    axes = np.stack([offsets[..., 0], -offsets[..., 2], offsets[..., 1]], axis=-1)
    turned = np.einsum("nij,nrj->nri", rotation(anatomy.turn_rad), axes) * apart
    moved = np.stack([turned[..., 0], turned[..., 2], -turned[..., 1]], axis=-1)
    out = np.empty((n, 16, offsets.shape[1], 3))
    for r in range(offsets.shape[1]):
        here = Anatomy(anatomy.heart_cm + moved[:, r], anatomy.turn_rad, anatomy.scale, anatomy.chest_gain)
        inward, outward = (breathing_field(here, electrodes_cm, sign, depth) for sign in (1.0, -1.0))
        out[:, :8, r], out[:, 8:, r] = (inward + outward) / 2, (inward - outward) / 2
    return out.reshape(n, 16, -1).astype(np.float32)


def ventricular_waves(
    sources: csr_matrix, fields: F32, activation_ms: F32, duration_ms: F32, lack: F32, shape: RepolarisationShape
) -> Waves:
    """Return the QRS, ST and T of n beats.

    Parameters
    ----------
    sources : what each of N voxels adds to the regional dipoles, shape = (3 R, N).
    fields : array, shape = (n, 16, 3 R).
    activation_ms, duration_ms : arrays, shape = (n, N): when each voxel is reached, and how long its action
        potential lasts, at an RR interval of 1 s.
    lack : array, shape = (n, N): by which share the plateau of a voxel's potential stays below the others'.
    """
    table = sources.tocoo()
    early, flat = _binned(table, activation_ms / STEP_MS, EARLY_STEPS, lack)
    bins = LATE_STEPS // LATE_BIN
    late, _ = _binned(table, (activation_ms + duration_ms) / (STEP_MS * LATE_BIN), bins)
    rise, plateau = _rise(), _plateau()
    waves = np.matmul(fields, early) @ rise
    rest = np.matmul(fields, flat) @ plateau - _fallen(np.matmul(fields, late), shape)
    return Waves(waves.astype(np.float32), rest.astype(np.float32))


def atrial_waves(sources: csr_matrix, fields: F32, activation_ms: F32, duration_ms: F64) -> Waves:
    """Return P waves: of activation, and of the atria's own repolarisation, low and the other way."""
    table = sources.tocoo()
    early, _ = _binned(table, activation_ms / STEP_MS, EARLY_STEPS)
    late, _ = _binned(table, (activation_ms + duration_ms[:, None]) / (STEP_MS * LATE_BIN), LATE_STEPS // LATE_BIN)
    slow = RepolarisationShape(np.full(len(fields), 45.0), np.full(len(fields), 30.0))
    waves = np.matmul(fields, early) @ _rise(5.0)
    return Waves(waves.astype(np.float32), (-_fallen(np.matmul(fields, late), slow)).astype(np.float32))


def _binned(
    table: coo_matrix, time: NDArray[np.floating[Any]], bins: int, weight: F32 | None = None
) -> tuple[F32, F32]:
    """Return the currents of n beats by region and time, shape = (n, 3 R, bins), and the same by a weight of voxels.

    A voxel's current is shared by the two bins beside its time; ``weight`` has shape = (n, N).
    """
    rows, columns, values = table.row, table.col, table.data
    count = table.shape[0] * bins
    out = np.empty((len(time), table.shape[0], bins), dtype=np.float32)
    weighted = np.empty_like(out if weight is not None else out[:0])
    start = rows * bins
    for i, when in enumerate(time):
        at = np.clip(when, 0, bins - 1.001)
        first = at.astype(np.int64)
        place = start + first[columns]
        later = values * (at - first)[columns]
        sooner = values - later
        out[i] = _summed(place, sooner, later, count).reshape(out.shape[1:])
        if weight is not None:
            share = weight[i][columns]
            weighted[i] = _summed(place, sooner * share, later * share, count).reshape(out.shape[1:])
    return out, weighted


def _summed(place: NDArray[np.int64], sooner: F64, later: F64, count: int) -> F64:
    """Return the sum of currents in each bin and the one after it; the last of a region never has one after it."""
    found: F64 = np.bincount(place, sooner, count).astype(np.float64, copy=False)
    found[1:] += np.bincount(place, later, count)[:-1]
    return found


@lru_cache(maxsize=8)
def _rise(width_ms: float = UPSTROKE_MS) -> F32:
    """Return what activation in each bin is at each step, shape = (EARLY_STEPS, EARLY_STEPS)."""
    since = (np.arange(EARLY_STEPS)[None] - LEAD_STEPS - np.arange(EARLY_STEPS)[:, None]) * STEP_MS
    return np.asarray(ndtr(since / width_ms), dtype=np.float32)


@lru_cache(maxsize=8)
def _plateau() -> F32:
    """Return the notch of the plateau: it opens 10 ms after the upstroke and closes as the potential falls."""
    since = (np.arange(LATE_STEPS)[None] - LEAD_STEPS - np.arange(EARLY_STEPS)[:, None]) * STEP_MS
    return np.asarray(-ndtr((since - 12) / 7) * (1 - ndtr((since - 190) / 60)), dtype=np.float32)


def _fallen(lead_bins: F32, shape: RepolarisationShape) -> F32:
    """Return what repolarisation in each bin makes of each lead: folded with how the potential falls in each heart.

    The rate of fall is a product of two logistic functions, slow in front and fast behind (van Oosterom 2004).

    Parameters
    ----------
    lead_bins : array, shape = (n, leads, LATE_STEPS / LATE_BIN).
    """
    fine = (np.arange(800) - 400) * STEP_MS
    rise, fall = (np.broadcast_to(part, len(lead_bins))[:, None] for part in (shape.rise_ms, shape.fall_ms))
    rate = 1 / (1 + np.exp(-np.clip(fine / rise * 2.2, -60, 60))) / (1 + np.exp(np.clip(fine / fall * 2.2, -60, 60)))
    fallen = (np.cumsum(rate, axis=1) / rate.sum(axis=1, keepdims=True)).astype(np.float32)
    since = np.arange(LATE_STEPS)[None] - LEAD_STEPS - np.arange(LATE_STEPS // LATE_BIN)[:, None] * LATE_BIN
    folded: F32 = np.matmul(lead_bins, fallen[:, np.clip(since + 400, 0, 799)])
    return folded
