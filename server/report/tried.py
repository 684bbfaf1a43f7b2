"""What attacks on a run's own nets found (``ecgfed simulate attack RUN``): a file in its folder, told in its report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from ecgshared.config import Config
from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically

TRIED = "attacks.json"
"""In the folder of a run."""


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
