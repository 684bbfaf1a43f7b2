"""From table rows to a cohort: recordings, opt-outs, patients, eligibility and split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.cells import normal_id
from client.cohort.recordings import Matches, Recordings, find_recordings, match
from client.cohort.table import CohortTable
from client.site.keys import SiteKeys
from client.site.settings import SiteSettings
from ecgshared.errors import CohortError
from ecgshared.study.study import EligibilityConfig, SplitConfig
from ecgshared.wire.protocol import SPLITS

OPT_OUT_FILE = "opt-out.txt"
EACH_ECG = "ecg:"
"""Put before a recording's path where it stands in for a patient id."""


@dataclass(frozen=True)
class LinkedRows:
    """Table rows with their recordings and patients, before any recording is read.

    Attributes
    ----------
    file : int64 array, shape = (n,): index into ``recordings.paths``; -1 where the row has none.
    unit : int64 array, shape = (n,): index into ``units``; -1 where the patient is not known and must be.
    units : patient ids; from ``first_stand_in`` on ``ecg:<path>``, where an ECG stands for its patient.
    pseudonyms : of ``units``.
    opted_out : bool array, shape = (n,).
    unmatched_files : recordings that no row of the whole table means.
    """

    recordings: Recordings
    file: NDArray[np.int64]
    unit: NDArray[np.int64]
    units: tuple[str, ...]
    pseudonyms: tuple[bytes, ...]
    opted_out: NDArray[np.bool_]
    first_stand_in: int
    unmatched_files: int
    ambiguous: tuple[str, ...]


def link(
    settings: SiteSettings, table: CohortTable, keys: SiteKeys, *, unlisted: tuple[Recordings, Matches] | None = None
) -> LinkedRows:
    """Join rows to recordings and patients.

    ``unlisted`` holds the files the rows name (:func:`.recordings.named`) where the folder need not be listed
    first; whether they are there is then not known, and no file is counted as being without a row.

    Raises
    ------
    CohortError : no recordings, an opt-out list that cannot be read, or patient ids missing under ``refuse``.
    """
    if unlisted is None:
        recordings = find_recordings(settings.records)
        matches = match(recordings, table.file)
        others = match(recordings, sorted(table.other_files)).file
        used = np.union1d(matches.file, others)
        without_a_row = len(recordings.paths) - int((used >= 0).sum())
    else:
        (recordings, matches), without_a_row = unlisted, 0
    unit, units, first_stand_in = _units(settings, table, matches.file, recordings)
    pseudonyms = tuple(keys.patient(name) for name in units)
    out = opted_out(settings, keys)
    gone = np.asarray([pseudonym in out for pseudonym in pseudonyms] + [False], dtype=bool)
    return LinkedRows(
        recordings=recordings,
        file=matches.file,
        unit=unit,
        units=units,
        pseudonyms=pseudonyms,
        opted_out=gone[unit],
        first_stand_in=first_stand_in,
        unmatched_files=without_a_row,
        ambiguous=matches.ambiguous,
    )


def opted_out(settings: SiteSettings, keys: SiteKeys) -> frozenset[bytes]:
    """Return the pseudonyms of everyone on the site's ``exclude`` list or forgotten before."""
    found: set[bytes] = set()
    if settings.exclude is not None:
        try:
            lines = settings.exclude.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CohortError(
                f"the opt-out list cannot be read ({type(error).__name__})",
                where=settings.exclude,
                allowed="a UTF-8 text file of patient ids, one a line",
            ) from None
        names = (normal_id(line.partition("#")[0]) for line in lines)
        found.update(keys.patient(name) for name in names if name)
    kept = settings.state / OPT_OUT_FILE
    if kept.exists():
        try:
            found.update(bytes.fromhex(line) for line in kept.read_text(encoding="ascii").split())
        except (OSError, ValueError) as error:
            raise CohortError(f"is damaged ({type(error).__name__})", where=kept) from None
    return frozenset(found)


def _units(
    settings: SiteSettings, table: CohortTable, file: NDArray[np.int64], recordings: Recordings
) -> tuple[NDArray[np.int64], tuple[str, ...], int]:
    ids = table.ids.get("patient_id")
    n = len(table)
    if ids is None:
        unit, names = np.full(n, -1, dtype=np.int64), []
    else:
        named = np.asarray([bool(name) for name in ids.values] + [False], dtype=bool)
        unit, names = np.where(named[ids.codes], ids.codes, -1).astype(np.int64), list(ids.values)
    missing = np.flatnonzero((unit < 0) & (file >= 0))
    if not len(missing):
        return unit, tuple(names), len(names)
    if settings.patient_id_missing == "refuse":
        where = "table.columns maps no patient_id" if ids is None else f"{len(missing)} ECGs have no patient id"
        raise CohortError(
            where,
            where=settings.table.path,
            remedy="set patient_id_missing: drop, or each-ecg-a-patient (no claim about patients then)",
        )
    if settings.patient_id_missing == "drop":
        return unit, tuple(names), len(names)
    # One recording named by two rows is still one: its path stands for the patient, not its row.
    own, place = np.unique(file[missing], return_inverse=True)
    unit[missing] = len(names) + place
    return unit, (*names, *(EACH_ECG + recordings.paths[i] for i in own)), len(names)


def eligibility(
    columns: dict[str, NDArray[Any]],
    n: int,
    config: EligibilityConfig,
    *,
    unread: NDArray[np.bool_] | None = None,
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return (reason of exclusion, rows that pass) for each filter of the study, in its order.

    A row whose value is unknown does not pass a filter that needs it: nobody of unknown age is "under 80".
    Rows marked ``unread`` may still learn age, sex and date from their recording, and pass until then. Who has
    no ``index_date`` is a control and passes; who has one passes only with an ECG before it.
    ``most_recent_only`` is not among them: see :func:`most_recent`.
    """
    wait = np.zeros(n, dtype=bool) if unread is None else unread
    age, recorded = columns.get("age", np.full(n, np.nan)), _dates(columns, "recorded_at", n)
    ageless, undated = np.isnan(age), np.isnat(recorded)
    steps: list[tuple[str, NDArray[np.bool_]]] = []
    if config.min_age is not None:
        steps.append((f"age not known to be {config.min_age:g} or more", (age >= config.min_age) | (ageless & wait)))
    if config.max_age is not None:
        steps.append((f"age not known to be under {config.max_age:g}", (age < config.max_age) | (ageless & wait)))
    if config.known_age:
        steps.append(("age not known", ~ageless | wait))
    if config.known_sex:
        steps.append(("sex not known", (columns.get("sex", np.full(n, "")) != "") | wait))
    if config.exclude_defibrillator:
        implanted = _dates(columns, "icd_date", n)
        passes = np.isnat(implanted) | (recorded.astype("datetime64[D]") < implanted.astype("datetime64[D]"))
        steps.append(("ECG on or after a defibrillator's implantation", passes | (undated & wait)))
    if config.min_days_before_index is not None or config.max_days_before_index is not None:
        index = _dates(columns, "index_date", n)
        span = index.astype("datetime64[D]") - recorded.astype("datetime64[D]")
        days = np.where(np.isnat(span), np.nan, span.astype(np.float64))
        low, high = config.min_days_before_index or 0.0, config.max_days_before_index
        passes = (days >= low) & (days <= (np.inf if high is None else high))
        window = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        reason = f"ECG not {window} days before the index date"
        steps.append((reason, passes | np.isnat(index) | (undated & wait)))
    return steps


def most_recent(
    unit: NDArray[np.int64], recorded: NDArray[np.datetime64], eligible: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Mark each patient's last eligible ECG; of equal dates the later row, an unknown date before all others."""
    rows = np.flatnonzero(eligible)
    when = np.where(np.isnat(recorded[rows]), np.iinfo(np.int64).min, recorded[rows].astype(np.int64))
    order = np.lexsort((rows, when, unit[rows]))
    last = np.ones(len(rows), dtype=bool)
    last[:-1] = unit[rows][order][1:] != unit[rows][order][:-1]
    keep = np.zeros(len(eligible), dtype=bool)
    keep[rows[order[last]]] = True
    return keep


def assign_splits(positions: NDArray[np.float64], shares: SplitConfig) -> NDArray[np.int8]:
    """Return each patient's split by place in [0, 1): lockbox lowest, validation next, training last.

    The lockbox of share ``s`` is ``position < s`` whatever the other shares: a study can widen it, never
    redraw it.
    """
    cut = 1.0 if shares.train == 0 else shares.lockbox + shares.validation
    names = np.select([positions < shares.lockbox, positions < cut], ["lockbox", "validation"], "train")
    if shares.train == 0 and shares.validation == 0:
        names = np.full(len(positions), "lockbox")
    return np.asarray([SPLITS.index(name) for name in names.tolist()], dtype=np.int8)


def _dates(columns: dict[str, NDArray[Any]], name: str, n: int) -> NDArray[np.datetime64]:
    found = columns.get(name)
    return np.full(n, np.datetime64("NaT"), dtype="datetime64[s]") if found is None else found
