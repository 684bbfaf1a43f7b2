"""Harrell's C against lifelines; Uno's C and all influences against a slow version with weights, differentiated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from ecgshared.errors import StatisticsError
from ecgshared.stats.concordance import harrell, uno


def slow_uncensored(time, event, weight, at, *, before):
    """Kaplan-Meier of censoring with weights, one time after the other."""
    chance = 1.0
    for u in np.unique(time[event == 0]):
        if u > at or (before and u == at):
            break
        still = weight[(time > u) | ((time == u) & (event == 0))].sum()
        chance *= 1 - weight[(time == u) & (event == 0)].sum() / still
    return chance


def slow_c(time, event, risk, weight, *, until=np.inf, ipcw=False):
    """C by its definition, over all pairs, with a weight for each ECG."""
    above = below = 0.0
    for i in np.flatnonzero(event):
        if time[i] >= until:
            continue
        w = slow_uncensored(time, event, weight, time[i], before=True) ** -2 if ipcw else 1.0
        for j in range(len(time)):
            if time[j] > time[i] or (time[j] == time[i] and not event[j]):
                pair = w * weight[i] * weight[j]
                below += pair
                above += pair * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return above / below


def derivative(statistic, n, step=1e-5):
    """The statistic's derivative by the weight of each ECG."""
    found = []
    for k in range(n):
        bump = np.zeros(n)
        bump[k] = step
        found.append((statistic(np.ones(n) + bump) - statistic(np.ones(n) - bump)) / (2 * step))
    return np.array(found)


def tied(seed, n=30):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 9, n).astype(float)
    return time, (rng.random(n) < 0.5).astype(int), rng.integers(0, 6, n).astype(float)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=2, max_size=40))
def test_harrell_equals_lifelines_with_ties_in_time_and_in_risk(rows):
    time, event, risk = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    try:
        expected = concordance_index(time, -risk, event)
    except ZeroDivisionError:
        with pytest.raises(StatisticsError, match="no two can be compared"):
            harrell(time, event, risk)
        return
    assert harrell(time, event, risk).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_influences_of_harrell_are_derivatives_by_weight(seed):
    time, event, risk = tied(seed)
    found = harrell(time, event, risk)
    np.testing.assert_allclose(
        found.influence, derivative(lambda w: slow_c(time, event, risk, w), len(time)), atol=1e-8
    )


@pytest.mark.parametrize("until", [np.inf, 5.0])
def test_uno_and_its_influences_equal_the_slow_definition(until):
    time, event, risk = tied(3)
    found = uno(time, event, risk, until=until)
    assert found.value == pytest.approx(slow_c(time, event, risk, np.ones(30), until=until, ipcw=True), abs=1e-12)
    slow = derivative(lambda w: slow_c(time, event, risk, w, until=until, ipcw=True), len(time))
    np.testing.assert_allclose(found.influence, slow, atol=1e-8)


def test_uno_is_harrell_where_nobody_is_censored():
    time, _, risk = tied(4)
    ones = np.ones(len(time))
    assert uno(time, ones, risk).value == pytest.approx(harrell(time, ones, risk).value, abs=1e-12)


def several_ecgs_a_patient(seed, patients=400):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    frailty = rng.normal(size=patients)
    time = (rng.exponential(size=patients) / np.exp(frailty))[patient] * rng.uniform(0.8, 1.2, len(patient))
    censored = rng.exponential(1.5, patients)[patient]
    risk = frailty[patient] + 0.7 * rng.normal(size=patients)[patient] + 0.3 * rng.normal(size=len(patient))
    return np.minimum(time, censored), (time <= censored).astype(int), risk, patient


@pytest.mark.parametrize("statistic", [harrell, lambda t, e, r: uno(t, e, r, until=2.0)])
def test_the_clustered_error_is_that_of_a_patient_bootstrap(statistic):
    time, event, risk, patient = several_ecgs_a_patient(7)
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(patient == p) for p in range(patient.max() + 1)]
    draws = []
    for _ in range(300):
        chosen = np.concatenate([rows[p] for p in rng.integers(0, len(rows), len(rows))])
        draws.append(statistic(time[chosen], event[chosen], risk[chosen]).value)
    found = statistic(time, event, risk)
    clustered = found.estimate(patient).se
    assert clustered == pytest.approx(np.std(draws, ddof=1), rel=0.12)
    # Taking ECGs for people would promise too much.
    assert found.estimate(np.arange(len(patient))).se < 0.8 * clustered


def test_what_two_scores_share_cancels_in_their_difference():
    time, event, risk, patient = several_ecgs_a_patient(8)
    rng = np.random.default_rng(1)
    other = risk + 0.2 * rng.normal(size=len(risk))
    a, b = harrell(time, event, risk), harrell(time, event, other)
    apart = np.hypot(a.estimate(patient).se, b.estimate(patient).se)
    together = (a - b).estimate(patient, "identity")
    assert together.value == a.value - b.value
    assert together.se < 0.4 * apart
    # No difference has no error: 0 would say that it is known for sure.
    assert np.isnan((a - a).estimate(patient, "identity").se)


@pytest.mark.parametrize(
    ("time", "event", "risk", "words"),
    [
        ([1, 2], [0, 0], [1, 2], "no two can be compared"),
        ([1, -2], [1, 0], [1, 2], "not negative"),
        ([1, 2], [1, 2], [1, 2], "0 and 1"),
        ([1, 2], [1, 0], [1, np.nan], "finite vector"),
        ([], [], [], "nobody"),
    ],
)
def test_what_cannot_be_ranked_is_said(time, event, risk, words):
    with pytest.raises(StatisticsError, match=words):
        harrell(np.array(time, dtype=float), np.array(event), np.array(risk, dtype=float))
