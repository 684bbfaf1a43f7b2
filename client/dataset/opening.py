"""Opening a site: from its files to the arrays its handlers compute on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import STORED, UNREADABLE, CacheLookup
from client.cache.signals import opened
from client.cohort.link import LinkedRows, assign_splits, candidates, eligibility, link, most_recent
from client.cohort.table import CohortTable, usable_table
from client.dataset.data import CachedSignals, SiteData
from client.ingest.reading import READING_VERSION, Job, Progress, Recipe, findings_of, ingest, must_be_read, refused
from client.site.keys import load_keys
from client.site.settings import SiteSettings
from ecgshared.ecg.preprocess import fingerprint
from ecgshared.service.files import private_folder
from ecgshared.study.endpoints import BinaryEndpoint, follow_up_years, label_cells, time_to_event
from ecgshared.study.study import Study
from ecgshared.wire.protocol import SPLITS


class _Flow:
    """The exclusions so far: which rows are left, and what each step left."""

    def __init__(self, unit: NDArray[np.int64]) -> None:
        self._unit = unit
        self.left = np.ones(len(unit), dtype=bool)
        self.steps: list[tuple[str, int, int]] = []
        self.keep("rows of the site in its table", self.left)

    def keep(self, reason: str, passes: NDArray[np.bool_]) -> None:
        self.left = self.left & passes
        units = self._unit[self.left]
        self.steps.append((reason, int(self.left.sum()), len(np.unique(units[units >= 0]))))


def build(settings: SiteSettings, study: Study, progress: Progress | None) -> SiteData:
    """Do what :func:`open_site` says."""
    private_folder(settings.state)
    keys = load_keys(settings)
    table = usable_table(settings)
    linked = link(settings, table, keys)
    usable, first = candidates(table, linked, study)
    wanted = np.flatnonzero(usable)
    recipe = Recipe(study.input, settings.quality, keys.content)
    folder = settings.state / "cache" / fingerprint(study.input)
    with opened(folder, study.input.samples, waiting=_waiting(progress)) as cache:
        cache.forget([linked.pseudonyms[i] for i in np.unique(linked.unit[linked.opted_out])])
        records = [keys.record(linked.recordings.paths[linked.file[i]]) for i in wanted]
        patients = [linked.pseudonyms[linked.unit[i]] for i in wanted]
        signatures = [linked.recordings.signature(int(linked.file[i])) for i in wanted]
        found = cache.lookup(records, signatures, READING_VERSION)
        jobs = [
            Job(linked.recordings.full(int(linked.file[wanted[i]])), records[i], patients[i], signatures[i])
            for i in np.flatnonzero(_to_read(found, settings))
        ]
        if jobs:
            ingest(cache, jobs, recipe, threads=settings.compute.threads, progress=progress)
            found = cache.lookup(records, signatures, READING_VERSION)
        cache.reassign(records, patients)
        signals = cache.signals()
    columns = _merged(table, wanted, found)
    flow = _exclude(settings, study, table, linked, first, columns, wanted, found)
    rows = np.flatnonzero(flow.left)
    places = np.searchsorted(wanted, rows)
    return _assemble(settings, study, keys.split_positions, linked, columns, flow, rows, places, found, signals)


def _to_read(found: CacheLookup, settings: SiteSettings) -> NDArray[np.bool_]:
    """What the cache lacks, and what another policy refused, repaired or left as it was."""
    pairs = zip(found.status.tolist(), found.findings, strict=True)
    return np.asarray([must_be_read(status, findings, settings.quality) for status, findings in pairs], dtype=bool)


def _merged(table: CohortTable, wanted: NDArray[np.int64], found: CacheLookup) -> dict[str, NDArray[Any]]:
    """Fill age, sex, date and device from the recordings where the table has none."""
    n = len(table)
    columns = dict(table.columns)
    age = columns.get("age", np.full(n, np.nan)).copy()
    sex = columns.get("sex", np.full(n, "")).astype("<U1")
    recorded = columns.get("recorded_at", np.full(n, np.datetime64("NaT"), "datetime64[s]")).copy()
    device = columns.get("device", np.full(n, "")).astype(object)
    age[wanted] = np.where(np.isnan(age[wanted]), found.age, age[wanted])
    sex[wanted] = np.where(sex[wanted] == "", found.sex, sex[wanted])
    recorded[wanted] = np.where(np.isnat(recorded[wanted]), found.recorded_at, recorded[wanted])
    device[wanted] = np.where(device[wanted] == "", found.device, device[wanted])
    return columns | {"age": age, "sex": sex, "recorded_at": recorded, "device": device}


def _exclude(
    settings: SiteSettings,
    study: Study,
    table: CohortTable,
    linked: LinkedRows,
    first: NDArray[np.bool_],
    columns: dict[str, NDArray[Any]],
    wanted: NDArray[np.int64],
    found: CacheLookup,
) -> _Flow:
    n = len(table)
    unread = np.ones(n, dtype=bool)
    unread[wanted] = False
    flow = _Flow(linked.unit)
    flow.keep("recording not found", linked.file >= 0)
    flow.keep("recording named by an earlier row", first)
    flow.keep("opted out", ~linked.opted_out)
    flow.keep("no patient id", linked.unit >= 0)
    for reason, passes in eligibility(columns, n, study.eligibility, unread=unread):
        flow.keep(reason, passes)
    readable, good, content = np.zeros(n, bool), np.zeros(n, bool), np.full(n, b"", dtype=object)
    readable[wanted] = found.status != UNREADABLE
    turned_away = np.asarray([refused(findings, settings.quality) for findings in found.findings], dtype=bool)
    good[wanted] = (found.status == STORED) & ~turned_away
    content[wanted] = found.content
    flow.keep("recording cannot be read", readable)
    flow.keep("refused by the quality rules", good)
    flow.keep("the same signal as an earlier row", _first_of_its_content(content, flow.left))
    if study.eligibility.most_recent_only:
        flow.keep("not the patient's most recent", most_recent(linked.unit, columns["recorded_at"], flow.left))
    return flow


def _first_of_its_content(content: NDArray[np.object_], left: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows = np.flatnonzero(left)
    seen: set[bytes] = set()
    passes = left.copy()
    for row in rows:
        passes[row] = content[row] not in seen
        seen.add(content[row])
    return passes


def _assemble(
    settings: SiteSettings,
    study: Study,
    positions: Any,
    linked: LinkedRows,
    columns: dict[str, NDArray[Any]],
    flow: _Flow,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    found: CacheLookup,
    signals: NDArray[np.int16],
) -> SiteData:
    kept = {name: column[rows] for name, column in columns.items()}
    units, patient = np.unique(linked.unit[rows], return_inverse=True)
    if settings.site not in study.sites.train:
        split = np.full(len(units), SPLITS.index("lockbox"), dtype=np.int8)
    else:
        split = assign_splits(positions([linked.units[i] for i in units]), study.split)
    cells = [label_cells(kept, endpoint, censoring=study.censoring) for endpoint in study.endpoints.values()]
    rates = [f"{fs:g}" for fs in found.fs[places]]
    nowhere = np.full(len(rows), np.nan, dtype=np.float32)
    events = sorted({event for step in study.steps if (event := getattr(step, "event", None)) is not None})
    return SiteData(
        signals=CachedSignals(signals, found.slot[places]),
        patient=patient.astype(np.int64),
        split=split[patient],
        heads=tuple(study.endpoints),
        labels=np.stack(cells, axis=1),
        age=kept["age"].astype(np.float32),
        male=label_cells(kept, BinaryEndpoint(kind="binary", column="male")),
        covariates={name: kept.get(name, nowhere).astype(np.float32) for name in study.covariates},
        fs_hz=study.input.fs_hz,
        # Known where ids are missing only from rows that are not in the cohort.
        patients_known=not bool((units >= linked.first_stand_in).any()),
        flow=tuple(flow.steps),
        descriptions={
            "device": _counts(kept["device"]),
            "device patients": _patients_by(kept["device"], patient),
            "fs": _counts(rates),
            "fs patients": _patients_by(rates, patient),
            "findings": _findings(found.findings[places]),
            "files": {"without a row": linked.unmatched_files},
        },
        follow_up_years=follow_up_years(kept),
        event_times={event: time_to_event(kept, event) for event in events},
        chronology=_chronology(kept["recorded_at"]),
    )


def _chronology(recorded: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Place of each ECG in time; of equal dates the later row, an unknown date before all others."""
    when = np.where(np.isnat(recorded), np.iinfo(np.int64).min, recorded.astype(np.int64))
    place = np.empty(len(when), dtype=np.int64)
    place[np.argsort(when, kind="stable")] = np.arange(len(when))
    return place


def _patients_by(values: Any, patient: NDArray[np.int64]) -> dict[str, int]:
    return dict(Counter(value for value, _ in {(str(v), p) for v, p in zip(values, patient.tolist(), strict=True)}))


def _counts(values: Any) -> dict[str, int]:
    return dict(Counter(str(value) for value in values if value).most_common())


def _findings(texts: NDArray[np.object_]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for text, ecgs in Counter(texts).items():
        counts.update(dict.fromkeys({finding.code for finding in findings_of(text)}, ecgs))
    return dict(counts.most_common())


def _waiting(progress: Progress | None) -> Any:
    return None if progress is None else lambda: progress(0, 0, "waiting for another process of this site")


def open_site(settings: SiteSettings, study: Study, *, progress: Progress | None = None) -> SiteData:
    """Open a site's cohort under a study: table, recordings, exclusions, split, labels, cached signals.

    Recordings not yet in the cache are read first; ``progress(done, total, text)`` is told. A site that the
    study only evaluates has every patient in the lockbox.

    Raises
    ------
    CohortError : table, recordings or opt-out list cannot be used; no value of a patient is in its text.
    RunError : the disk has no room for the cache.
    """
    # The readers and the filters are heavy, and a command that only checks a file does without them.
    from client.dataset.opening import build

    return build(settings, study, progress)
