"""Looking over a site file and all it names, trying what can be tried, and saying everything that is wrong at once.

What this finds holds patients' values: it goes to the operator's terminal and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.approval.register import in_force, study_path
from client.cohort.agreement import compare
from client.cohort.declared import strangers
from client.cohort.identities import Near, is_damaged, may_have_been
from client.cohort.link import LinkedRows, inspect
from client.cohort.notices import unmatched_opt_outs
from client.cohort.optout import read_opt_outs
from client.cohort.recordings import Matches, Recordings, find_recordings
from client.cohort.table import CohortTable, read_cohort_table
from client.network.reach import check_network
from client.operator.check_study import Findings, declared_by, fit
from client.operator.trial import SAMPLE, try_recordings
from client.site.at_rest import encryption_of
from client.site.keys import SiteKeys, load_keys
from client.site.settings import SiteSettings, load_site, named_paths
from ecgshared.errors import EcgFedError
from ecgshared.service.files import private_folder
from ecgshared.study.study import Study, load_study

_SHOWN = 10
T = TypeVar("T")


def check_site(path: Path, studies: tuple[Path, ...] = (), *, offline: bool = False, sample: int = SAMPLE) -> Findings:
    """Check a site file, its table, recordings, keys and opt-outs, how its studies fit, and its part in the network.

    Parameters
    ----------
    studies : study files to check against; those the site names or approved, where empty.
    offline : ask nobody: the way to the coordinator is left out.
    sample : how many recordings of each kind are read; 0 reads none.
    """
    found = Findings()
    try:
        settings = load_site(path)
    except EcgFedError as error:
        found.faults.append(str(error))
        found.faults += [f"{place}: there is no such {what}" for what, place in named_paths(path) if not place.exists()]
        return found
    held = settings.studies if settings.network is None else _approved(settings, found)
    known = [study for name in studies or held if (study := _study(name, settings, found))]
    recordings = _tried(found, lambda: find_recordings(settings.records, settings.described))
    declared = declared_by(known, found)
    table = _tried(found, lambda: read_cohort_table(settings, declared))
    opt_outs = _tried(found, lambda: read_opt_outs(settings))
    if opt_outs is None:
        settings = settings.model_copy(update={"exclude": None})
    elif settings.exclude is not None and not opt_outs.listed and not opt_outs.damaged:
        found.doubts.append(f"{settings.exclude}: the opt-out list holds no id; has nobody opted out?")
    found.doubts += strangers(settings.table, [study.columns for study in known])
    keys = _keys(settings, found)
    linked = None
    if table is not None:
        found.faults += [fault.render() for fault in table.faults]
        found.doubts += table.doubts
        if not len(table):
            why = "no row is this site's; see table.rows" if settings.table.rows else "has a header and no row"
            found.faults.append(f"{settings.table.path}: {why}")
        linked = _linked(settings, table, keys, recordings, found)
    elif recordings is not None:
        found.notes.append(f"recordings: {len(recordings.paths)}; whose they are only the table can say")
    if table is not None and linked is not None:
        _describe(table, linked, found, listed=recordings is not None)
        _who_opted_out(settings, table, linked, found)
        for study in known:
            fit(settings, table, linked, study, found)
    if recordings is not None and sample > 0:
        _try(settings, recordings, table, linked, sample, found)
    _at_rest(settings, found)
    if settings.network is not None:
        faults, notes = check_network(settings, offline=offline)
        found.faults += faults
        found.notes += notes
    return found


def _tried(found: Findings, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except EcgFedError as error:
        found.faults.append(str(error))
        return None


def _approved(settings: SiteSettings, found: Findings) -> tuple[Path, ...]:
    try:
        held = in_force(settings.state, settings.federation, settings.approvals)
    except EcgFedError:
        return ()  # told with the other approvals
    paths = tuple(study_path(settings.state, sha256) for kind, sha256 in held if kind == "study")
    found.faults += [
        f"{path}: the copy of an approved study is gone; approve it again" for path in paths if not path.exists()
    ]
    return tuple(path for path in paths if path.exists())


def _study(path: Path, settings: SiteSettings, found: Findings) -> Study | None:
    study = _tried(found, lambda: load_study(path))
    if study is not None and settings.site not in study.sites.all:
        found.faults.append(f"{path}: does not name the site {settings.site!r}; its sites: {study.sites.all}")
    return study


def _at_rest(settings: SiteSettings, found: Findings) -> None:
    """Say whether the state lies on an encrypted volume, and object where the site file wants it to."""
    volume = encryption_of(settings.state)
    if settings.retention.encrypted == "required" and volume != "encrypted":
        found.faults.append(
            f"{settings.state}: retention.encrypted is `required`, and of its volume the kernel says: {volume}; "
            "put it on an encrypted one (LUKS)"
        )
    found.notes.append(f"at rest: state on a volume of which the kernel says: {volume}")


def _keys(settings: SiteSettings, found: Findings) -> SiteKeys:
    """Return the site's keys; where they cannot be used, others that serve to count."""
    try:
        private_folder(settings.state)
        return load_keys(settings)
    except EcgFedError as error:
        found.faults.append(str(error))
    except OSError as error:
        found.faults.append(f"{settings.state}: the folder of state cannot be used ({error.strerror})")
    return SiteKeys(bytes(32), bytes(32))


def _linked(
    settings: SiteSettings, table: CohortTable, keys: SiteKeys, recordings: Recordings | None, found: Findings
) -> LinkedRows:
    if recordings is None:
        # As if every file were there that the table names: what else is wrong shows all the same.
        names = sorted(set(table.file) - {""})
        place = {name: index for index, name in enumerate(names)}
        file = np.asarray([place.get(name, -1) for name in table.file], dtype=np.int64)
        linked = inspect(
            settings, table, keys, unlisted=(Recordings(settings.records.folder, tuple(names)), Matches(file, ()))
        )
    else:
        linked = inspect(settings, table, keys, listed=recordings)
    found.faults += [fault.shown for fault in linked.faults]
    if linked.ambiguous:
        shown = ", ".join(linked.ambiguous[:_SHOWN])
        found.faults.append(f"{settings.records.folder}: several files fit {shown}; name them with their ending")
    missing = np.flatnonzero(linked.file < 0)
    if len(table) and len(missing) == len(table):
        example = next((name for name in table.file if name), "")
        found.faults.append(
            f"{settings.table.path}: no row finds a recording; table.join gives {example!r}, "
            f"the first file is {(linked.recordings.paths or ('',))[0]!r}"
        )
    elif len(missing):
        lines = ", ".join(f"{table.lines[i]} ({table.file[i] or 'empty'})" for i in missing[:_SHOWN])
        found.doubts.append(
            f"rows without a recording: {len(missing)}, lines {lines}{' ...' if len(missing) > _SHOWN else ''}"
        )
    return linked


def _describe(table: CohortTable, linked: LinkedRows, found: Findings, *, listed: bool) -> None:
    matched = linked.file >= 0
    people = linked.unit[matched]
    people = people[people >= 0]
    stand_ins = int((people >= linked.first_stand_in).sum())
    patients = len(np.unique(people[people < linked.first_stand_in]))
    found.notes += [
        f"rows: {len(table)}",
        f"patients: {patients}" + (f"; {stand_ins} ECGs without a patient id" if stand_ins else ""),
    ]
    if listed:
        found.notes += [
            f"rows with a recording: {int(matched.sum())}, without: {int((~matched).sum())}",
            f"recordings without a row: {linked.unmatched_files}",
        ]
    else:
        found.notes.append("rows with a recording: not known")
    found.notes.append(f"rows opted out: {int(linked.opted_out.sum())}")
    _, first = np.unique(linked.file, return_index=True)
    again = int(matched.sum()) - int((linked.file[first] >= 0).sum())
    if again:
        found.notes.append(f"rows that name a recording again: {again}; the first of each counts")
    if table.header_line > 1:
        found.notes.append(f"header: line {table.header_line}")
    fit = matched & (linked.unit >= 0) & ~linked.opted_out & ~table.faulty
    for fault in linked.faults:
        fit[fault.rows] = False
    if found.faults:
        whose = len(np.unique(linked.unit[fit]))
        found.notes.append(f"usable as it stands: {int(fit.sum())} of {len(table)} rows, of {whose} patient(s)")


def _who_opted_out(settings: SiteSettings, table: CohortTable, linked: LinkedRows, found: Findings) -> None:
    ids = table.ids.get("patient_id")
    if ids is None:
        return  # told as a fault where anybody opted out
    stand_ins = int((linked.unit >= linked.first_stand_in).sum())
    if stand_ins and linked.opt_outs.listed:
        found.doubts.append(f"{table.path}: {stand_ins} ECGs without a patient id may be of people who opted out")
    names, listed = linked.units[: linked.first_stand_in], linked.opt_outs.listed
    lines = _first_lines(table, ids.codes, len(ids.values))
    for place, by in linked.by.items():
        if by and names[place] != by and lines[place]:
            found.doubts.append(
                f"{settings.exclude}:{listed[by]}: {by!r} is near {names[place]!r} ({table.path.name}:{lines[place]}), "
                "which is left out too; if that is another person: exclude_near: false"
            )
    near = Near(name for place, name in enumerate(names) if name and lines[place])
    if not settings.exclude_near:
        for by, number in listed.items():
            if others := near.to(by):
                found.doubts.append(f"{settings.exclude}:{number}: {by!r} is near {_some(others)}, who stay in")
    unmatched = unmatched_opt_outs(linked)
    rounded = [name for name in names if is_damaged(name)]
    for number, name in unmatched[:_SHOWN]:
        among = [other for other in rounded if may_have_been(other, name)]
        may_be = f"; it may be the one that was rounded to {among[0]!r}" if among else ""
        found.doubts.append(f"{settings.exclude}:{number}: {name!r} is the id of nobody in the table{may_be}")
    if len(unmatched) > _SHOWN:
        found.doubts.append(f"{settings.exclude}: {len(unmatched) - _SHOWN} more ids are of nobody in the table")
    pairs = {tuple(sorted((name, other))) for name in near.crowded() for other in near.to(name)}
    for one, other in sorted(pairs)[:_SHOWN]:
        found.doubts.append(f"{table.path}: {one!r} and {other!r} count as two patients; are they one?")
    if len(pairs) > _SHOWN:
        found.doubts.append(f"{table.path}: {len(pairs) - _SHOWN} more pairs of ids differ so little")


def _first_lines(table: CohortTable, codes: NDArray[np.int32], n: int) -> list[int]:
    lines = np.zeros(n, dtype=np.int64)
    present, first = np.unique(codes, return_index=True)
    lines[present] = table.lines[first]
    return lines.tolist()


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" and others" if len(names) > 5 else "")


def _try(
    settings: SiteSettings,
    recordings: Recordings,
    table: CohortTable | None,
    linked: LinkedRows | None,
    sample: int,
    found: Findings,
) -> None:
    """Read a few recordings of each kind: of those the table means, where it means any."""
    meant = np.zeros(0, dtype=np.int64) if linked is None else np.unique(linked.file[~linked.opted_out])
    meant = meant[meant >= 0]
    recordings = recordings if linked is None else linked.recordings  # with the rates that the table gives
    tried = try_recordings(settings, recordings, meant.tolist() or range(len(recordings.paths)), sample)
    for kind in tried.kinds:
        text = "\n".join(kind.lines())
        if not kind.read:
            found.faults.append(text)
        elif kind.kept < kind.tried:
            found.doubts.append(text)
        else:
            found.notes.append(text)
    read, kept = (sum(getattr(kind, name) for kind in tried.kinds) for name in ("read", "kept"))
    if read and not kept:
        found.faults.append("no recording that was tried is kept by the quality rules; see `quality` in the site file")
    if table is not None and linked is not None and len(meant):
        row = np.full(len(recordings.paths), -1, dtype=np.int64)
        matched = np.flatnonzero(linked.file >= 0)[::-1]
        row[linked.file[matched]] = matched  # backwards, so that the first of several rows stays
        found.doubts += compare(table, row[tried.file], tried.age, tried.sex).lines(table)
