"""All attacks, each against a hospital that permits everything and one with a hospital's defaults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgshared.errors import ConfigError
from simulations.attacks import figures, weights
from simulations.attacks.door import PROTECTED, UNPROTECTED

ATTACKS = figures.ATTACKS | weights.ATTACKS


@dataclass(frozen=True)
class Outcome:
    """What an attack got: shares between 0 (nothing) and 1, without protections and with them."""

    attack: str
    measure: str
    unprotected: float
    protected: float


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
        attack, measure = ATTACKS[name]
        got = [attack(site, np.random.default_rng(seed)) for site in (UNPROTECTED, PROTECTED)]
        found.append(Outcome(name, measure, *got))
    return found


def as_lines(outcomes: list[Outcome]) -> list[str]:
    """Return the outcomes as a table for a terminal."""
    rows = [("attack", "without", "with", "what it gets")]
    rows += [(one.attack, f"{one.unprotected:.0%}", f"{one.protected:.0%}", one.measure) for one in outcomes]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
