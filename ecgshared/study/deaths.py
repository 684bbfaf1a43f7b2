"""Which deaths were sudden and cardiac: by cause on the certificate, and by place and hour.

Source: Nature 2026 (doi 10.1038/s41586-026-10674-6), Methods.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecgshared.study.dates import Table, number, rows_of, span_days, stamp

_CARDIAC = frozenset(
    [f"I{i:02d}" for i in (*range(0, 10), 11, *range(20, 53))]
    + [f"Q{i}" for i in range(20, 25)]
    + [f"R{i}" for i in range(95, 100)]
)


_NEXT_CODE = re.compile(r"\s+(?=[A-Z]\d)")


def is_cardiac_or_ill_defined(codes: ArrayLike) -> NDArray[np.float32]:
    """Tell which ICD-10 causes of death count as cardiac or ill-defined: I0, I11, I20-I52, Q20-Q24, R95-R99.

    Parameters
    ----------
    codes : array of str, shape = (n,); dots and case don't matter, "" or "nan" is unknown. Several codes with
        blanks between don't say which of them is the underlying cause: where they disagree it is unknown.

    Returns
    -------
    float32 array, shape = (n,): 1, 0, or NaN where the cause is unknown.
    """
    texts = np.asarray(codes).astype(str)
    unique, inverse = np.unique(texts, return_inverse=True)
    verdict = [_verdict(_NEXT_CODE.split(text.replace(".", "").upper())) for text in unique]
    return np.asarray(verdict, dtype=np.float32)[inverse.reshape(texts.shape)]


def _verdict(codes: list[str]) -> float:
    known = [code.replace(" ", "") for code in codes]
    answers = {code[:3] in _CARDIAC for code in known if code not in ("", "NAN", "NONE")}
    return float(answers.pop()) if len(answers) == 1 else np.nan


def is_sudden_by_place(table: Table) -> NDArray[np.float32]:
    """Tell which deaths were outside hospital or within the first 24 h of a stay.

    ``death_in_hospital`` 0 is outside. Otherwise the stay's ``admission_time`` decides: the same day, or at
    most 24 h before the stamp of death (a date without a time is its midnight). In hospital without a time of
    admission, or admitted after the day of death: unknown.

    Returns
    -------
    float32 array, shape = (n,): 1, 0, or NaN where unknown.
    """
    n = rows_of(table)
    place, admitted = number(table, "death_in_hospital", n), stamp(table, "admission_time", n)
    died = stamp(table, "death_date", n)
    days = span_days(died.astype("datetime64[D]"), admitted.astype("datetime64[D]"))
    hours = 24 * span_days(died, admitted)
    early = np.where(np.isnan(days) | (days < 0), np.nan, (days == 0) | (hours <= 24))
    return np.where(place == 0, 1.0, early).astype(np.float32)


def assumed_first_day(table: Table) -> NDArray[np.bool_]:
    """Mark the deaths that count as within 24 h of admission on dates alone: in hospital, on the day after admission.

    Without times of day such a death came 0 to 48 h after admission; :func:`is_sudden_by_place` takes it for early.

    Returns
    -------
    bool array, shape = (n,).
    """
    n = rows_of(table)
    died, admitted = stamp(table, "death_date", n), stamp(table, "admission_time", n)
    next_day = span_days(died.astype("datetime64[D]"), admitted.astype("datetime64[D]")) == 1
    timeless = (died == died.astype("datetime64[D]")) | (admitted == admitted.astype("datetime64[D]"))
    outside = number(table, "death_in_hospital", n) == 0
    return np.asarray(next_day & timeless & ~outside & (is_sudden_by_place(table) == 1), dtype=np.bool_)


def is_sudden_cardiac(table: Table) -> NDArray[np.float32]:
    """Tell which deaths were sudden and cardiac: both of the above, in three values; one known "no" decides.

    Returns
    -------
    float32 array, shape = (n,): 1, 0, or NaN where what is missing could still decide.
    """
    a, b = is_cardiac_or_ill_defined(np.asarray(table["death_cause"])), is_sudden_by_place(table)
    unknown = np.isnan(a) | np.isnan(b)
    return np.where((a == 0) | (b == 0), 0.0, np.where(unknown, np.nan, 1.0)).astype(np.float32)


def sees_sudden_deaths(table: Table) -> bool:
    """Tell whether a site has the columns by which a death is known to be sudden and cardiac, or not to be."""
    return {"death_date", "death_cause"} <= set(table) and bool({"death_in_hospital", "admission_time"} & set(table))
