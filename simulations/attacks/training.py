"""Attacks on trained weights: who was among those they were trained on, by loss, by LiRA, and by canaries in one run.

The weights are what leaves after training, whoever sees them: no group's memory and no mask stands between. So the
hospital's door has no part in it; what is varied is whether training is private.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score
from torch import nn

from ecgshared.arrays import Bools, Floats
from ecgshared.learning.loop import PlainStep, train
from ecgshared.learning.losses import cell_losses
from ecgshared.learning.optimiser import make_optimiser
from ecgshared.learning.plan import LocalWork, OptimiserConfig
from ecgshared.models import HeadSpec, build, config_class
from ecgshared.privacy.accounting import PrivacyPlan, plan_privacy
from ecgshared.privacy.config import PrivacyConfig
from ecgshared.privacy.patient_sgd import PrivateStep
from simulations.attacks.door import Attack, beats

MEMBERS, STEPS, SHADOWS, SAMPLES = 48, 40, 12, 100
CANARIES, GUESSED = 2400, 0.05
"""How many canaries are put in with probability one half, and of what share at either end the attacker is sure."""
DELTA = 1e-5


@dataclass(frozen=True)
class _People:
    """One ECG each, of both halves; labels tell nothing of the signal, so that whoever fits them remembers."""

    x: NDArray[Any]
    labels: NDArray[Any]
    patient: NDArray[np.int64]

    def fetch(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        return self.x[rows], np.zeros((len(rows), 0)), self.labels[rows]

    def of(self, inside: Bools) -> _People:
        return _People(self.x[inside], self.labels[inside], np.arange(int(inside.sum())))


def people(rng: np.random.Generator) -> _People:
    """Draw twice as many people as are trained on."""
    n = 2 * MEMBERS
    signals = beats(n, rng, 50, SAMPLES).astype(np.float64) / 1000
    return _People(signals, (rng.random((n, 1)) < 0.5).astype(np.float64), np.arange(n))


def losses(everybody: _People, inside: Bools, epsilon: float | None, seed: int) -> Floats:
    """Train on some; return the loss of everybody, shape = (n,)."""
    model = build(
        config_class("resnet1d").model_validate({"preset": "small", "blocks": 1, "dropout": 0.0, "covariates": ()}),
        [HeadSpec("dead")],
        SAMPLES,
        seed,
    )
    members, work = everybody.of(inside), LocalWork(steps=STEPS)
    optimiser = make_optimiser(OptimiserConfig(name="adam", lr=5e-3), model.parameters(), lr=5e-3)
    n = len(members.patient)
    step: Any = PlainStep(model, optimiser, np.full(1, 1 / n), site_items=n, work=work)
    if epsilon is not None:
        asked = PrivacyConfig(epsilon=epsilon, delta=DELTA, max_grad_norm=1.0, expected_batch_size=n, accountant="prv")
        plan = plan_privacy(asked, patients=n, steps_total=STEPS)
        step = PrivateStep(model, optimiser, np.ones(1), plan=plan, work=work)
    train(model, members, step, work, np.random.default_rng(seed))
    with torch.no_grad():
        x, beside, y = (torch.as_tensor(part, dtype=torch.float32) for part in everybody.fetch(everybody.patient))
        return np.asarray(cell_losses(model(x, beside), y)[:, 0].double().numpy(), dtype=np.float64)


def by_loss(epsilon: float | None, rng: np.random.Generator) -> float:
    """Return the AUC with which a lower loss tells members (Yeom et al. 2018)."""
    everybody = people(rng)
    inside = rng.permutation(2 * MEMBERS) < MEMBERS
    return float(roc_auc_score(inside, -losses(everybody, inside, epsilon, int(rng.integers(2**31)))))


def by_likelihood(epsilon: float | None, rng: np.random.Generator) -> float:
    """Return the AUC of LiRA (Carlini et al. 2022): each person's loss against those of shadow models with and
    without them, trained as the hospital trains."""
    everybody = people(rng)
    halves = [rng.permutation(2 * MEMBERS) < MEMBERS for _ in range(SHADOWS + 1)]
    found = [losses(everybody, inside, epsilon, int(rng.integers(2**31))) for inside in halves]
    scaled = np.log(np.expm1(np.clip(np.array(found), 1e-6, 30.0)))
    shadows, member = scaled[1:], np.array(halves[1:])
    score = np.zeros(2 * MEMBERS)
    for i in range(2 * MEMBERS):
        sides = [shadows[member[:, i] == side, i] for side in (True, False)]
        if min(map(len, sides)) < 2:
            continue
        pooled = max(float(np.sqrt(np.mean([side.var() for side in sides]))), 1e-3)
        inside, outside = (norm.logpdf(scaled[0, i], side.mean(), pooled) for side in sides)
        score[i] = inside - outside
    return float(roc_auc_score(halves[0], score))


class _Canaries(nn.Module):
    """One weight a canary, so that what is learnt of each can be read off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(CANARIES, 1, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """(B, 12, CANARIES / 12) -> (B, 1)."""
        out: torch.Tensor = self.layer(x.flatten(1))
        return out


def audited(epsilon: float, rng: np.random.Generator, *, steps: int = 10, confidence: float = 0.95) -> float:
    """Return a lower bound of the epsilon that private training really has, from one run (Steinke et al. 2023).

    Canaries with gradients at right angles are put in with probability one half each; of those whose weights moved most
    and least the attacker guesses that they were in, or not. Right guesses beyond what an epsilon allows refute it:
    theorem 5.2 of arXiv:2305.08846, delta counted in full.
    """
    inside = rng.random(CANARIES) < 0.5
    rows = np.flatnonzero(inside)
    x = np.zeros((len(rows), CANARIES))
    x[np.arange(len(rows)), rows] = 1.0
    data = _People(x.reshape(len(rows), 12, -1), np.ones((len(rows), 1)), np.arange(len(rows)))
    asked = PrivacyConfig(
        epsilon=epsilon, delta=DELTA, max_grad_norm=0.1, expected_batch_size=CANARIES, accountant="prv"
    )
    # Everybody is in every step, whether the canary is there or not.
    plan: PrivacyPlan = plan_privacy(asked, patients=CANARIES, steps_total=steps)
    model, work = _Canaries().double(), LocalWork(steps=steps)
    optimiser = make_optimiser(OptimiserConfig(name="sgd", lr=1.0), model.parameters(), lr=1.0)
    step = PrivateStep(model, optimiser, np.ones(1), plan=plan, work=work)
    train(model, data, step, work, np.random.default_rng(0))
    moved = model.layer.weight.detach().numpy()[0]
    sure = max(1, round(GUESSED * CANARIES))
    order = np.argsort(moved)
    right = int(inside[order[-sure:]].sum() + (~inside[order[:sure]]).sum())
    return least_epsilon(right, 2 * sure, CANARIES, confidence)


def least_epsilon(right: int, guesses: int, canaries: int, confidence: float) -> float:
    """Return the largest epsilon that so many right guesses refute, 0 where they refute none."""

    def p_value(epsilon: float) -> float:
        chance = 1 / (1 + math.exp(-epsilon))
        beyond = float(binom.sf(right - 1, guesses, chance))
        # What delta may add: at most 2 canaries delta times the steepest part of the distribution.
        steps = np.arange(1, right + 1)
        steepest = max(float(((binom.sf(right - i - 1, guesses, chance) - beyond) / i).max()) for i in (steps,))
        return beyond + 2 * canaries * DELTA * max(steepest, 0.0)

    low, high = 0.0, 30.0
    if p_value(0.0) > 1 - confidence:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= 1 - confidence else (low, middle)
    return low


def _kept_out(attack: Callable[[float | None, np.random.Generator], float]) -> Any:
    """The share beyond guessing: of a member drawn and a stranger, how much oftener the right one is named."""

    def advantage(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None) -> float:
        return max(0.0, 2 * attack(epsilon, rng) - 1)

    return advantage


def _refuted(site: dict[str, Any], rng: np.random.Generator, epsilon: float | None) -> float:
    """The audit's lower bound as a share of the epsilon that was claimed: above 1 it would be refuted."""
    return float("nan") if epsilon is None else audited(epsilon, rng) / epsilon


ATTACKS: dict[str, Attack] = {
    "membership by loss": Attack(
        _kept_out(by_loss), "who was trained on, beyond guessing (2 AUC - 1)", ("train",), private=True, door=False
    ),
    "membership by LiRA": Attack(
        _kept_out(by_likelihood),
        f"the same with {SHADOWS} shadow models (2 AUC - 1)",
        ("train",),
        private=True,
        door=False,
    ),
    "canaries": Attack(
        _refuted, "epsilon that 2,400 canaries prove, of the epsilon claimed", ("train",), private=True, door=False
    ),
}
"""Attacks on released weights, however they were added up."""
