"""All attacks, each against a hospital without protections, and with one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgshared.errors import ConfigError
from simulations.attacks import figures, training, weights
from simulations.attacks.door import GROUPS, PRIVATE, PROTECTED, UNPROTECTED, Attack

ATTACKS: dict[str, Attack] = figures.ATTACKS | weights.ATTACKS | training.ATTACKS
EPSILONS = (8.0, 3.0, 1.0)
PROTECTIONS: dict[str, tuple[dict[str, Any], float | None]] = {
    "none": (UNPROTECTED, None),
    "groups": (GROUPS, None),
    "masks": (PROTECTED, None),
    **{f"epsilon {epsilon:g}": (PRIVATE, epsilon) for epsilon in EPSILONS},
}
"""By name, a site file's keys and the epsilon of private training: the permissive hospital; limits and the memory of
groups; these and sums under masks, the defaults on a network; these and private training."""


@dataclass(frozen=True)
class Outcome:
    """What an attack got: shares between 0 (nothing) and 1, by protection; None where it has no part in the attack."""

    attack: str
    measure: str
    concerns: tuple[str, ...]
    shares: dict[str, float | None]

    @property
    def unprotected(self) -> float:
        """Without protections."""
        found = self.shares["none"]
        return math.nan if found is None else found

    @property
    def protected(self) -> float:
        """With the defaults of a network; against attacks that no door stops, with epsilon 1."""
        found = self.shares["masks"] if self.shares["masks"] is not None else self.shares["epsilon 1"]
        return math.nan if found is None else found


def run(names: list[str], seed: int) -> list[Outcome]:
    """Run attacks by name, all where none is named.

    Raises
    ------
    ConfigError : there is no such attack.
    """
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        raise ConfigError("there is no such attack", value=", ".join(unknown), allowed=", ".join(ATTACKS))
    found = []
    for name in names or list(ATTACKS):
        attack = ATTACKS[name]
        shares: dict[str, float | None] = {}
        for protection, (site, epsilon) in PROTECTIONS.items():
            stands = attack.private if epsilon is not None else attack.door or protection == "none"
            got = attack.run(site, np.random.default_rng(seed), epsilon) if stands else math.nan
            shares[protection] = None if math.isnan(got) else round(float(got), 4)
        found.append(Outcome(name, attack.measure, attack.concerns, shares))
    return found


def as_lines(outcomes: list[Outcome]) -> list[str]:
    """Return the outcomes as a table for a terminal."""
    rows = [("attack", *PROTECTIONS, "what it gets")]
    for one in outcomes:
        shares = ("-" if share is None else f"{share:.0%}" for share in one.shares.values())
        rows.append((one.attack, *shares, one.measure))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
