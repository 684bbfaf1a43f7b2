"""Endpoints: from dates and codes to one label cell per ECG and head, with the censoring rules of the paper.

Source: Nature 2026 (doi 10.1038/s41586-026-10674-6), Methods. A cell is 1, 0, or NaN where it is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from ecgshared.config import Config, Label
from ecgshared.errors import CohortError

Event = Literal["scd", "death", "vfvt", "mi"]


class BinaryEndpoint(Config):
    """A 0/1 label: ``column`` is a key of the site's ``labels``, or one of :data:`BUILT_IN_LABELS`."""

    kind: Literal["binary"] = Field(description="a column of 0 and 1")
    column: str = Field(description="the site's label column of this name")
    label: Label = Field(default=None, description="how the report calls it")


class TimeToEventEndpoint(Config):
    """An event within a horizon after the ECG: 1 if 0 <= days < 365.25 h, 0 if seen free of it that long."""

    kind: Literal["time_to_event"] = Field(description="an event within so many years of the ECG")
    event: Event = Field(description="which event")
    horizon_years: float = Field(gt=0, le=20, description="years after the ECG")
    group: str | None = Field(
        default=None, description="heads of one group are made monotone in their horizon (cumulative hazard)"
    )
    label: Label = Field(default=None, description="how the report calls it")


Endpoint = Annotated[BinaryEndpoint | TimeToEventEndpoint, Field(discriminator="kind")]


DAYS_PER_YEAR = 365.25
LOW_LVEF = 0.35
"""Ejection fractions at or below this count as reduced."""

BUILT_IN_LABELS: tuple[str, ...] = ("male", "lvef_low")
"""Binary columns every site has by name: from ``sex``, and from ``lvef`` where it was measured."""

_EVENT_DATES: dict[Event, str] = {
    "death": "death_date",
    "scd": "death_date",
    "vfvt": "vfvt_date",
    "mi": "mi_date",
}

_PROOFS = ("death_date", "last_encounter", "vfvt_date", "mi_date")
"""Dates that show that a site's data reach so far."""

_FIRST_OF_MANY: tuple[Event, ...] = ("vfvt", "mi")
"""Events that can come again: the table holds the date of the first after the ECG."""

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


def is_sudden_by_place(table: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
    """Tell which deaths were outside hospital or within the first 24 h of a stay.

    ``death_in_hospital`` 0 is outside. Otherwise the stay's ``admission_time`` decides: the same day, or at
    most 24 h before the stamp of death (a date without a time is its midnight). In hospital without a time of
    admission, or admitted after the day of death: unknown.

    Returns
    -------
    float32 array, shape = (n,): 1, 0, or NaN where unknown.
    """
    n = _rows(table)
    place, admitted = _number(table, "death_in_hospital", n), _stamp(table, "admission_time", n)
    died = _stamp(table, "death_date", n)
    days = _span_days(died.astype("datetime64[D]"), admitted.astype("datetime64[D]"))
    hours = 24 * _span_days(died, admitted)
    early = np.where(np.isnan(days) | (days < 0), np.nan, (days == 0) | (hours <= 24))
    return np.where(place == 0, 1.0, early).astype(np.float32)


Censoring = Literal["strict", "paper_faithful", "ipcw"]


def label_cells(
    table: Mapping[str, ArrayLike],
    endpoint: Endpoint,
    *,
    censoring: Censoring = "strict",
    censor_at_defibrillator: bool = False,
) -> NDArray[np.float32]:
    """Return one cell per ECG: 1 (event), 0 (known to be free of it), NaN (not known).

    Parameters
    ----------
    table : standard columns (:data:`ecgshared.study.columns.STANDARD_COLUMNS`) and labels by name, each
        shape = (n,), of the WHOLE table: where no ``data_end`` is declared, its latest date ends the data. Dates are
        ``datetime64`` of any unit with NaT, numbers and flags float with NaN, ``sex`` "M", "F" or "", codes "" where
        unknown. A column that is absent is one the site does not have.
    endpoint : a binary column, or an event and its horizon of ``h`` years.
    censoring : what becomes of an ECG whose horizon reaches past the end of the data.
    censor_at_defibrillator : a defibrillator implanted after the ECG, within the horizon and before any event, makes
        the cell NaN: what would have come without it is not known.

    Returns
    -------
    float32 array, shape = (n,).

    Raises
    ------
    CohortError : a binary column holds a value other than 0 and 1.

    Notes
    -----
    Days are counted between calendar dates, from the ECG. An event at ``0 <= days < 365.25 h`` gives 1; VF/VT
    counts from day 1, since on day 0 it may be why the ECG was taken. For ``vfvt`` and ``mi`` a first date
    that lies before its window gives NaN (it hides whether another followed), and one after its horizon shows that
    there was none within; one dated after the death is none.

    ``scd``: a death inside the horizon is 1 if its cause is cardiac or ill-defined AND it happened outside
    hospital or within 24 h of admission, 0 if either is known not to hold (another cause, a late death in
    hospital), and NaN if what is missing could still decide. A death before the horizon that ends the view on
    ``vfvt`` or ``mi`` gives NaN (death-censored).

    A 0 needs the person alive at or after the horizon, shown by ``last_encounter``, by a ``death_date`` that late, or
    by ``data_end``: the site declares its registers complete to that day, so who has no death in them was alive.
    ``data_end`` proves nothing at a site without ``death_date``.

    ``strict``: an ECG whose horizon ends after the data do is NaN WHATEVER happened. To keep its events and drop its
    living would raise the event rate by half in a window of two years. ``paper_faithful`` does keep them, and an
    encounter after the registers' end gives 0, as in the paper. ``ipcw`` labels as ``strict`` does; an evaluate step
    then also judges with whoever is known for part of the horizon, weighted by the chance to be followed.

    A site that lacks the event's own columns (for ``scd``: date, cause, and place or admission) gets NaN
    throughout, never a column of zeros.
    """
    n = _rows(table)
    if isinstance(endpoint, BinaryEndpoint):
        return _binary(table, endpoint.column, n)
    out = np.full(n, np.nan, dtype=np.float32)
    event_date = _EVENT_DATES[endpoint.event]
    if "recorded_at" not in table or event_date not in table or (endpoint.event == "scd" and not _sees_scd(table)):
        return out
    horizon_days = DAYS_PER_YEAR * endpoint.horizon_years
    death, last = (_days_after_ecg(table, name, n) for name in ("death_date", "last_encounter"))
    days, end = _days_after_ecg(table, event_date, n), _window_days(table, n)
    first_day = _first_day(endpoint.event)
    if endpoint.event in _FIRST_OF_MANY:
        # Dated after the death it is a slip of the pen: it happened to nobody.
        days = np.where(days > death, np.nan, days)
    out[_free_days(table, n) >= horizon_days] = 0
    if censoring == "paper_faithful":
        out[(end < horizon_days) & (last > end) & (last >= 1) & np.isnan(death)] = 0
    if endpoint.event in _FIRST_OF_MANY:
        out[days >= horizon_days] = 0
    inside = (days >= first_day) & (days < horizon_days)
    if endpoint.event == "scd":
        out[inside] = _both(is_cardiac_or_ill_defined(table["death_cause"]), is_sudden_by_place(table))[inside]
    else:
        out[inside] = 1
    out[(days < first_day) | (death < 0)] = np.nan
    if censoring != "paper_faithful":
        out[end < horizon_days] = np.nan
    if censor_at_defibrillator:
        implanted = _days_after_ecg(table, "icd_date", n)
        out[(implanted >= 1) & (implanted < horizon_days) & ~(inside & (days < implanted))] = np.nan
    return out


def assumed_first_day(table: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
    """Mark the deaths that count as within 24 h of admission on dates alone: in hospital, on the day after admission.

    Without times of day such a death came 0 to 48 h after admission; :func:`is_sudden_by_place` takes it for early.

    Returns
    -------
    bool array, shape = (n,).
    """
    n = _rows(table)
    died, admitted = _stamp(table, "death_date", n), _stamp(table, "admission_time", n)
    next_day = _span_days(died.astype("datetime64[D]"), admitted.astype("datetime64[D]")) == 1
    timeless = (died == died.astype("datetime64[D]")) | (admitted == admitted.astype("datetime64[D]"))
    outside = _number(table, "death_in_hospital", n) == 0
    return np.asarray(next_day & timeless & ~outside & (is_sudden_by_place(table) == 1), dtype=np.bool_)


@dataclass(frozen=True)
class EventTimes:
    """When each ECG's patient had the event, or until when they are known to have been free of it.

    Attributes
    ----------
    years : float array, shape = (n,): from the ECG to the event or to censoring; NaN where either is unknown.
    observed : bool array, shape = (n,): True for an event, False for censoring and where ``years`` is NaN.
    competing : bool array, shape = (n,): True where a death that is not the event ended the time: a hazard takes it
        for censoring, a cumulative incidence for what it is. None: nobody's.
    """

    years: NDArray[np.float64]
    observed: NDArray[np.bool_]
    competing: NDArray[np.bool_] | None = None

    @property
    def cause(self) -> NDArray[np.int64]:
        """0 censored, 1 the event, 2 a death that forestalled it; int array, shape = (n,)."""
        other = np.zeros(len(self.observed), dtype=bool) if self.competing is None else self.competing
        return np.where(self.observed, 1, np.where(other, 2, 0)).astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> EventTimes:
        """Return ``rows`` alone."""
        return EventTimes(
            self.years[rows], self.observed[rows], None if self.competing is None else self.competing[rows]
        )


def time_to_event(table: Mapping[str, ArrayLike], event: Event, *, censor_at_defibrillator: bool = False) -> EventTimes:
    """Return time and status of one event, for hazards; days are counted as by :func:`label_cells`.

    A competing death ends the time on its day and is marked: the hazard is that of people still alive. For ``scd`` so
    is a death whose cause or place is known to be another one; one for which what is missing could still decide is
    censoring: until that day the patient is known to have been free of it, and no further. An ECG has no time where a
    cell of :func:`label_cells` is NaN at every horizon: the event or the death lies before the window, the site lacks
    the event's columns, or no status after the ECG is known.

    Parameters
    ----------
    table : as :func:`label_cells`.
    censor_at_defibrillator : a defibrillator implanted after the ECG and before the event censors on its day.
    """
    n = _rows(table)
    unknown = EventTimes(np.full(n, np.nan), np.zeros(n, dtype=np.bool_))
    event_date = _EVENT_DATES[event]
    if "recorded_at" not in table or event_date not in table or (event == "scd" and not _sees_scd(table)):
        return unknown
    death, free = _days_after_ecg(table, "death_date", n), _free_days(table, n)
    days = _days_after_ecg(table, event_date, n)
    first_day = _first_day(event)
    if event in _FIRST_OF_MANY:
        days = np.where(days > death, np.nan, days)
    observed, other = days >= first_day, death >= 0
    if event == "scd":
        sudden = _both(is_cardiac_or_ill_defined(table["death_cause"]), is_sudden_by_place(table))
        observed &= sudden == 1
        other &= sudden == 0
    time = np.where(observed, days, free)
    if censor_at_defibrillator:
        implanted = _days_after_ecg(table, "icd_date", n)
        before = (implanted >= 1) & (implanted <= time)
        time, observed, other = np.where(before, implanted, time), observed & ~before, other & ~before
    time[(days < first_day) | (death < 0) | (time < 0)] = np.nan
    competing = other & ~observed & (time == death)
    return EventTimes(time / DAYS_PER_YEAR, np.asarray(observed & ~np.isnan(time), dtype=np.bool_), competing)


def follow_up_years(table: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
    """Return the years from ECG to death, or else to the last proof of life (encounter, complete registers).

    Returns
    -------
    float32 array, shape = (n,): NaN where the ECG's date or any later status is unknown.
    """
    n = _rows(table)
    if "recorded_at" not in table:
        return np.full(n, np.nan, dtype=np.float32)
    days = _free_days(table, n)
    return np.where(days >= 0, days / DAYS_PER_YEAR, np.nan).astype(np.float32)


def _sees_scd(table: Mapping[str, ArrayLike]) -> bool:
    return "death_cause" in table and ("death_in_hospital" in table or "admission_time" in table)


def _first_day(event: Event) -> int:
    return 1 if event == "vfvt" else 0


def _free_days(table: Mapping[str, ArrayLike], n: int) -> NDArray[np.float64]:
    """Days from ECG to death, or else to the last proof of life."""
    death, last, end = (_days_after_ecg(table, name, n) for name in ("death_date", "last_encounter", "data_end"))
    if "death_date" not in table:
        end = np.full(n, np.nan)
    return np.where(np.isnan(death), np.fmax(last, end), death)


def _window_days(table: Mapping[str, ArrayLike], n: int) -> NDArray[np.float64]:
    """Days from ECG to the end of the data: the declared ``data_end``, or the latest date that the table holds."""
    declared = _days_after_ecg(table, "data_end", n)
    if not np.isnan(declared).any():
        return declared
    dated = [_stamp(table, name, n) for name in ("recorded_at", "data_end", *_PROOFS) if name in table]
    known = np.concatenate([stamps[~np.isnat(stamps)] for stamps in dated])
    if not len(known):
        return declared
    ecg = _stamp(table, "recorded_at", n).astype("datetime64[D]")
    latest = np.full(n, known.max()).astype("datetime64[D]")
    return np.where(np.isnan(declared), _span_days(latest, ecg), declared)


def _binary(table: Mapping[str, ArrayLike], column: str, n: int) -> NDArray[np.float32]:
    if column == "male":
        sex = np.asarray(table.get("sex", np.full(n, ""))).astype(str)
        return np.select([sex == "M", sex == "F"], [1.0, 0.0], np.nan).astype(np.float32)
    if column == "lvef_low":
        lvef = _number(table, "lvef", n)
        # A value read from text as 0.35 must count as 0.35 in any float width.
        return np.where(np.isnan(lvef), np.nan, lvef <= LOW_LVEF + 1e-6).astype(np.float32)
    values = _number(table, column, n)
    other = values[~np.isnan(values) & (values != 0) & (values != 1)]
    if len(other):
        raise CohortError(
            f"a binary endpoint needs 0 and 1, but {len(other)} rows of {column!r} hold something else",
            value=", ".join(f"{v:g}" for v in np.unique(other)[:5]),
            allowed="0, 1, or empty",
            remedy="map the values in the site file, or define the label by `matches`",
        )
    return values.astype(np.float32)


def _both(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Three-valued AND: one known 0 decides, whatever the other."""
    unknown = np.isnan(a) | np.isnan(b)
    return np.where((a == 0) | (b == 0), 0.0, np.where(unknown, np.nan, 1.0)).astype(np.float32)


def _rows(table: Mapping[str, ArrayLike]) -> int:
    sizes = {len(np.asarray(column)) for column in table.values()}
    if len(sizes) != 1:
        raise CohortError("the columns of a table must have one length", value=sorted(sizes))
    return sizes.pop()


def _number(table: Mapping[str, ArrayLike], name: str, n: int) -> NDArray[np.float64]:
    return np.asarray(table[name], dtype=np.float64) if name in table else np.full(n, np.nan)


def _stamp(table: Mapping[str, ArrayLike], name: str, n: int) -> NDArray[np.datetime64]:
    if name not in table:
        return np.full(n, np.datetime64("NaT"), dtype="datetime64[s]")
    return np.asarray(table[name]).astype("datetime64[s]")


def _span_days(later: NDArray[np.datetime64], earlier: NDArray[np.datetime64]) -> NDArray[np.float64]:
    span = (later - earlier).astype("timedelta64[s]")
    return np.where(np.isnat(span), np.nan, span.astype(np.float64) / 86_400)


def _days_after_ecg(table: Mapping[str, ArrayLike], name: str, n: int) -> NDArray[np.float64]:
    ecg = _stamp(table, "recorded_at", n).astype("datetime64[D]")
    return _span_days(_stamp(table, name, n).astype("datetime64[D]"), ecg)
