"""Labels of made hospitals against the fates that were drawn: what a table gives is what happened."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ecgshared.study.dates import first_later
from ecgshared.study.declared import DeclaredColumn
from ecgshared.study.endpoints import TimeToEventEndpoint, label_cells
from simulations.patients.clinical import APART, CLINICAL, STATEMENTS, clinical_columns
from simulations.patients.cohort import make_cohort
from simulations.patients.fates import solve_baseline
from simulations.patients.scenario import load_scenario

DECLARED = {"raised_troponin": DeclaredColumn(kind="event")}


@pytest.fixture(scope="module")
def hospital():
    scenario = load_scenario("demo")
    config = scenario.hospitals["north"]
    rng = np.random.default_rng([1, 0, 0])
    return make_cohort(rng, "north", config, scenario, solve_baseline(scenario, 500), 3000), scenario


@pytest.fixture(scope="module")
def table(hospital):
    made, _ = hospital
    known = {name: made.table[name].to_numpy() for name in made.table}
    wanted = (*(name for name in CLINICAL if name not in STATEMENTS), *APART)
    more = clinical_columns(np.random.default_rng(2), made.people, made.person, made.table, wanted)
    return known | {name: more[name].to_numpy() for name in more}


def cells(table, event, years=2.0, *, icd=False, **more):
    endpoint = TimeToEventEndpoint(kind="time_to_event", event=event, horizon_years=years, **more)
    return label_cells(table, endpoint, censor_at_defibrillator=icd, declared=DECLARED)


def days_to(table, name):
    day = "datetime64[D]"
    span = table[name].astype(day) - table["recorded_at"].astype(day)
    return np.where(np.isnat(span), np.inf, span.astype(np.float64))


def window_is_whole(table, years):
    return days_to(table, "data_end") >= 365.25 * years


@pytest.mark.parametrize("icd", [False, True])
def test_sudden_death_alone_or_with_vfvt_is_what_was_drawn(hospital, table, icd):
    made, scenario = hospital
    sudden = made.truth["true_scd_event"].to_numpy() == 1
    vfvt = (days_to(table, "vfvt_date") >= 1) & (days_to(table, "vfvt_date") < 730.5)
    assert scenario.horizon_years == 2
    for event, truth in (("scd", sudden), (("scd", "vfvt"), sudden | vfvt)):
        found = cells(table, event, icd=icd)
        known = ~np.isnan(found)
        assert known.sum() > 2000
        np.testing.assert_array_equal(found[known], truth[known])
    assert (sudden & vfvt).any()
    assert np.nanmean(cells(table, ("scd", "vfvt"))) > np.nanmean(cells(table, "scd"))


def test_among_those_who_died_the_cause_is_told_and_of_nobody_else(hospital, table):
    made, _ = hospital
    found = cells(table, "scd", among_deaths=True)
    died = (days_to(table, "death_date") < 730.5) & window_is_whole(table, 2)
    np.testing.assert_array_equal(~np.isnan(found), died)
    np.testing.assert_array_equal(found[died], made.truth["true_scd_event"].to_numpy()[died])
    assert 0.1 < found[died].mean() < 0.9


def test_four_horizons_and_the_intervals_between_them_agree(hospital, table):
    horizons = (0.25, 0.5, 1.0, 2.0)
    whole = window_is_whole(table, 2)
    for start, end in pairwise(horizons):
        before, after = cells(table, "scd", start), cells(table, "scd", end)
        between = cells(table, "scd", end, after_years=start)
        at_risk = whole & (days_to(table, "death_date") >= 365.25 * start)
        assert np.isnan(between[whole & ~at_risk]).all()
        np.testing.assert_array_equal(between[at_risk], after[at_risk])
        assert (after[whole & (before == 1)] == 1).all()


def test_vt_and_vf_are_parts_of_vfvt_and_troponin_comes_with_an_infarction(table):
    vfvt, vt, vf = (cells(table, event, 1) for event in ("vfvt", "vt", "vf"))
    known = ~np.isnan(vfvt)
    np.testing.assert_array_equal(vfvt[known] == 1, (vt[known] == 1) | (vf[known] == 1))
    assert (vt == 1).sum() > (vf == 1).sum() > 0
    infarction, troponin = cells(table, "mi", 1), cells(table, "raised_troponin", 1)
    assert (troponin[infarction == 1] == 1).all()
    assert np.nanmean(troponin) > np.nanmean(infarction)


def test_tachycardia_on_later_ecgs_is_that_of_the_patient_s_later_rows(hospital, table):
    made, _ = hospital
    table = table | {"ecg_vt_date": first_later(table["recorded_at"], table["ecg_vt"], made.person)}
    found = cells(table, "ecg_vt", 1)
    day = table["recorded_at"].astype("datetime64[D]")
    for row in np.flatnonzero(found == 1)[:50]:
        mine = (made.person == made.person[row]) & (table["ecg_vt"] == 1)
        span = (day[mine] - day[row]).astype(int)
        assert ((span >= 1) & (span <= 365)).any()
    assert (found == 1).sum() > 3
