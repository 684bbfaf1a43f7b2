"""Privacy accounting: against Opacus run once, across rounds, and the solver against its own accountant."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from typer.testing import CliRunner

from ecgfed._privacy_cli import app
from ecgshared.errors import PrivacyError
from ecgshared.privacy.accounting import Spent, epsilon_spent, noise_multiplier, plan_privacy
from ecgshared.privacy.config import PrivacyConfig


def test_known_values():
    """3000 steps, sigma 1, q 0.01, delta 1e-5: RDP 3.511, PRV 3.203."""
    history = [Spent(1.0, 0.01, 3000)]
    assert epsilon_spent(history, delta=1e-5) == pytest.approx(3.511, abs=5e-3)
    assert epsilon_spent(history, delta=1e-5, accountant="prv") == pytest.approx(3.203, abs=2e-2)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_five_rounds_cost_what_all_their_steps_cost_once(accountant):
    rounds = [Spent(1.3, 0.05, 40)] * 5
    once = [Spent(1.3, 0.05, 200)]
    assert epsilon_spent(rounds, delta=1e-5, accountant=accountant) == epsilon_spent(
        once, delta=1e-5, accountant=accountant
    )


def test_opacus_stepping_agrees():
    """An accountant told of every single step of five rounds gives the same number (Opacus' own orders)."""
    opacus = RDPAccountant()
    for _ in range(5 * 40):
        opacus.step(noise_multiplier=1.3, sample_rate=0.05)
    ours = epsilon_spent([Spent(1.3, 0.05, 40)] * 5, delta=1e-5)
    assert ours == pytest.approx(opacus.get_epsilon(delta=1e-5), rel=1e-9)


def test_rounds_with_different_noise_compose():
    a, b = Spent(1.0, 0.02, 100), Spent(2.0, 0.05, 300)
    both = epsilon_spent([a, b], delta=1e-5)
    assert max(epsilon_spent([x], delta=1e-5) for x in (a, b)) < both
    assert both < sum(epsilon_spent([x], delta=1e-5) for x in (a, b))


def test_nothing_costs_nothing_and_no_noise_is_no_privacy():
    assert epsilon_spent([], delta=1e-5) == 0
    assert epsilon_spent([Spent(1.0, 0.1, 0)], delta=1e-5) == 0
    assert epsilon_spent([Spent(0.0, 0.1, 1)], delta=1e-5) == math.inf


@settings(deadline=None, max_examples=3)
@given(st.floats(0.3, 15), st.floats(0.005, 1.0), st.integers(1, 4000))
def test_the_solved_noise_meets_epsilon_and_hardly_more(epsilon, rate, steps):
    sigma = noise_multiplier(epsilon=epsilon, delta=1e-5, sample_rate=rate, steps_total=steps)
    assert epsilon_spent([Spent(sigma, rate, steps)], delta=1e-5) <= epsilon
    assert epsilon_spent([Spent(sigma * 0.99, rate, steps)], delta=1e-5) > epsilon


def test_prv_needs_less_noise_than_rdp():
    rdp, prv = (
        noise_multiplier(epsilon=3.0, delta=1e-5, sample_rate=0.02, steps_total=1000, accountant=accountant)
        for accountant in ("rdp", "prv")
    )
    assert 0.85 * rdp < prv < rdp
    assert epsilon_spent([Spent(prv, 0.02, 1000)], delta=1e-5, accountant="prv") <= 3.0


def test_the_stricter_of_study_and_site_holds():
    config = PrivacyConfig(epsilon=8, delta=1e-4, expected_batch_size=32)
    own = plan_privacy(config, patients=640, steps_total=100)
    capped = plan_privacy(config, patients=640, steps_total=100, max_epsilon=2.0, max_delta=1e-5)
    loose = plan_privacy(config, patients=640, steps_total=100, max_epsilon=20.0, max_delta=1e-3)
    assert own.sample_rate == 0.05
    assert own.epsilon == pytest.approx(8, rel=1e-2)
    assert (capped.delta, loose.delta) == (1e-5, 1e-4)
    assert capped.epsilon <= 2.0
    assert capped.noise_multiplier > own.noise_multiplier
    assert loose.noise_multiplier == own.noise_multiplier
    # The divisor is the study's constant, whatever the site's size; all enter where there are fewer.
    small = plan_privacy(config, patients=20, steps_total=100)
    assert (small.sample_rate, small.expected_batch_size) == (1.0, 32)
    assert epsilon_spent([own.spent(20)] * 5, delta=1e-4) == own.epsilon


@pytest.mark.parametrize(
    ("patients", "steps", "delta"), [(0, 10, 1e-5), (50, 0, 1e-5), (2000, 10, 1e-3), (50, -1, 1e-5)]
)
def test_impossible_plans_are_refused(patients, steps, delta):
    with pytest.raises(PrivacyError):
        plan_privacy(PrivacyConfig(epsilon=3, delta=delta), patients=patients, steps_total=steps)


def test_an_epsilon_out_of_reach_is_refused():
    with pytest.raises(PrivacyError, match="no amount"):
        noise_multiplier(epsilon=1e-6, delta=1e-9, sample_rate=1.0, steps_total=10_000)
    with pytest.raises(PrivacyError, match="sampling rate"):
        noise_multiplier(epsilon=1, delta=1e-5, sample_rate=1.2, steps_total=10)


def pld_epsilon(history, delta):
    """By Google's dp-accounting: privacy loss distributions, pessimistic, which shares no code with Opacus."""
    accountant = pld.PLDAccountant(neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for sigma, rate, steps in history:
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(
    "history",
    [
        [(1.0, 0.01, 3000)],
        [(1.3, 0.05, 200)],
        [(8.0, 1.0, 60)],
        [(0.8, 0.002, 2000)],
        [(1.0, 0.02, 100), (2.0, 0.05, 300)],
        [(20.0, 1.0, 15)],
    ],
    ids=str,
)
def test_ours_is_never_below_a_second_accountant(history):
    """RDP above PLD always; PRV within its own stated error of it."""
    delta = 1e-5
    exact = pld_epsilon(history, delta)
    ours = {a: epsilon_spent([Spent(*one) for one in history], delta=delta, accountant=a) for a in ("rdp", "prv")}
    print(history, f"PLD {exact:.4f}, RDP {ours['rdp']:.4f}, PRV {ours['prv']:.4f}")
    assert ours["rdp"] >= exact
    assert ours["prv"] >= exact
    assert ours["prv"] <= 1.05 * exact + 0.02


def test_the_command_prints_epsilon_by_either_accountant():
    asked = ["--noise-multiplier", "1", "--sample-rate", "0.01", "--steps", "3000", "--delta", "1e-5"]
    for accountant, expected in (("rdp", 3.511), ("prv", 3.203)):
        told = CliRunner().invoke(app, ["epsilon", *asked, "--accountant", accountant, "--json"])
        assert json.loads(told.output)["epsilon"] == pytest.approx(expected, abs=2e-3)
        plain = CliRunner().invoke(app, ["epsilon", *asked, "--accountant", accountant])
        assert f"epsilon {expected:.2f}" in plain.output
    told = CliRunner().invoke(app, ["noise", "--epsilon", "3.511", *asked[2:], "--json"])
    assert json.loads(told.output)["noise_multiplier"] == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(PrivacyError, match="not a possible value"):
        CliRunner().invoke(app, ["epsilon", *asked[:3], "1.5", *asked[4:]], catch_exceptions=False)
    metadata = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    assert metadata["project"]["entry-points"]["ecgfed.commands"]["privacy"] == "ecgfed._privacy_cli:app"
