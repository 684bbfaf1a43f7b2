"""The recordings on disk, and which one a row of the table means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from client.settings import RecordsConfig
from ecgshared.errors import CohortError

_COMPANIONS = (".dat", ".mat")
"""Where a header's samples lie: a change there is a change of the recording."""


@dataclass(frozen=True)
class Recordings:
    """Every file the site's pattern finds; ``paths`` are relative to ``folder``, with slashes, sorted."""

    folder: Path
    paths: tuple[str, ...]

    def full(self, index: int) -> Path:
        """Return where a recording lies."""
        return self.folder / self.paths[index]

    def signature(self, index: int) -> tuple[int, int]:
        """Return (bytes, newest modification time in ns) of a recording and its companions."""
        path = self.full(index)
        stats = [path.stat()]
        for suffix in _COMPANIONS:
            companion = path.with_suffix(suffix)
            if companion != path and companion.exists():
                stats.append(companion.stat())
        return sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)


@dataclass(frozen=True)
class Matches:
    """Rows against files.

    ``file`` : int64 array, shape = (n,): index into ``Recordings.paths``, -1 where the row has none.
    ``ambiguous`` : names that fit several files once their endings are left off; they match none.
    """

    file: NDArray[np.int64]
    ambiguous: tuple[str, ...]


def find_recordings(config: RecordsConfig) -> Recordings:
    """List the recordings below the site's folder.

    Raises
    ------
    CohortError : there is no such folder, or nothing in it fits the pattern.
    """
    if not config.folder.is_dir():
        raise CohortError("there is no such folder", where=config.folder, remedy="check records.folder")
    try:
        found = sorted(
            path.relative_to(config.folder).as_posix() for path in config.folder.glob(config.pattern) if path.is_file()
        )
    except (ValueError, NotImplementedError) as error:
        raise CohortError(f"records.pattern is no pattern: {error}", value=config.pattern) from None
    if not found:
        raise CohortError(
            "no file fits records.pattern",
            where=config.folder,
            value=config.pattern,
            allowed="a pattern such as **/*.hea",
        )
    return Recordings(config.folder, tuple(found))


def match(recordings: Recordings, wanted: Sequence[str]) -> Matches:
    """Find each row's file: by its path, or by its path without the ending where only one file has it."""
    exact = {path: index for index, path in enumerate(recordings.paths)}
    bare: dict[str, int] = {}
    several: set[str] = set()
    for index, path in enumerate(recordings.paths):
        stem = str(PurePosixPath(path).with_suffix(""))
        if bare.setdefault(stem, index) != index:
            several.add(stem)
    for stem in several:
        del bare[stem]
    file = np.fromiter((exact.get(name, bare.get(name, -1)) for name in wanted), dtype=np.int64, count=len(wanted))
    unclear = sorted({name for name in wanted if name in several and name not in exact})
    return Matches(file, tuple(unclear))
