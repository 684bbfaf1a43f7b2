"""DP-SGD (Abadi et al. 2016) with the patient as the unit, through Opacus' GradSampleModule and DPOptimizer.

A step draws patients, one ECG of each, so that one sample's gradient IS one patient's gradient, whatever number of
ECGs a patient has. PrivacyEngine is not used: it would restart epsilon every round, divide by a number that tells
the size of the site, and take its randomness from torch.

Gradients are float32 (float64 for a float64 model), never bfloat16, so that the clipping bound really holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from opacus.optimizers import DPOptimizer
from torch import nn

from ecgshared.errors import PrivacyError
from ecgshared.learning.loop import add_proximal_gradient
from ecgshared.learning.losses import objective
from ecgshared.learning.plan import LocalWork
from ecgshared.privacy.accounting import PrivacyPlan
from ecgshared.privacy.grad_sample import PatientGradSampleModule
from ecgshared.privacy.noise import secure_gaussian
from ecgshared.privacy.sampling import PatientSampler

PHYSICAL_BATCH = 32
"""Patients whose gradients are held at once; bounds memory, changes nothing else."""


class PatientDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with secure noise, float64 norms, and no way for a NaN to pass the clipping."""

    def clip_and_accumulate(self) -> None:
        """Add the patients' gradients, each scaled to norm at most C; one that is not finite adds nothing.

        An error instead would tell that a patient with such a gradient is there.
        """
        samples: list[torch.Tensor] = self.grad_samples
        squares = [g.flatten(1).norm(2, dim=1).double().square() for g in samples]
        norms = torch.stack(squares).sum(0).sqrt()
        finite = torch.isfinite(norms)
        factor = torch.where(finite, (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0), 0.0)
        clean = bool(finite.all())
        for p, g in zip(self.params, samples, strict=True):
            if not clean:
                g = torch.where(finite.view(-1, *[1] * (g.dim() - 1)), g, 0.0)
            clipped = torch.einsum("i,i...->...", factor.to(g.dtype), g)
            p.summed_grad = clipped if p.summed_grad is None else p.summed_grad + clipped

    def add_noise(self) -> None:
        """Add one secure draw over all parameters, in float64, and round the sum to the parameters' precision."""
        sizes = [p.numel() for p in self.params]
        std = self.noise_multiplier * self.max_grad_norm
        noise = secure_gaussian(sum(sizes), std=std, device=self.params[0].device)
        for p, n in zip(self.params, torch.split(noise, sizes), strict=True):
            p.grad = (p.summed_grad.double() + n.view_as(p)).to(p.dtype)


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
        self._wrapped: Any = None
        self._private: PatientDPOptimizer | None = None
        self._received: list[torch.Tensor] = []

    def __enter__(self) -> Self:
        self._wrapped = PatientGradSampleModule(self._model, loss_reduction="sum")
        self._private = PatientDPOptimizer(
            self._optimiser,
            noise_multiplier=self._plan.noise_multiplier,
            max_grad_norm=self._plan.max_grad_norm,
            expected_batch_size=self._plan.expected_batch_size,
            loss_reduction="mean",
        )
        if self._work.prox_mu:
            self._received = [p.detach().clone() for p in self._model.parameters()]
        self._private.attach_step_hook(self._after_noise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._private is not None:
            self._private.zero_grad(set_to_none=True)
        if self._wrapped is not None:
            self._wrapped.to_standard_module()
        self._wrapped, self._private, self._received = None, None, []

    def steps(self, work: LocalWork, items: int) -> int:
        """Return the planned steps, whatever the site's size."""
        return work.steps or 0

    def draw(self, patient: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield secure Poisson draws; ``generator`` is not used."""
        return iter(PatientSampler(patient, self._plan.sample_rate))

    def update(self, x: torch.Tensor, covariates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one step on the drawn ECGs (B may be 0: then the update is noise alone). The loss is not told."""
        private = self._private
        if private is None:
            raise PrivacyError("the step has not been entered", remedy="use it through train()")
        private.zero_grad(set_to_none=True)
        chunks = range(0, max(len(x), 1), self._physical)
        for start in chunks:
            part = slice(start, start + self._physical)
            private.signal_skip_step(do_skip=start != chunks[-1])
            if len(x):
                # Opacus' backward hooks, which sit in the model's layers, want inputs that take part in the gradient.
                signals, beside = (tensor[part].detach().requires_grad_() for tensor in (x, covariates))
                items = objective(self._model, signals, beside, labels[part], self._weights)
                items.sum().backward()  # type: ignore[no-untyped-call]
                self._fill_unused(len(items))
            else:
                self._fill_unused(0)
            private.step()
            private.zero_grad(set_to_none=True)
        return torch.full((), torch.nan, device=x.device)

    def examples(self, seen: int, steps: int) -> int:
        """Return the expected number; the true one tells who was drawn."""
        return steps * self._plan.expected_batch_size

    def _fill_unused(self, batch: int) -> None:
        """Give parameters no gradient reached a gradient of zero for each patient."""
        for p in self._model.parameters():
            if p.requires_grad and getattr(p, "grad_sample", None) is None:
                p.grad_sample = p.new_zeros((batch, *p.shape))  # type: ignore[attr-defined]

    def _after_noise(self, optimiser: DPOptimizer) -> None:
        add_proximal_gradient(self._model, self._received, self._work.prox_mu)
