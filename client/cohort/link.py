"""From table rows to a cohort: recordings, opt-outs, patients, eligibility and split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cohort.faults import SHOWN_VALUES, where
from client.cohort.identities import DAMAGED
from client.cohort.optout import OptOuts, left_out, read_opt_outs
from client.cohort.recordings import Matches, Recordings, find_recordings, match
from client.cohort.table import CohortTable
from client.site.keys import SiteKeys
from client.site.settings import SiteSettings
from ecgshared.errors import CohortError
from ecgshared.study.study import EligibilityConfig, SplitConfig
from ecgshared.wire.protocol import SPLITS

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
    opt_outs : who opted out, as listed. by : of ``units`` that are left out, the id of the list they are left out
        by: their own, one near it, or "" for those forgotten.
    faults : what stands in the way, with lines and values; for the operator's terminal only.
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
    opt_outs: OptOuts
    by: dict[int, str]
    faults: tuple[LinkFault, ...] = ()


@dataclass(frozen=True)
class LinkFault:
    """One thing that keeps rows from being linked: ``what`` holds no value, ``shown`` may; ``rows`` it is about."""

    what: str
    remedy: str
    shown: str
    rows: NDArray[np.int64]


def link(
    settings: SiteSettings, table: CohortTable, keys: SiteKeys, *, unlisted: tuple[Recordings, Matches] | None = None
) -> LinkedRows:
    """Join rows to recordings and patients; what cannot be joined for certain is refused.

    ``unlisted`` holds the files the rows name (:func:`.recordings.named`) where the folder need not be listed
    first; whether they are there is then not known, and no file is counted as being without a row.

    Raises
    ------
    CohortError : no recordings; an opt-out list that cannot be read, or whose ids are damaged; one recording named for
        two patients; patient ids missing under ``refuse``. No value of a patient is in its text.
    """
    found = inspect(settings, table, keys, unlisted=unlisted)
    if found.faults:
        raise CohortError(
            "; ".join(fault.what for fault in found.faults),
            where=settings.table.path,
            remedy="run `ecgfed site check SITE.yaml`: it shows each line; "
            + "; ".join(fault.remedy for fault in found.faults),
        )
    return found


def inspect(
    settings: SiteSettings,
    table: CohortTable,
    keys: SiteKeys,
    *,
    unlisted: tuple[Recordings, Matches] | None = None,
    listed: Recordings | None = None,
) -> LinkedRows:
    """Do what :func:`link` does, with ``faults`` listed instead of raised; ``listed`` is the folder listed before.

    Raises
    ------
    CohortError : no recordings, or an opt-out list that cannot be read.
    """
    opt_outs = read_opt_outs(settings)
    if unlisted is None:
        recordings = find_recordings(settings.records, settings.described) if listed is None else listed
        matches = match(recordings, table.file)
        others = match(recordings, sorted(table.other_files)).file
        used = np.union1d(matches.file, others)
        without_a_row = len(recordings.paths) - int((used >= 0).sum())
    else:
        (recordings, matches), without_a_row = unlisted, 0
    recordings = _with_rates(recordings, table, matches.file)
    unit, units, first_stand_in, missing = _units(settings, table, matches.file, recordings)
    faults = [*missing, *_shared_files(table, recordings, matches.file, unit), *_opt_out_faults(table, opt_outs)]
    pseudonyms = tuple(keys.patient(name) for name in units)
    by = left_out(opt_outs, units, pseudonyms, keys, near=settings.exclude_near)
    gone = np.zeros(len(units) + 1, dtype=bool)
    gone[list(by)] = True
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
        opt_outs=opt_outs,
        by=by,
        faults=tuple(faults),
    )


def _with_rates(recordings: Recordings, table: CohortTable, file: NDArray[np.int64]) -> Recordings:
    """Hand the table's sampling rates to the recordings they are about."""
    rates = table.columns.get("fs_hz")
    if rates is None:
        return recordings
    of_file = np.full(len(recordings.paths), np.nan)
    of_file[file[file >= 0]] = rates[file >= 0]
    return replace(recordings, fs_hz=of_file)


def _units(
    settings: SiteSettings, table: CohortTable, file: NDArray[np.int64], recordings: Recordings
) -> tuple[NDArray[np.int64], tuple[str, ...], int, list[LinkFault]]:
    ids = table.ids.get("patient_id")
    n = len(table)
    if ids is None:
        unit, names = np.full(n, -1, dtype=np.int64), []
    else:
        named = np.asarray([bool(name) for name in ids.values] + [False], dtype=bool)
        unit, names = np.where(named[ids.codes], ids.codes, -1).astype(np.int64), list(ids.values)
    missing = np.flatnonzero((unit < 0) & (file >= 0))
    if not len(missing) or settings.patient_id_missing == "drop":
        return unit, tuple(names), len(names), []
    if settings.patient_id_missing == "refuse":
        what = "table.columns maps no patient_id" if ids is None else f"{len(missing)} ECGs have no patient id"
        remedy = "set patient_id_missing: drop, or each-ecg-a-patient (no claim about patients then)"
        at = str(table.path) if ids is None else where(table.path, table.lines, missing)
        return unit, tuple(names), len(names), [LinkFault(what, remedy, f"{at}: {what}; {remedy}", missing)]
    # One recording named by two rows is still one: its path stands for the patient, not its row.
    own, place = np.unique(file[missing], return_inverse=True)
    unit[missing] = len(names) + place
    return unit, (*names, *(EACH_ECG + recordings.paths[i] for i in own)), len(names), []


def _shared_files(
    table: CohortTable, recordings: Recordings, file: NDArray[np.int64], unit: NDArray[np.int64]
) -> list[LinkFault]:
    """Find recordings that rows name for different patients: whose ECG it is, nobody can tell."""
    rows = np.flatnonzero((file >= 0) & (unit >= 0))
    rows = rows[np.argsort(file[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(file[rows]) != 0]) if len(rows) else np.zeros(0, dtype=np.int64)
    lowest = np.minimum.reduceat(unit[rows], starts) if len(rows) else starts
    highest = np.maximum.reduceat(unit[rows], starts) if len(rows) else starts
    found = []
    for at in np.flatnonzero(lowest != highest).tolist():
        stop = starts[at + 1] if at + 1 < len(starts) else len(rows)
        mine = rows[starts[at] : stop]
        at_lines = where(table.path, table.lines, mine)
        found.append((f"{at_lines}: {recordings.paths[file[mine[0]]]}: one recording named for several patients", mine))
    if not found:
        return []
    what = f"{len(found)} recording(s) named for several patients"
    remedy = "give each recording one patient"
    shown = "\n".join(text for text, _ in found[:SHOWN_VALUES])
    more = f"\n({len(found) - SHOWN_VALUES} further recordings)" if len(found) > SHOWN_VALUES else ""
    return [LinkFault(what, remedy, shown + more, np.concatenate([mine for _, mine in found]))]


def _opt_out_faults(table: CohortTable, opt_outs: OptOuts) -> list[LinkFault]:
    """Find what would let people in who opted out: no ids to know them by, or damaged ones."""
    if opt_outs.listed and "patient_id" not in table.ids:
        what = f"{len(opt_outs.listed)} people opted out, but table.columns maps no patient_id to know them by"
        remedy = "map patient_id"
        return [LinkFault(what, remedy, f"{opt_outs.path}: {what}", np.zeros(0, dtype=np.int64))]
    if not opt_outs.damaged:
        return []
    lines = ", ".join(f"line {number}" for number, _ in opt_outs.damaged[:SHOWN_VALUES])
    what = f"the opt-out list holds {len(opt_outs.damaged)} id(s) that a spreadsheet rounded ({lines})"
    shown = "\n".join(
        f"{opt_outs.path}:{number}: patient id, found {name!r}; allowed: {DAMAGED}"
        for number, name in opt_outs.damaged[:SHOWN_VALUES]
    )
    return [LinkFault(what, "export the list as text", shown, np.zeros(0, dtype=np.int64))]


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
    return np.full(n, np.datetime64("NaT", "s"), dtype="datetime64[s]") if found is None else found
