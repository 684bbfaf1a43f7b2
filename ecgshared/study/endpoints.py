"""Endpoints: from dates and codes to one label cell per ECG and head, with the censoring rules of the paper.

Source: Nature 2026 (doi 10.1038/s41586-026-10674-6), Methods. A cell is 1, 0, or NaN where it is not known.

::

    endpoints:
      scd_1y: {kind: time_to_event, event: scd, horizon_years: 1}
      scd_or_vfvt: {kind: time_to_event, event: [scd, vfvt], horizon_years: 1}
      scd_3_to_6mo: {kind: time_to_event, event: scd, after_years: 0.25, horizon_years: 0.5}
      scd_if_dead: {kind: time_to_event, event: scd, horizon_years: 1, among_deaths: true}
      troponin: {kind: time_to_event, event: raised_troponin, horizon_years: 1}   # declared under columns
      vt_on_this_ecg: {kind: binary, column: ecg_vt}
      years: {kind: continuous, column: age, range: [18, 100], unit: years}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator, model_validator

from ecgshared.arrays import Bools, Floats
from ecgshared.config import Config, Label
from ecgshared.errors import CohortError
from ecgshared.study.dates import DAYS_PER_YEAR, Table, days_after_ecg, free_days, number, rows_of, window_days
from ecgshared.study.deaths import is_sudden_cardiac, sees_sudden_deaths
from ecgshared.study.declared import NAME, Declared

EVENTS: dict[str, str] = {
    "scd": "sudden cardiac death",
    "death": "death",
    "vfvt": "VF/VT",
    "vf": "ventricular fibrillation",
    "vt": "ventricular tachycardia",
    "ecg_vt": "ventricular tachycardia on a later ECG",
    "mi": "myocardial infarction",
}
"""Events that every study knows, in words; others are declared under its ``columns``."""

Event = Annotated[str, Field(pattern=NAME)]


class BinaryEndpoint(Config):
    """A 0/1 label: ``column`` is a key of the site's ``labels``, or one of :data:`BUILT_IN_LABELS`."""

    kind: Literal["binary"] = Field(description="a column of 0 and 1")
    column: str = Field(description="the site's label of this name, male, lvef_low, or a flag that the study declares")
    label: Label = Field(default=None, description="how the report calls it")


class TimeToEventEndpoint(Config):
    """An event within a horizon after the ECG: 1 if 0 <= days < 365.25 h, 0 if seen free of it that long."""

    kind: Literal["time_to_event"] = Field(description="an event within so many years of the ECG")
    event: Event | tuple[Event, ...] = Field(
        description=f"{', '.join(EVENTS)}, or an event that the study declares; several: the first of any of them"
    )
    horizon_years: float = Field(gt=0, le=20, description="years after the ECG")
    after_years: float = Field(
        default=0.0,
        ge=0,
        description="start of the interval that counts, years after the ECG; who had the event or died before it, or "
        "got a defibrillator where that censors, has no label",
        exclude_if=lambda years: years == 0,
    )
    among_deaths: bool = Field(
        default=False,
        description="only ECGs whose patient died within the horizon have a label: did the event come, or another end",
        exclude_if=lambda only: not only,
    )
    group: str | None = Field(
        default=None, description="heads of one group are made monotone in their horizon (cumulative hazard)"
    )
    label: Label = Field(default=None, description="how the report calls it")

    @field_validator("event")
    @classmethod
    def _each_once(cls, event: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(event, tuple):
            if not event or len(set(event)) < len(event):
                raise ValueError("names no event, or one twice")
            if {"scd", "death"} <= set(event):
                raise ValueError("a sudden cardiac death is a death: name one of scd and death")
        return event

    @model_validator(mode="after")
    def _can_be(self) -> TimeToEventEndpoint:
        if self.after_years >= self.horizon_years:
            raise ValueError(f"after_years {self.after_years:g} is not before horizon_years {self.horizon_years:g}")
        if self.among_deaths and "death" in self.events:
            raise ValueError("among_deaths asks how those died who died; the event cannot be death")
        if self.group is not None and (self.after_years or self.among_deaths):
            raise ValueError("an interval, or a condition, is no horizon of a cumulative hazard; leave group out")
        return self

    @property
    def events(self) -> tuple[str, ...]:
        """The event, or the several of which the first counts."""
        return (self.event,) if isinstance(self.event, str) else self.event

    @property
    def window_days(self) -> tuple[float, float]:
        """Days after the ECG from which, and before which, the event counts."""
        # The ends of two intervals that meet must be one number.
        return round(DAYS_PER_YEAR * self.after_years, 6), round(DAYS_PER_YEAR * self.horizon_years, 6)


class ContinuousEndpoint(Config):
    """A number that a net learns to tell, such as age or the ejection fraction; a cell is the number, in its unit.

    A net sees it on the scale of :meth:`standardise`. What lies outside the range is not known.
    """

    kind: Literal["continuous"] = Field(description="a number")
    column: str = Field(description="a standard number (age, lvef, bmi), or one that the study declares")
    range: tuple[float, float] = Field(
        description="[low, high], in the column's unit: values beyond are not known; a net sees -1 at low, 1 at high"
    )
    unit: str = Field(default="", max_length=20, pattern=r"^[^\x00-\x1f\x7f]*$", description="in words, for reports")
    label: Label = Field(default=None, description="how the report calls it")

    @model_validator(mode="after")
    def _ascends(self) -> ContinuousEndpoint:
        if not -np.inf < self.range[0] < self.range[1] < np.inf:
            raise ValueError(f"range must ascend between finite numbers, not {self.range[0]:g} to {self.range[1]:g}")
        return self

    @property
    def half_range(self) -> float:
        """What 1 on the net's scale is in the column's unit: errors of a net are multiplied by it."""
        return (self.range[1] - self.range[0]) / 2

    def standardise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Return cells on the net's scale: -1 at the low end of the range, 1 at its high end; NaN stays."""
        middle = (self.range[0] + self.range[1]) / 2
        return ((np.asarray(values, dtype=np.float64) - middle) / self.half_range).astype(np.float32)

    def restore(self, outputs: ArrayLike) -> NDArray[np.float64]:
        """Return what a net says in the column's unit."""
        return np.asarray(outputs, dtype=np.float64) * self.half_range + (self.range[0] + self.range[1]) / 2


Endpoint = Annotated[BinaryEndpoint | TimeToEventEndpoint | ContinuousEndpoint, Field(discriminator="kind")]


LOW_LVEF = 0.35
"""Ejection fractions at or below this count as reduced."""

BUILT_IN_LABELS: tuple[str, ...] = ("male", "lvef_low")
"""Binary columns every site has by name: from ``sex``, and from ``lvef`` where it was measured."""

Censoring = Literal["strict", "paper_faithful", "ipcw"]
_NOTHING: Declared = MappingProxyType({})
_DEATHS = ("scd", "death")
_FROM_NEXT_DAY = ("vfvt", "vf", "vt", "ecg_vt")
"""On the day of the ECG they may be why it was taken."""


def label_cells(
    table: Mapping[str, ArrayLike],
    endpoint: Endpoint,
    *,
    censoring: Censoring = "strict",
    censor_at_defibrillator: bool = False,
    declared: Declared = _NOTHING,
) -> NDArray[np.float32]:
    """Return one cell per ECG: 1 (event), 0 (known to be free of it), NaN (not known); a continuous one, the number.

    Parameters
    ----------
    table : standard columns (:data:`ecgshared.study.columns.STANDARD_COLUMNS`), declared ones and labels by name, each
        shape = (n,), of the WHOLE table: where no ``data_end`` is declared, its latest date ends the data. Dates are
        ``datetime64`` of any unit with NaT, numbers and flags float with NaN, ``sex`` "M", "F" or "", codes "" where
        unknown. A column that is absent is one the site does not have. ``ecg_vt_date`` is that of
        :func:`ecgshared.study.dates.first_later`.
    endpoint : a binary column, a number, or events and their horizon of ``h`` years.
    censoring : what becomes of an ECG whose horizon reaches past the end of the data.
    censor_at_defibrillator : a defibrillator implanted after the ECG, within the horizon and before any event, makes
        the cell NaN: what would have come without it is not known.
    declared : the study's own columns; its events are among them.

    Returns
    -------
    float32 array, shape = (n,).

    Raises
    ------
    CohortError : a binary column holds a value other than 0 and 1.

    Notes
    -----
    Days are counted between calendar dates, from the ECG. An event at ``0 <= days < 365.25 h`` gives 1; VF and VT
    count from day 1, since on day 0 they may be why the ECG was taken, and a declared event from its ``first_day``. For
    an event that can come again a first date that lies before its window gives NaN (it hides whether another followed),
    and one after its horizon shows that there was none within; one dated after the death is none.

    ``scd``: a death inside the horizon is 1 if its cause is cardiac or ill-defined AND it happened outside
    hospital or within 24 h of admission, 0 if either is known not to hold (another cause, a late death in
    hospital), and NaN if what is missing could still decide. A death before the horizon that ends the view on
    events that are no deaths gives NaN (death-censored). Of several events any gives 1; with a death among them,
    another death within the horizon gives 0: nothing more can come.

    An interval (``after_years``) is about those still at risk at its start: a death or one of the events before it
    gives NaN. ``among_deaths`` is about those who died within the window: everybody else is NaN.

    A 0 needs the person alive at or after the horizon, shown by ``last_encounter``, by a ``death_date`` that late, or
    by ``data_end``: the site declares its registers complete to that day, so who has no death in them was alive.
    ``data_end`` proves nothing at a site without ``death_date``.

    ``strict``: an ECG whose horizon ends after the data do is NaN WHATEVER happened. To keep its events and drop its
    living would raise the event rate by half in a window of two years. ``paper_faithful`` does keep them, and an
    encounter after the registers' end gives 0, as in the paper. ``ipcw`` labels as ``strict`` does; an evaluate step
    then also judges with whoever is known for part of the horizon, weighted by the chance to be followed.

    A site that lacks the columns of one of the events (for ``scd``: date, cause, and place or admission) gets NaN
    throughout, never a column of zeros.
    """
    n = rows_of(table)
    if isinstance(endpoint, BinaryEndpoint):
        return _binary(table, endpoint.column, n)
    if isinstance(endpoint, ContinuousEndpoint):
        return _continuous(table, endpoint, n)
    if not _sees(table, endpoint.events):
        return np.full(n, np.nan, dtype=np.float32)
    happened = _happenings(table, endpoint.events, declared, n)
    out = _within(table, endpoint, happened, censoring)
    start, horizon = endpoint.window_days
    if censoring != "paper_faithful":
        out[window_days(table, n) < horizon] = np.nan
    if censor_at_defibrillator:
        implanted = days_after_ecg(table, "icd_date", n)
        inside = (happened.any_day >= start) & (happened.any_day < horizon)
        out[(implanted >= 1) & (implanted < horizon) & ~(inside & (happened.any_day < implanted))] = np.nan
    return out


@dataclass(frozen=True)
class _Happenings:
    """What happened after each ECG, in days; every array has shape = (n,).

    Attributes
    ----------
    death : of any cause. verdict : 1 where the death is one of the events, 0 where it is none, NaN where not known.
    day : of the first of the events that are no deaths, inside the days on which they count; NaN without one.
    any_day : of that, or of the death where deaths are among the events, whatever its verdict.
    hidden : one of the events came before it counts, which hides whether it came again.
    before : days of the earliest of the events that are no deaths, hidden ones too.
    """

    death: Floats
    verdict: Floats
    day: Floats
    any_day: Floats
    hidden: Bools
    before: Floats


def _happenings(table: Table, events: tuple[str, ...], declared: Declared, n: int) -> _Happenings:
    death = days_after_ecg(table, "death_date", n)
    verdict = np.zeros(n)
    if "death" in events:
        verdict = np.ones(n)
    elif "scd" in events:
        verdict = is_sudden_cardiac(table).astype(np.float64)
    day, before, hidden = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=np.bool_)
    for event in events:
        if event in _DEATHS:
            continue
        own = declared.get(event)
        first = own.first_day if own is not None else int(event in _FROM_NEXT_DAY)
        came = np.full(n, np.nan)
        for name in _columns_of(table, event):
            came = np.fmin(came, days_after_ecg(table, name, n))
        # Dated after the death it is a slip of the pen: it happened to nobody.
        came = np.where(came > death, np.nan, came)
        hidden |= came < first
        before = np.fmin(before, came)
        day = np.fmin(day, np.where(came >= first, came, np.nan))
    deadly = bool(set(events) & set(_DEATHS))
    return _Happenings(
        death=death,
        verdict=verdict,
        day=day,
        any_day=np.fmin(day, death) if deadly else day,
        hidden=np.asarray(hidden, dtype=np.bool_),
        before=before,
    )


def _within(
    table: Table, endpoint: TimeToEventEndpoint, happened: _Happenings, censoring: Censoring
) -> NDArray[np.float32]:
    """Return the cells of a window before what strict censoring and defibrillators take away."""
    n, (start, horizon) = len(happened.day), endpoint.window_days
    out = np.full(n, np.nan, dtype=np.float32)
    last, end = days_after_ecg(table, "last_encounter", n), window_days(table, n)
    out[free_days(table, n) >= horizon] = 0
    if censoring == "paper_faithful":
        out[(end < horizon) & (last > end) & (last >= 1) & np.isnan(happened.death)] = 0
    # A first date so late shows the person free of it, and alive, until then.
    out[happened.day >= horizon] = 0
    died = (happened.death >= start) & (happened.death < horizon)
    if endpoint.among_deaths:
        out[:] = np.nan
    if endpoint.among_deaths or set(endpoint.events) & set(_DEATHS):
        out[died] = happened.verdict[died]
    came = (happened.day >= start) & (happened.day < horizon)
    out[(came & died) if endpoint.among_deaths else came] = 1
    out[happened.hidden & (out != 1)] = np.nan
    if start > 0:
        out[(happened.before < start) | (happened.death < start)] = np.nan
    out[happened.death < 0] = np.nan
    return out


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


def time_to_event(
    table: Mapping[str, ArrayLike],
    event: str | tuple[str, ...],
    *,
    censor_at_defibrillator: bool = False,
    declared: Declared = _NOTHING,
) -> EventTimes:
    """Return time and status of an event, or of the first of several, for hazards; days as :func:`label_cells` has.

    A competing death ends the time on its day and is marked: the hazard is that of people still alive. For ``scd`` so
    is a death whose cause or place is known to be another one; one for which what is missing could still decide is
    censoring: until that day the patient is known to have been free of it, and no further. An ECG has no time where a
    cell of :func:`label_cells` is NaN at every horizon: the event or the death lies before the window, the site lacks
    the event's columns, or no status after the ECG is known. Of several events, one that an earlier date hides leaves
    none.

    Parameters
    ----------
    table, declared : as :func:`label_cells`.
    censor_at_defibrillator : a defibrillator implanted after the ECG and before the event censors on its day.
    """
    n, events = rows_of(table), (event,) if isinstance(event, str) else event
    if not _sees(table, events):
        return EventTimes(np.full(n, np.nan), np.zeros(n, dtype=np.bool_))
    happened = _happenings(table, events, declared, n)
    death, first = happened.death, happened.day
    by_death = (death >= 0) & (happened.verdict == 1)
    observed = ~np.isnan(first) | by_death
    other = (death >= 0) & (happened.verdict == 0)
    time = np.where(observed, np.fmin(first, np.where(by_death, death, np.nan)), free_days(table, n))
    if censor_at_defibrillator:
        implanted = days_after_ecg(table, "icd_date", n)
        before = (implanted >= 1) & (implanted <= time)
        time, observed, other = np.where(before, implanted, time), observed & ~before, other & ~before
    time[happened.hidden | (death < 0) | (time < 0)] = np.nan
    competing = other & ~observed & (time == death)
    return EventTimes(time / DAYS_PER_YEAR, np.asarray(observed & ~np.isnan(time), dtype=np.bool_), competing)


def _sees(table: Table, events: tuple[str, ...]) -> bool:
    """Tell whether a site has the columns of every one of the events."""
    return "recorded_at" in table and all(
        sees_sudden_deaths(table) if event == "scd" else set(_columns_of(table, event)) <= set(table)
        for event in events
    )


def _columns_of(table: Table, event: str) -> tuple[str, ...]:
    """Return the columns of an event's dates: VF/VT may be kept as one, or as VF and VT apart."""
    if event == "vfvt" and "vfvt_date" not in table:
        return ("vf_date", "vt_date")
    return (f"{event}_date" if event in EVENTS else event,)


def _binary(table: Mapping[str, ArrayLike], column: str, n: int) -> NDArray[np.float32]:
    if column == "male":
        sex = np.asarray(table.get("sex", np.full(n, ""))).astype(str)
        return np.select([sex == "M", sex == "F"], [1.0, 0.0], np.nan).astype(np.float32)
    if column == "lvef_low":
        lvef = number(table, "lvef", n)
        # A value read from text as 0.35 must count as 0.35 in any float width.
        return np.where(np.isnan(lvef), np.nan, lvef <= LOW_LVEF + 1e-6).astype(np.float32)
    values = number(table, column, n)
    other = values[~np.isnan(values) & (values != 0) & (values != 1)]
    if len(other):
        raise CohortError(
            f"a binary endpoint needs 0 and 1, but {len(other)} rows of {column!r} hold something else",
            value=", ".join(f"{v:g}" for v in np.unique(other)[:5]),
            allowed="0, 1, or empty",
            remedy="map the values in the site file, or define the label by `matches`",
        )
    return values.astype(np.float32)


def _continuous(table: Mapping[str, ArrayLike], endpoint: ContinuousEndpoint, n: int) -> NDArray[np.float32]:
    values = number(table, endpoint.column, n)
    low, high = endpoint.range
    return np.where((values >= low) & (values <= high), values, np.nan).astype(np.float32)
