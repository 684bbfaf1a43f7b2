"""What a curious coordinator can make of a site's Cox sums: everything without the rules, nobody with them.

And what the rules do not prevent, so that nobody is told otherwise.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import least_squares

from ecgshared.errors import Refused
from ecgshared.stats.cox import (
    PooledHazard,
    RiskSums,
    coarsen,
    curvature,
    event_times,
    pooled_hazard,
    prepare,
    risk_sums,
    stratified_sums,
)
from ecgshared.stats.cox_disclosure import CoxLimits, common_grid, require_grid, require_no_dominance, servable
from ecgshared.stats.cox_fit import newton_fit

LIMITS = CoxLimits()
P, ROUNDS, N = 3, 5, 500
ASKED = {"n_covariates": P, "rounds": ROUNDS}
FINEST = np.arange(1, 41) / 4


def people(n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, P))
    time = rng.exponential(4.0, n) / np.exp(0.5 * x[:, 0])
    return x, time, rng.random(n) < 0.6


def granted_grid(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """The grid on which a site answers under its default limits."""
    return common_grid(FINEST, [servable(time, event, np.arange(len(time)), FINEST, LIMITS, **ASKED)])


def adjacent_differences(sums: RiskSums) -> np.ndarray:
    """The attack: risk-set sums of one grid time less those of the next, as a mean; shape = (K, p)."""
    s0, s1 = np.append(sums.risk_w, 0.0), np.vstack([sums.risk_wx, np.zeros(P)])
    leaving = np.diff(s0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.diff(s1, axis=0) / leaving[:, None])


def recovered(guesses: np.ndarray, x: np.ndarray) -> int:
    """How many of the people in ``x`` are among the guesses to six digits."""
    distance = np.abs(x[:, None, :] - guesses[None, :, :]).max(axis=2).min(axis=1)
    return int((distance < 1e-6).sum())


def test_without_rules_differences_at_zero_are_peoples_covariates():
    x, time, event = people()
    # Everybody's own time on the grid, as exact times without rules would allow.
    rows = prepare(x, time, event, grid=np.sort(time))
    assert recovered(adjacent_differences(risk_sums(rows, np.zeros(P))), x) == N
    # Event times alone: each death is told apart by its own sums, whoever else left before the next one.
    rows = prepare(x, time, event, grid=event_times(time, event))
    sums = risk_sums(rows, np.zeros(P))
    assert recovered(sums.dying_wx / sums.dying_w[:, None], x) == event.sum()


def test_with_rules_the_fine_grids_are_refused_and_the_granted_one_gives_nobody():
    x, time, event = people()
    granted = granted_grid(time, event)
    who = np.arange(N)
    for grid in (np.sort(time), event_times(time, event), FINEST):
        with pytest.raises(Refused):
            require_grid(time, event, who, grid, LIMITS, **ASKED)
    require_grid(time, event, who, granted, LIMITS, **ASKED)
    assert len(granted) >= 5, "a grid of one interval would prove little"
    rows = prepare(x, *coarsen(time, event, granted), grid=granted)
    for beta in (np.zeros(P), np.array([0.5, 0.0, 0.0])):
        sums = risk_sums(rows, beta)
        guesses = [
            adjacent_differences(sums),
            sums.dying_wx / sums.dying_w[:, None],
            (sums.leaving_wx - sums.dying_wx) / (sums.leaving_w - sums.dying_w)[:, None],
        ]
        assert recovered(np.vstack(guesses), x) == 0
        # A mean of ten or more: nearer to the middle than people are.
        assert np.linalg.norm(np.vstack(guesses), axis=1).mean() < 0.6 * np.linalg.norm(x, axis=1).mean()


def newton_path(x: np.ndarray, time: np.ndarray, event: np.ndarray) -> list[np.ndarray]:
    """The coefficients an honest fit asks about."""
    path: list[np.ndarray] = []
    rows = prepare(x, time, event)

    def ask(beta):
        path.append(beta)
        return stratified_sums(rows, beta)

    assert newton_fit(ask, ["a", "b", "c"], len(x)).converged
    return path[:ROUNDS]


def group_numbers(x: np.ndarray, betas: list[np.ndarray]) -> np.ndarray:
    """All numbers a group gives away over the rounds: sums of w and of w x at each of the coefficients."""
    w = np.exp(x @ np.array(betas).T)
    return np.concatenate([w.sum(axis=0), (w.T @ x).ravel()])


def jacobian(numbers, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences by each covariate of each person; shape = (numbers, n x p)."""
    columns = []
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        columns.append((numbers(up) - numbers(down)) / (2 * step))
    return np.array(columns).T


def freedom(matrix: np.ndarray) -> np.ndarray:
    """How far each unknown can move while no number changes, 0 (determined) to 1; shape = (unknowns,)."""
    # At coefficients of 0 the sum of weights is a count, whoever they are.
    matrix = matrix[np.abs(matrix).max(axis=1) > 1e-8]
    assert len(matrix) < matrix.shape[1]
    # Every number counts as told, however nearly it follows from the others.
    return np.asarray(np.linalg.norm(np.linalg.svd(matrix)[2][len(matrix) :], axis=0))


def solve(target: np.ndarray, size: int, betas: list[np.ndarray], seed: int) -> np.ndarray | None:
    """The attack: covariates of ``size`` people that give these numbers, from a random start; None if stuck."""
    rng = np.random.default_rng(seed)
    for _ in range(12):
        found = least_squares(
            lambda v: group_numbers(v.reshape(size, P), betas) - target,
            rng.normal(size=size * P),
            xtol=1e-15,
            ftol=1e-15,
        )
        if found.cost < 1e-20:
            return np.asarray(found.x.reshape(size, P))
    return None


def spread_betas(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [np.zeros(P), *(0.5 * rng.normal(size=(count - 1, P)))]


def test_five_leavers_and_eight_rounds_are_solved_for():
    """Why a bare minimum of five leavers is not enough: the group as the reference design would allow it."""
    x, betas = np.random.default_rng(1).normal(size=(5, P)), spread_betas(8)
    found = solve(group_numbers(x, betas), 5, betas, seed=2)
    assert found is not None
    assert recovered(found, x) == 5


def test_a_group_of_the_granted_size_has_other_people_with_the_same_numbers():
    """The same attack on the least group that the rules allow for eight rounds: it finds people, but not these.

    The coefficients are far apart, as only a coordinator bent on it would choose them. Said plainly: an outlier weighs
    more than the others and is pinned more narrowly, if never exactly.
    """
    betas = spread_betas(8)
    size = LIMITS.group(P, 8)
    x = np.random.default_rng(1).normal(size=(size, P))
    found = solve(group_numbers(x, betas), size, betas, seed=2)
    assert found is not None, "the equations must be satisfied, or the attack merely failed"
    assert recovered(found, x) == 0
    nearest = np.abs(x[:, None, :] - found[None, :, :]).max(axis=2).min(axis=1)
    assert np.median(nearest) > 0.2
    assert (nearest < 0.01).mean() < 0.1
    free = np.linalg.norm(freedom(jacobian(lambda y: group_numbers(y, betas), x)).reshape(size, P), axis=1)
    assert (free > 1e-3).all()
    assert free.min() < 0.5 * np.median(free)


def test_fewer_numbers_than_held_alone_would_be_a_thin_margin():
    """Why twice over: with barely more unknowns than numbers, solutions crowd around the true people."""
    betas = spread_betas(8)
    size = LIMITS.model_copy(update={"held_per_number": 1.0}).group(P, 8)
    x = np.random.default_rng(1).normal(size=(size, P))
    found = solve(group_numbers(x, betas), size, betas, seed=2)
    assert found is not None
    nearest = np.abs(x[:, None, :] - found[None, :, :]).max(axis=2).min(axis=1)
    assert recovered(found, x) == 0
    assert np.median(nearest) < 0.2


def test_all_rounds_of_an_honest_fit_leave_every_covariate_of_everybody_free():
    """Everything the site sends, all intervals and rounds together, linearised: no one's covariate is determined.

    Differences of intervals, of rounds, and any other combination of the numbers lie in the rows of this matrix.
    """
    x, time, event = people(300)
    betas, granted = newton_path(x, time, event), granted_grid(time, event)
    coarse = coarsen(time, event, granted)
    assert len(betas) >= 4
    assert len(granted) >= 3
    rows = prepare(x, *coarse, grid=granted)
    require_grid(time, event, np.arange(300), granted, LIMITS, **ASKED)
    for beta in betas:
        require_no_dominance(rows, np.arange(300), beta, LIMITS, by_interval=True)
    hazards = [pooled_hazard(risk_sums(rows, beta), "efron") for beta in betas]

    def everything(y: np.ndarray) -> np.ndarray:
        mine = prepare(y, *coarse, grid=granted)
        return np.concatenate([sent(mine, beta, hazard) for beta, hazard in zip(betas, hazards, strict=True)])

    assert (freedom(jacobian(everything, x)) > 1e-3).all()
    for k, dies in itertools.product(granted, (True, False)):
        group = x[(coarse[0] == k) & (coarse[1] == dies)]
        assert (freedom(jacobian(lambda y: group_numbers(y, betas), group)) > 1e-4).all()


def sent(rows, beta: np.ndarray, hazard: PooledHazard) -> np.ndarray:
    """Every number of both messages of a round."""
    sums = risk_sums(rows, beta)
    parts = (sums.leaving_w, sums.leaving_wx, sums.dying_w, sums.dying_wx, sums.death_x, curvature(rows, beta, hazard))
    return np.concatenate([np.ravel(part) for part in parts])


def test_one_round_of_second_moments_would_have_said_more():
    """Why a site sends no w x x' by interval: with it, one round has more numbers than ten people have covariates."""
    p, size = 32, 10
    assert p + 1 < size * p < (p + 1) * (p + 2) // 2


def test_yes_or_no_covariates_give_their_table_in_spite_of_the_rules():
    """What an exact mode without secure aggregation still discloses: covariates of few values have few combinations,
    and the number of leavers with each solves a linear system after two rounds. Large groups, no names; but real."""
    rng = np.random.default_rng(0)
    x = (rng.random((N, 2)) < [0.3, 0.1]).astype(float)
    time, event, who = rng.exponential(4.0, N), rng.random(N) < 0.6, np.arange(N)
    asked = {"n_covariates": 2, "rounds": 4}
    grid = common_grid(FINEST, [servable(time, event, who, FINEST, LIMITS, **asked)])
    require_grid(time, event, who, grid, LIMITS, **asked)
    coarse = coarsen(time, event, grid)
    rows = prepare(x, *coarse, grid=grid)
    combinations = np.array(list(itertools.product((0.0, 1.0), repeat=2)))
    betas = [np.zeros(2), np.array([0.4, -0.7])]
    system, known = [], []
    for beta in betas:
        sums, w = risk_sums(rows, beta), np.exp(combinations @ beta)
        system.append(np.vstack([w, (w[:, None] * combinations).T]))
        known.append(np.vstack([sums.leaving_w, sums.leaving_wx.T]) * np.exp(sums.shift))
    counts = np.linalg.lstsq(np.vstack(system), np.vstack(known), rcond=None)[0]
    true = np.array([[((x == c).all(axis=1) & (coarse[0] == t)).sum() for t in grid] for c in combinations])
    np.testing.assert_allclose(counts, true, atol=1e-6)
    assert (true == 1).any(), "a table with a single person in a cell is what this is about"
