"""Reading a few recordings of each kind, exactly as ``ingest`` will, so that a check speaks of what was tried."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import REFUSED, STORED, UNREADABLE, Entry
from client.cohort.recordings import Recordings
from client.ingest.reading import BATCH, Job, Recipe, read_batch
from client.site.settings import SiteSettings
from ecgshared.ecg.input import InputConfig

SAMPLE = 12
"""Recordings tried of each kind, unless told otherwise."""
_MOST_KINDS = 20


@dataclass
class Kind:
    """Recordings of one folder and ending: how many there are, how many were tried, and what came of those."""

    name: str
    files: int
    tried: int = 0
    read: int = 0
    kept: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, path: str, entry: Entry) -> None:
        """Count what became of one recording."""
        self.tried += 1
        if entry.status == UNREADABLE:
            self._because(entry.fault, path)
            return
        self.read += 1
        self.formats[f"{entry.format}, {entry.device}" if entry.device else entry.format] += 1
        if entry.status == STORED:
            self.kept += 1
        elif entry.status == REFUSED:
            codes = sorted({code for code, *_ in json.loads(entry.findings)})
            self._because(f"refused by the quality rules: {', '.join(codes)}", path)

    def _because(self, reason: str, path: str) -> None:
        self.reasons[reason] += 1
        self.examples.setdefault(reason, path)

    def lines(self) -> list[str]:
        """Return what was tried and what came of it, with the reasons grouped, the most frequent first."""
        formats = "; ".join(
            f"{name} ({n})" if len(self.formats) > 1 else name for name, n in self.formats.most_common(5)
        )
        said = f"{self.name}: {self.files} recording(s), {self.tried} tried: {self.read} can be read"
        said += f" ({formats})" if formats else ""
        said += f", {self.kept} kept by the quality rules" if self.kept < self.read else ""
        reasons = [f"  {n} x {why}; e.g. {self.examples[why]}" for why, n in self.reasons.most_common(5)]
        return [said, *reasons]


@dataclass(frozen=True)
class Tried:
    """What came of a sample: by kind; and age and sex of each recording that could be read, by its index."""

    kinds: tuple[Kind, ...]
    file: NDArray[np.int64]
    age: NDArray[np.float64]
    sex: NDArray[np.str_]


def try_recordings(settings: SiteSettings, recordings: Recordings, wanted: Sequence[int], each: int) -> Tried:
    """Read up to ``each`` recordings of every kind among ``wanted``, spread evenly over their names."""
    kinds: dict[str, Kind] = {}
    chosen: list[tuple[Kind, int]] = []
    for name, files in _by_kind(recordings, wanted).items():
        kind = kinds[name] = Kind(name, len(files))
        places = np.unique(np.linspace(0, len(files) - 1, min(each, len(files))).round().astype(np.int64))
        chosen += [(kind, files[place]) for place in places.tolist()]
    recipe = Recipe(InputConfig(), settings.quality, b"\0" * 32, described=settings.described)
    file, age, sex = [], [], []
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        for (kind, index), entry in zip(part, _read(recordings, [index for _, index in part], recipe), strict=True):
            kind.note(recordings.paths[index], entry)
            if entry.status != UNREADABLE:
                file.append(index)
                age.append(np.nan if entry.age is None else entry.age)
                sex.append(entry.sex)
    return Tried(
        tuple(kinds.values()),
        np.asarray(file, dtype=np.int64),
        np.asarray(age, dtype=np.float64),
        np.asarray(sex, dtype="<U1"),
    )


def _read(recordings: Recordings, files: Sequence[int], recipe: Recipe) -> list[Entry]:
    jobs, gone = [], []
    for place, index in enumerate(files):
        try:
            jobs.append(Job(recordings.full(index), b"", b"", recordings.signature(index), recordings.rate(index)))
        except OSError:
            gone.append(place)
    entries = iter(read_batch(jobs, recipe))
    missing = Entry(b"", b"", 0, 0, 0, UNREADABLE, fault="the file is there, but cannot be looked at")
    return [missing if place in gone else next(entries) for place in range(len(files))]


def _by_kind(recordings: Recordings, wanted: Sequence[int]) -> dict[str, list[int]]:
    """Group recordings by folder and ending: by their first folder where those are few, else by ending alone."""
    for depth in (2, 1, 0):
        groups: dict[str, list[int]] = {}
        for index in wanted:
            path = PurePosixPath(recordings.paths[index].partition("#")[0])
            folder = "/".join(path.parts[:-1][:depth])
            groups.setdefault(f"{folder + '/' if folder else ''}*{path.suffix}", []).append(index)
        if len(groups) <= _MOST_KINDS:
            break
    return groups
