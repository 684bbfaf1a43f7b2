"""Curves and Cox models from a noised table: without noise those of lifelines and statsmodels, with it honest."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines.utils import survival_table_from_events
from statsmodels.duration.hazard_regression import PHReg

from ecgshared.config import validate
from ecgshared.errors import ConfigError
from ecgshared.privacy.accounting import noise_multiplier
from ecgshared.stages.private_survival import Config
from ecgshared.stats.noised_survival import counted, cox, curve, numbers_of, together

K, HORIZON = 8, 4.0
EDGES = np.linspace(0, HORIZON, K + 1)[1:]
Z = np.array([[m, a == 1, a == 2] for m in (0, 1) for a in range(3)], dtype=float)
BETA = np.array([0.5, 0.4, 0.9])


def people(n, rate, rng):
    """Cell of sex and three ages, years followed, event."""
    cell = rng.integers(0, 6, n)
    t = rng.exponential(1 / (rate * np.exp(Z[cell] @ BETA)))
    c = rng.uniform(0.5, 1.6 * HORIZON, n)
    return cell, np.minimum(t, c), t <= c


def table_of(cell, years, event, *, lost=0):
    interval = np.searchsorted(EDGES, years, side="left")
    found = counted(cell, interval, event & (interval < K), np.ones(len(cell), bool), 6, K)
    found[0] = lost
    return found


def made(rng, sites, n, rate, sd):
    tables = [table_of(*people(n, rate, rng)) + sd * rng.standard_normal(numbers_of(6, K)) for _ in range(sites)]
    return together(np.array(tables), np.full(sites, float(n)), np.full(sites, sd), 6, K)


def test_everybody_stands_in_one_number():
    cell, years, event = people(500, 0.05, np.random.default_rng(0))
    flat = table_of(cell, years, event, lost=7)
    assert flat.sum() == 507
    for i in range(20):
        without = table_of(np.delete(cell, i), np.delete(years, i), np.delete(event, i), lost=7)
        moved = flat - without
        assert np.abs(moved).sum() == np.linalg.norm(moved) == 1


def test_without_noise_the_curve_is_the_life_table():
    cell, years, event = people(3000, 0.05, np.random.default_rng(1))
    table = together(table_of(cell, years, event, lost=11)[None], np.array([3011.0]), np.zeros(1), 6, K)
    found = curve(table)
    seen = event & (years <= HORIZON)
    at = np.minimum(np.searchsorted(EDGES, years, side="left"), K)
    lines = survival_table_from_events(at, seen.astype(int)).reindex(range(K)).fillna(0)
    effective = lines["at_risk"] - lines["censored"] / 2
    # lifelines counts who enters at 0 as at risk there.
    np.testing.assert_allclose(found.events, lines["observed"])
    np.testing.assert_allclose(found.at_risk, effective)
    np.testing.assert_allclose(found.survival, np.cumprod(1 - lines["observed"] / effective), rtol=1e-12)
    greenwood = np.sqrt((lines["observed"] / (effective * (effective - lines["observed"]))).cumsum())
    np.testing.assert_allclose(np.log(found.high / found.low) / (2 * 1.959963984540054), greenwood, rtol=1e-9)


def test_without_noise_the_model_is_that_of_statsmodels():
    cell, years, event = people(3000, 0.05, np.random.default_rng(2))
    table = together(table_of(cell, years, event)[None], np.array([3000.0]), np.zeros(1), 6, K)
    found = cox(table, Z)
    ends = np.append(EDGES, 99.0)[np.searchsorted(EDGES, years, side="left")]
    oracle = PHReg(ends, Z[cell], status=(event & (years <= HORIZON)).astype(int), ties="breslow").fit()
    np.testing.assert_allclose(found.coef, oracle.params, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.se, oracle.bse, rtol=1e-6)
    np.testing.assert_allclose(found.noise, 0, atol=1e-15)


def test_noise_alone_moves_estimates_as_much_as_is_said():
    """One cohort, noised over and over: the delta method's variance against the spread."""
    rng, sd = np.random.default_rng(3), 1.4
    exact = table_of(*people(2100, 0.05, rng))
    tables = [
        together((exact + sd * rng.standard_normal(len(exact)))[None], np.array([2100.0]), np.array([sd]), 6, K)
        for _ in range(400)
    ]
    fits = [cox(one, Z) for one in tables]
    spread = np.array([f.coef for f in fits]).std(axis=0)
    said = np.sqrt(np.mean([f.noise * f.se**2 for f in fits], axis=0))
    np.testing.assert_allclose(said, spread, rtol=0.15)
    curves = [curve(one) for one in tables]
    ends = np.log([c.survival[-1] for c in curves]).std()
    quiet = curve(together(exact[None], np.array([2100.0]), np.zeros(1), 6, K))
    widths = np.array([np.log(c.high[-1] / c.low[-1]) for c in curves]) / (2 * 1.96)
    chance = np.log(quiet.high[-1] / quiet.low[-1]) / (2 * 1.96)
    assert np.sqrt((widths**2 - chance**2).mean()) == pytest.approx(ends, rel=0.15)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_intervals_hold_the_truth_and_nothing_is_told_of_noise():
    """About 40 seconds: 150 cohorts a line; bias and coverage of hazard ratios and of the curve's end."""
    for sites, n, rate in ((3, 45, 0.03), (3, 700, 0.03), (3, 700, 0.01), (10, 400, 0.03)):
        truth = np.exp(-rate * HORIZON * np.exp(Z @ BETA)).mean()
        for epsilon in (1.0, 3.0, 8.0):
            sd = noise_multiplier(epsilon=epsilon, delta=1e-5, sample_rate=1.0, steps_total=1, accountant="prv")
            rng = np.random.default_rng(4)
            draws = [made(rng, sites, n, rate, sd) for _ in range(150)]
            fits, curves = [cox(one, Z) for one in draws], [curve(one) for one in draws]
            told = [f for f in fits if np.isfinite(f.se).all()]
            inside = [np.abs(f.coef - BETA) <= 1.96 * f.se for f in told]
            ends = [(c.low[-1], c.survival[-1], c.high[-1]) for c in curves if np.isfinite(c.high[-1])]
            held = [low <= truth <= high for low, _, high in ends]
            bias = np.median([f.coef for f in told], axis=0) - BETA if told else np.full(3, np.nan)
            end = np.mean([s for _, s, _ in ends]) - truth if ends else np.nan
            print(
                f"{sites} x {n}, hazard {rate}, epsilon {epsilon:g}: models told {len(told) / 150:.0%}, bias "
                f"{bias.round(3)}, held {np.mean(inside, axis=0).round(3) if inside else None}; curves told "
                f"{len(ends) / 150:.0%}, bias {end:.4f}, held {np.mean(held) if held else np.nan:.3f}"
            )
            assert not told or np.mean(inside, axis=0).min() >= 0.9
            assert not held or np.mean(held) >= 0.9
            assert n < 100 or len(ends) == 150


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"inputs": [{"name": "age", "cuts": [60, 50]}]}, "rise"),
        ({"inputs": [{"name": "age", "cuts": [50]}, {"name": "age", "cuts": [60]}]}, "once"),
        ({"grid_years": 0.01}, "at most"),
        ({"privacy": {"epsilon": 1}}, "delta"),
    ],
)
def test_what_cannot_be_asked_is_said(change, why):
    step = {
        "id": "s",
        "stage": "private_survival",
        "event": "death",
        "horizon_years": 4,
        "privacy": {"epsilon": 1, "delta": 1e-5},
    }
    with pytest.raises(ConfigError, match=why):
        validate(Config, step | change, where="step")
