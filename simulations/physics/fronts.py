"""How long a front takes from where it starts to every voxel: first arrival, solved once and kept.

Arrival from many starts is the earliest of the arrivals from each, so a heart's activation is made of these tables,
whoever its Purkinje fibres, blocks and foci are. Fronts run along fibres faster than across, and fastest in the layer
beneath the endocardium (Dijkstra over neighbours up to two voxels off; a plane front is late by at most 3%).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra

from simulations.physics.tissue import SPACING_CM, Scar, Tissue, atria, scarred, ventricles

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ALONG_M_S, ACROSS_M_S, FAST_M_S, ATRIAL_M_S = 0.65, 0.30, 1.0, 0.85
"""Velocity along and across ventricular fibres (Caldwell 2009 has 0.67 and 0.30), beneath the endocardium, in atria."""
BACKWARD_M_S = 0.70
"""Beneath the endocardium of a ventricle whose Purkinje fibres did not bring the front: it enters them late."""
Led = Literal["both", "left", "right", "neither"]
"""Which ventricles are led by their own Purkinje fibres."""
LED: tuple[Led, ...] = ("both", "left", "right", "neither")

# Where the fronts start: angle about the left ventricle's axis (degrees), cm along it, and on which surface.
STARTS: dict[str, tuple[float, float, str]] = {
    "anterior fascicle, paraseptal": (-50.0, 1.2, "left"),
    "anterior fascicle, papillary": (-125.0, 3.0, "left"),
    "anterior fascicle, apical": (-80.0, 4.4, "left"),
    "septal fascicle": (5.0, 2.6, "left"),
    "posterior fascicle, paraseptal": (55.0, 3.4, "left"),
    "posterior fascicle, papillary": (130.0, 3.2, "left"),
    "posterior fascicle, apical": (90.0, 4.4, "left"),
    "right bundle, septal": (0.0, 4.4, "septum"),
    "right bundle, papillary": (-25.0, 3.4, "right"),
    "right bundle, free wall": (20.0, 2.4, "right"),
    "right bundle, high free wall": (-10.0, 0.0, "right"),
    "right outflow tract": (-55.0, -2.4, "right"),
    "right apex": (0.0, 5.0, "right"),
    "left outflow tract": (-40.0, -1.6, "left"),
    "left lateral base": (180.0, -1.2, "left"),
    "left inferior base": (100.0, -1.2, "left"),
    "left apex": (180.0, 5.4, "left"),
    "left epicardium, lateral": (170.0, 1.0, "outside"),
}
NAMES = tuple(STARTS)
LEFT_ANTERIOR, LEFT_SEPTAL, LEFT_POSTERIOR, RIGHT_BUNDLE = slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 11)
PURKINJE, FOCI = slice(0, 11), slice(11, len(NAMES))
"""Which starts are a fascicle's, a bundle's, and foci of their own."""


@dataclass(frozen=True, eq=False)
class Fronts:
    """A tissue and the fronts that can run in it.

    Attributes
    ----------
    tissue : N voxels.
    delay_ms : float32 array, shape = (M, N): arrival from each start in intact muscle; inf where it never comes.
    sources : sparse matrix, shape = (3 R, N): what each voxel's potential adds to the dipole of each region; its rows
        sum to zero, so a heart at rest or all excited has none.
    """

    tissue: Tissue
    delay_ms: NDArray[np.float32]
    sources: csr_matrix


@lru_cache(maxsize=20)
def ventricular_fronts(scar: Scar = "none", led: Led = "both") -> Fronts:
    """Return the ventricles' fronts from :data:`STARTS`; solved in a tenth of a second each, once a process."""
    tissue = scarred(ventricles(), scar)
    graph = _graph(tissue, led)
    starts = [_start(tissue, *STARTS[name]) for name in NAMES]
    delay = dijkstra(graph, directed=False, indices=starts).astype(np.float32)
    # An islet that no front reaches is as dead as the scar about it.
    alive = np.isfinite(delay).any(axis=0)
    tissue, delay = tissue.rows(alive), delay[:, alive]
    return Fronts(tissue, delay, source_weights(tissue, ventricles().regions))


@lru_cache(maxsize=1)
def atrial_fronts() -> Fronts:
    """Return the atria's fronts: from the sinus node, from low in the right atrium, from the left atrium's veins."""
    tissue = atria()
    graph = _graph(tissue).tolil()
    right, left = tissue.region == 0, tissue.region == 1
    middle = tissue.centres_cm()
    # Bachmann's bundle, high and in front, and the coronary sinus, low and behind, lead across.
    for towards, across_ms in (((0.4, -0.3, 0.9), 8.0), ((0.3, 0.5, -0.8), 22.0)):
        ends = [
            tissue.nearest(middle[0] + 2.2 * np.array(towards), right),
            tissue.nearest(middle[1] + 2.2 * np.array([-1, 1, 1]) * np.array(towards), left),
        ]
        graph[ends[0], ends[1]] = graph[ends[1], ends[0]] = across_ms
    starts = [
        tissue.nearest(middle[0] + np.array([-0.8, 0.5, 2.1]), right),
        tissue.nearest(middle[0] + np.array([0.8, 0.6, -2.0]), right),
        tissue.nearest(middle[1] + np.array([1.0, 1.5, 1.2]), left),
    ]
    delay = dijkstra(graph.tocsr(), directed=False, indices=starts).astype(np.float32)
    return Fronts(tissue, delay, source_weights(tissue, 2))


def source_weights(tissue: Tissue, regions: int) -> csr_matrix:
    """Return what each voxel's potential adds to the regional dipoles, shape = (3 * regions, N), cm^3 per cm.

    Current flows from each voxel to its neighbours in proportion to the difference of their potentials; half of it
    counts to either's region. Axes are the dipole's: left, inferior, posterior.
    """
    n = len(tissue.cell)
    one, other, _ = _neighbours(tissue, [np.array(step) for step in ((1, 0, 0), (0, 1, 0), (0, 0, 1))])
    way = tissue.position_cm[other] - tissue.position_cm[one]
    way = np.stack([way[:, 0], -way[:, 2], way[:, 1]], axis=1) * SPACING_CM / 2
    rows, columns, values = [], [], []
    for region in (tissue.region[one], tissue.region[other]):
        for axis in range(3):
            rows += [3 * region + axis] * 2
            columns += [one, other]
            values += [way[:, axis], -way[:, axis]]
    shape = (3 * regions, n)
    where = (np.concatenate(rows), np.concatenate(columns))
    found = coo_matrix((np.concatenate(values), where), shape=shape).tocsr()
    found.data[np.abs(found.data) < 1e-9] = 0
    found.eliminate_zeros()
    return found


def _start(tissue: Tissue, angle: float, along: float, surface: str) -> int:
    """Return the voxel where a front starts: on a surface, nearest to an angle and a height."""
    off = np.deg2rad((tissue.angle_deg() - angle + 180) % 360 - 180)
    apart = (2.5 * off) ** 2 + (tissue.own[:, 2] - along) ** 2
    among = {
        "left": tissue.left & (tissue.depth < 0.35),
        "outside": tissue.left & (tissue.depth > 0.7),
        "septum": tissue.left & (tissue.depth > 0.7) & tissue.fast,
        "right": ~tissue.left,
    }[surface]
    return int(np.where(among, apart, np.inf).argmin())


def _steps() -> list[I64]:
    """Return the ways to neighbours up to two voxels off, each once."""
    steps = []
    for x in range(-2, 3):
        for y in range(-2, 3):
            for z in range(-2, 3):
                if (x, y, z) > (0, 0, 0) and np.gcd.reduce([x, y, z]) == 1:
                    steps.append(np.array([x, y, z]))
    return steps


def _neighbours(tissue: Tissue, steps: list[I64]) -> tuple[I64, I64, F64]:
    """Return pairs of voxels that are neighbours by one of the steps, and the step of each, cm."""
    low = tissue.cell.min(axis=0) - 3
    box = np.full(tissue.cell.max(axis=0) - low + 4, -1)
    at = tissue.cell - low
    box[tuple(at.T)] = np.arange(len(at))
    ones, others, ways = [], [], []
    for step in steps:
        other = box[tuple((at + step).T)]
        linked = other >= 0
        if np.abs(step).max() == 2:  # a long step passes between voxels, which must conduct
            for half in (np.floor(step / 2), np.ceil(step / 2)):
                linked &= box[tuple((at + half.astype(np.int64)).T)] >= 0
        ones.append(np.flatnonzero(linked))
        others.append(other[linked])
        ways.append(np.broadcast_to(step * SPACING_CM, (int(linked.sum()), 3)))
    return np.concatenate(ones), np.concatenate(others), np.concatenate(ways)


def _graph(tissue: Tissue, led: Led = "both") -> csr_matrix:
    """Return the tissue's neighbours and the time between them, ms."""
    one, other, way = _neighbours(tissue, _steps())
    length = np.linalg.norm(way, axis=1)
    if not tissue.fibre.any():
        slowness = np.full(len(one), 1 / ATRIAL_M_S)
    else:
        unit = way / length[:, None]
        slowness = np.zeros(len(one))
        for end in (one, other):
            along = ((unit * tissue.fibre[end]).sum(axis=1)) ** 2
            slowness += np.sqrt(along / ALONG_M_S**2 + (1 - along) / ACROSS_M_S**2) / 2
        # The septum's right face belongs to the right ventricle's fibres; none lead from one face to the other.
        left = tissue.left & (tissue.depth < 0.5)
        layer = tissue.fast[one] & tissue.fast[other] & (left[one] == left[other])
        for side, name in ((left[one], "left"), (~left[one], "right")):
            speed = FAST_M_S if led in ("both", name) else BACKWARD_M_S
            slowness[layer & side] = np.minimum(slowness, 1 / speed)[layer & side]
    n = len(tissue.cell)
    return coo_matrix((10 * length * slowness, (one, other)), shape=(n, n)).tocsr()
