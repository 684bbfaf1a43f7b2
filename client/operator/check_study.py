"""What a study would find at this site: whom it reads, how many have each label, and whether there is room for them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.cohort.declared import known_cells, unmapped
from client.cohort.link import LinkedRows
from client.cohort.selection import select
from client.cohort.table import CohortTable
from client.site.settings import SiteSettings
from ecgshared.arrays import Bools
from ecgshared.ecg.preprocess import fingerprint
from ecgshared.study.dates import first_later
from ecgshared.study.deaths import assumed_first_day
from ecgshared.study.declared import Declared, DeclaredColumn, with_absent
from ecgshared.study.endpoints import (
    BUILT_IN_LABELS,
    BinaryEndpoint,
    ContinuousEndpoint,
    Endpoint,
    TimeToEventEndpoint,
    label_cells,
)
from ecgshared.study.populations import members
from ecgshared.study.study import Study


@dataclass
class Findings:
    """``faults`` stand in the way, ``doubts`` are to be looked at, ``notes`` tell what is there."""

    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def declared_by(studies: list[Study], found: Findings) -> Declared:
    """Return the columns that the studies declare; where two declare one otherwise, the first counts."""
    declared: dict[str, DeclaredColumn] = {}
    for study in studies:
        for name, column in study.columns.items():
            other = declared.setdefault(name, column)
            if other.model_copy(update={"label": None}) != column.model_copy(update={"label": None}):
                found.doubts.append(
                    f"study {study.name}: declares {name} as a {column.kind} ({column.allowed}), another study as a "
                    f"{other.kind} ({other.allowed}), as which it was read; check this study by itself: --study FILE"
                )
    return declared


def _cells(table: CohortTable, linked: LinkedRows, study: Study, endpoint: Endpoint) -> NDArray[np.float32]:
    columns = dict(table.columns)
    if not columns:
        return np.full(len(table), np.nan, dtype=np.float32)
    if "ecg_vt" in columns and "recorded_at" in columns:
        columns["ecg_vt_date"] = first_later(columns["recorded_at"], columns["ecg_vt"], linked.unit)
    return label_cells(
        columns,
        endpoint,
        censoring=study.censoring,
        censor_at_defibrillator=study.censor_at_defibrillator,
        declared=study.columns,
    )


def _assumed(table: CohortTable, usable: Bools, study: Study, found: Findings) -> None:
    """Tell how many deaths count as sudden on dates alone, where a label hangs on it."""
    if not table.columns or not any(
        isinstance(e, TimeToEventEndpoint) and "scd" in e.events for e in study.endpoints.values()
    ):
        return
    assumed = int((assumed_first_day(table.columns) & usable).sum())
    if assumed:
        found.notes.append(
            f"  of the deaths in hospital, {assumed} came on the day after admission and without a time of day: they "
            "count as within 24 hours; map times to death_date and admission_time to know"
        )


def fit(settings: SiteSettings, table: CohortTable, linked: LinkedRows, study: Study, found: Findings) -> None:
    """Add what the study would find, and what stands in its way, to ``found``."""
    usable = select(table, linked, study).wanted
    series = settings.site in study.sites.case_control
    if settings.design == "case_control" and settings.site in study.sites.all and not series:
        found.faults.append(
            f"study {study.name}: takes this site for a cohort, but its design is case_control: nothing but describe "
            "will be answered; the study must name it under sites.case_control"
        )
    elif series and settings.design == "cohort":
        found.doubts.append(f"study {study.name}: takes this site for a case-control series; design here: cohort")
    found.notes.append(f"study {study.name}: {int(usable.sum())} ECGs to read")
    for head, endpoint in study.endpoints.items():
        built_in = isinstance(endpoint, BinaryEndpoint) and endpoint.column in BUILT_IN_LABELS
        cells = _cells(table, linked, study, endpoint)[usable]
        if isinstance(endpoint, ContinuousEndpoint):
            known = int((~np.isnan(cells)).sum())
            found.notes.append(f"  {head}: {known} known, {int(usable.sum()) - known} not known or out of range")
            continue
        ones, zeros = int((cells == 1).sum()), int((cells == 0).sum())
        text = f"  {head}: {ones} with, {zeros} without, {int(usable.sum()) - ones - zeros} not known"
        if not ones + zeros:
            later = " from the table; the recordings' own sex may serve" if built_in else ""
            text += f" (this site has no such label{later})"
        found.notes.append(text)
    _assumed(table, usable, study, found)
    found.notes += [f"  column {text}" for text in known_cells(table, study.columns, usable)]
    found.doubts += [f"study {study.name}: column {text}" for text in unmapped(settings.table, study.columns)]
    every = with_absent(table.columns, study.columns, len(table))
    for name, population in study.populations.items():
        belong = members(population, every, usable, linked.unit)
        people = len(np.unique(linked.unit[belong]))
        found.notes.append(
            f"  population {name}: {int(belong.sum())} ECGs of {people} patients, by what the table says"
        )
    folder = settings.state / "cache" / fingerprint(study.input)
    there = (folder / "signals.i16").stat().st_size if (folder / "signals.i16").exists() else 0
    need = max(0, int(usable.sum()) * 12 * study.input.samples * 2 - there)
    free = shutil.disk_usage(settings.state).free
    found.notes.append(f"  cache: {need / 2**20:,.0f} MiB more needed, {free / 2**20:,.0f} free")
    if need > free:
        found.faults.append(f"{settings.state}: too little room for the cache of study {study.name}")
