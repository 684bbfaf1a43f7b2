"""Rows of all sites beside one another: who is whom, who overlaps, and which times are one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError
from ecgshared.tables.levels import meaning
from ecgshared.tables.site_table import Columns, SiteTable

_WHOLE = re.compile(r"(\d+)\.0+")


def identity(cell: object) -> str:
    """Return an id as it is compared: 12.0 is 12, as where a column with a gap was saved; zeros and case count."""
    text = str(cell).strip()
    whole = _WHOLE.fullmatch(text)
    return whole.group(1) if whole else text


def patients(frames: Sequence[pd.DataFrame], columns: Columns) -> list[NDArray[np.int64] | None]:
    """Number the patients of each site, or of all together."""
    if columns.cluster is None:
        return [None] * len(frames)
    cells = [frame[columns.cluster].map(identity) for frame in frames]
    if not columns.patients_shared:
        return [pd.factorize(found)[0].astype(np.int64) for found in cells]
    numbers = pd.factorize(pd.concat(cells, ignore_index=True))[0].astype(np.int64)
    return list(np.split(numbers, np.cumsum([len(frame) for frame in frames])[:-1]))


def id_notes(names: Sequence[str], frames: Sequence[pd.DataFrame], columns: Columns) -> list[str]:
    """Say which ids may be one patient but are taken for two: of several sites, or that differ by zeros or case."""
    if columns.cluster is None:
        return []
    notes = []
    own = [set(frame[columns.cluster].map(identity)) for frame in frames]
    seen: Counter[str] = Counter(word for words in own for word in words)
    several = sorted(word for word, count in seen.items() if count > 1)
    if several and not columns.patients_shared:
        notes.append(
            f"{columns.cluster}: {len(several)} ids stand at several sites ({_first(several)}) and are taken for "
            "different patients; --patients-shared takes them for the same"
        )
    groups = [sorted(set().union(*own))] if columns.patients_shared else [sorted(words) for words in own]
    for name, words in zip(["all sites"] if columns.patients_shared else names, groups, strict=True):
        alike = Counter(meaning(word) for word in words)
        near = [word for word in words if alike[meaning(word)] > 1]
        if near:
            notes.append(
                f"{columns.cluster}, {name}: {len(near)} ids differ from another by zeros, case or blanks only "
                f"({_first(near)}) and are taken for different patients"
            )
    return notes


def _first(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def require_apart(sites: Sequence[SiteTable], paths: Sequence[Path], columns: Columns) -> None:
    """Refuse rows of one patient that overlap: they would be at risk twice."""
    if columns.entry is None or columns.cluster is None:
        return
    where = np.repeat(np.arange(len(sites)), [len(site.time) for site in sites])
    who = np.concatenate([site.cluster for site in sites if site.cluster is not None])
    start, stop = (np.concatenate([getattr(site, name) for site in sites]) for name in ("entry", "time"))
    group = who if columns.patients_shared else who + where * (int(who.max()) + 1)
    order = np.lexsort((start, group))
    over = (group[order][1:] == group[order][:-1]) & (start[order][1:] < stop[order][:-1])
    if over.any():
        row = int(order[1:][over][0])
        raise ConfigError(
            "two rows of one patient overlap in time",
            where=paths[where[row]],
            value=f"a row from {start[row]:g} to {stop[row]:g}",
            remedy="start-stop rows of a patient follow one another: each starts where, or after, the last one ended",
        )


def with_ties(sites: tuple[SiteTable, ...]) -> tuple[tuple[SiteTable, ...], list[str]]:
    """Take times that differ by rounding only for one, over all sites: R's timefix, with its tolerance."""
    values = np.unique(np.concatenate([part for s in sites for part in (s.time, s.entry) if part is not None]))
    gaps, tolerance = np.diff(values), float(np.sqrt(np.finfo(np.float64).eps))
    near = (gaps <= tolerance) | (gaps <= tolerance * float(np.mean(np.abs(values))))
    if not near.any():
        return sites, []
    first = values[np.concatenate([[True], ~near])]

    def moved(times: Floats) -> Floats:
        return np.asarray(first[np.searchsorted(first, times, side="right") - 1], dtype=np.float64)

    fixed = tuple(replace(s, time=moved(s.time), entry=None if s.entry is None else moved(s.entry)) for s in sites)
    for site in fixed:
        if site.entry is not None and (site.entry >= site.time).any():
            raise ConfigError(f"at {site.name} a row is entered and left at times that differ by rounding only")
    return fixed, [f"{int(near.sum())} times that differ from another by rounding only are taken for the same"]
