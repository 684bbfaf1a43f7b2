from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import CohortError
from ecgshared.study.endpoints import (
    BinaryEndpoint,
    TimeToEventEndpoint,
    follow_up_years,
    is_cardiac_or_ill_defined,
    label_cells,
    time_to_event,
)

ECG = dt.date(2015, 6, 1)
DATES = ("death_date", "last_encounter", "data_end", "vfvt_date", "mi_date", "admission_time")


def tte(event: str, years: float = 1) -> TimeToEventEndpoint:
    return TimeToEventEndpoint(kind="time_to_event", event=event, horizon_years=years)


def table_of(rows: list[dict[str, object]]) -> dict[str, np.ndarray]:
    table: dict[str, np.ndarray] = {"recorded_at": np.array([ECG] * len(rows), dtype="datetime64[D]")}
    for name in DATES:
        days = [row.get(name) for row in rows]
        table[name] = np.array(
            [np.datetime64("NaT") if d is None else np.datetime64(ECG) + np.timedelta64(d, "D") for d in days],
            dtype="datetime64[D]",
        )
    table["death_cause"] = np.array([row.get("death_cause") or "" for row in rows])
    table["death_in_hospital"] = np.array(
        [math.nan if row.get("death_in_hospital") is None else row["death_in_hospital"] for row in rows], dtype=float
    )
    return table


def slow_label(row: dict[str, object], event: str, years: float, paper: bool) -> float:
    """The rules again, one row at a time, in days after the ECG."""
    horizon = 365.25 * years
    death, last, end = row.get("death_date"), row.get("last_encounter"), row.get("data_end")
    if death is not None and death < 0:
        return math.nan
    first = 1 if event == "vfvt" else 0
    day = {"scd": death, "death": death, "vfvt": row.get("vfvt_date"), "mi": row.get("mi_date")}[event]
    if day is not None and day < first:
        return math.nan
    if day is not None and day < horizon:
        if event != "scd":
            return 1.0
        code = str(row.get("death_cause") or "")
        cardiac: bool | None = None
        if code:
            letter, number = code[0], int(code[1:3])
            cardiac = (
                (letter == "I" and (number < 10 or number == 11 or 20 <= number <= 52))
                or (letter == "Q" and 20 <= number <= 24)
                or (letter == "R" and 95 <= number <= 99)
            )
        sudden: bool | None = None
        admitted = row.get("admission_time")
        if row.get("death_in_hospital") == 0:
            sudden = True
        elif admitted is not None and admitted <= day:
            sudden = day - admitted <= 1
        if cardiac is False or sudden is False:
            return 0.0
        return 1.0 if cardiac and sudden else math.nan
    if death is not None:
        return 0.0 if death >= horizon else math.nan
    proofs = [d for d in (last, end) if d is not None]
    if proofs and max(proofs) >= horizon:
        return 0.0
    if paper and last is not None and last >= 1:
        return 0.0
    return math.nan


days = st.one_of(st.none(), st.integers(-3, 800))
rows_of_dates = st.fixed_dictionaries(
    {
        **dict.fromkeys(DATES, days),
        "death_cause": st.sampled_from(["", "I21.9", "I10", "I11", "I09", "I60", "Q22", "R95", "R94", "C34.1", "i46"]),
        "death_in_hospital": st.sampled_from([None, 0, 1]),
    }
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(rows_of_dates, min_size=1, max_size=8),
    event=st.sampled_from(["scd", "death", "vfvt", "mi"]),
    years=st.sampled_from([0.25, 0.5, 1, 2]),
    paper=st.booleans(),
)
def test_labels_equal_a_reference_that_takes_one_row_at_a_time(rows, event, years, paper):
    for row in rows:
        row["death_cause"] = str(row["death_cause"]).upper()
    got = label_cells(table_of(rows), tte(event, years), censoring="paper_faithful" if paper else "strict")
    want = np.array([slow_label(row, event, years, paper) for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(rows_of_dates, min_size=1, max_size=8), event=st.sampled_from(["death", "scd", "vfvt"]))
def test_an_event_within_a_short_horizon_is_one_within_a_long_one(rows, event):
    table = table_of(rows)
    short, long = label_cells(table, tte(event, 0.25)), label_cells(table, tte(event, 2))
    assert (long[short == 1] == 1).all()


@pytest.mark.parametrize(
    ("row", "event", "expected"),
    [
        ({"death_date": 0, "death_cause": "I21.9", "death_in_hospital": 0}, "scd", 1),
        ({"death_date": 365, "death_cause": "I21.9", "death_in_hospital": 0}, "scd", 1),
        ({"death_date": 366, "death_cause": "I21.9", "death_in_hospital": 0}, "scd", 0),
        ({"death_date": 40, "death_cause": "C34.1", "death_in_hospital": 0}, "scd", 0),
        ({"death_date": 40, "death_cause": "C34.1"}, "scd", 0),
        ({"death_date": 40, "death_cause": "", "death_in_hospital": 0}, "scd", math.nan),
        ({"death_date": 40, "death_cause": "I46", "death_in_hospital": None}, "scd", math.nan),
        ({"death_date": 40, "death_cause": "I46", "death_in_hospital": 1}, "scd", math.nan),
        ({"death_date": 40, "death_cause": "I46", "death_in_hospital": 1, "admission_time": 40}, "scd", 1),
        ({"death_date": 40, "death_cause": "I46", "death_in_hospital": 1, "admission_time": 30}, "scd", 0),
        ({"last_encounter": 365}, "scd", math.nan),
        ({"last_encounter": 366}, "scd", 0),
        ({"data_end": 366}, "scd", 0),
        ({"vfvt_date": 0, "last_encounter": 900}, "vfvt", math.nan),
        ({"vfvt_date": 1}, "vfvt", 1),
        ({"vfvt_date": 365}, "vfvt", 1),
        ({"vfvt_date": 366, "last_encounter": 400}, "vfvt", 0),
        ({"death_date": 40, "death_cause": "C34"}, "vfvt", math.nan),
        ({"mi_date": 0}, "mi", 1),
    ],
)
def test_edges_of_the_rules(row, event, expected):
    np.testing.assert_array_equal(label_cells(table_of([row]), tte(event)), np.float32([expected]))


def test_a_time_of_death_counts_the_24_hours_exactly():
    table = table_of([{"death_in_hospital": 1, "death_cause": "I46"}] * 2)
    table["death_date"] = np.array(["2015-07-02T09:00", "2015-07-02T11:00"], dtype="datetime64[s]")
    table["admission_time"] = np.array(["2015-07-01T10:00"] * 2, dtype="datetime64[s]")
    np.testing.assert_array_equal(label_cells(table, tte("scd")), [1, 0])


def test_paper_faithful_takes_an_encounter_in_the_year_for_survival_of_it():
    table = table_of([{"last_encounter": 100}, {"last_encounter": 0}])
    np.testing.assert_array_equal(label_cells(table, tte("death")), [np.nan, np.nan])
    np.testing.assert_array_equal(label_cells(table, tte("death"), censoring="paper_faithful"), [0, np.nan])


def test_a_site_without_the_events_columns_has_no_zeros():
    table = table_of([{"last_encounter": 900}])
    for column, event in [
        ("vfvt_date", "vfvt"),
        ("death_date", "death"),
        ("death_cause", "scd"),
        ("recorded_at", "mi"),
    ]:
        assert np.isnan(label_cells({k: v for k, v in table.items() if k != column}, tte(event))).all()
    registers = {k: v for k, v in table_of([{"data_end": 900}]).items() if k != "death_date"}
    assert np.isnan(label_cells(registers, tte("vfvt"))).all()


def test_binary_columns_and_the_built_in_ones():
    table = {
        "sex": np.array(["M", "F", ""]),
        "lvef": np.array([0.35, 0.36, np.nan]),
        "chagas": np.array([1.0, np.nan, 0.0]),
    }

    def cells(column: str) -> np.ndarray:
        return label_cells(table, BinaryEndpoint(kind="binary", column=column))

    np.testing.assert_array_equal(cells("male"), [1, 0, np.nan])
    np.testing.assert_array_equal(cells("lvef_low"), [1, 0, np.nan])
    np.testing.assert_array_equal(cells("chagas"), [1, np.nan, 0])
    assert np.isnan(cells("another")).all()


def test_icd_prefixes():
    codes = ["I00", "I09.9", "I10", "I11.0", "I12", "I20", "I52", "I53", "Q24.9", "Q25", "R95", "R94", "", "i 21.9"]
    want = [1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, np.nan, 1]
    np.testing.assert_array_equal(is_cardiac_or_ill_defined(np.array(codes)), np.float32(want))


def test_follow_up_ends_with_death_or_the_last_proof_of_life():
    rows = [{"death_date": 365, "last_encounter": 500}, {"last_encounter": 10, "data_end": 730}, {}]
    years = follow_up_years(table_of(rows))
    np.testing.assert_allclose(years, [365 / 365.25, 730 / 365.25, np.nan], rtol=1e-6)


def test_columns_of_unequal_length_are_named():
    with pytest.raises(CohortError, match="one length"):
        label_cells(
            {"sex": np.array(["M"]), "lvef": np.array([0.3, 0.4])}, BinaryEndpoint(kind="binary", column="male")
        )


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(rows_of_dates, min_size=1, max_size=8),
    event=st.sampled_from(["scd", "death", "vfvt", "mi"]),
    years=st.sampled_from([0.25, 0.5, 1, 2, 3]),
)
def test_times_say_what_the_labels_of_every_horizon_say(rows, event, years):
    """A cell is 1 exactly where the event comes within the horizon, and 0 where one is followed past it."""
    table = table_of(rows)
    cells, times = label_cells(table, tte(event, years)), time_to_event(table, event)
    known = ~np.isnan(times.years)
    inside = times.observed & (times.years < years)
    np.testing.assert_array_equal(cells == 1, inside)
    past = known & (times.years >= years)
    assert not (cells[past] == 1).any()
    # A label takes no later event for a proof of life; a time does.
    np.testing.assert_array_equal(cells[past & ~times.observed], 0)
    assert not times.observed[~known].any()
    # Without a time, no horizon has a cell: what is unknown for hazards is unknown for labels.
    assert np.isnan(cells[~known]).all()


@pytest.mark.parametrize(
    ("row", "event", "days", "observed"),
    [
        ({"death_date": 100}, "death", 100, True),
        ({"death_date": 0}, "death", 0, True),
        ({"data_end": 300, "last_encounter": 90}, "death", 300, False),
        ({"death_date": 100, "data_end": 300}, "vfvt", 100, False),
        ({"death_date": 100, "vfvt_date": 40}, "vfvt", 40, True),
        ({"vfvt_date": 0, "data_end": 300}, "vfvt", None, False),
        ({"death_date": 100, "death_cause": "I46", "death_in_hospital": 0}, "scd", 100, True),
        ({"death_date": 100, "death_cause": "C34", "death_in_hospital": 0}, "scd", 100, False),
        ({"death_date": 100, "death_cause": "", "death_in_hospital": 0}, "scd", 100, False),
        ({"death_date": -1}, "death", None, False),
        ({"last_encounter": -5}, "death", None, False),
        ({}, "death", None, False),
    ],
)
def test_times_and_censoring_by_example(row, event, days, observed):
    found = time_to_event(table_of([row]), event)
    assert bool(found.observed[0]) is observed
    if days is None:
        assert np.isnan(found.years[0])
    else:
        assert found.years[0] == pytest.approx(days / 365.25)


def test_a_site_without_the_columns_of_an_event_has_no_times():
    table = table_of([{"death_date": 10, "data_end": 50}])
    del table["vfvt_date"], table["death_cause"]
    assert np.isnan(time_to_event(table, "vfvt").years).all()
    assert np.isnan(time_to_event(table, "scd").years).all()
    assert time_to_event(table, "death").observed.all()
