"""Looking at a folder of recordings that nobody has described: which files are recordings, and of which formats."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from client.cohort.recordings import Recordings, find_recordings, walk
from client.readers import read
from client.site.settings import RecordsConfig
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import CohortError, EcgReadError

_TRIED = 6
"""Files of each ending that are read."""
_COMPANIONS = (".dat", ".mat", ".xws", ".atr")
"""Hold what a header beside them describes."""


@dataclass
class FolderGuess:
    """What a folder seems to hold.

    Attributes
    ----------
    patterns : globs of the recordings. formats : of each ending, the formats read and how many files it has.
    left_out : of each ending that is no recording, how many files and why.
    records : recordings that were read, by their path below the folder.
    """

    recordings: Recordings
    patterns: tuple[str, ...]
    formats: dict[str, tuple[str, int]]
    left_out: dict[str, tuple[str, int]]
    records: dict[str, EcgRecord] = field(default_factory=dict)


def look_at_folder(folder: Path) -> FolderGuess:
    """Read a few files of each ending below a folder, and tell which are recordings.

    Raises
    ------
    CohortError : there is no such folder, it is empty, or nothing in it can be read as a recording.
    """
    endings: dict[str, list[str]] = defaultdict(list)
    everything = sorted(walk(RecordsConfig(folder=folder, pattern="**/*")))
    headers = {path.removesuffix(".hea") for path in everything if path.endswith(".hea")}
    for path in everything:
        name = PurePosixPath(path)
        if not any(part.startswith(".") for part in name.parts):
            endings[name.suffix].append(path)
    if not endings:
        raise CohortError("the folder is empty", where=folder, allowed="a folder of recordings")
    guess = FolderGuess(Recordings(folder, ()), (), {}, {})
    patterns = []
    for ending, paths in sorted(endings.items()):
        companions = [path for path in paths if ending in _COMPANIONS and path.removesuffix(ending) in headers]
        if len(companions) == len(paths):
            continue
        pattern = _pattern(ending, paths, everything)
        addresses = find_recordings(RecordsConfig(folder=folder, pattern=pattern)).paths
        formats, reason = _try(folder, addresses, guess.records)
        if formats:
            patterns.append(pattern)
            guess.formats[pattern] = (", ".join(name for name, _ in formats.most_common()), len(addresses))
        else:
            guess.left_out[pattern] = (reason, len(paths))
    if not patterns:
        told = "; ".join(f"{count} x {pattern}: {why}" for pattern, (why, count) in guess.left_out.items())
        raise CohortError(
            f"no file that was tried can be read as a recording ({told})",
            where=folder,
            allowed="the formats that `ecgfed site formats` lists",
            remedy="plain arrays are described in a site file by hand, under `described:`",
        )
    guess.patterns = tuple(patterns)
    guess.recordings = find_recordings(RecordsConfig(folder=folder, pattern=guess.patterns))
    return guess


def _try(folder: Path, addresses: tuple[str, ...], records: dict[str, EcgRecord]) -> tuple[Counter[str], str]:
    """Read a few recordings, spread over all; return the formats met, and why the last unreadable one is so."""
    formats: Counter[str] = Counter()
    reason = ""
    for place in np.unique(np.linspace(0, len(addresses) - 1, min(_TRIED, len(addresses))).round().astype(int)):
        try:
            record = read(folder / addresses[place])
        except EcgReadError as error:
            reason = error.what.partition("\n")[0]
            continue
        formats[record.source_format] += 1
        records[addresses[place]] = record
    return formats, reason


def _pattern(ending: str, paths: list[str], everything: list[str]) -> str:
    """Return a glob of files of one ending; files without one are told from others by how their names begin."""
    if ending:
        return f"**/*{ending}"
    names = [PurePosixPath(path).name for path in paths]
    start = names[0]
    for name in names:
        while not name.startswith(start):
            start = start[:-1]
    others = [name for path in everything if (name := PurePosixPath(path).name) not in set(names)]
    alone = start and not any(other.startswith(start) for other in others) and not set(start) & set("*?[")
    return f"**/{start}*" if alone else "**/*"
