"""Composite, conditional and interval endpoints, VT and VF apart, events that a study declares: against plain Python.

The reference below is written from the documentation of the rules, one ECG at a time, in days after the ECG, and shares
nothing with the code it is held against but the table it fills.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.config import ConfigError, validate
from ecgshared.study.dates import first_later
from ecgshared.study.declared import DeclaredColumn
from ecgshared.study.endpoints import TimeToEventEndpoint, label_cells, time_to_event
from ecgshared.study.study import Study

ECG = np.datetime64("2015-06-01", "D")
DECLARED = {
    "stroke": DeclaredColumn(kind="event"),
    "transplant": DeclaredColumn(kind="event", first_day=1),
}
COLUMN = {
    "vfvt": "vfvt_date",
    "vf": "vf_date",
    "vt": "vt_date",
    "ecg_vt": "ecg_vt_date",
    "mi": "mi_date",
    "stroke": "stroke",
    "transplant": "transplant",
}
_DATED = (*COLUMN.values(), "death_date", "last_encounter", "icd_date")
FROM_DAY_1 = ("vfvt", "vf", "vt", "ecg_vt", "transplant")
SUDDEN, OTHER, OPEN = (
    {"death_cause": "I46.1", "death_in_hospital": 0},
    {"death_cause": "C34.9", "death_in_hospital": 0},
    {"death_cause": "", "death_in_hospital": 0},
)


def endpoint(event, years=1.0, **more) -> TimeToEventEndpoint:
    content = {"kind": "time_to_event", "event": event, "horizon_years": years, **more}
    return validate(TimeToEventEndpoint, content, where="here")


def table_of(rows: list[dict]) -> dict[str, np.ndarray]:
    def dates(name):
        cells = [row.get(name) for row in rows]
        return np.array([np.datetime64("NaT") if d is None else ECG + d for d in cells], dtype="datetime64[D]")

    table = {"recorded_at": np.full(len(rows), ECG)}
    table |= {name: dates(name) for name in (*COLUMN.values(), "death_date", "last_encounter", "data_end", "icd_date")}
    table["death_cause"] = np.array([row.get("death_cause") or "" for row in rows])
    place = [row.get("death_in_hospital") for row in rows]
    table["death_in_hospital"] = np.array([math.nan if p is None else p for p in place], dtype=float)
    return table


def sudden(row) -> float:
    """Whether a death with this cause and place is a sudden cardiac one: 1, 0, or nan where that is open."""
    if row.get("death_cause") == "C34.9":
        return 0.0
    return 1.0 if row.get("death_cause") == "I46.1" and row.get("death_in_hospital") == 0 else math.nan


def slow(row: dict, events: tuple[str, ...], start: float, horizon: float, *, paper, icd, among) -> float:
    death, seen, end = row.get("death_date"), row.get("last_encounter"), row["data_end"]
    if (death is not None and death < 0) or (end < horizon and not paper):
        return math.nan
    when = {e: row.get(COLUMN[e]) for e in events if e in COLUMN}
    when = {e: d for e, d in when.items() if d is not None and not (death is not None and d > death)}
    if start > 0 and any(day < start for day in (*when.values(), math.inf if death is None else death)):
        return math.nan
    hidden = any(day < (1 if e in FROM_DAY_1 else 0) for e, day in when.items())
    counting = {e: day for e, day in when.items() if day >= (1 if e in FROM_DAY_1 else 0)}
    in_window = [day for day in counting.values() if start <= day < horizon]
    dies = death is not None and start <= death < horizon
    deadly = "scd" in events or "death" in events
    ends = in_window + ([death] if deadly and dies else [])
    implanted = row.get("icd_date")
    if icd and implanted is not None and 1 <= implanted < horizon and not (ends and min(ends) < implanted):
        return math.nan
    if among and not dies:
        return math.nan
    if in_window:
        return 1.0
    if dies and (deadly or among):
        verdict = 1.0 if "death" in events else sudden(row) if "scd" in events else 0.0
        return verdict if verdict == 1 or not hidden else math.nan
    if hidden:
        return math.nan
    if counting:  # all at or after the horizon
        return 0.0
    if death is not None:
        return 0.0 if death >= horizon else math.nan
    if max(end, -1 if seen is None else seen) >= horizon:
        return 0.0
    return 0.0 if paper and seen is not None and seen >= 1 and seen > end else math.nan


day = st.one_of(st.none(), st.integers(-3, 800))
fates = st.fixed_dictionaries(
    {
        **dict.fromkeys((*COLUMN.values(), "death_date", "last_encounter", "icd_date"), day),
        "data_end": st.integers(0, 900),
        "death_cause": st.sampled_from(["", "I46.1", "C34.9"]),
        "death_in_hospital": st.sampled_from([None, 0]),
    }
)
event_sets = st.lists(st.sampled_from([*COLUMN, "scd"]), min_size=1, max_size=3, unique=True)


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(fates, min_size=1, max_size=8),
    events=event_sets,
    window=st.sampled_from([(0, 1), (0, 2), (0.25, 0.5), (1, 2)]),
    paper=st.booleans(),
    icd=st.booleans(),
    among=st.booleans(),
)
def test_every_kind_equals_a_reference_that_takes_one_ecg_at_a_time(rows, events, window, paper, icd, among):
    start, horizon = window
    made = endpoint(tuple(events), horizon, after_years=start, among_deaths=among)
    censoring = "paper_faithful" if paper else "strict"
    got = label_cells(table_of(rows), made, censoring=censoring, censor_at_defibrillator=icd, declared=DECLARED)
    want = [slow(row, made.events, 365.25 * start, 365.25 * horizon, paper=paper, icd=icd, among=among) for row in rows]
    np.testing.assert_array_equal(got, np.array(want, dtype=np.float32))


@settings(max_examples=200, deadline=None)
@given(
    row=fates,
    later=st.lists(st.integers(366, 5000), min_size=12, max_size=12),
    events=event_sets,
    among=st.booleans(),
    icd=st.booleans(),
)
def test_a_label_does_not_hang_on_when_after_its_horizon_things_happened(row, later, events, among, icd):
    """What lies at or after the horizon may move to any later day, and may stop being what it was."""
    row |= {"data_end": 900}
    moved = {name: row[name] for name in _DATED}
    moved |= {name: to for name, to in zip(_DATED, later, strict=False) if row[name] is not None and row[name] >= 366}
    # A date after the death counts for nothing: the death must not move behind or before what happened.
    if row.get("death_date") is not None and row["death_date"] >= 366:
        moved["death_date"] = 6000
        for name in COLUMN.values():
            if row.get(name) is not None and row[name] > row["death_date"]:
                moved[name] = 7000
    changed = row | moved
    if changed.get("death_date") is not None and changed["death_date"] >= 366:
        changed |= {"death_cause": "C34.9", "death_in_hospital": None}
    made = endpoint(tuple(events), among_deaths=among)
    cells = [
        label_cells(table_of([r]), made, censor_at_defibrillator=icd, declared=DECLARED)[0] for r in (row, changed)
    ]
    np.testing.assert_array_equal(cells[0], cells[1])


@settings(max_examples=200, deadline=None)
@given(row=fates, other=fates, events=event_sets, among=st.booleans())
def test_a_label_uses_nothing_after_the_defibrillator_that_censors(row, other, events, among):
    implanted = row["icd_date"] = 40 if row["icd_date"] is None else 1 + row["icd_date"] % 300
    for fate in (row, other):
        fate |= {"data_end": 900}
    kept = {k: v for k, v in row.items() if not isinstance(v, int) or k not in _DATED or v < implanted}
    dead_before = row["death_date"] is not None and row["death_date"] < implanted
    replaced = {
        k: implanted + abs(other[k])
        for k in _DATED
        if k not in kept and other.get(k) is not None and k != "icd_date" and not dead_before
    }
    changed = {**kept, **replaced, "icd_date": implanted, "data_end": 900}
    if not dead_before:
        changed |= {"death_cause": other["death_cause"], "death_in_hospital": other["death_in_hospital"]}
    made = endpoint(tuple(events), among_deaths=among)
    cells = [
        label_cells(table_of([r]), made, censor_at_defibrillator=True, declared=DECLARED)[0] for r in (row, changed)
    ]
    if among and not dead_before:  # that somebody died at all is what the condition asks
        assert np.isnan(cells[0]) or cells[0] == 1
        return
    np.testing.assert_array_equal(cells[0], cells[1])


@pytest.mark.parametrize(
    ("row", "made", "expected"),
    [
        # Either of two is enough, and another death ends the question where a death is among them.
        ({"vfvt_date": 30, "death_date": 40, **OTHER}, endpoint(("scd", "vfvt")), 1),
        ({"death_date": 40, **SUDDEN}, endpoint(("scd", "vfvt")), 1),
        ({"death_date": 40, **OTHER}, endpoint(("scd", "vfvt")), 0),
        ({"death_date": 40, **OTHER}, endpoint("vfvt"), math.nan),
        ({"death_date": 40, **OPEN}, endpoint(("scd", "vfvt")), math.nan),
        ({"vfvt_date": 30, "death_date": 40, **OPEN}, endpoint(("scd", "vfvt")), 1),
        ({"vfvt_date": 0, "death_date": 40, **SUDDEN}, endpoint(("scd", "vfvt")), 1),
        ({"vfvt_date": 0, "death_date": 40, **OTHER}, endpoint(("scd", "vfvt")), math.nan),
        ({"vfvt_date": 0}, endpoint(("scd", "vfvt")), math.nan),
        ({"mi_date": 10, "death_date": 40, **OTHER}, endpoint(("mi", "stroke")), 1),
        ({"death_date": 40, **OTHER}, endpoint(("mi", "stroke")), math.nan),
        # Among those who died within the year: how.
        ({"death_date": 40, **SUDDEN}, endpoint("scd", among_deaths=True), 1),
        ({"death_date": 40, **OTHER}, endpoint("scd", among_deaths=True), 0),
        ({"death_date": 400, **SUDDEN}, endpoint("scd", among_deaths=True), math.nan),
        ({}, endpoint("scd", among_deaths=True), math.nan),
        ({"death_date": 40, "vfvt_date": 39, **OTHER}, endpoint("vfvt", among_deaths=True), 1),
        ({"death_date": 40, **OTHER}, endpoint("vfvt", among_deaths=True), 0),
        # An interval is about those at risk at its start; three months are 91.3 days.
        ({"death_date": 91, **SUDDEN}, endpoint("scd", 0.5, after_years=0.25), math.nan),
        ({"death_date": 92, **SUDDEN}, endpoint("scd", 0.5, after_years=0.25), 1),
        ({"death_date": 182, **SUDDEN}, endpoint("scd", 0.5, after_years=0.25), 1),
        ({"death_date": 183, **SUDDEN}, endpoint("scd", 0.5, after_years=0.25), 0),
        ({"death_date": 120, **OTHER}, endpoint("scd", 0.5, after_years=0.25), 0),
        ({"vfvt_date": 50}, endpoint("vfvt", after_years=0.25), math.nan),
        # VF and VT apart, VT on a later ECG, an event of the study's own.
        ({"vt_date": 50}, endpoint("vt"), 1),
        ({"vt_date": 50}, endpoint("vf"), 0),
        ({"vt_date": 0}, endpoint("vt"), math.nan),
        ({"ecg_vt_date": 5}, endpoint("ecg_vt"), 1),
        ({"stroke": 0}, endpoint("stroke"), 1),
        ({"transplant": 0}, endpoint("transplant"), math.nan),
        ({"stroke": 50, "death_date": 40, **OTHER}, endpoint("stroke"), math.nan),
    ],
)
def test_the_kinds_by_example(row, made, expected):
    table = table_of([row | {"data_end": 900}])
    np.testing.assert_array_equal(label_cells(table, made, declared=DECLARED), np.float32([expected]))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(fates, min_size=1, max_size=8))
def test_intervals_that_meet_make_up_the_horizon(rows):
    """No SCD in three months, none in the next three: none in six; one in either: one."""
    table = table_of(rows)
    first = label_cells(table, endpoint("scd", 0.25))
    then = label_cells(table, endpoint("scd", 0.5, after_years=0.25))
    whole = label_cells(table, endpoint("scd", 0.5))
    both = ~np.isnan(first) & ~np.isnan(then)
    np.testing.assert_array_equal(whole[both], np.maximum(first, then)[both])
    assert (whole[(then == 1) | ((first == 1) & (table["data_end"] >= ECG + 183))] == 1).all()


def test_vf_and_vt_apart_make_vf_or_vt_where_a_site_has_no_other():
    table = table_of(
        [{"vf_date": 20, "vt_date": 3, "data_end": 900}, {"data_end": 900}, {"vt_date": 0, "data_end": 900}]
    )
    del table["vfvt_date"]
    np.testing.assert_array_equal(label_cells(table, endpoint("vfvt")), [1, 0, np.nan])
    assert time_to_event(table, "vfvt").years[0] * 365.25 == pytest.approx(3)
    del table["vf_date"]
    assert np.isnan(label_cells(table, endpoint("vfvt"))).all()


def test_a_site_that_lacks_one_of_the_events_has_no_cell_of_any():
    table = table_of([{"vfvt_date": 30, "data_end": 900}])
    del table["death_cause"]
    assert np.isnan(label_cells(table, endpoint(("scd", "vfvt")))).all()
    del table["stroke"]
    assert np.isnan(label_cells(table, endpoint(("mi", "stroke")), declared=DECLARED)).all()


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(fates, min_size=1, max_size=8), events=event_sets, years=st.sampled_from([0.25, 1, 2]))
def test_times_of_the_first_of_several_say_what_the_labels_say(rows, events, years):
    for row in rows:
        row["data_end"] = 900
    table = table_of(rows)
    times = time_to_event(table, tuple(events), declared=DECLARED)
    cells = label_cells(table, endpoint(tuple(events), years), declared=DECLARED)
    known = ~np.isnan(times.years)
    horizon = 365.25 * years / 365.25
    happened = known & times.observed & (times.years < horizon)
    assert (cells[happened] == 1).all()
    assert not (cells[known & (times.years >= horizon)] == 1).any()


def test_ventricular_tachycardia_on_a_later_ecg_is_found_by_patient_and_day():
    days = [0, 0, 5, 9, 0, 3, 4, 0]
    recorded = np.array([ECG + d for d in days], dtype="datetime64[s]")
    recorded[7] = np.datetime64("NaT")
    flag = np.array([1.0, 0, 0, 1, 0, 0, np.nan, 1])
    patient = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    found = first_later(recorded, flag, patient)

    def slowly(i):
        later = [
            recorded[j]
            for j in range(len(days))
            if patient[j] == patient[i] and flag[j] == 1 and recorded[j].astype("M8[D]") > recorded[i].astype("M8[D]")
        ]
        return min(later, default=np.datetime64("NaT", "s"))

    expected = np.array([slowly(i) for i in range(len(days))], dtype="datetime64[s]")
    np.testing.assert_array_equal(found, expected)
    assert np.isnat(first_later(recorded, flag, np.full(8, -1))).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.sampled_from([0.0, 1.0, math.nan])), max_size=25))
def test_first_later_equals_a_loop(ecgs):
    patient = np.array([p for p, _, _ in ecgs], dtype=np.int64)
    recorded = np.array([ECG + d for _, d, _ in ecgs], dtype="datetime64[s]")
    flag = np.array([f for _, _, f in ecgs], dtype=float)
    found = first_later(recorded, flag, patient)
    for i, (p, d, _) in enumerate(ecgs):
        later = [other for q, other, f in ecgs if q == p and f == 1 and other > d]
        assert np.isnat(found[i]) if not later else found[i] == (ECG + min(later)).astype("datetime64[s]")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"event": ["scd", "death"]}, "a sudden cardiac death is a death"),
        ({"event": ["vf", "vf"]}, "one twice"),
        ({"event": "death", "among_deaths": True}, "the event cannot be death"),
        ({"event": "scd", "after_years": 1}, "after_years 1 is not before horizon_years 1"),
        ({"event": "scd", "after_years": 0.5, "group": "g"}, "leave group out"),
    ],
)
def test_an_endpoint_that_contradicts_itself_is_refused(content, says):
    with pytest.raises(ConfigError, match=says):
        endpoint(**content)


def test_an_event_that_nobody_knows_is_named_with_its_neighbours():
    def study(event, step_event=None):
        steps = [{"id": "cohorts", "stage": "describe"}]
        if step_event is not None:
            steps.append({"id": "s", "stage": "survival", "event": step_event, "horizon_years": 1})
            steps[-1]["models"] = [{"name": "a", "inputs": ["age"]}]
        fields = {
            "name": "t",
            "sites": {"train": ["a"]},
            "columns": {"stroke": {"kind": "event"}, "visit": {"kind": "date"}},
            "endpoints": {"e": {"kind": "time_to_event", "event": event, "horizon_years": 1}},
            "steps": steps,
        }
        return validate(Study, fields, where="study.yaml")

    assert study(["stroke", "scd"], "stroke").endpoints["e"].events == ("stroke", "scd")
    with pytest.raises(ConfigError, match=r"endpoints.e: 'strke' is no event of the study; did you mean stroke"):
        study("strke")
    with pytest.raises(ConfigError, match="'visit' is no event of the study"):
        study("visit")
    with pytest.raises(ConfigError, match="step 's': 'strok' is no event of the study; did you mean stroke"):
        study("scd", "strok")


def test_endpoints_of_before_have_the_hash_they_had():
    content = endpoint("scd").model_dump(mode="json")
    assert content == {"kind": "time_to_event", "event": "scd", "horizon_years": 1.0, "group": None}
