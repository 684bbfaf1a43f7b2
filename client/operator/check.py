"""Looking over a site file and all it names, and saying everything that is wrong at once.

What this finds holds patients' values: it goes to the operator's terminal and nowhere else.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from client.approval.register import in_force, study_path
from client.cohort.link import LinkedRows, link
from client.cohort.selection import select
from client.cohort.table import CohortTable, read_cohort_table
from client.network.reach import check_network
from client.site.keys import load_keys
from client.site.settings import SiteSettings, load_site
from ecgshared.ecg.preprocess import fingerprint
from ecgshared.errors import EcgFedError
from ecgshared.service.files import private_folder
from ecgshared.study.endpoints import BUILT_IN_LABELS, BinaryEndpoint, label_cells
from ecgshared.study.study import Study, load_study


@dataclass
class Findings:
    """``faults`` stand in the way; ``notes`` tell what is there."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_site(path: Path, studies: tuple[Path, ...] = (), *, offline: bool = False) -> Findings:
    """Check a site file, its table, recordings, keys and opt-outs, how its studies fit, and its part in the network.

    Parameters
    ----------
    studies : study files to check against; those the site names or approved, where empty.
    offline : ask nobody: the way to the coordinator is left out.
    """
    found = Findings()
    try:
        settings = load_site(path)
    except EcgFedError as error:
        found.faults.append(str(error))
        return found
    held = settings.studies if settings.network is None else _approved(settings, found)
    known = [study for name in studies or held if (study := _study(name, settings, found))]
    table = linked = None
    try:
        table = read_cohort_table(settings)
    except EcgFedError as error:
        found.faults.append(str(error))
    if table is not None:
        found.faults += [fault.render() for fault in table.faults]
        if not len(table):
            found.faults.append(f"{settings.table.path}: no row is this site's; see table.rows")
        linked = _linked(settings, table, found)
    if table is not None and linked is not None:
        _describe(table, linked, found)
        for study in known:
            _fit(settings, table, linked, study, found)
    if settings.network is not None:
        faults, notes = check_network(settings, offline=offline)
        found.faults += faults
        found.notes += notes
    return found


def _approved(settings: SiteSettings, found: Findings) -> tuple[Path, ...]:
    try:
        held = in_force(settings.state)
    except EcgFedError:
        return ()  # told with the other approvals
    paths = tuple(study_path(settings.state, sha256) for kind, sha256 in held if kind == "study")
    found.faults += [
        f"{path}: the copy of an approved study is gone; approve it again" for path in paths if not path.exists()
    ]
    return tuple(path for path in paths if path.exists())


def _study(path: Path, settings: SiteSettings, found: Findings) -> Study | None:
    try:
        study = load_study(path)
    except EcgFedError as error:
        found.faults.append(str(error))
        return None
    if settings.site not in study.sites.all:
        found.faults.append(f"{path}: does not name the site {settings.site!r}; its sites: {study.sites.all}")
    return study


def _linked(settings: SiteSettings, table: CohortTable, found: Findings) -> LinkedRows | None:
    try:
        private_folder(settings.state)
        linked = link(settings, table, load_keys(settings))
    except EcgFedError as error:
        found.faults.append(str(error))
        return None
    except OSError as error:
        found.faults.append(f"{settings.state}: the folder of state cannot be used ({error.strerror})")
        return None
    if linked.ambiguous:
        shown = ", ".join(linked.ambiguous[:10])
        found.faults.append(f"{settings.records.folder}: several files fit {shown}; name them with their ending")
    missing = np.flatnonzero(linked.file < 0)
    if len(table) and len(missing) == len(table):
        example = next((name for name in table.file if name), "")
        found.faults.append(
            f"{settings.table.path}: no row finds a recording; table.join gives {example!r}, "
            f"the first file is {linked.recordings.paths[0]!r}"
        )
    elif len(missing):
        lines = ", ".join(f"{table.lines[i]} ({table.file[i] or 'empty'})" for i in missing[:10])
        found.notes.append(f"rows without a recording: lines {lines}{' ...' if len(missing) > 10 else ''}")
    return linked


def _describe(table: CohortTable, linked: LinkedRows, found: Findings) -> None:
    matched = linked.file >= 0
    people = linked.unit[matched]
    people = people[people >= 0]
    stand_ins = int((people >= linked.first_stand_in).sum())
    patients = len(np.unique(people[people < linked.first_stand_in]))
    found.notes += [
        f"rows: {len(table)}",
        f"patients: {patients}" + (f"; {stand_ins} ECGs without a patient id" if stand_ins else ""),
        f"rows with a recording: {int(matched.sum())}, without: {int((~matched).sum())}",
        f"recordings without a row: {linked.unmatched_files}",
        f"rows opted out: {int(linked.opted_out.sum())}",
    ]


def _fit(settings: SiteSettings, table: CohortTable, linked: LinkedRows, study: Study, found: Findings) -> None:
    usable = select(table, linked, study).wanted
    kept = {name: column[usable] for name, column in table.columns.items()}
    found.notes.append(f"study {study.name}: {int(usable.sum())} ECGs to read")
    for head, endpoint in study.endpoints.items():
        built_in = isinstance(endpoint, BinaryEndpoint) and endpoint.column in BUILT_IN_LABELS
        cells = label_cells(kept, endpoint, censoring=study.censoring) if kept else np.full(0, np.nan)
        ones, zeros = int((cells == 1).sum()), int((cells == 0).sum())
        text = f"  {head}: {ones} with, {zeros} without, {int(usable.sum()) - ones - zeros} not known"
        if not ones + zeros:
            later = " from the table; the recordings' own sex may serve" if built_in else ""
            text += f" (this site has no such label{later})"
        found.notes.append(text)
    folder = settings.state / "cache" / fingerprint(study.input)
    there = (folder / "signals.i16").stat().st_size if (folder / "signals.i16").exists() else 0
    need = max(0, int(usable.sum()) * 12 * study.input.samples * 2 - there)
    free = shutil.disk_usage(settings.state).free
    found.notes.append(f"  cache: {need / 2**20:,.0f} MiB more needed, {free / 2**20:,.0f} free")
    if need > free:
        found.faults.append(f"{settings.state}: too little room for the cache of study {study.name}")
