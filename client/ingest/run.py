"""``ecgfed site ingest``: every recording the studies need, read once into the cache, with a ledger and a report.

Everything flows: rows in chunks, recordings in batches, each batch on the disk before the next is asked for. Memory
holds the table and the names of the files it means, never signals of more than a few batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import STORED, UNREADABLE, CacheLookup
from client.cache.signals import SignalCache, opened
from client.cohort.agreement import compare, one_signal_for_several
from client.cohort.link import LinkedRows, link
from client.cohort.notices import lines_to_look_at
from client.cohort.recordings import Recordings, match, named, walk
from client.cohort.selection import select
from client.cohort.table import CohortTable, usable_table
from client.ingest.comparison import Sized, outliers, summary
from client.ingest.quality_report import write_report
from client.ingest.reading import BATCH, READING_VERSION, Job, Progress, Recipe, must_be_read, read_in_order
from client.ingest.register import IngestLedger, opened_ledger
from client.site.keys import SiteKeys, load_keys
from client.site.settings import SiteSettings
from ecgshared.ecg.preprocess import fingerprint
from ecgshared.errors import ConfigError
from ecgshared.service.files import private_folder
from ecgshared.study.study import Study

CHUNK_BATCHES = 32
"""Batches looked up at once. Batches always begin at the same rows: what is computed together stays together."""

REASONS = 10
"""Of each outcome that leaves files out, so many reasons are told."""

SAMPLED = 50
"""So many of the files that rows name are looked for before a listing of the folder is left out."""


@dataclass
class Ingested:
    """What a run did: files read, files the caches held already, and the ledger's counts at its end.

    ``reasons`` gives for each outcome that leaves a file out (why, files, one of them); ``doubts`` names lines of table
    and opt-out list to look at, and no value of anybody.
    ``stand_out`` recordings differ from the others of their device; ``compared`` says for each device which and how.
    """

    read: int = 0
    kept: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, list[tuple[str, int, str]]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    report: str = ""
    stand_out: int = 0
    compared: list[str] = field(default_factory=list)

    @property
    def usable(self) -> int:
        """Recordings that the caches hold for use, of this run and those before."""
        return sum(self.outcomes.get(outcome, 0) for outcome in ("read", "flagged", "repaired"))


def ingest_site(
    settings: SiteSettings, studies: Sequence[Study], *, features: bool = False, progress: Progress | None = None
) -> Ingested:
    """Read what the studies need of a site into its caches; write ledger and report.

    Cut short anywhere and run again, it goes on where it stopped: the same caches, no file of a stored batch read
    twice. Reading begins before the records folder is listed, where the pattern allows.

    Raises
    ------
    ConfigError : no study. CohortError : the site's table or folder cannot be used. RunError : no room.
    """
    if not studies:
        raise ConfigError(
            "no study to ingest for", remedy="give --study STUDY.yaml, list studies in the site file, or --all"
        )
    private_folder(settings.state)
    keys, table = load_keys(settings), usable_table(settings)
    unlisted = named(settings.records, table.file, settings.described)
    if unlisted is not None and not _mostly_there(unlisted[0]):
        unlisted = None  # the table may write names in another case: only a listing can tell
    linked = link(settings, table, keys, unlisted=unlisted)
    done = Ingested(doubts=lines_to_look_at(table, linked))
    # Studies that see the recordings the same way share a cache: a recording both need is read once.
    needs: dict[str, tuple[Study, NDArray[np.bool_]]] = {}
    for study in studies:
        mark = fingerprint(study.input)
        usable = select(table, linked, study).wanted
        needs[mark] = (study, usable | needs[mark][1] if mark in needs else usable)
    with opened_ledger(settings.state) as ledger:
        gone = [linked.pseudonyms[i] for i in np.unique(linked.unit[linked.opted_out])]
        ledger.forget(gone)
        for mark, (study, usable) in needs.items():
            folder = settings.state / "cache" / mark
            waiting = None if progress is None else (lambda: progress(0, 0, "waiting for another process of this site"))
            with opened(folder, study.input.samples, waiting=waiting) as cache:
                cache.forget(gone)
                recipe = Recipe(study.input, settings.quality, keys.content, features, settings.described)
                run = _Run(settings, keys, linked, cache, ledger, recipe)
                run.all(np.flatnonzero(usable), done, progress)
                done.doubts += [line for line in run.contradictions(table) if line not in done.doubts]
                if run.passed:
                    cache.announce()
        if progress is not None:
            progress(0, 0, "listing the folder")
        _list_the_rest(settings, linked, table.other_files, ledger)
        ledger.finish()
        found = outliers(Sized(*row) for row in ledger.sizes())
        ledger.stand_out([(o.path, o.patient, o.device, o.code, o.why) for o in found])
        done.stand_out, done.compared = len(found), summary(found)
        done.reasons = {outcome: ledger.grouped(outcome, REASONS) for outcome in ("unreadable", "refused", "missing")}
        done.outcomes = {str(outcome): int(files or 0) for outcome, files in ledger.counts("outcome")}
        done.report = str(write_report(settings, ledger))
    return done


def _mostly_there(recordings: Recordings) -> bool:
    """Tell by a sample whether the files that rows name are on the disk."""
    few = range(0, len(recordings.paths), max(1, len(recordings.paths) // SAMPLED))
    return 2 * sum(recordings.full(index).is_file() for index in few) >= len(few)


class _There(NamedTuple):
    """A file that is there: its place among the rows asked for, its name, and what a :class:`Job` says of it."""

    place: int
    file: int
    name: str
    record: bytes
    patient: bytes
    signature: tuple[int, int]


class _Run:
    """One cache being filled."""

    def __init__(
        self,
        settings: SiteSettings,
        keys: SiteKeys,
        linked: LinkedRows,
        cache: SignalCache,
        ledger: IngestLedger,
        recipe: Recipe,
    ) -> None:
        self.settings, self.keys, self.linked = settings, keys, linked
        self.cache, self.ledger, self.recipe = cache, ledger, recipe
        self.passed = 0
        self.wanted = np.zeros(0, dtype=np.int64)

    def contradictions(self, table: CohortTable) -> list[str]:
        """Return in which lines of the table the recordings say otherwise: of age and sex, and of who it is."""
        names = [self.linked.recordings.paths[file] for file in self.linked.file[self.wanted]]
        age, sex, content = self.cache.persons([self.keys.record(name) for name in names])
        found = compare(table, self.wanted, age, sex).lines(table)
        return found + one_signal_for_several(table, self.wanted, self.linked.unit[self.wanted], content)

    def all(self, wanted: NDArray[np.int64], done: Ingested, progress: Progress | None) -> None:
        """Read what is lacking of ``wanted`` rows, in their order."""
        self.wanted = wanted
        self.cache.require_room(max(0, len(wanted) - self.cache.stored()))
        kept_before = done.kept
        for jobs, entries in read_in_order(self._batches(wanted, done), self.recipe, self.settings.compute.threads):
            # The ledger first: a line too many is written again, a line too few would be lost.
            self.ledger.note([self._name(job) for job in jobs], entries)
            self.cache.store(entries)
            done.read += len(entries)
            self.passed += len(entries)
            if progress is not None:
                progress(min(len(wanted), self.passed + done.kept - kept_before), len(wanted), "reading recordings")

    def _name(self, job: Job) -> str:
        return job.path.relative_to(self.settings.records.folder).as_posix()

    def _batches(self, wanted: NDArray[np.int64], done: Ingested) -> Iterator[list[Job]]:
        for start in range(0, len(wanted), CHUNK_BATCHES * BATCH):
            rows = wanted[start : start + CHUNK_BATCHES * BATCH]
            jobs = self._jobs(rows, done)
            for first in range(0, len(rows), BATCH):
                batch = [job for job in jobs[first : first + BATCH] if job is not None]
                if batch:
                    yield batch

    def _jobs(self, rows: NDArray[np.int64], done: Ingested) -> list[Job | None]:
        """Return for each row what must be read; None where the cache has it or the file is not there."""
        here = self._there(rows)
        found = self.cache.lookup([one.record for one in here], [one.signature for one in here], READING_VERSION)
        read = self._to_be_read(here, found)
        kept = [k for k in range(len(here)) if k not in read]
        self._keep([here[k] for k in kept], found.take(np.asarray(kept, dtype=np.int64)))
        done.kept += len(kept)
        jobs: list[Job | None] = [None] * len(rows)
        for one in (here[k] for k in read):
            path, rate = self.linked.recordings.folder / one.name, self.linked.recordings.rate(one.file)
            jobs[one.place] = Job(path, one.record, one.patient, one.signature, rate)
        return jobs

    def _there(self, rows: NDArray[np.int64]) -> list[_There]:
        """Return those of the rows' files that are there; the others are noted."""
        linked, recordings = self.linked, self.linked.recordings
        there, missing = [], []
        for place, (row, file) in enumerate(zip(rows.tolist(), linked.file[rows].tolist(), strict=True)):
            name = recordings.paths[file]
            try:
                signature = recordings.signature(file)
            except OSError:
                missing.append(name)
                continue
            patient = linked.pseudonyms[linked.unit[row]]
            there.append(_There(place, file, name, self.keys.record(name), patient, signature))
        self.ledger.mark(missing, "missing")
        return there

    def _to_be_read(self, here: list[_There], found: CacheLookup) -> set[int]:
        """Return the places of those that the cache does not have as they are wanted now."""
        status = found.status.tolist()
        policy = self.settings.quality
        read = {k for k in range(len(here)) if must_be_read(status[k], found.findings[k], policy)}
        # Why a file could not be read only the ledger knows; and features may be asked for later.
        unread = [k for k in range(len(here)) if status[k] == UNREADABLE]
        names = [here[k].name for k in unread]
        told = self.ledger.explained(names, [here[k].signature for k in unread], READING_VERSION)
        read |= {k for k, name in zip(unread, names, strict=True) if name not in told}
        if self.recipe.features:
            stored = [k for k in range(len(here)) if status[k] == STORED]
            records, signatures = [here[k].record for k in stored], [here[k].signature for k in stored]
            read |= {stored[i] for i in self.ledger.without_features(records, signatures, READING_VERSION)}
        return read

    def _keep(self, kept: list[_There], found: CacheLookup) -> None:
        """Note what need not be read, for the patients that have it now."""
        records, patients = [one.record for one in kept], [one.patient for one in kept]
        names, signatures = [one.name for one in kept], [one.signature for one in kept]
        self.ledger.keep(names, records, patients, signatures, found, READING_VERSION)
        self.cache.reassign(records, patients)


def _list_the_rest(settings: SiteSettings, linked: LinkedRows, others: frozenset[str], ledger: IngestLedger) -> None:
    """Note the files that nothing needed, as the disk lists them."""
    paths = linked.recordings.paths
    meant = {paths[i] for i in np.unique(linked.file[linked.file >= 0])}
    if others:
        elsewhere = named(settings.records, sorted(others), settings.described)
        recordings, matches = elsewhere or (linked.recordings, match(linked.recordings, sorted(others)))
        meant.update(recordings.paths[i] for i in matches.file[matches.file >= 0])
    # A file of many exams is told by its exams.
    several = {path.rpartition("#")[0] for path in meant if "#" in path} - meant
    listing = (path for path in walk(settings.records) if path not in several)
    while part := list(islice(listing, 10_000)):
        ledger.mark([path for path in part if path in meant], "not needed")
        ledger.mark([path for path in part if path not in meant], "without a row")
