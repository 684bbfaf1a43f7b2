"""What hearts have besides fibrosis: blocks, scars, hypertrophy, rhythms, early beats; how common, by age."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.config import Config
from simulations.physics.conduction import BLOCKS, Ailments
from simulations.physics.disease import People
from simulations.physics.fronts import FOCI, NAMES
from simulations.physics.rhythms import RHYTHMS

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class AilmentsConfig(Config):
    """Shares of persons of 65 without heart failure; each rises or falls with age, most with heart failure too."""

    left_bundle: float = Field(default=0.008, ge=0, le=0.5)
    right_bundle: float = Field(default=0.025, ge=0, le=0.5)
    left_anterior: float = Field(default=0.025, ge=0, le=0.5, description="block of the left anterior fascicle")
    left_posterior: float = Field(default=0.002, ge=0, le=0.5)
    scar: float = Field(default=0.03, ge=0, le=0.5, description="old infarct, at an ejection fraction of 60%")
    hypertrophy: float = Field(default=0.08, ge=0, le=0.9, description="of the left ventricle")
    flutter: float = Field(default=0.003, ge=0, le=0.5)
    second_degree: float = Field(default=0.002, ge=0, le=0.5, description="Wenckebach's or two-to-one block")
    complete_block: float = Field(default=0.0005, ge=0, le=0.5)
    paced: float = Field(default=0.006, ge=0, le=0.5, description="from the right apex, behind each P")
    long_pr: float = Field(default=0.04, ge=0, le=0.5, description="first-degree block: PR past 200 ms")
    early_ventricular: float = Field(default=0.07, ge=0, le=0.9, description="persons with early ventricular beats")
    early_atrial: float = Field(default=0.07, ge=0, le=0.9)


_DECADE = {
    "left_bundle": 0.75, "right_bundle": 0.55, "left_anterior": 0.45, "left_posterior": 0.3, "scar": 0.5,
    "hypertrophy": 0.25, "flutter": 0.6, "second_degree": 0.6, "complete_block": 0.7, "paced": 0.85, "long_pr": 0.45,
    "early_ventricular": 0.35, "early_atrial": 0.4,
}  # fmt: skip
"""Log odds by which a share rises in ten years."""
_FAILING = {"left_bundle": 1.9, "right_bundle": 0.6, "left_anterior": 0.6, "hypertrophy": 0.7, "flutter": 0.8}
_FAILING |= {"paced": 1.3, "long_pr": 0.6, "early_ventricular": 0.9, "early_atrial": 0.4, "scar": 0.9}
SCAR_PER_LVEF = 9.0
"""Log odds of a scar for each unit by which the ejection fraction is below 60%: what infarcts take from both."""
_PLACES = ("anterior", "anteroseptal", "inferior", "lateral")
_OUTFLOW = (0.34, 0.10, 0.14, 0.14, 0.12, 0.10, 0.06)
"""How often early ventricular beats begin at each focus."""


@dataclass(frozen=True)
class States:
    """What n persons have, the same in all of their ECGs; shape = (n,) each.

    ``rhythm``: number in :data:`rhythms.RHYTHMS`. ``focus``: number in :data:`fronts.NAMES` of early or escape beats.
    ``ventricular``, ``atrial``: chance that a beat is followed by an early one. ``long_pr_ms``: by which PR is longer.
    """

    ailments: Ailments
    rhythm: I64
    focus: I64
    ventricular: F64
    atrial: F64
    coupling: F64
    long_pr_ms: F64

    def rows(self, index: I64) -> States:
        """Return the states of some persons, in any order and as often as wanted."""
        a = self.ailments
        ailments = Ailments(a.block[index], a.scar[index], a.hypertrophy[index], a.paced[index])
        return States(
            ailments,
            self.rhythm[index],
            self.focus[index],
            self.ventricular[index],
            self.atrial[index],
            self.coupling[index],
            self.long_pr_ms[index],
        )

    def rhythm_names(self) -> NDArray[np.str_]:
        """Return the rhythm of each, as a truth table writes it."""
        return np.array(RHYTHMS)[self.rhythm]

    def conduction_names(self) -> list[str]:
        """Return each heart's blocks, joined by a plus sign; ``none`` where there is none."""
        flags = self.ailments.block
        return ["+".join(name for name, has in zip(BLOCKS, row, strict=True) if has) or "none" for row in flags]


def draw_states(rng: np.random.Generator, people: People, shares: AilmentsConfig, af: NDArray[np.bool_]) -> States:
    """Draw what n persons have.

    Parameters
    ----------
    af : bool array, shape = (n,): who fibrillates, drawn elsewhere.
    """
    n = len(people.age)

    def has(name: str, more: F64 | float = 0.0) -> NDArray[np.bool_]:
        share = getattr(shares, name)
        if share == 0:
            rng.random(n)
            return np.zeros(n, dtype=bool)
        odds = np.log(share / (1 - share)) + _DECADE[name] * (people.age - 65) / 10
        odds = odds + _FAILING.get(name, 0.0) * people.heart_failure + more
        return np.asarray(rng.random(n) < 1 / (1 + np.exp(-odds)))

    block = np.column_stack([has(name) for name in BLOCKS])
    block[block[:, 0], 1:] = False  # a left bundle that is blocked has no fascicles left, and a heart needs one bundle
    block[block[:, 2], 3] = False
    scarred = has("scar", SCAR_PER_LVEF * (0.6 - people.lvef) + 0.6 * people.male)
    scar = np.where(scarred, rng.choice(np.array(_PLACES), n, p=[0.25, 0.25, 0.35, 0.15]), "none")
    thick = np.where(has("hypertrophy"), rng.gamma(3.0, 0.16, n), 0.0)
    rhythm = np.zeros(n, dtype=np.int64)
    second, whole, paced, flutter = (has(x) for x in ("second_degree", "complete_block", "paced", "flutter"))
    rhythm[second] = np.where(rng.random(n) < 0.6, RHYTHMS.index("wenckebach"), RHYTHMS.index("two_to_one"))[second]
    rhythm[whole] = RHYTHMS.index("complete_block")
    rhythm[af] = RHYTHMS.index("fibrillation")
    rhythm[flutter] = RHYTHMS.index("flutter")
    paced &= rhythm == 0
    rhythm[paced] = RHYTHMS.index("paced")
    longer = np.where(has("long_pr"), rng.gamma(3.0, 16.0, n) + 25, 0.0)
    often = rng.uniform(0.03, 0.2, (n, 2))
    ventricular = np.where(has("early_ventricular"), often[:, 0], 0.0)
    atrial = np.where(has("early_atrial"), often[:, 1], 0.0)
    focus = rng.choice(np.arange(FOCI.start, len(NAMES)), n, p=_OUTFLOW)
    ailments = Ailments(block, scar.astype(str), np.minimum(thick, 1.2), paced)
    return States(ailments, rhythm, focus, ventricular, atrial, rng.uniform(0.5, 0.72, n), longer)


def healthy_states(n: int) -> States:
    """Return n persons with nothing: sinus rhythm without early beats."""
    none, zero = np.zeros(n, dtype=np.int64), np.zeros(n)
    flag = np.zeros(n, dtype=bool)
    ailments = Ailments(np.zeros((n, len(BLOCKS)), dtype=bool), np.full(n, "none"), zero, flag)
    return States(ailments, none, none + FOCI.start, zero, zero, zero + 0.6, zero)
