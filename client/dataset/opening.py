"""Opening a site: from its files to the arrays its handlers compute on. Link, select, read, assemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from client.cache.entries import CacheLookup
from client.cache.generation import CacheGeneration
from client.cache.signals import opened
from client.cohort.link import LinkedRows, link
from client.cohort.selection import Selection, select
from client.cohort.table import usable_table
from client.dataset.assembling import assemble
from client.dataset.data import CachedSignals, SiteData
from client.dataset.generation import Generation, marks
from client.ingest.reading import READING_VERSION, Job, Progress, Recipe, ingest, must_be_read
from client.site.keys import SiteKeys, load_keys
from client.site.settings import QualityPolicy, SiteSettings
from ecgshared.arrays import Bools
from ecgshared.ecg.preprocess import fingerprint
from ecgshared.errors import CohortError
from ecgshared.service.files import private_folder
from ecgshared.study.study import Study


def open_site(settings: SiteSettings, study: Study, *, progress: Progress | None = None) -> SiteData:
    """Open a site's cohort once, for who does not ask again; see :func:`open_cohort`."""
    return open_cohort(settings, study, progress=progress)[0]


def open_cohort(
    settings: SiteSettings, study: Study, *, progress: Progress | None = None, may_read: bool = True
) -> tuple[SiteData, Generation]:
    """Open a site's cohort under a study: table, recordings, exclusions, split, labels, cached signals.

    Recordings not yet in the cache are read first; ``progress(done, total, text)`` is told. A site that the
    study only evaluates has every patient in the lockbox. With the cohort comes what it was made from.

    Raises
    ------
    CohortError : table, recordings or opt-out list cannot be used; no value of a patient is in its text. Recordings
        are not in the cache yet, and ``may_read`` is False.
    RunError : the disk has no room for the cache.
    """
    private_folder(settings.state)
    keys = load_keys(settings)
    files = marks(settings)
    table = usable_table(settings, study.columns)
    linked = link(settings, table, keys)
    selected = select(table, linked, study)
    reading = read(settings, study, keys, linked, selected, progress, may_read=may_read)
    data = assemble(settings, study, keys, table, linked, selected, reading.found, reading.signals)
    return data, Generation(settings, files, reading.generation)


@dataclass(frozen=True)
class Reading:
    """What the cache holds of the selected rows' recordings, in their order, and the state it is in."""

    found: CacheLookup
    signals: CachedSignals
    generation: CacheGeneration


def read(
    settings: SiteSettings,
    study: Study,
    keys: SiteKeys,
    linked: LinkedRows,
    selected: Selection,
    progress: Progress | None,
    *,
    may_read: bool = True,
) -> Reading:
    """Look up the selected recordings in the cache, and read those it lacks; who opted out is wiped from it."""
    rows = selected.rows
    recordings, files = linked.recordings, linked.file[rows].tolist()
    records = [keys.record(recordings.paths[file]) for file in files]
    patients = [linked.pseudonyms[unit] for unit in linked.unit[rows].tolist()]
    signatures = [recordings.signature(file) for file in files]
    recipe = Recipe(study.input, settings.quality, keys.content, described=settings.described)
    folder = settings.state / "cache" / fingerprint(study.input)
    with opened(folder, study.input.samples, waiting=_waiting(progress)) as cache:
        cache.forget([linked.pseudonyms[i] for i in np.unique(linked.unit[linked.opted_out])])
        found = cache.lookup(records, signatures, READING_VERSION)
        jobs = [
            Job(recordings.full(files[i]), records[i], patients[i], signatures[i], recordings.rate(files[i]))
            for i in np.flatnonzero(_to_read(found, settings.quality))
        ]
        if jobs and not may_read:
            raise CohortError(
                f"{len(jobs)} recording(s) are not read yet", remedy="ecgfed site ingest SITE.yaml --study STUDY.yaml"
            )
        if jobs:
            ingest(cache, jobs, recipe, threads=settings.compute.threads, progress=progress)
            found = cache.lookup(records, signatures, READING_VERSION)
        cache.reassign(records, patients)
        generation = cache.generation()
        return Reading(found, CachedSignals(cache.signals(), found.slot, generation.made), generation)


def _to_read(found: CacheLookup, policy: QualityPolicy) -> Bools:
    """What the cache lacks, and what another policy refused, repaired or left as it was."""
    pairs = zip(found.status.tolist(), found.findings, strict=True)
    return np.asarray([must_be_read(status, findings, policy) for status, findings in pairs], dtype=bool)


def _waiting(progress: Progress | None) -> Callable[[], None] | None:
    return None if progress is None else lambda: progress(0, 0, "waiting for another process of this site")
