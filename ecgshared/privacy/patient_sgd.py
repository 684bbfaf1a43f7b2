"""DP-SGD (Abadi et al. 2016) with the patient as the unit.

A step draws patients, one ECG of each, so that one sample's gradient IS one patient's gradient, whatever number of
ECGs a patient has. Opacus' PrivacyEngine is not used: it would restart epsilon every round, divide by a number that
tells the size of the site, and take its randomness from torch. What is added up is noised once and divided by a PUBLIC
constant: dividing by how many were drawn, before the noise or after, makes the noise as large as the draw was small
(arXiv:2605.15648).

Gradients are float32 (float64 for a float64 model), never bfloat16, so that the clipping bound really holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ecgshared.errors import PrivacyError
from ecgshared.learning.loop import add_proximal_gradient, at_once
from ecgshared.learning.losses import objective
from ecgshared.learning.plan import LocalWork
from ecgshared.privacy.accounting import PrivacyPlan
from ecgshared.privacy.clipping import Clipper, bounded, make_clipper
from ecgshared.privacy.noise import add_secure_gaussian
from ecgshared.privacy.sampling import PatientSampler

PHYSICAL_BATCH = 32
"""Patients whose gradients are held at once; bounds memory, changes nothing else."""


class PrivateStep:
    """A private step for :func:`ecgshared.learning.loop.train`.

    Parameters
    ----------
    optimiser : over the model's trained parameters; sees only noised gradients.
    weights : cell weights (H,) from :func:`ecgshared.learning.losses.private_cell_weights`, public.
    plan : sampling rate, noise, bound.

    Raises
    ------
    PrivacyError : the model has BatchNorm, which mixes patients, or the work is not a fixed number of steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        weights: ArrayLike,
        *,
        plan: PrivacyPlan,
        work: LocalWork,
        physical_batch: int = PHYSICAL_BATCH,
    ) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise PrivacyError(
                "batch normalisation mixes patients: their gradients cannot be bounded",
                where="model.norm",
                value="batch",
                allowed="group",
            )
        if work.steps is None:
            raise PrivacyError(
                "private training needs a fixed number of local steps",
                where="work.epochs",
                remedy="give work.steps",
            )
        self._model, self._optimiser, self._plan, self._work = model, optimiser, plan, work
        self._weights = torch.as_tensor(np.asarray(weights, dtype=np.float64))
        self._physical = physical_batch
        self._clipper: Clipper | None = None
        self._received: list[torch.Tensor] = []

    def __enter__(self) -> Self:
        self._clipper = make_clipper(self._model).__enter__()
        if self._work.prox_mu:
            self._received = [p.detach().clone() for p in self._model.parameters()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        if self._clipper is not None:
            self._clipper.__exit__(kind, error, trace)
        self._clipper, self._received = None, []

    def steps(self, work: LocalWork, items: int) -> int:
        """Return the planned steps, whatever the site's size."""
        return work.steps or 0

    def draw(self, patient: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield secure Poisson draws; ``generator`` is not used."""
        return iter(PatientSampler(patient, self._plan.sample_rate))

    def update(self, x: torch.Tensor, covariates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one step on the drawn ECGs (B may be 0: then the update is noise alone). The loss is not told."""
        clipper = self._clipper
        if clipper is None:
            raise PrivacyError("the step has not been entered", remedy="use it through train()")
        self._optimiser.zero_grad(set_to_none=True)
        totals: dict[nn.Parameter, torch.Tensor] = {}
        part = min(self._physical, at_once(x.shape[1:]))
        for start in range(0, len(x), part):
            rows = slice(start, start + part)
            # Opacus' backward hooks, which sit in the model's layers, want inputs that take part in the gradient.
            given = (x[rows], covariates[rows])
            signals, beside = given if clipper.inputs_alone else (t.detach().requires_grad_() for t in given)
            items = objective(self._model, signals, beside, labels[rows], self._weights)
            for p, clipped in clipper.clipped(items, self._factors).items():
                totals[p] = totals[p].add_(clipped) if p in totals else clipped
        self._give_noised(totals)
        add_proximal_gradient(self._model, self._received, self._work.prox_mu)
        self._optimiser.step()
        return torch.full((), torch.nan, device=x.device)

    def examples(self, seen: int, steps: int) -> int:
        """Return the expected number; the true one tells who was drawn."""
        return steps * self._plan.expected_batch_size

    def _factors(self, norms: torch.Tensor) -> torch.Tensor:
        return bounded(norms, self._plan.max_grad_norm)

    def _give_noised(self, totals: dict[nn.Parameter, torch.Tensor]) -> None:
        """Add noise to every trained weight's sum, reached by a gradient or not, in float64; round once, at the end."""
        std = self._plan.noise_multiplier * self._plan.max_grad_norm
        for p in self._model.parameters():
            if p.requires_grad:
                total = totals.pop(p).contiguous() if p in totals else torch.zeros_like(p)
                # The sum's own memory: a net's size once, not four times.
                p.grad = add_secure_gaussian(total, std=std, divide=self._plan.expected_batch_size)
