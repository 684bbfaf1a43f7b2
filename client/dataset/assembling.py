"""From the selected rows and their recordings to the cohort's arrays: the flow of exclusions, split, labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import STORED, UNREADABLE, CacheLookup
from client.cohort.link import LinkedRows, assign_splits, most_recent
from client.cohort.selection import Selection, decide_read
from client.cohort.table import CohortTable
from client.dataset.data import CachedSignals, SiteData
from client.ingest.reading import findings_of, refused
from client.site.keys import SiteKeys
from client.site.settings import QualityPolicy, SiteSettings
from ecgshared.arrays import Bools
from ecgshared.study.dates import first_later, follow_up_years
from ecgshared.study.declared import as_numbers, with_absent
from ecgshared.study.endpoints import BinaryEndpoint, TimeToEventEndpoint, label_cells, time_to_event
from ecgshared.study.populations import members, numbers_of
from ecgshared.study.study import SplitConfig, Study
from ecgshared.wire.protocol import SPLITS


def assemble(
    settings: SiteSettings,
    study: Study,
    keys: SiteKeys,
    table: CohortTable,
    linked: LinkedRows,
    selected: Selection,
    found: CacheLookup,
    signals: CachedSignals,
) -> SiteData:
    """Return the cohort.

    Parameters
    ----------
    found, signals : of the selected rows' recordings, in their order.
    """
    columns, learned = _merged(table, selected.rows, found)
    if "ecg_vt" in columns:
        # From every ECG of the patient, also those that are not eligible themselves.
        columns["ecg_vt_date"] = first_later(columns["recorded_at"], columns["ecg_vt"], linked.unit)
    flow = _Flow(linked.unit)
    for reason, passes in decide_read(selected, learned, columns, study.eligibility):
        flow.keep(reason, passes)
    _exclude_read(flow, selected, found, settings.quality)
    if study.eligibility.most_recent_only:
        flow.keep("not the patient's most recent", most_recent(linked.unit, columns["recorded_at"], flow.left))
    rows = np.flatnonzero(flow.left)
    places = np.searchsorted(selected.rows, rows)
    kept = {name: column[rows] for name, column in columns.items()}
    units, patient = np.unique(linked.unit[rows], return_inverse=True)
    trains = settings.site in study.sites.train
    split = _splits(trains, study.split, keys, [linked.units[i] for i in units])
    labels = _labels(study, columns)[rows]
    nowhere = np.full(len(rows), np.nan, dtype=np.float32)
    every = with_absent(kept, study.columns, len(rows))
    events = _timed_events(study)
    return SiteData(
        signals=signals.take(places),
        patient=patient.astype(np.int64),
        split=split[patient],
        heads=tuple(study.endpoints),
        labels=labels,
        age=kept["age"].astype(np.float32),
        male=label_cells(kept, BinaryEndpoint(kind="binary", column="male")),
        covariates={name: kept.get(name, nowhere).astype(np.float32) for name in study.covariates},
        fs_hz=study.input.fs_hz,
        # Known where ids are missing only from rows that are not in the cohort.
        patients_known=not bool((units >= linked.first_stand_in).any()),
        flow=tuple(flow.steps),
        descriptions=_descriptions(kept["device"], patient, found.take(places), linked.unmatched_files),
        follow_up_years=follow_up_years(kept),
        event_times={
            event: time_to_event(
                kept, event, censor_at_defibrillator=study.censor_at_defibrillator, declared=study.columns
            )
            for event in events
        },
        populations={
            name: members(population, every, np.ones(len(rows), dtype=bool), patient)
            for name, population in study.populations.items()
        },
        chronology=_chronology(kept["recorded_at"]),
        record_keys=_short([keys.record(linked.recordings.paths[file]) for file in linked.file[rows].tolist()]),
        patient_keys=_short([linked.pseudonyms[unit] for unit in linked.unit[rows].tolist()]),
        table_keys=_short(
            [keys.record(linked.recordings.paths[file]) for file in linked.file[_present(linked)].tolist()]
        ),
        columns={
            **{
                name: numbers_of(name, every, len(rows))
                for name in sorted({name for step in study.steps for name in step.reads_columns})
            },
            **{name: as_numbers(column, every[name]) for name, column in study.columns.items() if not column.is_date},
        },
    )


def _timed_events(study: Study) -> list[str]:
    """Return the events whose times the study's steps read."""
    named = {event for step in study.steps if (event := getattr(step, "event", None)) is not None}
    weighted = study.endpoints.values() if study.censoring == "ipcw" else ()
    named |= {one.event for one in weighted if isinstance(one, TimeToEventEndpoint) and isinstance(one.event, str)}
    return sorted(named)


def _present(linked: LinkedRows) -> Bools:
    """Whom the table still holds: who is not in a cohort for a study's rules has not left."""
    return np.asarray((linked.file >= 0) & ~linked.opted_out, dtype=np.bool_)


def _short(pseudonyms: list[bytes]) -> NDArray[np.uint64]:
    """The first eight bytes of each pseudonym: enough to tell millions apart."""
    return np.frombuffer(b"".join(one[:8] for one in pseudonyms), dtype=">u8").astype(np.uint64)


def _labels(study: Study, columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the endpoints' cells of the whole table: its latest date may be what ends the data."""
    return np.stack(
        [
            label_cells(
                columns,
                endpoint,
                censoring=study.censoring,
                censor_at_defibrillator=study.censor_at_defibrillator,
                declared=study.columns,
            )
            for endpoint in study.endpoints.values()
        ],
        axis=1,
    )


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


def _merged(
    table: CohortTable, rows: NDArray[np.int64], found: CacheLookup
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Fill age, sex, date and device of ``rows`` from their recordings where the table has none.

    Return the columns, and the rows of which the table lacked age, sex or date.
    """
    n = len(table)
    columns = dict(table.columns)
    age = columns.get("age", np.full(n, np.nan)).copy()
    sex = columns.get("sex", np.full(n, "")).astype("<U1")
    recorded = columns.get("recorded_at", np.full(n, np.datetime64("NaT", "s"), "datetime64[s]")).copy()
    device = columns.get("device", np.full(n, "")).astype(object)
    lacking = np.isnan(age[rows]) | (sex[rows] == "") | np.isnat(recorded[rows])
    age[rows] = np.where(np.isnan(age[rows]), found.age, age[rows])
    sex[rows] = np.where(sex[rows] == "", found.sex, sex[rows])
    recorded[rows] = np.where(np.isnat(recorded[rows]), found.recorded_at, recorded[rows])
    device[rows] = np.where(device[rows] == "", found.device, device[rows])
    return columns | {"age": age, "sex": sex, "recorded_at": recorded, "device": device}, rows[lacking]


def _exclude_read(flow: _Flow, selected: Selection, found: CacheLookup, policy: QualityPolicy) -> None:
    """Go on with the flow by what became of the selected recordings."""
    n, rows = len(selected.wanted), selected.rows
    readable, good, content = np.zeros(n, bool), np.zeros(n, bool), np.full(n, b"", dtype=object)
    turned_away = np.asarray([refused(findings, policy) for findings in found.findings], dtype=bool)
    readable[rows] = found.status != UNREADABLE
    good[rows] = (found.status == STORED) & ~turned_away
    content[rows] = found.content
    flow.keep("recording cannot be read", readable)
    flow.keep("refused by the quality rules", good)
    flow.keep("the same signal as an earlier row", _first_of_its_content(content, flow.left))


def _splits(trains: bool, shares: SplitConfig, keys: SiteKeys, patients: list[str]) -> NDArray[np.int8]:
    """Return each patient's split; at a site that never trains everybody is in the lockbox."""
    if not trains:
        return np.full(len(patients), SPLITS.index("lockbox"), dtype=np.int8)
    return assign_splits(keys.split_positions(patients), shares)


def _descriptions(
    device: NDArray[np.object_], patient: NDArray[np.int64], found: CacheLookup, unmatched_files: int
) -> dict[str, dict[str, int]]:
    rates = [f"{fs:g}" for fs in found.fs]
    return {
        "device": _counts(device),
        "device patients": _patients_by(device, patient),
        "fs": _counts(rates),
        "fs patients": _patients_by(rates, patient),
        "findings": _findings(found.findings),
        "files": {"without a row": unmatched_files},
    }


def _first_of_its_content(content: NDArray[np.object_], left: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows = np.flatnonzero(left)
    seen: set[bytes] = set()
    passes = left.copy()
    for row in rows:
        passes[row] = content[row] not in seen
        seen.add(content[row])
    return passes


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
