"""Dates of a cohort table as days after each ECG: when things happened, how far the data reach, who was seen when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import CohortError

DAYS_PER_YEAR = 365.25

_PROOFS = ("death_date", "last_encounter", "vfvt_date", "vf_date", "vt_date", "mi_date")
"""Dates that show that a site's data reach so far."""

Table = Mapping[str, ArrayLike]


def rows_of(table: Table) -> int:
    """Return how many rows the columns have; raise CohortError where they disagree."""
    sizes = {len(np.asarray(column)) for column in table.values()}
    if len(sizes) != 1:
        raise CohortError("the columns of a table must have one length", value=sorted(sizes))
    return sizes.pop()


def number(table: Table, name: str, n: int) -> Floats:
    """Return a column of numbers, shape = (n,); NaN where the site has no such column."""
    return np.asarray(table[name], dtype=np.float64) if name in table else np.full(n, np.nan)


def stamp(table: Table, name: str, n: int) -> NDArray[np.datetime64]:
    """Return a column of dates to the second, shape = (n,); NaT where the site has no such column."""
    if name not in table:
        return np.full(n, np.datetime64("NaT", "s"), dtype="datetime64[s]")
    return np.asarray(table[name]).astype("datetime64[s]")


def span_days(later: NDArray[np.datetime64], earlier: NDArray[np.datetime64]) -> Floats:
    """Return days between dates, NaN where one is not known."""
    span = (later - earlier).astype("timedelta64[s]")
    return np.where(np.isnat(span), np.nan, span.astype(np.float64) / 86_400)


def days_after_ecg(table: Table, name: str, n: int) -> Floats:
    """Return the days from each ECG to a date, between calendar dates; NaN where one is not known."""
    ecg = stamp(table, "recorded_at", n).astype("datetime64[D]")
    return span_days(stamp(table, name, n).astype("datetime64[D]"), ecg)


def free_days(table: Table, n: int) -> Floats:
    """Return the days from ECG to death, or else to the last proof of life (encounter, complete registers)."""
    death, last, end = (days_after_ecg(table, name, n) for name in ("death_date", "last_encounter", "data_end"))
    if "death_date" not in table:
        end = np.full(n, np.nan)
    return np.where(np.isnan(death), np.fmax(last, end), death)


def window_days(table: Table, n: int) -> Floats:
    """Return the days from ECG to the end of the data: the declared ``data_end``, or the table's latest date."""
    declared = days_after_ecg(table, "data_end", n)
    if not np.isnan(declared).any():
        return declared
    dated = [stamp(table, name, n) for name in ("recorded_at", "data_end", *_PROOFS) if name in table]
    known = np.concatenate([stamps[~np.isnat(stamps)] for stamps in dated])
    if not len(known):
        return declared
    ecg = stamp(table, "recorded_at", n).astype("datetime64[D]")
    latest = np.full(n, known.max()).astype("datetime64[D]")
    return np.where(np.isnan(declared), span_days(latest, ecg), declared)


def follow_up_years(table: Table) -> NDArray[np.float32]:
    """Return the years from ECG to death, or else to the last proof of life (encounter, complete registers).

    Returns
    -------
    float32 array, shape = (n,): NaN where the ECG's date or any later status is unknown.
    """
    n = rows_of(table)
    if "recorded_at" not in table:
        return np.full(n, np.nan, dtype=np.float32)
    days = free_days(table, n)
    return np.where(days >= 0, days / DAYS_PER_YEAR, np.nan).astype(np.float32)


def first_later(recorded: NDArray[np.datetime64], flag: Floats, patient: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Return for each ECG the date of the same patient's first ECG on a later day that has the flag.

    Parameters
    ----------
    recorded : dates of the ECGs, shape = (n,). flag : 1, 0 or NaN, shape = (n,); what is not known counts as none.
    patient : int array, shape = (n,); below 0 where it is not known.

    Returns
    -------
    datetime64[s] array, shape = (n,): NaT where none followed, or patient or date are not known.
    """
    day = recorded.astype("datetime64[D]")
    found = np.full(len(day), np.datetime64("NaT", "s"), dtype="datetime64[s]")
    usable = ~np.isnat(day) & (patient >= 0)
    flagged = np.flatnonzero(usable & (flag == 1))
    if not len(flagged):
        return found
    # Of patient and day one number that orders both: the next flagged one is one search away.
    start = day[usable].min()
    width = int((day[usable].max() - start).astype(np.int64)) + 2
    place = patient * width + np.where(usable, (day - start).astype(np.int64), 0)
    order = flagged[np.argsort(place[flagged], kind="stable")]
    asked = np.flatnonzero(usable)
    following = np.searchsorted(place[order], place[asked], side="right")
    inside = following < len(order)
    rows, nexts = asked[inside], order[following[inside]]
    same = patient[rows] == patient[nexts]
    found[rows[same]] = recorded[nexts[same]].astype("datetime64[s]")
    return found
