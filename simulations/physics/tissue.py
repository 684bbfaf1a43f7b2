"""Muscle as voxels: two ventricles with their fibres, two atria, and what old infarcts leave of them.

The left ventricle is a truncated ellipsoid with a wall of 1 cm, the right one a thinner shell that leans on it. Axes
of a heart are its own: towards the right ventricle, towards the diaphragm's wall, towards the apex; :data:`AXES` lays
them into the chest. Positions are cm from the ventricles' centre of mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
B1 = NDArray[np.bool_]

SPACING_CM = 0.3

AXES = np.array([(-0.7071, -0.7071, 0.0), (-0.375, 0.375, -0.848), (0.6, -0.6, -0.53)])
AXES = AXES / np.linalg.norm(AXES, axis=1, keepdims=True)
"""The heart's own axes in the chest (left, posterior, superior), one a row: the apex points left, forwards and down."""

LV_INNER_CM, LV_WALL_CM = (2.2, 5.8), 1.0
"""Inner radius and length of the left ventricle, from the plane of its widest girth, and thickness of its wall."""
LV_BASE_CM = -2.0
RV_CENTRE_CM, RV_OUTER_CM, RV_WALL_CM, RV_BASE_CM = (2.3, 0.0, -0.3), (3.4, 3.3, 6.0), 0.45, -2.6
ATRIUM_WALL_CM = 0.35
RIGHT_ATRIUM_CM, LEFT_ATRIUM_CM = (-5.2, 1.2, 4.0), (-1.8, 5.2, 4.6)
"""Centres of the atria, cm to the left, the back and upwards of the ventricles' centre."""
ATRIUM_RADIUS_CM = 2.3

Scar = Literal["none", "anterior", "anteroseptal", "inferior", "lateral"]
SCARS: tuple[Scar, ...] = ("none", "anterior", "anteroseptal", "inferior", "lateral")
# Middle of an infarct on the left ventricle: angle in degrees (0 septum, 90 inferior, 180 lateral, -90 anterior), cm
# along the long axis; half widths; share of the wall it goes through, from inside.
_INFARCTS: dict[str, tuple[float, float, float, float, float]] = {
    "anterior": (-80.0, 3.4, 55.0, 3.0, 0.85),
    "anteroseptal": (-35.0, 3.2, 50.0, 2.6, 0.85),
    "inferior": (95.0, 1.2, 42.0, 3.2, 0.85),
    "lateral": (170.0, 1.0, 42.0, 2.8, 0.85),
}


@dataclass(frozen=True)
class Tissue:
    """N voxels of muscle.

    Attributes
    ----------
    cell : int64 array, shape = (N, 3): place on the grid of :data:`SPACING_CM`.
    position_cm : array, shape = (N, 3): left, posterior, superior of the ventricles' centre.
    fibre : array, shape = (N, 3): unit vectors in the heart's own axes; zero where conduction has no direction.
    depth : array, shape = (N,): 0 inside to 1 outside of the wall.
    fast : bool array, shape = (N,): belongs to the layer that conducts as Purkinje fibres do.
    region : int64 array, shape = (N,): which of the regional dipoles it belongs to.
    own : array, shape = (N, 3): position in the heart's own axes, cm; the left ventricle's axis is at zero.
    left : bool array, shape = (N,): of the left ventricle (or atrium).
    """

    cell: I64
    position_cm: F64
    fibre: F64
    depth: F64
    fast: B1
    region: I64
    own: F64
    left: B1

    @property
    def regions(self) -> int:
        """How many regional dipoles it has."""
        return int(self.region.max()) + 1

    def centres_cm(self) -> F64:
        """Return the middle of each region, shape = (R, 3), cm to the left, the back and upwards."""
        return np.stack([self.position_cm[self.region == r].mean(axis=0) for r in range(self.regions)])

    def nearest(self, own_cm: F64, among: B1 | None = None) -> int:
        """Return the voxel nearest to a place in the heart's own axes."""
        apart = ((self.own - own_cm) ** 2).sum(axis=1)
        return int(np.where(True if among is None else among, apart, np.inf).argmin())

    def angle_deg(self) -> F64:
        """Return the angle about the left ventricle's axis: 0 at the septum, 90 inferior, 180 lateral."""
        return np.asarray(np.degrees(np.arctan2(self.own[:, 1], self.own[:, 0])))

    def rows(self, kept: B1) -> Tissue:
        """Return it without the voxels that are not kept; regions keep their numbers."""
        return Tissue(**{name: getattr(self, name)[kept] for name in self.__dataclass_fields__})


@lru_cache(maxsize=1)
def ventricles() -> Tissue:
    """Return both ventricles."""
    grid = np.stack(np.meshgrid(*(np.arange(-14, 25),) * 3, indexing="ij"), -1).reshape(-1, 3)
    own = np.asarray(grid * SPACING_CM, dtype=np.float64)
    depth = _wall_depth(own)
    base = own[:, 2] >= LV_BASE_CM
    left = (depth >= 0) & (depth <= 1) & base
    inside_left = (depth <= 1) & base | (depth <= 1) & (own[:, 2] < LV_BASE_CM)
    rv_depth = _rv_depth(own)
    right = (rv_depth >= 0) & (rv_depth <= 1) & ~inside_left & (own[:, 2] >= RV_BASE_CM)
    cavity = (rv_depth < 0) & ~inside_left & (own[:, 2] >= RV_BASE_CM)
    kept = left | right
    touching = _touches(grid, cavity)[kept]
    own, cell, left = np.asarray(own[kept], dtype=np.float64), grid[kept], left[kept]
    depth = np.where(left, depth[kept], rv_depth[kept])
    # Purkinje fibres spread beneath the endocardium of both ventricles, but not up to the base.
    layered = own[:, 2] > np.where(left, -1.3, -1.8)
    fast = layered & np.where(left, (depth < SPACING_CM / LV_WALL_CM) | (touching & (own[:, 2] > 1.0)), touching)
    centred = own - own.mean(axis=0)
    return Tissue(cell, centred @ AXES, _fibres(own, left, depth), depth, fast, _regions(own, left), own, left)


@lru_cache(maxsize=1)
def atria() -> Tissue:
    """Return both atria: shells about their centres, region 0 right, 1 left; ``own`` is left, posterior, superior."""
    parts: list[tuple[I64, F64, I64]] = []
    for number, centre in enumerate((RIGHT_ATRIUM_CM, LEFT_ATRIUM_CM)):
        size = round(ATRIUM_RADIUS_CM / SPACING_CM) + 1
        grid = np.stack(np.meshgrid(*(np.arange(-size, size + 1),) * 3, indexing="ij"), -1).reshape(-1, 3)
        away = np.linalg.norm(grid * SPACING_CM, axis=1)
        kept = (away <= ATRIUM_RADIUS_CM) & (away >= ATRIUM_RADIUS_CM - ATRIUM_WALL_CM)
        at = grid[kept]
        place = at * SPACING_CM + np.array(centre)
        n = len(at)
        parts.append((at + np.array([100 * number, 0, 0]), place, np.full(n, number)))
    cell, place, side = (np.concatenate([part[i] for part in parts]) for i in range(3))
    n = len(cell)
    return Tissue(cell, place, np.zeros((n, 3)), np.full(n, 0.5), np.zeros(n, dtype=bool), side, place, side == 1)


def scarred(tissue: Tissue, scar: Scar) -> Tissue:
    """Return the ventricles without what an old infarct turned into scar: it neither conducts nor acts."""
    if scar == "none":
        return tissue
    angle, along, wide, tall, through = _INFARCTS[scar]
    off = (tissue.angle_deg() - angle + 180) % 360 - 180
    inside = (off / wide) ** 2 + ((tissue.own[:, 2] - along) / tall) ** 2 <= 1
    return tissue.rows(~(tissue.left & inside & (tissue.depth <= through)))


def _wall_depth(own: F64) -> F64:
    """Return where in the left ventricle's wall a place lies: below 0 in its cavity, above 1 outside of it."""
    girth = np.hypot(own[:, 0], own[:, 1])
    low, high = np.full(len(own), -2.0), np.full(len(own), 6.0)
    for _ in range(30):
        middle = (low + high) / 2
        outside = (girth / (LV_INNER_CM[0] + middle)) ** 2 + (own[:, 2] / (LV_INNER_CM[1] + middle)) ** 2 > 1
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return np.asarray((low + high) / 2 / LV_WALL_CM)


def _rv_depth(own: F64) -> F64:
    away = own - np.array(RV_CENTRE_CM)
    low, high = np.full(len(own), -2.5), np.full(len(own), 6.0)
    inner = np.array(RV_OUTER_CM) - RV_WALL_CM
    for _ in range(30):
        middle = (low + high) / 2
        outside = ((away / (inner + middle[:, None])) ** 2).sum(axis=1) > 1
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return np.asarray((low + high) / 2 / RV_WALL_CM)


def _touches(grid: I64, cavity: B1) -> B1:
    """Mark the voxels with a neighbour in the cavity."""
    low = grid.min(axis=0)
    box = np.zeros(grid.max(axis=0) - low + 3, dtype=bool)
    box[tuple((grid[cavity] - low + 1).T)] = True
    at = grid - low + 1
    steps = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
    return np.asarray(np.any([box[tuple((at + step).T)] for step in steps], axis=0))


def _fibres(own: F64, left: B1, depth: F64) -> F64:
    """Return fibre directions: they turn from 60 degrees inside to -60 outside of the left wall (Streeter 1969)."""
    away = np.where(left[:, None], own, own - np.array(RV_CENTRE_CM))
    size = np.where(left[:, None], [LV_INNER_CM[0], LV_INNER_CM[0], LV_INNER_CM[1]], RV_OUTER_CM)
    normal = away / size**2
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    round_ = np.cross(np.array([0.0, 0.0, 1.0]), normal)
    round_ /= np.maximum(np.linalg.norm(round_, axis=1, keepdims=True), 1e-9)
    along = np.cross(normal, round_)
    turn = np.deg2rad(np.where(left, 60.0, 40.0) * (1 - 2 * np.clip(depth, 0, 1)))[:, None]
    return np.asarray(np.cos(turn) * round_ + np.sin(turn) * along)


def _regions(own: F64, left: B1) -> I64:
    """Return 17 regions: the left ventricle's wall in three rings of four and its apex, the right one's in four."""
    angle = np.degrees(np.arctan2(own[:, 1], own[:, 0]))
    quarter = np.floor(((angle + 45) % 360) / 90).astype(np.int64)
    ring = np.digitize(own[:, 2], [0.6, 3.0, 5.0])
    of_left = np.where(ring == 3, 12, 4 * np.minimum(ring, 2) + quarter)
    of_right = 13 + 2 * (own[:, 1] > 0) + (own[:, 2] > 1.2)
    return np.asarray(np.where(left, of_left, of_right))
