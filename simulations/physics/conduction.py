"""When each part of the ventricles is reached: fascicles and bundles, blocks, fibrosis, scars and foci of their own.

Nothing here knows of leads. Fibrosis slows the front and scatters its arrival by what a sheet with obstacles does
(:func:`simulations.physics.disease.conduct`), most where walls are strained most; it also delays the thin fascicles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulations.physics.disease import MAX_FIBROSIS, conduct
from simulations.physics.fronts import (
    FOCI,
    LEFT_ANTERIOR,
    LEFT_POSTERIOR,
    LEFT_SEPTAL,
    NAMES,
    PURKINJE,
    RIGHT_BUNDLE,
    Fronts,
    ventricular_fronts,
)
from simulations.physics.tissue import Scar, Tissue
from simulations.physics.traits import Traits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
B1 = NDArray[np.bool_]

BLOCKS = ("left_bundle", "right_bundle", "left_anterior", "left_posterior")
_WITHIN = np.array([0.0, 4.0, 5.0, 0.0, 0.0, 5.0, 6.0, 0.0, 1.5, 4.0, 14.0])
"""From a fascicle's or bundle's arrival to each of its places, ms."""
_FASCICLE_MS = np.array([55.0] * 3 + [12.0] + [14.0] * 3 + [20.0] * 4)
"""How much later a fascicle arrives in a heart of :data:`MAX_FIBROSIS`: the thin anterior one suffers most."""


ROUGH_SHARE = 0.19
"""Standard deviation of arrival in healthy muscle, as a share of the first 25 ms of a front's way: it is not smooth."""


@dataclass(frozen=True)
class Ailments:
    """What n hearts have, apart from fibrosis; shape = (n,) each.

    ``block``: bool array, shape = (n, 4), by :data:`BLOCKS`. ``scar``: names of :data:`tissue.SCARS`.
    ``hypertrophy``: how much thicker the left ventricle's wall is, 0 to 1. ``paced``: from the right apex.
    """

    block: B1
    scar: NDArray[np.str_]
    hypertrophy: F64
    paced: B1


def none_of(n: int) -> Ailments:
    """Return n hearts with no ailment."""
    flag = np.zeros(n, dtype=bool)
    return Ailments(np.zeros((n, len(BLOCKS)), dtype=bool), np.full(n, "none"), np.zeros(n), flag)


def onsets_ms(traits: Traits, ailments: Ailments, fibrosis: F64) -> F32:
    """Return when each Purkinje ending fires, shape = (n, 11), ms from a heart's first; inf where it is blocked."""
    arrives = np.empty((len(traits), PURKINJE.stop))
    for group, name in (
        (LEFT_ANTERIOR, "anterior"),
        (LEFT_SEPTAL, "septal"),
        (LEFT_POSTERIOR, "posterior"),
        (RIGHT_BUNDLE, "right"),
    ):
        arrives[:, group] = traits[name][:, None]
    arrives += _WITHIN + np.outer((fibrosis / MAX_FIBROSIS) ** 1.5, _FASCICLE_MS)
    left, right, anterior, posterior = ailments.block.T
    arrives[left, : RIGHT_BUNDLE.start] = np.inf
    arrives[right, RIGHT_BUNDLE] = np.inf
    arrives[anterior, LEFT_ANTERIOR] = np.inf
    arrives[posterior, LEFT_POSTERIOR] = np.inf
    return np.asarray(arrives - arrives.min(axis=1, keepdims=True), dtype=np.float32)


def focus_ms(n: int, focus: NDArray[np.int64]) -> F32:
    """Return the onsets of beats that begin at one focus each, an index into :data:`NAMES` past the fascicles."""
    onset = np.full((n, len(NAMES)), np.inf, dtype=np.float32)
    onset[np.arange(n), focus] = 0
    return onset


def activation_ms(fronts: Fronts, onset: F32, slow: F64, fibrosis: F64, own: F64, hypertrophy: F64) -> F32:
    """Return when each voxel is reached, shape = (n, N), ms.

    Parameters
    ----------
    onset : array, shape = (n, M), M starts of :data:`fronts.NAMES`, the first of them.
    slow : array, shape = (n,): multiplies travel times.
    fibrosis : array, shape = (n,). own : array, shape = (n, 3): standard normal, where a person's fibrosis lies.
    hypertrophy : array, shape = (n,): a thicker wall takes longer to cross.
    """
    n = len(onset)
    best = np.full((n, fronts.delay_ms.shape[1]), np.inf, dtype=np.float32)
    start = np.zeros_like(best)
    scale = (slow * (1 + 0.28 * hypertrophy)).astype(np.float32)
    for m in range(onset.shape[1]):
        rows = np.flatnonzero(np.isfinite(onset[:, m]))
        if not len(rows):
            continue
        arrival = scale[rows, None] * fronts.delay_ms[m] + onset[rows, m, None]
        earlier = arrival < best[rows]
        best[rows] = np.where(earlier, arrival, best[rows])
        start[rows] = np.where(earlier, onset[rows, m, None], start[rows])
    path = best - start
    where, fine = _fields(fronts)
    mix = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-9)
    local = np.maximum(where[0] * (1 + 0.35 * (own @ where[1:])), 0.1)
    found = conduct(np.clip(fibrosis, 0, MAX_FIBROSIS))
    rough = (mix @ fine).astype(np.float32)
    scattered = np.minimum(path, 25.0) * np.float32(ROUGH_SHARE) + path * found.dispersion[:, None].astype(np.float32)
    path *= (1 + (found.delay - 1)[:, None] * local).astype(np.float32)
    return np.asarray(start + np.maximum(path + scattered * rough, 0), dtype=np.float32)


@lru_cache(maxsize=32)
def _fields(fronts: Fronts) -> tuple[F64, F64]:
    """Return where fibrosis lies, shape = (4, N): its mean and three ways of differing; and three rough fields."""
    tissue = fronts.tissue
    angle, along = np.deg2rad(tissue.angle_deg()), tissue.own[:, 2]
    # Walls are strained most, and scar over most, at the base and away from the septum.
    mean = np.where(tissue.left, 1.0 - 0.30 * np.cos(angle) - 0.10 * along, 0.5)
    ways = np.stack([np.cos(angle), np.sin(angle), (along - 2) / 3])
    rough = np.random.default_rng(1993).standard_normal((3, len(along)))
    cells = np.floor(tissue.own / 0.9).astype(np.int64)
    _, patch = np.unique(cells, axis=0, return_inverse=True)
    coarse = np.random.default_rng(1994).standard_normal((3, int(patch.max()) + 1))[:, patch.ravel()]
    return np.concatenate([np.clip(mean, 0.2, 2.0)[None], ways]), (rough + coarse) / np.sqrt(2)


def durations_ms(traits: Traits, tissue: Tissue, rest_ms: F32) -> F32:
    """Return how long action potentials last, shape = (n, N), ms at an RR of 1 s.

    They follow where a voxel lies and when it is reached in health (``rest_ms``, shape = (N,)), not when it is reached
    now: so after a block T turns against QRS.
    """
    basis = _basis(tissue)
    slope = (rest_ms - rest_ms.mean())[None]
    names = ("t_depth", "t_apex", "t_right", "t_inferior", "t_lateral")
    out = traits["apd"][:, None] + traits["t_slope"][:, None] * slope + traits.stack(*names) @ basis
    return np.asarray(out, dtype=np.float32)


def plateau_lack(traits: Traits, tissue: Tissue) -> F32:
    """Return by which share each voxel's plateau is lower, shape = (n, N): what lifts or lowers ST."""
    names = ("j_depth", "j_apex", "j_right", "j_inferior", "j_lateral")
    return np.asarray(traits.stack(*names) @ _basis(tissue), dtype=np.float32)


def _basis(tissue: Tissue) -> F64:
    """Return depth, way to the apex, right, inferior, lateral of each voxel, centred, shape = (5, N)."""
    angle = np.deg2rad(tissue.angle_deg())
    left = tissue.left
    ways = [
        tissue.depth,
        tissue.own[:, 2] / 5,
        (~left).astype(np.float64),
        np.where(left, np.sin(angle), 0.0),
        np.where(left, -np.cos(angle), 0.0),
    ]
    return np.stack([way - way.mean() for way in ways])


def region_strengths(traits: Traits, hypertrophy: F64) -> F64:
    """Return how strong each regional dipole is, shape = (n, 17), of unit mean size before ``size``."""
    quarters = traits.stack("w_septum", "w_inferior", "w_lateral", "w_anterior")
    thick = np.log1p(0.9 * hypertrophy)[:, None]
    log = np.empty((len(traits), 17))
    for ring in range(3):
        log[:, 4 * ring : 4 * ring + 4] = quarters + thick + (traits["w_base"][:, None] if ring == 0 else 0.0)
    log[:, 12] = traits["w_apex"] + thick[:, 0]
    log[:, 13:] = traits["w_right"][:, None]
    log[:, [13, 15]] += 0.35 * traits["w_base"][:, None]  # the right ventricle's base too
    return np.asarray(np.exp(log + traits["size"][:, None]))


@lru_cache(maxsize=32)
def rest_ms(scar: Scar = "none") -> F32:
    """Return when each voxel left by a scar is reached in a usual heart without ailments, shape = (N,), ms."""
    whole, fronts = ventricular_fronts(), ventricular_fronts(scar)
    usual = np.array([2.0] * 3 + [0.0] + [2.0] * 3 + [7.0] * 4) + _WITHIN
    arrival = (usual[:, None] + whole.delay_ms[PURKINJE]).min(axis=0)
    if scar == "none":
        return np.asarray(arrival)
    place = {tuple(cell): i for i, cell in enumerate(whole.tissue.cell.tolist())}
    return np.asarray(arrival[[place[tuple(cell)] for cell in fronts.tissue.cell.tolist()]])


FOCUS_NUMBERS = range(FOCI.start, FOCI.stop)
