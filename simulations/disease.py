"""What fibrosis, age, sex and body size do to the heart's electricity, and what they do to survival.

Fibrosis acts on QRS through conduction in a two-dimensional sheet with obstacles, solved beforehand
(:func:`solve_sheet`, :data:`CONDUCTION`): the front goes round collagen strands, arrives later and less
together (zigzag conduction, de Bakker 1993, doi 10.1161/01.CIR.88.3.915).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from ecgshared.config import Config
from ecgshared.errors import ConfigError
from simulations import heart as h
from simulations.torso import REFERENCE_HEART_CM, Anatomy

F64 = NDArray[np.float64]

MAX_FIBROSIS = 0.45
"""Beyond it the sheet begins to fall apart into islands."""
SHAPE_TRAITS = 24
"""Standard normal traits of a person's heart and chest beside the eight of :class:`People` ``electrical``."""


@dataclass(frozen=True)
class Conduction:
    """How a front crosses fibrotic tissue, against intact tissue.

    ``delay``: mean arrival time over that without obstacles. ``dispersion``: standard deviation of arrival
    across the sheet, as a share of the undelayed travel time.
    """

    delay: F64
    dispersion: F64


def solve_sheet(
    fibrosis: float,
    *,
    length: int = 120,
    width: int = 160,
    strand: int = 5,
    seeds: tuple[int, ...] = tuple(range(8)),
) -> Conduction:
    """Solve first arrival of a plane front in a sheet with obstacles (Dijkstra, 16 neighbours).

    Parameters
    ----------
    fibrosis : share of cells that obstacles block, 0..MAX_FIBROSIS.
    length, width : cells along and across the front's way.
    strand : cells an obstacle extends across the way.
    seeds : one sheet each; the result is their mean.

    Returns
    -------
    Conduction of scalars (arrays of shape ()).
    """
    if not 0 <= fibrosis <= MAX_FIBROSIS:
        raise ConfigError("fibrosis is out of range", value=fibrosis, allowed=f"0..{MAX_FIBROSIS}")
    results = [_solve_one(fibrosis, length, width, strand, seed) for seed in seeds]
    mean = np.mean(results, axis=0)
    return Conduction(np.asarray(mean[0]), np.asarray(mean[1]))


def _solve_one(fibrosis: float, length: int, width: int, strand: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    blocked = np.zeros((width, length), dtype=bool)
    while (missing := fibrosis * blocked.size - blocked.sum()) > 0:
        count = max(int(missing / strand), 1)
        y, x = rng.integers(0, width, count), rng.integers(0, length, count)
        for k in range(strand):
            blocked[(y + k) % width, x] = True
    node = np.arange(blocked.size).reshape(width, length)
    sources, targets, weights = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)):
        ys = np.arange(width - dy)[:, None]
        xs = (np.arange(length - dx) if dx > 0 else np.arange(-dx, length))[None]
        shut = blocked[ys, xs] | blocked[ys + dy, xs + dx]
        # A knight's step passes between two cells; both must conduct.
        if abs(dx) == 2:
            shut = shut | blocked[ys, xs + dx // 2] | blocked[ys + dy, xs + dx // 2]
        elif dy == 2:
            shut = shut | blocked[ys + 1, xs] | blocked[ys + 1, xs + dx]
        sources.append(node[ys, xs][~shut])
        targets.append(node[ys + dy, xs + dx][~shut])
        weights.append(np.full((~shut).sum(), np.hypot(dx, dy)))
    edges = (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets)))
    graph = coo_matrix(edges, shape=(blocked.size, blocked.size)).tocsr()
    arrival = dijkstra(graph, directed=False, indices=node[~blocked[:, 0], 0], min_only=True).reshape(width, length)
    end = slice(length - 10, length)
    ratio = arrival[:, end] / np.arange(length)[None, end]
    ratio = ratio[np.isfinite(ratio)]
    return float(ratio.mean()), float(ratio.std())


# fibrosis, delay, dispersion: solve_sheet() at its defaults; a test solves one row again.
CONDUCTION = np.array(
    [
        (0.00, 1.0000, 0.0000),
        (0.05, 1.0199, 0.0083),
        (0.10, 1.0414, 0.0124),
        (0.15, 1.0730, 0.0183),
        (0.20, 1.1126, 0.0273),
        (0.25, 1.1870, 0.0363),
        (0.30, 1.2642, 0.0608),
        (0.35, 1.3726, 0.0735),
        (0.40, 1.6276, 0.0928),
        (0.45, 1.9845, 0.1605),
    ]
)


def conduct(fibrosis: F64) -> Conduction:
    """Look up delay and dispersion for an array of fibrosis fractions (linear between solved sheets)."""
    return Conduction(
        np.interp(fibrosis, CONDUCTION[:, 0], CONDUCTION[:, 1]),
        np.interp(fibrosis, CONDUCTION[:, 0], CONDUCTION[:, 2]),
    )


class WaveformEffects(Config):
    """How strongly fibrosis shows in the ECG. All zero: it does not (the null scenario)."""

    conduction: float = Field(default=1.0, ge=0, description="share of the sheet's delay and dispersion that QRS takes")
    left_axis_deg: float = Field(default=40.0, ge=0, description="turn of the terminal QRS vector at 0.45")
    backward_deg: float = Field(default=10.0, ge=0, description="turn of QRS to the back at 0.45: a late transition")
    r_loss: float = Field(default=0.65, ge=0, le=1, description="share of the anterior initial force lost at 0.45")


class HazardEffects(Config):
    """Log hazard ratios. Rates are per person-year for a man of 65 without heart failure or fibrosis."""

    arrhythmic_fibrosis: float = Field(default=13.0, description="per unit of fibrosis fraction")
    arrhythmic_age: float = Field(default=0.03, description="per year of age")
    arrhythmic_male: float = 0.35
    arrhythmic_heart_failure: float = 0.4
    vfvt_ratio: float = Field(default=0.5, ge=0, description="rate of survived VF/VT over that of arrhythmic death")
    pump_rate: float = Field(default=0.008, ge=0, description="non-arrhythmic cardiac death")
    pump_age: float = 0.07
    pump_heart_failure: float = 1.2
    other_rate: float = Field(default=0.010, ge=0, description="non-cardiac death")
    other_age: float = 0.09
    other_male: float = 0.3
    arrest_rate: float = Field(
        default=0.012, gt=0, description="arrest that no arrhythmia began: bleeding, suffocation"
    )
    arrest_age: float = 0.015
    arrest_heart_failure: float = 0.3
    mi_rate: float = Field(default=0.008, ge=0, description="acute myocardial infarction, survived")
    mi_age: float = 0.03


_SCATTER = ("position", "electrical", "shape")


@dataclass(frozen=True)
class People:
    """Latent and measured traits of n persons at entry; every array has shape = (n,).

    ``position`` (n, 6) are standard normal traits of the anatomy, ``electrical`` (n, 8) and ``shape``
    (n, SHAPE_TRAITS) of the heart and the chest: the person's own scatter, the same in all of their ECGs.
    """

    age: F64
    male: NDArray[np.bool_]
    bmi: F64
    heart_failure: NDArray[np.bool_]
    fibrosis: F64
    lvef: F64
    position: F64
    electrical: F64
    shape: NDArray[np.float32]

    def rows(self, index: NDArray[np.int64], age: F64, *, scatter: bool = True) -> People:
        """Return the persons of ``index`` (one per ECG) at ``age``; without scatter, its columns are not copied."""
        taken = {name: getattr(self, name)[index] for name in self.__dataclass_fields__ if name not in _SCATTER}
        for name in _SCATTER:
            own = getattr(self, name)
            taken[name] = own[index] if scatter else np.empty((len(index), 0), own.dtype)
        return People(**{**taken, "age": age})


def anatomy_of(people: People) -> Anatomy:
    """Return heart position and turn: more horizontal with weight and age, larger in men and the lean."""
    z, bmi, age = people.position, people.bmi - 26.0, people.age - 60.0
    frontal = 16.0 - 1.0 * bmi - 0.25 * age + 13.0 * z[:, 0]
    vertical = 11.0 * z[:, 1]
    tilt = 7.0 * z[:, 2]
    shift = np.stack([0.7 * z[:, 3] + 0.04 * bmi, 0.5 * z[:, 4], 0.7 * z[:, 5] + 0.06 * bmi], axis=1)
    scale = np.exp(0.16 * people.electrical[:, 0] - 0.02 * bmi - 0.002 * age + np.where(people.male, 0.08, -0.08))
    return Anatomy(
        REFERENCE_HEART_CM + shift,
        np.deg2rad(np.clip(np.stack([frontal, vertical, tilt], 1), -60, 60)),
        scale,
    )


def heart_of(people: People, effects: WaveformEffects) -> h.Heart:
    """Return the shape of each heart: fibrosis on QRS; age and sex on voltage, intervals, ST and T."""
    n, e = len(people.age), people.electrical
    male, age = people.male.astype(np.float64), people.age - 60.0
    p, qrs, t = (h.reference_part(name, n) for name in ("p", "qrs", "t"))

    # The table's posterior force is small beside measured V1-V3; ordinary S waves need about twice it.
    back = np.exp(0.7 + 0.25 * e[:, 1])
    qrs = _scaled(qrs, axis=2, kernels=slice(-1, None), by=back)
    qrs = _scaled(qrs, axis=2, kernels=slice(-2, -1), by=np.exp(0.20 * e[:, 2]))
    qrs = _scaled(qrs, axis=1, kernels=slice(5, 7), by=np.exp(0.12 + 0.16 * e[:, 3]))
    # The late upward force would make S waves in II and aVF that few people have.
    qrs = _scaled(qrs, axis=1, kernels=slice(7, 8), by=np.exp(-0.4 + 0.3 * e[:, 3]))
    qrs = _scaled(qrs, axis=0, kernels=slice(0, 5), by=np.full(n, 0.8))
    muscle = np.exp(0.045 * e[:, 4] + np.where(people.male, 0.04, -0.04))  # QRS duration follows muscle volume
    qrs = conduct_qrs(qrs, people.fibrosis, effects, muscle)

    # So are its atrial forces in the limb leads; those to the front are too large.
    p = _scaled(p, axis=0, kernels=slice(0, 2), by=np.full(n, 1.4))
    p = _scaled(p, axis=1, kernels=slice(2, 5), by=np.full(n, 1.7))
    p = _scaled(p, axis=2, kernels=slice(5, None), by=np.full(n, 0.4))

    # T voltage falls with age; men have the taller anterior T and the higher ST.
    height = np.exp(0.25 * e[:, 5] - 0.005 * age + 0.12 * (male - 0.5))
    t = replace(t, vector=(t.vector * (0.85 * height)[:, None, None]).astype(np.float32))
    t = _scaled(t, axis=2, kernels=slice(7, None), by=np.full(n, 0.75))
    st_mv = 0.02 + 0.05 * male * np.exp(-np.maximum(age + 35, 0) / 40) + 0.012 * e[:, 6]
    t = _with_st(t, st_mv)

    extra_qrs = 0.09 * (conduct(people.fibrosis * effects.conduction).delay - 1)
    qt = 0.398 + 0.010 * (1 - male) + 0.0004 * age + 0.014 * e[:, 7] + 0.8 * extra_qrs
    pr = 0.157 + 0.0004 * age + 0.018 * e[:, 6] + 0.004 * male
    return h.Heart(p, qrs, t, pr.astype(np.float32), qt.astype(np.float32))


def conduct_qrs(qrs: h.Part, fibrosis: F64, effects: WaveformEffects, muscle: F64) -> h.Part:
    """Send the QRS through fibrotic muscle.

    Each kernel stands for tissue activated ``path`` seconds after onset. Its activation comes ``delay`` times
    later and is spread by ``dispersion * path`` at constant area: slurring grows towards the end of QRS.
    The late vector turns left and up; the early anterior force that makes the r of V1-V3 is lost, and all of QRS turns
    back.
    """
    share = np.asarray(fibrosis, dtype=np.float64) * effects.conduction
    found = conduct(np.minimum(share, MAX_FIBROSIS))
    path = np.maximum(qrs.centre_s - h.QRS_ONSET_S, 0.0) * muscle[:, None]
    centre = h.QRS_ONSET_S + path * found.delay[:, None]
    own = qrs.width_s * muscle[:, None]
    # A slower front has the same double layer, so it lasts longer at the same strength; what dispersion adds
    # in quadrature is the same current spread over more time.
    lasting = own * found.delay[:, None]
    width = np.hypot(lasting, found.dispersion[:, None] * path)
    relative = np.asarray(fibrosis, dtype=np.float64) / MAX_FIBROSIS
    late = np.clip(path / (0.055 * muscle[:, None]), 0, 1.5)
    turn = np.deg2rad(effects.left_axis_deg) * relative[:, None] * late
    x, y, z = np.moveaxis(qrs.vector * (lasting / width)[:, :, None], -1, 0)
    z = np.where(z < 0, z * (1 - effects.r_loss * relative)[:, None], z)
    back = np.deg2rad(effects.backward_deg) * relative[:, None]
    x, z = np.cos(back) * x - np.sin(back) * z, np.sin(back) * x + np.cos(back) * z
    vector = np.stack([np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x, z], axis=-1)
    return h.Part(vector.astype(np.float32), centre.astype(np.float32), width.astype(np.float32))


def _scaled(part: h.Part, *, axis: int, kernels: slice, by: F64) -> h.Part:
    vector = part.vector.copy()
    vector[:, kernels, axis] *= by[:, None]
    return replace(part, vector=vector.astype(np.float32))


def _with_st(t: h.Part, st_mv: F64) -> h.Part:
    """Add an ST level: a broad kernel between QRS end and T, pointing to the front and a little left."""
    n = len(st_mv)
    vector = st_mv[:, None, None] * np.array([0.25, 0.0, -0.9])[None, None]
    return h.Part(
        np.concatenate([t.vector, vector.astype(np.float32)], axis=1),
        np.concatenate([t.centre_s, np.full((n, 1), 0.12, np.float32)], axis=1),
        np.concatenate([t.width_s, np.full((n, 1), 0.035, np.float32)], axis=1),
    )


@dataclass(frozen=True)
class Hazards:
    """Rates per person-year at a given age, shape = (n,) each; each grows with age by its own slope."""

    arrhythmic: F64
    vfvt: F64
    pump: F64
    other: F64
    mi: F64
    arrest: F64


def hazards(people: People, effects: HazardEffects, log_baseline: float) -> Hazards:
    """Return the true hazards; fibrosis acts on arrhythmic death and VF/VT only."""
    age, male, failing = people.age - 65.0, people.male, people.heart_failure
    arrhythmic = np.exp(
        log_baseline
        + effects.arrhythmic_fibrosis * people.fibrosis
        + effects.arrhythmic_age * age
        + effects.arrhythmic_male * male
        + effects.arrhythmic_heart_failure * failing
    )
    return Hazards(
        arrhythmic,
        effects.vfvt_ratio * arrhythmic,
        effects.pump_rate * np.exp(effects.pump_age * age + effects.pump_heart_failure * failing),
        effects.other_rate * np.exp(effects.other_age * age + effects.other_male * (male - 1.0)),
        effects.mi_rate * np.exp(effects.mi_age * age),
        effects.arrest_rate * np.exp(effects.arrest_age * age + effects.arrest_heart_failure * failing),
    )
