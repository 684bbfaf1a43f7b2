"""Which state of a cache somebody has seen: asked of its index, without the cache's lock."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

INDEX = "index.sqlite"


@dataclass(frozen=True)
class CacheGeneration:
    """The state of one cache.

    Recordings that are added leave the generation as it is, for nothing that was seen has become another thing; who
    has added all there was to add says so (:meth:`~client.cache.signals.SignalCache.announce`).

    Attributes
    ----------
    made : drawn when the cache was made; one made anew in the same folder has another.
    changes : how often recordings were dropped, replaced, given to another patient, or announced.
    """

    folder: Path
    made: int
    changes: int

    def is_now(self) -> bool:
        """Tell whether the cache is still in this state; one whose index cannot be asked is not."""
        try:
            with closing(connect(self.folder)) as index:
                return generation_of(self.folder, index) == self
        except sqlite3.Error:
            return False


def connect(folder: Path) -> sqlite3.Connection:
    """Open a cache's index for reading; raise ``sqlite3.Error`` where there is none."""
    return sqlite3.connect(f"{(folder / INDEX).as_uri()}?mode=ro", uri=True, timeout=60)


def generation_of(folder: Path, index: sqlite3.Connection) -> CacheGeneration | None:
    """Return the generation that an index tells; None where it tells none."""
    told = dict(index.execute("SELECT name, value FROM meta WHERE name IN ('made', 'changes')"))
    return CacheGeneration(folder, told["made"], told["changes"]) if len(told) == 2 else None
