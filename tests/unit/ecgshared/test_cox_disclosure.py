"""The rules under which a site sends Cox sums: every group behind a number, counted by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.stats.cox import coarsen, prepare
from ecgshared.stats.cox_disclosure import (
    NO_LIMITS,
    CoxLimits,
    common_grid,
    require_grid,
    require_no_dominance,
    require_site,
    servable,
)

LIMITS = CoxLimits()
ASKED = {"n_covariates": 4, "rounds": 5}
EDGES = np.arange(1.0, 11.0)


def site(seed: int, n: int = 400, rate: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.exponential(5.0, n), rng.random(n) < rate, rng.integers(0, n, n)


def groups(time, event, patient, grid):
    """Distinct patients who die, leave otherwise, and leave at all, in each interval."""
    time, event = coarsen(time, event, grid)
    for k in range(len(grid)):
        inside = time == grid[k]
        yield tuple(len(set(patient[inside & who])) for who in (event, ~event, np.ones(len(time), dtype=bool)))


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 300),
    rate=st.sampled_from([0.05, 0.4, 1.0]),
    chosen=st.sets(st.integers(0, 9), min_size=1),
)
@settings(max_examples=150, deadline=None)
def test_whatever_grid_is_accepted_has_large_groups_only(seed, n, rate, chosen):
    time, event, patient = site(seed, n, rate)
    grid = EDGES[sorted({*chosen, 9})]
    try:
        require_grid(time, event, patient, grid, LIMITS, **ASKED)
    except Refused:
        return
    least = LIMITS.group(4, 5)
    sizes = list(groups(time, event, patient, grid))
    assert all(leave >= least for _, _, leave in sizes)
    assert all(part == 0 or part >= least for die, rest, _ in sizes for part in (die, rest))
    assert sizes[-1][2] >= LIMITS.min_patients
    assert len(set(patient[event])) >= LIMITS.min_events


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_common_grid_is_the_finest_that_all_sites_accept(seed):
    edges = EDGES[:7]
    sites = [site(10 * seed + i, 150 + 100 * i, 0.5) for i in range(3)]
    can = [servable(*s, edges, LIMITS, **ASKED) for s in sites]

    def accepted(grid: np.ndarray) -> bool:
        try:
            for s in sites:
                require_grid(*s, grid, LIMITS, **ASKED)
        except Refused:
            return False
        return True

    inner = edges[:-1]
    every = [np.array([*some, edges[-1]]) for k in range(7) for some in itertools.combinations(inner, k)]
    finest = max((len(grid) for grid in every if accepted(grid)), default=0)
    if not finest:
        with pytest.raises(StatisticsError, match="no time grid"):
            common_grid(edges, can)
        return
    grid = common_grid(edges, can)
    assert accepted(grid)
    # The rule for clustered patients counts a patient once, at the last row: never too many, at times too few.
    assert len(grid) <= finest
    assert len(grid) == finest


def test_the_group_grows_with_the_rounds():
    """r rounds of p + 1 numbers about L patients with p covariates: r (p + 1) < L p, twice over by default."""
    for p, rounds, held in itertools.product((1, 2, 5, 32), (1, 4, 8, 15), (1.0, 2.0)):
        group = CoxLimits(min_leavers=1, held_per_number=held).group(p, rounds)
        assert held * rounds * (p + 1) < group * p
        assert held * rounds * (p + 1) >= (group - 1) * p
    assert LIMITS.group(32, 2) == LIMITS.min_leavers
    assert LIMITS.group(3, 5) == 14
    assert CoxLimits(held_per_number=0).group(3, 50) == 5


@pytest.mark.parametrize(
    ("n", "events", "p", "match"),
    [(9, 9, 1, "too few patients"), (100, 9, 1, "too few events"), (60, 30, 32, "as many numbers as it holds")],
)
def test_a_small_site_refuses(n, events, p, match):
    event = np.arange(n) < events
    with pytest.raises(Refused, match=match) as refusal:
        require_site(event, np.arange(n), LIMITS, n_covariates=p, rounds=6)
    assert refusal.value.code is RefusalCode.TOO_FEW
    require_site(event, np.arange(n), NO_LIMITS, n_covariates=p, rounds=6)


def test_ten_rows_of_one_patient_are_one_patient():
    time, event, patient = np.full(200, 0.5), np.ones(200, dtype=bool), np.repeat(np.arange(4), 50)
    with pytest.raises(Refused, match="too few patients"):
        require_grid(time, event, patient, EDGES, LIMITS, **ASKED)


def test_a_small_tail_is_no_interval_of_its_own():
    time = np.concatenate([np.full(60, 0.5), np.full(8, 5.5)])
    event = np.concatenate([np.arange(60) < 30, np.ones(8, dtype=bool)])
    who, limits = np.arange(68), CoxLimits(min_leavers=5)
    asked = {"n_covariates": 4, "rounds": 1}
    assert servable(time, event, who, EDGES[:6], limits, **asked)[1, 4] is not True
    grid = common_grid(EDGES[:6], [servable(time, event, who, EDGES[:6], limits, **asked)])
    assert grid.tolist() == [6.0]
    without_tail_rule = limits.model_copy(update={"min_patients": 8})
    assert common_grid(EDGES[:6], [servable(time, event, who, EDGES[:6], without_tail_rule, **asked)]).tolist() == [
        1,
        6,
    ]


def test_coefficients_that_single_somebody_out_are_refused():
    rng = np.random.default_rng(0)
    time, event, who = rng.exponential(5.0, 400), rng.random(400) < 0.5, np.arange(400)
    grid = common_grid(EDGES, [servable(time, event, who, EDGES, LIMITS, n_covariates=2, rounds=5)])
    rows = prepare(rng.normal(size=(400, 2)), *coarsen(time, event, grid), grid=grid)
    for beta in ([0.0, 0.0], [0.5, -0.5]):
        require_no_dominance(rows, who, np.array(beta), LIMITS, by_interval=True)
    for by_interval, beta in ((True, [6.0, 0.0]), (False, [15.0, 0.0]), (True, [0.0, -3000.0])):
        with pytest.raises(Refused, match="one patient"):
            require_no_dominance(rows, who, np.array(beta), LIMITS, by_interval=by_interval)
    # Rows of one patient count together.
    with pytest.raises(Refused, match="one patient"):
        require_no_dominance(rows, np.zeros(400, dtype=int), np.zeros(2), LIMITS, by_interval=False)
