"""Cells of a table as numbers, times, weights and causes; a wrong one is named by file and line, never guessed at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import ConfigError

WORDS_OF_TRUTH = {"true": 1.0, "false": 0.0}


def _line(cells: pd.Series, bad: NDArray[np.bool_]) -> str:
    # The first line of a file holds the names.
    return f"line {int(cells.index[int(np.argmax(bad))]) + 2}"


def numbers(cells: pd.Series, path: Path, remedy: str) -> Floats:
    """Return a column as numbers, shape = (n,); true and false are 1 and 0."""
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


def times(cells: pd.Series, path: Path) -> Floats:
    """Return times, 0 or above."""
    values = numbers(cells, path, "give the time from entry to event or end of follow-up as a number")
    if (bad := values < 0).any():
        raise ConfigError(
            f"column {cells.name!r} has a negative time",
            where=f"{path}, {_line(cells, bad)}",
            value=float(values[bad][0]),
            allowed="0 or above",
        )
    return values


def entries(cells: pd.Series, time: Floats, path: Path) -> Floats:
    """Return times after which rows are at risk, each before ``time``."""
    values = numbers(cells, path, "give the time after which the row is at risk as a number")
    if (bad := (values < 0) | (values >= time)).any():
        raise ConfigError(
            f"column {cells.name!r} does not lie before the end of the row",
            where=f"{path}, {_line(cells, bad)}",
            value=f"from {values[bad][0]:g} to {time[bad][0]:g}",
            allowed="0 or above, and before the time of the event or of the end of follow-up",
        )
    return values


def weights(cells: pd.Series, path: Path) -> Floats:
    """Return weights, above 0."""
    values = numbers(cells, path, "give the weight of a row as a number")
    if (bad := values <= 0).any():
        raise ConfigError(
            f"column {cells.name!r} has a weight that is not above 0",
            where=f"{path}, {_line(cells, bad)}",
            value=float(values[bad][0]),
            allowed="above 0; leave a row that counts nothing out",
        )
    return values


def causes(cells: pd.Series, cause: int | None, path: Path) -> NDArray[np.int64]:
    """Return 0 for censored, 1 for the event of interest, 2 for another, shape = (n,)."""
    values = numbers(cells, path, "1 where the event happened, 0 where follow-up ended without it")
    bad = (values != 0) & (values != 1) if cause is None else (values != np.round(values)) | (values < 0)
    if bad.any():
        raise ConfigError(
            f"column {cells.name!r} is not an event: each row must say "
            + ("yes or no" if cause is None else "which one, by a whole number"),
            where=f"{path}, {_line(cells, bad)}",
            value=float(values[bad][0]),
            allowed="0 or 1, or true and false"
            if cause is None
            else "0 where censored, else the code of what happened",
            remedy="with codes of several outcomes, name the one of interest: --cause 1" if cause is None else None,
        )
    wanted = 1 if cause is None else cause
    return np.where(values == 0, 0, np.where(values == wanted, 1, 2)).astype(np.int64)
