"""Tables of survival times, one CSV file a site, checked so that a wrong cell is named and never guessed at."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError
from ecgshared.tables.cells import causes, entries, numbers, times, weights
from ecgshared.tables.design import Design, Variable, knots_at
from ecgshared.tables.levels import MOST_LEVELS, Levels, levels_of
from ecgshared.tables.rows import id_notes, require_apart, with_ties
from ecgshared.tables.rows import patients as patients_of
from ecgshared.tables.site_table import Columns as Columns
from ecgshared.tables.site_table import SiteTable as SiteTable


@dataclass(frozen=True)
class Tables:
    """All sites' rows, the names of the p columns of the model and how they come from the tables' own.

    ``levels``: of the categorical columns and the strata, with the rows of each site that have them.
    """

    sites: tuple[SiteTable, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    design: Design = field(default_factory=lambda: Design(()))
    levels: tuple[Levels, ...] = ()

    @property
    def reference_levels(self) -> tuple[str, ...]:
        """What the coefficients of categorical columns are compared with, in words; a test of all levels has none."""
        variables = {variable.name for variable in self.design.variables if variable.levels}
        return tuple(f"{v.name}: reference level {v.labels[0]!r}" for v in self.levels if v.name in variables)


def read_tables(paths: Sequence[Path], columns: Columns, missing: Literal["refuse", "drop"]) -> Tables:
    """Read one CSV file a site.

    Raises
    ------
    ConfigError : a file, column or cell cannot be used; it says which, what was found and what to do.
    """
    names = _site_names(paths)
    frames, dropped = [], []
    for path in paths:
        frame, lost = _complete(_read(path, columns.all()), path, missing)
        frames.append(frame)
        dropped.append(lost)
    levels = {name: levels_of(name, names, [frame[name] for frame in frames]) for name in columns.categorical}
    levels = {k: v.with_reference(columns.reference[k]) if k in columns.reference else v for k, v in levels.items()}
    for found in levels.values():
        _require_levels(found)
    strata = None
    if columns.strata is not None:
        strata = levels_of(columns.strata, names, [frame[columns.strata] for frame in frames])
    design = _design(frames, paths, columns, levels)
    patients = patients_of(frames, columns)
    sites = tuple(
        _site(name, path, frame, columns, design, strata, patient, lost)
        for name, path, frame, patient, lost in zip(names, paths, frames, patients, dropped, strict=True)
    )
    if not any(site.event.any() for site in sites):
        raise ConfigError("nobody has the event at any site", where=f"column {columns.event!r}", remedy="check --event")
    require_apart(sites, paths, columns)
    sites, tied = with_ties(sites)
    told = [*levels.values(), *([strata] if strata is not None else [])]
    notes = [note for found in told for note in found.notes] + tied
    notes += [f"{v.name}: knots at {', '.join(f'{k:g}' for k in v.knots)}" for v in design.variables if v.knots]
    notes += id_notes(names, frames, columns)
    notes += [f"{site.name}: no events" for site in sites if not site.event.any()]
    notes += [f"{site.name}: {site.dropped} rows with missing values left out" for site in sites if site.dropped]
    return Tables(sites, design.names, tuple(notes), design, tuple(told))


def read_rows(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Read the columns ``names`` of one file as text; refuse a missing value."""
    return _complete(_read(path, list(names)), path, "refuse")[0]


def numbers_of(frame: pd.DataFrame, path: Path) -> Callable[[str], Floats]:
    """Return what gives a column of ``frame`` as numbers, and refuses one that holds words."""
    return lambda name: numbers(frame[name], path, f"--categorical {name} makes 0/1 columns of its words")


def _complete(frame: pd.DataFrame, path: Path, missing: str) -> tuple[pd.DataFrame, int]:
    gaps = frame.isna()
    if missing == "refuse" and gaps.to_numpy().any():
        where = ", ".join(f"{name}: {count}" for name, count in gaps.sum().items() if count)
        raise ConfigError(
            "values are missing",
            where=path,
            value=f"{where} of {len(gaps)} rows",
            remedy="fill them in, or leave such rows out with --missing drop",
        )
    kept = frame.dropna()
    if kept.empty:
        raise ConfigError("no row is complete", where=path, value=f"{len(gaps)} rows, each with a missing value")
    return kept, int(gaps.any(axis=1).sum())


def _site(
    name: str,
    path: Path,
    frame: pd.DataFrame,
    columns: Columns,
    design: Design,
    strata: Levels | None,
    patient: NDArray[np.int64] | None,
    lost: int,
) -> SiteTable:
    cause = causes(frame[columns.event], columns.cause, path)
    time = times(frame[columns.time], path)
    return SiteTable(
        name=name,
        x=design.matrix(frame, numbers_of(frame, path), str(path)),
        time=time,
        event=np.asarray(cause == 1, dtype=np.bool_),
        cluster=patient,
        strata=np.full(len(frame), "") if strata is None else strata.of(frame[strata.name]),
        dropped=lost,
        entry=None if columns.entry is None else entries(frame[columns.entry], time, path),
        weight=None if columns.weight is None else weights(frame[columns.weight], path),
        cause=cause,
        patients_shared=columns.patients_shared,
    )


def _site_names(paths: Sequence[Path]) -> list[str]:
    if not paths:
        raise ConfigError("no site was named", remedy="give one file a site: --site a.csv --site b.csv")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise ConfigError("a file is given twice: its rows would count twice", value=str(path))
        seen[path.resolve()] = path
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _read(path: Path, wanted: list[str]) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # More cells than names in each row: pandas would drop the last with a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # As text first: a column with one word in it must be shown with that word, not become a column of text.
            frame = pd.read_csv(path, dtype=str, skipinitialspace=True, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        raise ConfigError(
            "there is no such file", where=path, remedy=f"did you mean {near[0]!r}?" if near else None
        ) from error
    except pd.errors.EmptyDataError as error:
        raise ConfigError("the file is empty", where=path) from error
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ConfigError(
            "the file cannot be read as a table",
            where=path,
            value=str(error).strip(),
            allowed="comma-separated text in UTF-8, its first line the column names",
        ) from error
    frame.columns = [str(name).strip() for name in frame.columns]
    for name in wanted:
        if name not in frame.columns:
            raise _no_column(path, name, list(frame.columns))
        if list(frame.columns).count(name) > 1:
            raise ConfigError("the file has this column twice", where=path, value=name)
    if frame.empty:
        raise ConfigError("the file has no rows under its column names", where=path)
    return frame[wanted]


def _no_column(path: Path, name: str, found: list[str]) -> ConfigError:
    near = get_close_matches(name.lower(), [c.lower() for c in found], n=1, cutoff=0.5)
    meant = next((c for c in found if near and c.lower() == near[0]), None)
    remedy = None if meant is None else f"did you mean {meant!r}?"
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|"):
        remedy = "the file is separated by another mark; save it with commas"
    shown = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
    return ConfigError("the file has no such column", where=path, value=name, allowed=shown, remedy=remedy)


def _require_levels(found: Levels) -> None:
    if len(found.labels) > MOST_LEVELS:
        raise ConfigError(
            f"a categorical column has more than {MOST_LEVELS} levels", value=found.name, remedy="join levels"
        )
    if len(found.labels) < 2:
        raise ConfigError(
            "a categorical column has one level only", value=f"{found.name}: {found.labels[0]}", remedy="leave it out"
        )


def _design(
    frames: Sequence[pd.DataFrame], paths: Sequence[Path], columns: Columns, levels: Mapping[str, Levels]
) -> Design:
    """Fix the columns of the model from all sites' rows."""
    variables = []
    for name in columns.covariates:
        if name in levels:
            variables.append(Variable(name, levels=levels[name].labels))
        elif name in columns.splines:
            wanted = columns.splines[name]
            if len(wanted) == 1:
                x = np.concatenate([numbers_of(f, path)(name) for f, path in zip(frames, paths, strict=True)])
                wanted = knots_at(x, int(wanted[0]), name)
            variables.append(Variable(name, knots=wanted))
        else:
            variables.append(Variable(name))
    return Design(tuple(variables), columns.interactions)
