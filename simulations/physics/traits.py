"""What makes one heart another: some fifty numbers, drawn from what was fitted to healthy people.

:data:`NAMES` says what they are. Their means by age and sex and their covariance, in ``hearts.json``, come from fits of
this model to the median beats of PTB-XL's NORM records (``python -m simulations.judging.fit_hearts``); the file holds
these parameters and no recording.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.physics.disease import SHAPE_TRAITS, People

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_FARTHEST = 2.2
"""Standard deviations that a person differs at most in any one way: fits of some eighty beats know no more."""
HEARTS = Path(__file__).with_name("hearts.json")

MEANINGS: dict[str, tuple[float, float, str]] = {
    # name: (usual value, how far people differ before anything is fitted, meaning)
    "frontal": (0.0, 0.35, "turn in the frontal plane, rad"),
    "vertical": (0.0, 0.35, "turn about the vertical, rad"),
    "tilt": (0.0, 0.35, "turn about the left-right axis, rad"),
    "left": (0.0, 0.25, "place, cm"),
    "back": (0.0, 0.3, "place, cm"),
    "up": (0.0, 0.25, "place, cm"),
    "size": (-2.7, 0.3, "log strength of all sources"),
    "slow": (-0.1, 0.12, "log of travel times through ventricular muscle"),
    "anterior": (2.0, 4.0, "when the left anterior fascicle arrives, ms"),
    "septal": (0.0, 3.0, "when the septal fibres arrive, ms"),
    "posterior": (2.0, 4.0, "when the left posterior fascicle arrives, ms"),
    "right": (7.0, 5.0, "when the right bundle arrives, ms"),
    "w_septum": (0.0, 0.35, "log strength of the septum"),
    "w_anterior": (0.0, 0.35, "log strength of the anterior wall"),
    "w_lateral": (0.0, 0.35, "log strength of the lateral wall"),
    "w_inferior": (0.0, 0.35, "log strength of the inferior wall"),
    "w_base": (-1.2, 0.4, "log strength of both ventricles' base, behind blood and valves, over the rest"),
    "w_apex": (0.0, 0.35, "log strength of the apex"),
    "w_right": (-0.6, 0.35, "log strength of the right ventricle"),
    **{f"v{i}": (0.0, 0.25, f"log of what the chest lets through to V{i}") for i in range(1, 7)},
    "apd": (275.0, 25.0, "mean duration of action potentials at an RR of 1 s, ms"),
    "t_rise": (4.2, 0.25, "log of the slow part of the fall, ms"),
    "t_fall": (3.75, 0.25, "log of its fast part, ms"),
    "t_slope": (-1.35, 0.35, "ms of duration for each ms of later activation"),
    "t_depth": (-10.0, 12.0, "ms outside over inside of the wall"),
    "t_apex": (-12.0, 10.0, "ms for 5 cm towards the apex"),
    "t_right": (-25.0, 14.0, "ms in the right ventricle"),
    "t_inferior": (0.0, 10.0, "ms of the inferior wall over the anterior"),
    "t_lateral": (0.0, 10.0, "ms of the lateral wall over the septum"),
    "j_depth": (0.04, 0.05, "share by which the plateau is lower outside than inside"),
    "j_apex": (0.0, 0.03, "the same for 5 cm towards the apex"),
    "j_right": (0.0, 0.05, "the same in the right ventricle"),
    "j_lateral": (0.0, 0.03, "the same of the lateral wall over the septum"),
    "j_inferior": (0.0, 0.03, "the same of the inferior wall over the anterior"),
    "p_size": (-3.6, 0.4, "log strength of the atria"),
    "p_left": (0.0, 0.4, "log strength of the left atrium over the right"),
    "p_slow": (-0.2, 0.15, "log of travel times in the atria"),
    "p_frontal": (-0.4, 0.3, "turn of the atria in the frontal plane, rad"),
    "p_vertical": (0.0, 0.3, "turn of the atria about the vertical, rad"),
    "p_tilt": (0.0, 0.3, "turn of the atria about the left-right axis, rad"),
    "p_ta": (220.0, 40.0, "duration of atrial action potentials, ms"),
    "pr": (160.0, 22.0, "from the beginning of P to that of QRS at an RR of 1 s, ms"),
}
NAMES = tuple(MEANINGS)
USUAL = np.array([m[0] for m in MEANINGS.values()])
SPREAD = np.array([m[1] for m in MEANINGS.values()])


@dataclass(frozen=True)
class Traits:
    """n hearts; ``values`` has shape = (n, len(NAMES)). ``traits["slow"]`` is one column."""

    values: F64

    def __getitem__(self, name: str) -> F64:
        return np.asarray(self.values[:, NAMES.index(name)])

    def stack(self, *names: str) -> F64:
        """Return some columns side by side, shape = (n, len(names))."""
        return self.values[:, [NAMES.index(name) for name in names]]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Population:
    """Healthy people: mean of each trait for a woman of 50, its change per decade and in men, and the rest's factor.

    ``factor``, shape = (len(NAMES), K): traits are mean + factor @ K standard normal numbers of a person's own.
    """

    mean: F64
    decade: F64
    male: F64
    factor: F64


@lru_cache(maxsize=1)
def healthy() -> Population:
    """Return the fitted population of ``hearts.json``."""
    held = json.loads(HEARTS.read_text(encoding="utf-8"))
    order = [held["names"].index(name) for name in NAMES]
    return Population(*(np.array(held[key], dtype=np.float64)[order] for key in ("mean", "decade", "male", "factor")))


def draw_traits(people: People, scatter: float = 1.0) -> Traits:
    """Return the traits of n persons: healthy people of their age and sex, and their own scatter.

    Nothing is drawn here: a person's standard normal numbers are those of :class:`People`, so each of a person's
    ECGs is of the same heart.
    """
    given = healthy()
    own = np.concatenate([people.position, people.electrical, people.shape[:, : SHAPE_TRAITS - 2]], axis=1)
    own = np.clip(own, -_FARTHEST, _FARTHEST)
    decades = (np.clip(people.age, 18, 90) - 50) / 10
    values = given.mean + np.outer(decades, given.decade) + np.outer(people.male, given.male)
    values = values + scatter * own[:, : given.factor.shape[1]].astype(np.float64) @ given.factor.T
    # The heavy have a heart that lies flatter and deeper; PTB-XL tells no weight of most.
    bmi = people.bmi - 26.0
    values[:, NAMES.index("frontal")] -= 0.015 * bmi
    values[:, NAMES.index("size")] -= 0.015 * bmi
    return Traits(values)
