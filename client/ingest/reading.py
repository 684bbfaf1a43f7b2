"""Reading recordings into the cache: read, assess, decide, preprocess; in batches, on all cores when many."""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import REFUSED, STORED, UNITS_PER_MV, UNREADABLE, Entry
from client.cache.signals import SignalCache
from client.readers import read
from client.site.described import DescribedConfig
from client.site.settings import QualityPolicy
from ecgshared.ecg.amplitude import step_mv
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import preprocess
from ecgshared.ecg.quality import REPAIRED, Decision, decide, examine, repair
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError
from ecgshared.service.memory import memory_kept
from ecgshared.service.processes import in_processes

READING_VERSION = 6
"""Raised whenever a reader or the quality rules read a recording otherwise: older entries are read again."""

LARGEST_UNITS = 32_767
BATCH, TOGETHER = 64, 16
"""Recordings stored at once, and of these held at once: more leave a processor's caches, with fewer what is done once
for all of them is done more often."""

PARALLEL_FROM = 500
"""Below so many recordings the start of further processes costs more than they save."""


Progress = Callable[[int, int, str], Any]
"""Called with recordings done, recordings in all, and what is being done."""


@dataclass(frozen=True)
class Job:
    """One recording to read: where it lies, its name in the cache, what it is made from, its rate by the table."""

    path: Path
    record: bytes
    patient: bytes
    signature: tuple[int, int]
    fs_hz: float | None = None


@dataclass(frozen=True)
class Recipe:
    """What every recording of a cache is read with; sent to the worker processes.

    ``features`` asks for the features of each recording that is stored; ``described`` is what the site says of its
    plain arrays.
    """

    input: InputConfig
    quality: QualityPolicy
    content_key: bytes
    features: bool = False
    described: DescribedConfig | None = None


def ingest(
    cache: SignalCache, jobs: Sequence[Job], recipe: Recipe, *, threads: int | None, progress: Progress | None
) -> None:
    """Read ``jobs`` into ``cache``; what is stored stays when the run is cut short.

    Raises
    ------
    RunError : the disk has no room.
    """
    if not jobs:
        return
    cache.require_room(len(jobs))
    done = 0
    batches = (jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH))
    for _, entries in read_in_order(batches, recipe, threads):
        cache.store(entries)
        done += len(entries)
        if progress is not None:
            progress(done, len(jobs), "reading recordings")


def read_in_order(
    batches: Iterable[Sequence[Job]], recipe: Recipe, threads: int | None
) -> Iterator[tuple[Sequence[Job], list[Entry]]]:
    """Give each batch with what became of it, in the order of ``batches``, read by further processes when many.

    Always in order, so that a run cut short and taken up again makes the same cache, byte for byte.
    """
    waiting = iter(batches)
    workers = threads or os.cpu_count() or 1
    first: list[Sequence[Job]] = []
    if workers > 1:
        while sum(map(len, first)) < PARALLEL_FROM and (batch := next(waiting, None)) is not None:
            first.append(batch)
    if workers < 2 or len(first) < 2 or sum(map(len, first)) < PARALLEL_FROM:
        with memory_kept():
            for batch in chain(first, waiting):
                yield batch, read_batch(batch, recipe)
        return
    yield from in_processes(partial(read_batch, recipe=recipe), chain(first, waiting), workers)


def must_be_read(status: int, findings: str, policy: QualityPolicy) -> bool:
    """Tell whether a recording must be read (again): not kept, or read under a policy that decided otherwise."""
    if status == -1:
        return True
    if status == UNREADABLE:
        return False
    known = findings_of(findings)
    action = decision(known, policy)
    repaired = any(finding.code == REPAIRED for finding in known)
    return (status == REFUSED and action != "refuse") or (action != "refuse" and repaired != (action == "repair"))


def refused(findings: str, policy: QualityPolicy) -> bool:
    """Tell whether today's policy refuses a recording with these findings."""
    return decision(findings_of(findings), policy) == "refuse"


def decision(findings: Iterable[Finding], policy: QualityPolicy) -> Decision:
    """Return what a site's policy makes of a recording with these findings."""
    return decide(findings, policy.actions, policy.default, most_empty=policy.most_empty)


def read_batch(jobs: Sequence[Job], recipe: Recipe) -> list[Entry]:
    """Read, assess and preprocess one batch, a few recordings at a time."""
    parts = (jobs[start : start + TOGETHER] for start in range(0, len(jobs), TOGETHER))
    return [entry for part in parts for entry in _read_together(part, recipe)]


def _read_together(jobs: Sequence[Job], recipe: Recipe) -> list[Entry]:
    """Read recordings; those of one rate and length are preprocessed together."""
    entries: list[Entry] = []
    groups: dict[tuple[float, int], list[tuple[int, NDArray[np.float32]]]] = {}
    for place, job in enumerate(jobs):
        size, mtime_ns = job.signature
        entry = Entry(job.record, job.patient, size, mtime_ns, READING_VERSION, UNREADABLE)
        try:
            record = read(job.path, *_said(job, recipe))
        except EcgReadError as error:
            entries.append(replace(entry, fault=_without_values(error.what)))
            continue
        entry, record = _described(entry, record, recipe)
        if entry.status == STORED:
            groups.setdefault((record.fs, record.p_signal.shape[1]), []).append((place, record.p_signal))
        entries.append(entry)
    for (fs, _), members in groups.items():
        signals = to_units(preprocess(np.stack([signal for _, signal in members]), fs, recipe.input))
        for (place, _), signal in zip(members, signals, strict=True):
            entries[place] = replace(entries[place], signal=signal)
    return entries


def _said(job: Job, recipe: Recipe) -> tuple[DescribedConfig | None, float | None] | tuple[()]:
    """Return what the site says of a recording beside what its file says; nothing where it says nothing."""
    covered = recipe.described is not None and recipe.described.covers(job.path)
    return (recipe.described, job.fs_hz) if covered or job.fs_hz is not None else ()


def to_units(p_signal: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return mV as int16 microvolts; a sample beyond 32.767 mV, where no heart reaches, stays at the limit."""
    units = p_signal * np.float32(UNITS_PER_MV)
    np.rint(units, out=units)
    np.clip(units, -LARGEST_UNITS, LARGEST_UNITS, out=units)  # infinities too
    if np.isnan(units.max()):
        np.nan_to_num(units, copy=False)
    out: NDArray[np.int16] = units.astype(np.int16)
    return out


def findings_of(text: str) -> tuple[Finding, ...]:
    """Return the findings kept in the cache; their messages were not."""
    return tuple(Finding(code, "", lead, value) for code, lead, value in json.loads(text))


def _described(entry: Entry, record: EcgRecord, recipe: Recipe) -> tuple[Entry, EcgRecord]:
    """Return what is known of a recording, and the recording as it is to be used: repaired where it is."""
    findings, amplitude = examine(record)
    action = decision(findings, recipe.quality)
    at = record.recorded_at
    content = _content(record, recipe.content_key)
    if action == "repair":
        record, undone = repair(record, findings, recipe.quality.actions)
        findings += (Finding(REPAIRED, ""),) if undone else ()
    features = None
    if recipe.features and action != "refuse":
        from ecgshared.ecg.features import feature_row  # only where asked for: it is dear

        features = feature_row(record)
    described = replace(
        entry,
        status=REFUSED if action == "refuse" else STORED,
        content=content,
        findings=json.dumps([[f.code, f.lead, f.value] for f in findings]),
        age=record.age_years,
        sex=record.sex or "",
        recorded_at=None if at is None else int(at.replace(tzinfo=UTC).timestamp()),
        fs=record.fs,
        seconds=record.seconds,
        device=record.device or "",
        format=record.source_format,
        size=(amplitude, step_mv(record), record.adc_units_per_mv),
        features=features,
    )
    return described, record


def _without_values(text: str) -> str:
    """Leave out what stands in quotes: a damaged file's text may be a name."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", text)


def _content(record: EcgRecord, key: bytes) -> bytes:
    """Hash the samples as read, in microvolts: the same for an ECG exported twice, whatever the file's form."""
    whole = record.p_signal * np.float32(UNITS_PER_MV)
    np.rint(whole, out=whole)
    lowest, highest = whole.min(), whole.max()
    if not np.isfinite(highest - lowest):
        whole = np.nan_to_num(whole, nan=-(2.0**31), posinf=2.0**31 - 128, neginf=-(2.0**31) + 128)
    narrow = lowest >= -LARGEST_UNITS and highest <= LARGEST_UNITS  # never where one is NaN
    # Processors have instructions for SHA-256, and for no other keyed hash of the standard library.
    digest = hmac.new(key, np.ascontiguousarray(whole, dtype="<i2" if narrow else "<i4").data, "sha256")
    digest.update(f"{record.fs:g}".encode())
    return digest.digest()[:16]
