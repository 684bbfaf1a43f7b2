"""What attacks got from a made hospital: figures that come with the software, measured by ``ecgfed simulate attack``.

``attacks.json`` beside this file is what ``ecgfed simulate attack --json`` printed; a test repeats a part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PROTECTIONS: dict[str, str] = {
    "none": "no protection",
    "groups": "smallest groups and a memory of them, weights in the clear",
    "masks": "the same, weights and sums only under masks (a network's default)",
    "epsilon 8": "the same, training at epsilon 8",
    "epsilon 3": "the same, training at epsilon 3",
    "epsilon 1": "the same, training at epsilon 1",
}
"""In words, the protections that attacks were tried against."""


@dataclass(frozen=True)
class Measured:
    """One attack: what its shares are of, the stages it aims at, and what it got by protection, 0 to 1.

    None where a protection has no part in the attack.
    """

    attack: str
    measure: str
    concerns: tuple[str, ...]
    shares: dict[str, float | None]


@cache
def measured() -> tuple[Measured, ...]:
    """Return the figures that come with the software."""
    held = json.loads((files("ecgshared.privacy") / "attacks.json").read_text(encoding="utf-8"))
    return tuple(Measured(one["attack"], one["measure"], tuple(one["concerns"]), one["shares"]) for one in held)


def concerning(stages: Iterable[str]) -> tuple[Measured, ...]:
    """Return the attacks that aim at any of some stages."""
    asked = set(stages)
    return tuple(one for one in measured() if asked & set(one.concerns))


def as_share(share: float | None) -> str:
    """Return a share as it is printed; a dash where the protection has no part."""
    return "-" if share is None else f"{share:.0%}"
