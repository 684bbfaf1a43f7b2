"""What attacks got: from a made hospital, as it comes with the software, and from a run whose nets were tried.

``attacks.json`` beside this file is what ``ecgfed simulate attack --json`` printed; a test repeats a part of it.
``attacks.json`` in a run's folder is what ``ecgfed simulate attack RUN`` found there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from ecgshared.config import Config
from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically

TRIED = "attacks.json"
"""In the folder of a run."""

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


class Tried(Config):
    """One attack on one net that a run released, and one of its hospitals.

    ``members`` and ``strangers`` are patients that it was tried on; ``value`` with its interval is None where it could
    not be tried, and ``why`` says why.
    """

    step: str
    site: str
    attack: str
    measure: str
    members: int = Field(ge=0)
    strangers: int = Field(ge=0)
    value: float | None
    low: float | None
    high: float | None
    why: str = ""


_MANY = TypeAdapter(tuple[Tried, ...])


def write_tried(run: Path, found: Iterable[Tried]) -> None:
    """Keep what was tried on a run in its folder; what stood there before is replaced."""
    write_atomically(run / TRIED, _MANY.dump_json(tuple(found), indent=1))


def read_tried(run: Path) -> tuple[Tried, ...]:
    """Return what was tried on a run, nothing where nothing was.

    Raises
    ------
    ConfigError : the file is damaged.
    """
    path = run / TRIED
    try:
        return _MANY.validate_json(path.read_bytes()) if path.exists() else ()
    except ValidationError:
        raise ConfigError(
            "does not hold what attacks found", where=path, remedy="ecgfed simulate attack RUN writes it anew"
        ) from None


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
