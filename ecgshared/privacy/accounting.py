"""How much privacy training costs, over all its rounds at once, by Opacus' accountants.

One step is the Poisson-subsampled Gaussian mechanism over patients: each enters with probability q, their clipped
gradients are summed, and noise of SD sigma C is added. Neighbouring datasets differ in ONE PATIENT with all their
ECGs, whose contribution is put to nothing; the number of training patients itself counts as public (``describe``
releases it), and q is derived from it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq

from ecgshared.errors import PrivacyError
from ecgshared.privacy.config import Accountant, PrivacyConfig, StatisticsPrivacy

ALPHAS: list[float] = [1 + x / 100 for x in range(1, 10)] + [1 + x / 10 for x in range(1, 100)]
ALPHAS += [*range(12, 64), 72, 80, 96, 128, 192, 256, 384, 512, 1024]
"""Renyi orders; more than Opacus' own at both ends, so that very small and very large budgets are not overstated."""

SIGMA_RANGE = (0.05, 1e5)


@dataclass(frozen=True)
class Spent:
    """``steps`` steps of one mechanism; what a ledger stores."""

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class PrivacyPlan:
    """How a site trains so that ALL planned steps together cost at most (epsilon, delta).

    Attributes
    ----------
    sample_rate : q, each patient's probability to enter a step.
    noise_multiplier : sigma; the noise on a summed gradient has SD sigma times max_grad_norm.
    epsilon : what all steps cost by the accountant, at most what was asked.
    """

    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: int
    steps_total: int
    epsilon: float
    delta: float
    accountant: Accountant

    def spent(self, steps: int) -> Spent:
        """Return the ledger entry of ``steps`` steps."""
        return Spent(self.noise_multiplier, self.sample_rate, steps)


def epsilon_spent(history: Sequence[Spent], *, delta: float, accountant: Accountant = "rdp") -> float:
    """Return epsilon at ``delta`` of everything in ``history`` together; 0 for nothing, inf without noise."""
    entries = _merged(history)
    if not entries:
        return 0.0
    if any(entry.noise_multiplier == 0 and entry.sample_rate > 0 for entry in entries):
        return float("inf")
    with warnings.catch_warnings():
        # Opacus warns where another order might give a tighter bound; the bound it returns holds all the same.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        return _epsilon(entries, delta, accountant)


@lru_cache(maxsize=256)
def noise_multiplier(
    *, epsilon: float, delta: float, sample_rate: float, steps_total: int, accountant: Accountant = "rdp"
) -> float:
    """Return the smallest sigma (to 0.01%) with which ``steps_total`` steps cost at most ``epsilon`` at ``delta``.

    Raises
    ------
    PrivacyError : the sampling rate is not in (0, 1], there is no step, or no sigma up to 1e5 is enough.
    """
    if not 0 < sample_rate <= 1:
        raise PrivacyError("a sampling rate lies in (0, 1]", value=sample_rate)
    if steps_total < 1:
        raise PrivacyError("private training needs its planned number of steps", value=steps_total)

    def cost(sigma: float) -> float:
        return epsilon_spent([Spent(sigma, sample_rate, steps_total)], delta=delta, accountant=accountant)

    # PRV's grid grows with epsilon and must not be asked far below the answer: RDP's answer lies just above it.
    start = 1.0
    if accountant == "prv":
        start = noise_multiplier(
            epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps_total=steps_total, accountant="rdp"
        )
    low, high = _bracket(cost, epsilon, start)
    log_sigma = brentq(lambda x: cost(2.0**x) - epsilon, math.log2(low), math.log2(high), xtol=1e-4)
    sigma = float(2.0**log_sigma)
    while cost(sigma) > epsilon:
        sigma *= 1 + 1e-4
    return sigma


def plan_privacy(
    config: PrivacyConfig,
    *,
    patients: int,
    steps_total: int,
    max_epsilon: float | None = None,
    max_delta: float | None = None,
) -> PrivacyPlan:
    """Solve a site's noise for all planned rounds; the stricter of the study's demand and the site's cap holds.

    Parameters
    ----------
    patients : distinct training patients of the site.
    steps_total : local steps of a round times planned rounds.
    max_epsilon, max_delta : the site's cap.

    Raises
    ------
    PrivacyError : there is no patient, or delta is not below 1 / patients (a promise that allowed the release of
        a whole patient would be none).
    """
    epsilon = config.epsilon if max_epsilon is None else min(config.epsilon, max_epsilon)
    delta = config.delta if max_delta is None else min(config.delta, max_delta)
    if patients < 1:
        raise PrivacyError("there is no training patient to protect")
    if delta * patients >= 1:
        raise PrivacyError(
            "delta is too large for this many patients",
            where="privacy.delta",
            value=delta,
            allowed=f"below 1 / {patients} patients",
        )
    rate = min(1.0, config.expected_batch_size / patients)
    sigma = noise_multiplier(
        epsilon=epsilon, delta=delta, sample_rate=rate, steps_total=steps_total, accountant=config.accountant
    )
    return PrivacyPlan(
        sample_rate=rate,
        noise_multiplier=sigma,
        max_grad_norm=config.max_grad_norm,
        expected_batch_size=config.expected_batch_size,
        steps_total=steps_total,
        epsilon=epsilon_spent([Spent(sigma, rate, steps_total)], delta=delta, accountant=config.accountant),
        delta=delta,
        accountant=config.accountant,
    )


def plan_statistics(
    config: StatisticsPrivacy, *, patients: int, max_epsilon: float | None = None, max_delta: float | None = None
) -> PrivacyPlan:
    """Solve the noise of one message, in which every patient of a site takes part and moves what is sent by 1 in L2.

    Raises
    ------
    PrivacyError : as :func:`plan_privacy`.
    """
    asked = PrivacyConfig(
        epsilon=config.epsilon,
        delta=config.delta,
        max_grad_norm=1.0,
        expected_batch_size=max(patients, 1),
        accountant=config.accountant,
    )
    return plan_privacy(asked, patients=patients, steps_total=1, max_epsilon=max_epsilon, max_delta=max_delta)


def _merged(history: Sequence[Spent]) -> list[Spent]:
    """Add up the steps of equal mechanisms: composition does not ask in how many rounds they came."""
    steps: dict[tuple[float, float], int] = {}
    for entry in history:
        key = entry.noise_multiplier, entry.sample_rate
        steps[key] = steps.get(key, 0) + entry.steps
    return [Spent(sigma, rate, count) for (sigma, rate), count in steps.items() if count]


def _epsilon(entries: list[Spent], delta: float, accountant: Accountant) -> float:
    from opacus.accountants import create_accountant

    held = create_accountant(mechanism=accountant)
    held.history = [(entry.noise_multiplier, entry.sample_rate, entry.steps) for entry in entries]
    if accountant == "rdp":
        return max(0.0, float(held.get_epsilon(delta=delta, alphas=ALPHAS)))
    with np.errstate(divide="ignore"):
        # Its curve of a mechanism without sampling takes the logarithm of 1 - rate, which has no weight there.
        return max(0.0, float(held.get_epsilon(delta=delta)))


def _bracket(cost: Callable[[float], float], epsilon: float, start: float) -> tuple[float, float]:
    """Return two sigmas, one costing more than ``epsilon`` and one at most that, found by doubling and halving."""
    high = start
    while cost(high) > epsilon:
        high *= 2
        if high > SIGMA_RANGE[1]:
            raise PrivacyError(
                "no amount of noise reaches this epsilon",
                value=epsilon,
                remedy="a larger epsilon or fewer steps",
            )
    low = high / 2
    while cost(low) <= epsilon:
        low, high = low / 2, low
        if low < SIGMA_RANGE[0]:
            raise PrivacyError(
                "epsilon is so large that almost no noise is needed",
                value=epsilon,
                remedy="ask for a smaller one",
            )
    return low, high
