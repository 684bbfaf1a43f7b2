"""The recordings on disk, and which one a row of the table means.

A folder may hold a million files. :func:`walk` gives them one by one as the disk lists them; where the pattern ends
in one fixed ending, a row's file is known without any listing (:func:`named`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from client.readers import CONTAINERS, exams
from client.site.described import ENDINGS, DescribedConfig
from client.site.settings import RecordsConfig
from ecgshared.arrays import Floats
from ecgshared.errors import CohortError, EcgReadError

_COMPANIONS = (".dat", ".mat", ".flac")
"""Where a header's samples lie: a change there is a change of the recording."""
ANYWHERE = "**/"
"""Before a row's file: in whatever folder below that of the records."""


@dataclass(frozen=True)
class Recordings:
    """Recordings below ``folder``; ``paths`` are relative to it, with slashes.

    ``described`` is what the site says of its plain arrays; ``fs_hz``, shape = (paths,), the rates by its table, NaN
    where it has none.
    """

    folder: Path
    paths: tuple[str, ...]
    described: DescribedConfig | None = None
    fs_hz: Floats | None = None

    def full(self, index: int) -> Path:
        """Return where a recording lies."""
        return self.folder / self.paths[index]

    def rate(self, index: int) -> float | None:
        """Return the samples per second that the table gives a recording."""
        return None if self.fs_hz is None or np.isnan(self.fs_hz[index]) else float(self.fs_hz[index])

    def signature(self, index: int) -> tuple[int, int]:
        """Return (bytes, newest modification time in ns) of a recording and its companions.

        What the site says of a recording, by its description and its table, changes the time: said otherwise, the
        recording is read again.

        Raises
        ------
        OSError : the recording itself cannot be looked at.
        """
        path = os.path.join(self.folder, _file_of(self.paths[index]))  # noqa: PTH118 (a million: Path is slow)
        stem, ending = os.path.splitext(path)  # noqa: PTH122
        found = os.stat(path)  # noqa: PTH116
        size, newest = found.st_size, found.st_mtime_ns
        for companion in _COMPANIONS:
            if companion == ending:
                continue
            try:
                beside = os.stat(stem + companion)  # noqa: PTH116
            except OSError:
                continue  # most formats have none
            size, newest = size + beside.st_size, max(newest, beside.st_mtime_ns)
        return size, newest ^ self._said(index)

    def _said(self, index: int) -> int:
        rate = self.rate(index)
        described = self.described
        if described is not None and not described.covers(PurePosixPath(self.paths[index])):
            described = None
        if described is None and rate is None:
            return 0
        text = f"{rate} {'' if described is None else described.model_dump_json()}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


@dataclass(frozen=True)
class Matches:
    """Rows against files.

    ``file`` : int64 array, shape = (n,): index into ``Recordings.paths``, -1 where the row has none.
    ``ambiguous`` : names that fit several files once their endings are left off; they match none.
    """

    file: NDArray[np.int64]
    ambiguous: tuple[str, ...]


def find_recordings(config: RecordsConfig, described: DescribedConfig | None = None) -> Recordings:
    """List the recordings below the site's folder, sorted; a file of many exams by its exams.

    Raises
    ------
    CohortError : there is no such folder, or nothing in it fits the pattern.
    """
    found = sorted(one for path in walk(config) for one in _exams_of(config.folder, path, described))
    if not found:
        raise CohortError(
            "no file fits records.pattern",
            where=config.folder,
            value=config.pattern,
            allowed="a pattern such as **/*.hea, or several",
        )
    return Recordings(config.folder, tuple(found), described)


def walk(config: RecordsConfig) -> Iterator[str]:
    """Give the recordings below the site's folder one by one, in the disk's order, each folder listed once.

    As with :meth:`pathlib.Path.glob`, ``**`` does not follow linked folders, and a folder that may not be entered
    is passed over: rows that name a file in it are told as having none.

    Raises
    ------
    CohortError : there is no such folder, or the pattern is none.
    """
    if not config.folder.is_dir():
        raise CohortError("there is no such folder", where=config.folder, remedy="check records.folder")
    tails = frozenset(tail for parts in _patterns(config) for tail in _tails(parts))
    return _walk(os.fspath(config.folder), "", tails)


def named(
    config: RecordsConfig, wanted: Sequence[str], described: DescribedConfig | None = None
) -> tuple[Recordings, Matches] | None:
    """Return the files the rows mean without asking the disk; None where only a listing can tell.

    That is so where the last part of each pattern is ``*`` and an ending: a name with such an ending is the file, a
    name without can mean but the one file that has it, where there is but one ending. Whether the file is there is not
    known yet.
    """
    if not config.folder.is_dir():
        raise CohortError("there is no such folder", where=config.folder, remedy="check records.folder")
    endings: dict[str, list[tuple[str, ...]]] = {}
    for parts in _patterns(config):
        ending = PurePosixPath(parts[-1]).suffix
        if parts[-1] != f"*{ending}" or not ending or any(mark in ending for mark in "*?["):
            return None
        if ending in CONTAINERS or (described is not None and described.exams):
            return None  # which exams a file holds, only the file can tell
        endings.setdefault(ending, []).append(parts)
    index: dict[str, int] = {}
    file = np.full(len(wanted), -1, dtype=np.int64)
    for row, name in enumerate(wanted):
        if not name:
            continue
        ending = next((end for end in endings if name.endswith(end)), "")
        if (not ending and len(endings) > 1) or name.startswith(ANYWHERE) or _another_case(name, ending, endings):
            return None
        ending, path = (ending, name) if ending else (next(iter(endings)), name + next(iter(endings)))
        if any(_fits(tuple(path.split("/")), parts) for parts in endings[ending]):
            file[row] = index.setdefault(path, len(index))
    return Recordings(config.folder, tuple(index), described), Matches(file, ())


def _another_case(name: str, ending: str, endings: Iterable[str]) -> bool:
    return not ending and name.lower().endswith(tuple(end.lower() for end in endings))


def _exams_of(folder: Path, path: str, described: DescribedConfig | None) -> Iterator[str]:
    """Give a file's exams by their addresses, and a file of one recording as itself."""
    covered = described is not None and described.exams and described.covers(PurePosixPath(path))
    if not path.endswith(CONTAINERS) and not covered:
        yield path
        return
    try:
        for address in exams(folder / path, described):
            yield str(PurePosixPath(path).with_name(address.name))
    except EcgReadError:
        yield path  # reading it will name the fault


def _file_of(path: str) -> str:
    """Return the file of a recording's path or address."""
    base, mark, _ = path.rpartition("#")
    return base if mark and base.endswith(ENDINGS) else path


def match(recordings: Recordings, wanted: Sequence[str]) -> Matches:
    """Find each row's file: by its path, or by its path without the ending where only one file has it; in another case
    than the row's where only one file has it at all.

    A name behind ``**/`` is looked for in every folder, and found where only one has it.
    """
    exact = {path: index for index, path in enumerate(recordings.paths)}
    bare, several = _unique((_without_ending(path), index) for path, index in exact.items())
    found = {name: exact.get(name, bare.get(name, -1)) for name in set(wanted)}
    anywhere = {name: name.removeprefix(ANYWHERE) for name in found if name.startswith(ANYWHERE)}
    unclear = {name for name in found if name in several and name not in exact}
    if anywhere:
        names = {path: path.rpartition("/")[2] for path in exact}
        whole, shared = _unique((names[path], index) for path, index in exact.items())
        stems, shared_stems = _unique((_without_ending(names[path]), index) for path, index in exact.items())
        for name, last in anywhere.items():
            found[name] = whole.get(last, -1 if last in shared else stems.get(last, -1))
            if last in shared or (last not in whole and last in shared_stems):
                unclear.add(name)
    _in_another_case(
        found, [name for name, index in found.items() if name and index < 0 and name not in unclear], exact
    )
    file = np.fromiter((found[name] for name in wanted), dtype=np.int64, count=len(wanted))
    return Matches(file, tuple(sorted(unclear)))


def _in_another_case(found: dict[str, int], lost: Iterable[str], exact: dict[str, int]) -> None:
    """Find names that no file has, but only one has in another case: many disks and exports do not keep it."""
    known: dict[bool, tuple[dict[str, int], dict[str, int]]] = {}
    for name in lost:
        anywhere = name.startswith(ANYWHERE)
        if anywhere not in known:
            paths = [(path.rpartition("/")[2] if anywhere else path, index) for path, index in exact.items()]
            whole, _ = _unique((path.casefold(), index) for path, index in paths)
            stems, _ = _unique((_without_ending(path).casefold(), index) for path, index in paths)
            known[anywhere] = whole, stems
        whole, stems = known[anywhere]
        key = name.removeprefix(ANYWHERE).casefold()
        found[name] = whole.get(key, stems.get(key, -1))


def _without_ending(path: str) -> str:
    return path[: len(path) - len(PurePosixPath(path).suffix)]


def _unique(pairs: Iterable[tuple[str, int]]) -> tuple[dict[str, int], set[str]]:
    """Return what only one has, and the names that several have."""
    one: dict[str, int] = {}
    several: set[str] = set()
    for name, index in pairs:
        if one.setdefault(name, index) != index:
            several.add(name)
    for name in several:
        del one[name]
    return one, several


def _patterns(config: RecordsConfig) -> list[tuple[str, ...]]:
    if not config.patterns:
        raise CohortError("records.pattern names no pattern", allowed="a pattern such as **/*.hea, or several")
    return [_parts(pattern) for pattern in config.patterns]


def _parts(pattern: str) -> tuple[str, ...]:
    path = PurePosixPath(pattern)
    parts = path.parts
    fault = None
    if not parts:
        fault = "it is empty"
    elif path.is_absolute() or ".." in parts:
        fault = "it must stay below records.folder"
    elif any("**" in part and part != "**" for part in parts):
        fault = "** stands for whole folders"
    elif parts[-1] == "**":
        fault = "it names folders, not files"
    if fault is not None:
        raise CohortError(
            f"records.pattern is no pattern: {fault}", value=pattern, allowed="a pattern such as **/*.hea"
        )
    return parts


def _tails(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Give what may still be matched here: ``**`` stands for no folder, too."""
    yield parts
    while parts[0] == "**":
        parts = parts[1:]
        yield parts


def _walk(folder: str, prefix: str, tails: frozenset[tuple[str, ...]]) -> Iterator[str]:
    below: list[tuple[str, frozenset[tuple[str, ...]]]] = []
    try:
        entries = os.scandir(folder)
    except PermissionError:
        return
    with entries:
        for entry in entries:
            further = _further(entry, tails)
            if further:
                below.append((entry.name, further))
            if any(len(tail) == 1 and fnmatchcase(entry.name, tail[0]) for tail in tails) and entry.is_file():
                yield prefix + entry.name
    for name, further in below:
        yield from _walk(f"{folder}/{name}", f"{prefix}{name}/", further)


def _further(entry: os.DirEntry[str], tails: frozenset[tuple[str, ...]]) -> frozenset[tuple[str, ...]]:
    """Return what is to be matched inside an entry; nothing where it is no folder to enter."""
    if not entry.is_dir():
        return frozenset()
    found: set[tuple[str, ...]] = set()
    for tail in tails:
        if tail[0] == "**":
            if not entry.is_symlink():
                found.update(_tails(tail))
        elif len(tail) > 1 and fnmatchcase(entry.name, tail[0]):
            found.update(_tails(tail[1:]))
    return frozenset(found)


@lru_cache(maxsize=1 << 16)
def _enters(folders: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Tell whether a chain of folders fits the pattern's leading parts."""
    if not parts:
        return not folders
    if parts[0] == "**":
        return any(_enters(folders[k:], parts[1:]) for k in range(len(folders) + 1))
    return bool(folders) and fnmatchcase(folders[0], parts[0]) and _enters(folders[1:], parts[1:])


def _fits(path: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Tell whether a relative path fits the pattern and stays below the folder."""
    if any(part in ("", ".", "..") for part in path):
        return False
    return fnmatchcase(path[-1], parts[-1]) and _enters(path[:-1], parts[:-1])
