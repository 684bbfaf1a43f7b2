"""Tables of survival times, one CSV file a site, checked so that a wrong cell is named and never guessed at."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError

WORDS_OF_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Columns:
    """Which columns of the files mean what; ``categorical`` ones are covariates turned into 0/1 columns."""

    time: str
    event: str
    covariates: tuple[str, ...]
    categorical: tuple[str, ...] = ()
    strata: str | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.all()).items() if count > 1]
        if not self.covariates:
            raise ConfigError("no covariates were named", remedy="name one or more: --covariates age,sex")
        if twice:
            raise ConfigError("a column is named more than once", value=", ".join(twice))
        for name in self.categorical:
            if name not in self.covariates:
                raise ConfigError("a categorical column is not among the covariates", value=name)

    def all(self) -> list[str]:
        """Return every column, in order."""
        others = [name for name in (self.strata, self.cluster) if name is not None]
        return [self.time, self.event, *self.covariates, *others]


@dataclass(frozen=True)
class SiteTable:
    """One site's rows.

    Attributes
    ----------
    name : str, of the site: its file's stem.
    x : float array, shape = (n, p).
    time : float array, shape = (n,).
    event : bool array, shape = (n,).
    cluster : int array, shape = (n,): rows of one patient share a number; None: every row is a patient.
    strata : object array, shape = (n,): each row's stratum, "" where none are named.
    dropped : int, rows left out because a value is missing.
    entry : float array, shape = (n,): a row is at risk after this time; None: from 0.
    weight : float array, shape = (n,), above 0; None: 1.
    cause : int array, shape = (n,): 0 censored, 1 the event of interest, 2 another event that forestalls it; None: no
        other is known.
    patients_shared : True where the numbers of ``cluster`` are those of all sites: a patient may be at two of them.
    """

    name: str
    x: Floats
    time: Floats
    event: NDArray[np.bool_]
    cluster: NDArray[np.int64] | None
    strata: NDArray[Any]
    dropped: int
    entry: Floats | None = None
    weight: Floats | None = None
    cause: NDArray[np.int64] | None = None
    patients_shared: bool = False


@dataclass(frozen=True)
class Tables:
    """All sites' rows and the names of the p covariates, 0/1 columns of levels included."""

    sites: tuple[SiteTable, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def read_tables(paths: Sequence[Path], columns: Columns, missing: Literal["refuse", "drop"]) -> Tables:
    """Read one CSV file a site.

    Raises
    ------
    ConfigError : a file, column or cell cannot be used; it says which, what was found and what to do.
    """
    names = _site_names(paths)
    frames = [_read(path, columns) for path in paths]
    dropped = []
    for i, path in enumerate(paths):
        gaps = frames[i].isna()
        if missing == "refuse" and gaps.to_numpy().any():
            where = ", ".join(f"{name}: {count}" for name, count in gaps.sum().items() if count)
            raise ConfigError(
                "values are missing",
                where=path,
                value=f"{where} of {len(gaps)} rows",
                remedy="fill them in, or leave such rows out with --missing drop",
            )
        dropped.append(int(gaps.any(axis=1).sum()))
        frames[i] = frames[i].dropna()
        if frames[i].empty:
            raise ConfigError("no row is complete", where=path, value=f"{len(gaps)} rows, each with a missing value")
    levels = {name: _levels(frames, name) for name in columns.categorical}
    expanded: list[str] = []
    for name in columns.covariates:
        expanded += [f"{name}[{level}]" for level in levels[name][1:]] if name in levels else [name]
    sites = tuple(
        SiteTable(
            name=site,
            x=_design(frame, columns, levels, path),
            time=_times(frame[columns.time], path),
            event=_events(frame[columns.event], path),
            cluster=None if columns.cluster is None else pd.factorize(frame[columns.cluster])[0].astype(np.int64),
            strata=np.full(len(frame), "") if columns.strata is None else frame[columns.strata].to_numpy(),
            dropped=lost,
        )
        for site, path, frame, lost in zip(names, paths, frames, dropped, strict=True)
    )
    if not any(site.event.any() for site in sites):
        raise ConfigError("nobody has the event at any site", where=f"column {columns.event!r}", remedy="check --event")
    notes = [f"{name}: reference level {found[0]!r}" for name, found in levels.items()]
    notes += [f"{site.name}: no events" for site in sites if not site.event.any()]
    notes += [f"{site.name}: {site.dropped} rows with missing values left out" for site in sites if site.dropped]
    return Tables(sites, tuple(expanded), tuple(notes))


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


def _read(path: Path, columns: Columns) -> pd.DataFrame:
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
    for name in columns.all():
        if name not in frame.columns:
            raise _no_column(path, name, list(frame.columns))
        if list(frame.columns).count(name) > 1:
            raise ConfigError("the file has this column twice", where=path, value=name)
    if frame.empty:
        raise ConfigError("the file has no rows under its column names", where=path)
    return frame[columns.all()]


def _no_column(path: Path, name: str, found: list[str]) -> ConfigError:
    near = get_close_matches(name.lower(), [c.lower() for c in found], n=1, cutoff=0.5)
    meant = next((c for c in found if near and c.lower() == near[0]), None)
    remedy = None if meant is None else f"did you mean {meant!r}?"
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|"):
        remedy = "the file is separated by another mark; save it with commas"
    shown = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
    return ConfigError("the file has no such column", where=path, value=name, allowed=shown, remedy=remedy)


def _line(cells: pd.Series, bad: NDArray[np.bool_]) -> str:
    # The first line of a file holds the names.
    return f"line {int(cells.index[int(np.argmax(bad))]) + 2}"


def _numbers(cells: pd.Series, path: Path, remedy: str) -> Floats:
    values: Floats = np.array(pd.to_numeric(cells, errors="coerce"), dtype=np.float64)
    words_at = np.flatnonzero(np.isnan(values))
    if len(words_at):
        values[words_at] = cells.iloc[words_at].str.strip().str.lower().map(WORDS_OF_TRUTH)
    bad = ~np.isfinite(values)
    if bad.any():
        words = Counter(cells[bad])
        shown = ", ".join(repr(word) for word, _ in words.most_common(5)) + (", ..." if len(words) > 5 else "")
        raise ConfigError(
            f"column {cells.name!r} holds {'words' if bad.sum() > 1 else 'a word'} where a number is needed",
            where=f"{path}, {_line(cells, bad)}",
            value=f"{shown} in {int(bad.sum())} of {len(cells)} rows",
            allowed="finite numbers, or true and false",
            remedy=remedy,
        )
    return values


def _times(cells: pd.Series, path: Path) -> Floats:
    values = _numbers(cells, path, "give the time from entry to event or end of follow-up as a number")
    if (bad := values < 0).any():
        raise ConfigError(
            f"column {cells.name!r} has a negative time",
            where=f"{path}, {_line(cells, bad)}",
            value=float(values[bad][0]),
            allowed="0 or above",
        )
    return values


def _events(cells: pd.Series, path: Path) -> NDArray[np.bool_]:
    values = _numbers(cells, path, "1 where the event happened, 0 where follow-up ended without it")
    if (bad := (values != 0) & (values != 1)).any():
        raise ConfigError(
            f"column {cells.name!r} is not an event: each row must say yes or no",
            where=f"{path}, {_line(cells, bad)}",
            value=float(values[bad][0]),
            allowed="0 or 1, or true and false",
            remedy="with codes of several outcomes, make a column that is 1 for the one of interest",
        )
    return np.asarray(values == 1, dtype=np.bool_)


def _levels(frames: Sequence[pd.DataFrame], name: str) -> list[str]:
    found = sorted({str(word).strip() for frame in frames for word in frame[name].unique()})
    if len(found) > 50:
        raise ConfigError("a categorical column has more than 50 levels", value=name, remedy="join levels")
    if len(found) < 2:
        raise ConfigError("a categorical column has one level only", value=f"{name}: {found[0]}", remedy="leave it out")
    return found


def _design(frame: pd.DataFrame, columns: Columns, levels: dict[str, list[str]], path: Path) -> Floats:
    parts = []
    for name in columns.covariates:
        if name in levels:
            words = frame[name].str.strip().to_numpy()
            parts += [(words == level).astype(np.float64) for level in levels[name][1:]]
        else:
            parts.append(_numbers(frame[name], path, f"--categorical {name} makes 0/1 columns of its words"))
    return np.column_stack(parts)
