from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import CohortError
from ecgshared.study.dates import follow_up_years
from ecgshared.study.deaths import assumed_first_day, is_cardiac_or_ill_defined
from ecgshared.study.endpoints import BinaryEndpoint, TimeToEventEndpoint, label_cells, time_to_event

ECG = dt.date(2015, 6, 1)
DATES = ("death_date", "last_encounter", "data_end", "vfvt_date", "mi_date", "admission_time", "icd_date")
PROOFS = ("death_date", "last_encounter", "data_end", "vfvt_date", "mi_date")


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


def window_ends(rows: list[dict[str, object]]) -> list[int]:
    """Day on which the data end, by row: the declared one, or the latest that any row holds."""
    latest = max([0, *(row[name] for row in rows for name in PROOFS if row.get(name) is not None)])
    return [latest if row.get("data_end") is None else row["data_end"] for row in rows]


def slow_scd(row: dict[str, object], day: int) -> float:
    """A death on ``day``: sudden and cardiac, not so, or not known."""
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


def slow_label(row: dict[str, object], window: int, event: str, years: float, paper: bool, icd: bool) -> float:
    """The rules again, one row at a time, in days after the ECG."""
    horizon = 365.25 * years
    death, last, end = row.get("death_date"), row.get("last_encounter"), row.get("data_end")
    if death is not None and death < 0:
        return math.nan
    if not paper and window < horizon:
        return math.nan
    first = 1 if event == "vfvt" else 0
    day = {"scd": death, "death": death, "vfvt": row.get("vfvt_date"), "mi": row.get("mi_date")}[event]
    if day is not None and death is not None and day > death:
        day = None
    if day is not None and day < first:
        return math.nan
    happens = day is not None and day < horizon
    implanted = row.get("icd_date")
    if icd and implanted is not None and 1 <= implanted < horizon and not (happens and day < implanted):
        return math.nan
    if happens:
        if event != "scd":
            return 1.0
        return slow_scd(row, day)
    if day is not None and event in ("vfvt", "mi"):
        return 0.0
    if death is not None:
        return 0.0 if death >= horizon else math.nan
    proofs = [d for d in (last, end) if d is not None]
    if proofs and max(proofs) >= horizon:
        return 0.0
    if paper and last is not None and last >= 1 and window < horizon and last > window:
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
    icd=st.booleans(),
)
def test_labels_equal_a_reference_that_takes_one_row_at_a_time(rows, event, years, paper, icd):
    for row in rows:
        row["death_cause"] = str(row["death_cause"]).upper()
    censoring = "paper_faithful" if paper else "strict"
    got = label_cells(table_of(rows), tte(event, years), censoring=censoring, censor_at_defibrillator=icd)
    ends = window_ends(rows)
    want = np.array(
        [slow_label(row, end, event, years, paper, icd) for row, end in zip(rows, ends, strict=True)], dtype=np.float32
    )
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(rows_of_dates, min_size=1, max_size=8), event=st.sampled_from(["death", "scd", "vfvt"]))
def test_an_event_within_a_short_horizon_is_one_within_a_long_one(rows, event):
    table = table_of(rows)
    short, long = label_cells(table, tte(event, 0.25)), label_cells(table, tte(event, 2))
    whole = np.array(window_ends(rows)) >= 2 * 365.25
    assert (long[whole & (short == 1)] == 1).all()
    assert np.isnan(long[~whole]).all()


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
        ({"death_date": 40, "vfvt_date": 50}, "vfvt", math.nan),
        ({"death_date": 700, "vfvt_date": 800}, "vfvt", 0),
    ],
)
def test_edges_of_the_rules(row, event, expected):
    # Another patient of the site is seen long after: the data reach beyond the horizon.
    table = table_of([row, {"last_encounter": 1000}])
    np.testing.assert_array_equal(label_cells(table, tte(event))[:1], np.float32([expected]))


@pytest.mark.parametrize("fate", [{"death_date": 100}, {"last_encounter": 300}, {"last_encounter": 400}])
def test_an_ecg_whose_horizon_ends_after_the_data_is_missing_whatever_happened(fate):
    rows = [fate | {"data_end": 365}, fate | {"data_end": 366}]
    cells = label_cells(table_of(rows), tte("death"))
    assert np.isnan(cells[0])
    assert cells[1] == ("death_date" in fate)


def test_the_latest_date_of_the_table_ends_the_data_where_none_is_declared():
    rows = [{"death_date": 100}, {"death_date": 300}, {"last_encounter": 360}]
    assert np.isnan(label_cells(table_of(rows), tte("death"))).all()
    np.testing.assert_array_equal(label_cells(table_of([*rows, {"mi_date": 366}]), tte("death"))[:2], [1, 1])


@pytest.mark.parametrize("event", ["vfvt", "mi"])
def test_a_first_event_after_the_horizon_means_free_of_it_until_then(event):
    rows = [{f"{event}_date": 400}, {"last_encounter": 1000}]
    np.testing.assert_array_equal(label_cells(table_of(rows), tte(event)), [0, 0])
    assert label_cells(table_of(rows), tte(event, 2))[0] == 1


def test_a_defibrillator_after_the_ecg_censors_where_the_study_says_so():
    rows = [
        {"icd_date": 10, "data_end": 900},
        {"icd_date": 10, "death_date": 100, "data_end": 900},
        {"icd_date": 100, "death_date": 10, "data_end": 900},
        {"icd_date": -5, "data_end": 900},
        {"icd_date": 400, "data_end": 900},
    ]
    table = table_of(rows)
    np.testing.assert_array_equal(label_cells(table, tte("death")), [0, 1, 1, 0, 0])
    cells = label_cells(table, tte("death"), censor_at_defibrillator=True)
    np.testing.assert_array_equal(cells, [np.nan, np.nan, 1, 0, 0])
    times = time_to_event(table, "death", censor_at_defibrillator=True)
    np.testing.assert_allclose(times.years * 365.25, [10, 10, 10, 900, 400])
    np.testing.assert_array_equal(times.observed, [False, False, True, False, False])


def test_deaths_on_the_day_after_admission_hang_on_the_time_of_day():
    rows = [
        {"death_in_hospital": 1, "admission_time": 39, "death_date": 40},
        {"death_in_hospital": 1, "admission_time": 40, "death_date": 40},
        {"death_in_hospital": 1, "admission_time": 38, "death_date": 40},
        {"death_in_hospital": 0, "admission_time": 39, "death_date": 40},
    ]
    table = table_of(rows)
    np.testing.assert_array_equal(assumed_first_day(table), [True, False, False, False])
    timed = table | {
        name: table[name].astype("datetime64[s]") + np.timedelta64(3600, "s")
        for name in ("death_date", "admission_time")
    }
    assert not assumed_first_day(timed).any()


def simulated(rng, years: float, n: int, *, lost: float = 0.0) -> tuple[dict[str, np.ndarray], float]:
    """ECGs over a window of ``years``, exponential deaths; the table a complete register gives, and the true risk."""
    day = np.timedelta64(1, "D")
    start = np.datetime64("2014-01-01")
    recorded = start + rng.integers(0, round(365.25 * years), n) * day
    death = recorded + np.floor(rng.exponential(365.25 / 0.06, n)).astype(int) * day
    end = start + round(365.25 * years) * day
    seen = np.minimum(recorded + np.floor(rng.exponential(200, n)).astype(int) * day, np.minimum(death, end))
    table = {
        "recorded_at": recorded,
        "death_date": np.where(death <= end, death, np.datetime64("NaT")),
        "last_encounter": seen,
        "data_end": np.full(n, end),
    }
    return table, 1 - math.exp(-0.06)


@pytest.mark.parametrize("years", [2, 3, 7])
def test_the_rate_of_labels_is_the_risk_in_short_windows_too(years):
    table, truth = simulated(np.random.default_rng(years), years, 600_000)
    cells = label_cells(table, tte("death"))
    known = cells[~np.isnan(cells)]
    assert len(known) > 0.9 * len(cells) * (years - 1) / years
    # Its sampling error is 0.7% of it at most.
    assert known.mean() == pytest.approx(truth, rel=0.02)
    # Without the declaration the latest date in the table says as much.
    undeclared = {name: column for name, column in table.items() if name != "data_end"}
    later = label_cells(undeclared | {"last_encounter": table["data_end"]}, tte("death"))
    np.testing.assert_array_equal(later, cells)


def test_what_the_published_rule_does_to_the_rate_in_two_years():
    """It keeps the last year's deaths and drops its living: half as many again, as strict labels never do."""
    table, truth = simulated(np.random.default_rng(1), 2, 200_000)
    cells = label_cells(table, tte("death"), censoring="paper_faithful")
    assert 1.35 < np.nanmean(cells) / truth < 1.6


def test_a_time_of_death_counts_the_24_hours_exactly():
    table = table_of([{"death_in_hospital": 1, "death_cause": "I46", "data_end": 900}] * 2)
    table["death_date"] = np.array(["2015-07-02T09:00", "2015-07-02T11:00"], dtype="datetime64[s]")
    table["admission_time"] = np.array(["2015-07-01T10:00"] * 2, dtype="datetime64[s]")
    np.testing.assert_array_equal(label_cells(table, tte("scd")), [1, 0])


def test_paper_faithful_takes_an_encounter_after_the_registers_end_for_survival():
    rows = [{"last_encounter": day, "data_end": end} for day, end in ((100, 90), (90, 90), (100, 200), (100, 400))]
    table = table_of(rows)
    assert np.isnan(label_cells(table, tte("death"))[:3]).all()
    assert label_cells(table, tte("death"))[3] == 0
    np.testing.assert_array_equal(label_cells(table, tte("death"), censoring="paper_faithful"), [0, np.nan, np.nan, 0])


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
    with pytest.raises(CohortError, match=r"0 and 1, but 1 rows of 'lvef'"):
        label_cells({"lvef": np.array([0.0, 1.0, 0.3])}, BinaryEndpoint(kind="binary", column="lvef"))


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
    whole = np.array(window_ends(rows)) >= 365.25 * years
    inside = times.observed & (times.years < years)
    np.testing.assert_array_equal(cells == 1, inside & whole)
    past = known & (times.years >= years) & whole
    np.testing.assert_array_equal(cells[past], 0)
    assert not times.observed[~known].any()
    # Without a time, or with a horizon that the data do not reach, no horizon has a cell.
    assert np.isnan(cells[~known | ~whole]).all()


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


@pytest.mark.parametrize(
    ("row", "event", "cause"),
    [
        ({"death_date": 100}, "death", 1),
        ({"death_date": 100, "data_end": 300}, "vfvt", 2),
        ({"death_date": 100, "vfvt_date": 40}, "vfvt", 1),
        ({"data_end": 300}, "vfvt", 0),
        ({"death_date": 100, "death_cause": "I46", "death_in_hospital": 0}, "scd", 1),
        ({"death_date": 100, "death_cause": "C34", "death_in_hospital": 0}, "scd", 2),
        ({"death_date": 100, "death_cause": "I46", "death_in_hospital": 1}, "scd", 0),
        ({"death_date": 100, "death_cause": "", "death_in_hospital": 0}, "scd", 0),
        ({"death_date": 100, "mi_date": 20}, "mi", 1),
        ({"death_date": 100}, "mi", 2),
    ],
)
def test_a_death_that_is_not_the_event_competes_where_it_is_known_to_be_none(row, event, cause):
    found = time_to_event(table_of([row]), event)
    assert found.cause.tolist() == [cause]
    assert found.take(np.array([0])).cause.tolist() == [cause]


def test_a_site_without_the_columns_of_an_event_has_no_times():
    table = table_of([{"death_date": 10, "data_end": 50}])
    del table["vfvt_date"], table["death_cause"]
    assert np.isnan(time_to_event(table, "vfvt").years).all()
    assert np.isnan(time_to_event(table, "scd").years).all()
    assert time_to_event(table, "death").observed.all()
