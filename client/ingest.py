"""Reading recordings into the cache: read, assess, decide, preprocess; in batches, on all cores when many."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.cache import SignalCache
from client.cache_entries import REFUSED, STORED, UNREADABLE, Entry
from client.dataset import UNITS_PER_MV
from client.readers import read
from client.settings import QualityPolicy
from ecgshared.errors import EcgReadError
from ecgshared.preprocess import preprocess
from ecgshared.quality import assess, decide
from ecgshared.record import EcgRecord, Finding
from ecgshared.study import InputConfig

READING_VERSION = 1
"""Raised whenever a reader or the quality rules read a recording otherwise: older entries are read again."""

LARGEST_UNITS = 32_767
BATCH = 64
PARALLEL_FROM = 500
"""Below so many recordings the start of further processes costs more than they save."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Job:
    """One recording to read: where it lies, what it is called in the cache, what it is made from."""

    path: Path
    record: bytes
    patient: bytes
    signature: tuple[int, int]


@dataclass(frozen=True)
class Recipe:
    """What every recording of a cache is read with; sent to the worker processes."""

    input: InputConfig
    quality: QualityPolicy
    content_key: bytes


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
    for entries in _entries(jobs, recipe, threads):
        cache.store(entries)
        done += len(entries)
        if progress is not None:
            progress(done, len(jobs), "reading recordings")


def read_batch(jobs: Sequence[Job], recipe: Recipe) -> list[Entry]:
    """Read, assess and preprocess one batch; records of one rate and length are preprocessed together."""
    entries: list[Entry] = []
    groups: dict[tuple[float, int], list[tuple[int, NDArray[np.float32]]]] = {}
    for place, job in enumerate(jobs):
        size, mtime_ns = job.signature
        entry = Entry(job.record, job.patient, size, mtime_ns, READING_VERSION, UNREADABLE)
        try:
            record = read(job.path)
        except EcgReadError:
            entries.append(entry)
            continue
        entry = _described(entry, record, recipe)
        if entry.status == STORED:
            groups.setdefault((record.fs, record.p_signal.shape[1]), []).append((place, record.p_signal))
        entries.append(entry)
    for (fs, _), members in groups.items():
        signals = to_units(preprocess(np.stack([signal for _, signal in members]), fs, recipe.input))
        for (place, _), signal in zip(members, signals, strict=True):
            entries[place] = replace(entries[place], signal=signal)
    return entries


def to_units(p_signal: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return mV as int16 microvolts; a sample beyond 32.767 mV, where no heart reaches, stays at the limit."""
    units = np.rint(p_signal * np.float32(UNITS_PER_MV))
    np.clip(np.nan_to_num(units, copy=False), -LARGEST_UNITS, LARGEST_UNITS, out=units)
    out: NDArray[np.int16] = units.astype(np.int16)
    return out


def findings_of(text: str) -> tuple[Finding, ...]:
    """Return the findings kept in the cache; their messages were not."""
    return tuple(Finding(code, "", lead, value) for code, lead, value in json.loads(text))


def _described(entry: Entry, record: EcgRecord, recipe: Recipe) -> Entry:
    findings = assess(record)
    refused = decide(findings, recipe.quality.actions, recipe.quality.default) == "refuse"
    at = record.recorded_at
    return replace(
        entry,
        status=REFUSED if refused else STORED,
        content=_content(record, recipe.content_key),
        findings=json.dumps([[f.code, f.lead, f.value] for f in findings]),
        age=record.age_years,
        sex=record.sex or "",
        recorded_at=None if at is None else int(at.replace(tzinfo=UTC).timestamp()),
        fs=record.fs,
        seconds=record.seconds,
        device=record.device or "",
        format=record.source_format,
    )


def _content(record: EcgRecord, key: bytes) -> bytes:
    """Hash the samples as read, in microvolts: the same for an ECG exported twice, whatever the file's form."""
    units = np.rint(record.p_signal * np.float32(UNITS_PER_MV))
    whole = np.nan_to_num(units, nan=-(2.0**31), posinf=2.0**31 - 128, neginf=-(2.0**31) + 128)
    digest = hashlib.blake2b(np.ascontiguousarray(whole, dtype="<i4").tobytes(), key=key, digest_size=16)
    digest.update(f"{record.fs:g}".encode())
    return digest.digest()


def _entries(jobs: Sequence[Job], recipe: Recipe, threads: int | None) -> Iterator[list[Entry]]:
    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    workers = min(threads or os.cpu_count() or 1, len(batches))
    if len(jobs) < PARALLEL_FROM or workers < 2:
        for batch in batches:
            yield read_batch(batch, recipe)
        return
    # Spawned, not forked: the parent may hold threads (torch, gRPC) that a fork would copy half-dead.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: Iterator[Sequence[Job]] = iter(batches)
        running: set[Future[list[Entry]]] = set()
        while True:
            # No more in flight than a few a worker, so that memory does not grow with the cohort.
            for batch in islice(waiting, 2 * workers - len(running)):
                running.add(pool.submit(read_batch, batch, recipe))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
