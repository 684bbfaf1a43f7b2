"""Fibrosis: how a front crosses it, how strongly it is let show in the ECG, and what it does to survival.

Conduction is that of a two-dimensional sheet with obstacles, solved beforehand (:func:`solve_sheet`,
:data:`CONDUCTION`): the front goes round collagen strands, arrives later and less together (zigzag conduction,
de Bakker 1993, doi 10.1161/01.CIR.88.3.915).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from ecgshared.config import Config
from ecgshared.errors import ConfigError

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
    arrival = sheet_arrival(fibrosis, length, width, strand, seed)
    end = slice(length - 10, length)
    ratio = arrival[:, end] / np.arange(length)[None, end]
    ratio = ratio[np.isfinite(ratio)]
    return float(ratio.mean()), float(ratio.std())


def sheet_arrival(fibrosis: float, length: int, width: int, strand: int, seed: int) -> F64:
    """Return when a plane front reaches each cell of one sheet, in cells of an intact one, shape = (width, length);
    inf in obstacles and where no way leads. Parameters are those of :func:`solve_sheet`."""
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
    arrival = dijkstra(graph, directed=False, indices=node[~blocked[:, 0], 0], min_only=True)
    return np.asarray(arrival.reshape(width, length), dtype=np.float64)


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
