"""The only training loop. It knows no hospital type: it draws rows, fetches them, and lets a step update the model.

A step is plain (here) or private (:mod:`ecgshared.privacy.patient_sgd`). Everything random comes from the generator
passed in, except what a private step must draw from a source nobody can replay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ecgshared.errors import ConfigError, ModelError
from ecgshared.learning.augment import augment
from ecgshared.learning.draws import seed_draws
from ecgshared.learning.half import HalfConvolutions
from ecgshared.learning.losses import objective, site_loss
from ecgshared.learning.plan import AugmentConfig, LocalWork, Precision

Rows = NDArray[np.int64]

MOST_VALUES = 2**20
"""Numbers of signal that a backward pass holds the activations of: 17 ECGs of 12 x 5000, 87 of 12 x 1000."""


class LocalData(Protocol):
    """A site's training ECGs, as the loop sees them; rows run from 0 to n - 1."""

    @property
    def patient(self) -> NDArray[np.int64]:
        """The patient of each row, shape (n,)."""
        ...

    def fetch(self, rows: Rows) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return ECGs (B, 12, T) in mV, standardised covariates (B, C), labels (B, H) with NaN where not known."""
        ...


class TrainStep(Protocol):
    """How batches are drawn, and what one does to the model. Entered before the first, left after the last."""

    def __enter__(self) -> Self:
        """Prepare the model."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the model as a plain one."""
        ...

    def steps(self, work: LocalWork, items: int) -> int:
        """Return how many steps ``work`` means for ``items`` ECGs."""
        ...

    def draw(self, patient: NDArray[np.int64], generator: np.random.Generator) -> Iterator[Rows]:
        """Yield the rows of one batch after the other, without end."""
        ...

    def update(self, x: torch.Tensor, covariates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one optimiser step; return the loss (a scalar), NaN where it may not be told."""
        ...

    def examples(self, seen: int, steps: int) -> int:
        """Return the number of ECGs to report for ``seen`` ones: a private step tells only a public number."""
        ...


@dataclass(frozen=True)
class LocalResult:
    """What one round of local training came to.

    Attributes
    ----------
    steps : optimiser steps done.
    mean_loss : mean of the steps' estimates of L_k; NaN after private training or no step.
    examples : ECGs the steps saw, repeats counted; expected number under privacy.
    least_patients : distinct patients that any one step saw at least; 0 where there was no step.
    """

    steps: int
    mean_loss: float
    examples: int
    least_patients: int = 0


class PlainStep:
    """An ordinary step: uniform batches without replacement, L_k, optionally FedProx and clipping of the batch.

    A batch of more than :data:`MOST_VALUES` numbers goes through the net in parts whose gradients are added up, so that
    memory does not grow with it. Not so where an item's loss depends on the others of the batch.

    Parameters
    ----------
    weights : cell weights of each head, shape (H,), from :func:`ecgshared.learning.losses.cell_weights`; of a model
        with an objective of its own the weight of an item, shape (1,).
    site_items : n_k, the site's training ECGs.
    bf16 : convolutions take bfloat16 (:mod:`ecgshared.learning.half`): 0.56 of the time of `paper64`'s step on a CPU
        that has it. Off by default: it rounds, and on other CPUs it is slower.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        weights: ArrayLike,
        *,
        site_items: int,
        work: LocalWork,
        bf16: bool = False,
    ) -> None:
        self._model, self._optimiser, self._work, self._bf16 = model, optimiser, work, bf16
        self._weights = torch.as_tensor(np.asarray(weights, dtype=np.float64))
        self._items = site_items
        self._divides = not hasattr(model, "item_losses") and not any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
        )
        self._received: list[torch.Tensor] = []

    def __enter__(self) -> Self:
        if self._work.prox_mu:
            self._received = [p.detach().clone() for p in self._model.parameters()]
        return self

    def __exit__(self, *_: object) -> None:
        self._received = []

    def steps(self, work: LocalWork, items: int) -> int:
        """Return the steps the study asks for."""
        return work.steps_for(items)

    def draw(self, patient: NDArray[np.int64], generator: np.random.Generator) -> Iterator[Rows]:
        """Yield batches of shuffled epochs, cut into equal parts so that no last batch of one ECG weighs as a whole."""
        items = len(patient)
        batches = 1 if self._work.batch_size is None else math.ceil(items / self._work.batch_size)
        while True:
            yield from np.array_split(generator.permutation(items), batches)

    def update(self, x: torch.Tensor, covariates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one step on one batch."""
        self._optimiser.zero_grad(set_to_none=True)
        size = max(len(x), 1)
        part = at_once(x.shape[1:]) if self._divides else size
        loss = torch.zeros((), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        for start in range(0, size, part):
            rows = slice(start, start + part)
            with HalfConvolutions() if self._bf16 else nullcontext():
                items = objective(self._model, x[rows], covariates[rows], labels[rows], self._weights)
            share = site_loss(items, site_items=self._items, batch=size)
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        if self._work.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._work.max_grad_norm)
        add_proximal_gradient(self._model, self._received, self._work.prox_mu)
        self._optimiser.step()
        return loss

    def examples(self, seen: int, steps: int) -> int:
        """Return the ECGs seen."""
        return seen


def at_once(shape: Sequence[int], most: int = MOST_VALUES) -> int:
    """Return how many ECGs of ``shape`` (leads, samples) have at most ``most`` numbers, at least one."""
    return max(1, most // max(math.prod(shape), 1))


def add_proximal_gradient(model: nn.Module, received: list[torch.Tensor], mu: float) -> None:
    """Add mu (w - w_received), the gradient of FedProx's pull (Li et al. 2020), to the parameters' gradients."""
    if not mu:
        return
    with torch.no_grad():
        for p, start in zip(model.parameters(), received, strict=True):
            if p.grad is not None:
                p.grad.add_(p - start, alpha=mu)


def train(
    model: nn.Module,
    data: LocalData,
    step: TrainStep,
    work: LocalWork,
    generator: np.random.Generator,
    *,
    augmentation: AugmentConfig | None = None,
    fs_hz: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LocalResult:
    """Train ``model`` in place for one round; the same generator state gives the same weights (on a CPU).

    Parameters
    ----------
    generator : batches, dropout and augmentation draw from it.
    augmentation : needs ``fs_hz``; None changes nothing.
    progress : called with (steps done, steps in all).

    Raises
    ------
    ModelError : the loss became infinite or NaN.
    """
    augmentation = augmentation or AugmentConfig()
    if augmentation.any and fs_hz is None:
        raise ConfigError("augmentation needs the sampling rate of the signals", where="fs_hz")
    patient = data.patient
    total = step.steps(work, len(patient)) if len(patient) else 0
    first = next(model.parameters())
    device, dtype = first.device, first.dtype
    random = torch.Generator(device).manual_seed(int(generator.integers(2**63)))
    seed_draws(model, random)
    model.train()
    loss = torch.zeros((), device=device, dtype=torch.float64)
    seen, least = 0, len(np.unique(patient)) if total else 0
    try:
        with step:
            for done, rows in enumerate(itertools.islice(step.draw(patient, generator), total), start=1):
                x, covariates, labels = (
                    torch.as_tensor(np.ascontiguousarray(array)).to(device, dtype) for array in data.fetch(rows)
                )
                if augmentation.any and fs_hz is not None:
                    x = augment(x, augmentation, fs_hz=fs_hz, generator=random)
                loss += step.update(x, covariates, labels).double()
                seen += len(rows)
                least = min(least, len(np.unique(patient[rows])))
                if progress is not None:
                    progress(done, total)
            mean_loss = float(loss) / total if total else math.nan
            if total and math.isinf(mean_loss):
                raise ModelError("training diverged: the loss is infinite", remedy="lower the learning rate")
    finally:
        seed_draws(model, None)
        model.eval()
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise ModelError("training diverged: a weight is not finite", remedy="lower the learning rate")
    return LocalResult(total, mean_loss, step.examples(seen, total), least)


def place(model: nn.Module, *, device: str, precision: Precision) -> nn.Module:
    """Move a model to a device (``auto`` takes CUDA where there is one) in the precision of its weights.

    bf16 keeps float32 weights: only convolutions are computed lower, by :class:`PlainStep`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("this machine has no CUDA device", where="compute.device", value=device, allowed="cpu, auto")
    return model.to(device=device, dtype=torch.float64 if precision == "fp64" else torch.float32)


@torch.no_grad()
def predict(
    model: nn.Module,
    data: LocalData,
    rows: Rows,
    *,
    batch_size: int | None = None,
    output: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> NDArray[np.float64]:
    """Return the model's outputs for ``rows``, shape (len(rows), H), without dropout, in the weights' precision.

    Where ``data.views(rows)`` gives several views of a row (its single beats), the outputs are means over them; NaN
    where there is none.

    Parameters
    ----------
    output : takes signals and covariates; the model itself unless told.
    batch_size : 256, or fewer where ECGs are long.
    """
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = model if output is None else output
    first = next(model.parameters())
    training = model.training
    model.eval()

    def outputs(signals: NDArray[Any], beside: NDArray[Any]) -> NDArray[np.float64]:
        x, given = (torch.as_tensor(np.ascontiguousarray(a)).to(first.device, first.dtype) for a in (signals, beside))
        found: NDArray[np.float64] = compute(x, given).double().cpu().numpy()
        return found

    out = []
    if batch_size is None and len(rows):
        batch_size = min(256, at_once(data.fetch(rows[:1])[0].shape[1:], 4 * MOST_VALUES))
    for start in range(0, len(rows), batch_size or 1):
        part = rows[start : start + (batch_size or 1)]
        seen = data.views(part) if hasattr(data, "views") else None
        if seen is None:
            x, covariates, _ = data.fetch(part)
            out.append(outputs(x, covariates))
        else:
            views, beside, of = seen
            out.append(_over_views(outputs, views, beside, of, len(part), batch_size or 1))
    model.train(training)
    if not out:
        x, covariates, labels = data.fetch(rows)
        return np.empty((0, labels.shape[1]))
    return np.concatenate(out)


def _over_views(
    outputs: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]],
    views: NDArray[Any],
    covariates: NDArray[Any],
    of: NDArray[np.int64],
    rows: int,
    batch_size: int,
) -> NDArray[np.float64]:
    """Return mean outputs of each row's views, shape = (rows, H)."""
    if not len(of):
        # The width of an output is known only by computing one.
        width = outputs(np.zeros((1, *views.shape[1:])), np.zeros((1, *covariates.shape[1:]))).shape[1]
        return np.full((rows, width), np.nan)
    each = np.concatenate(
        [outputs(views[i : i + batch_size], covariates[i : i + batch_size]) for i in range(0, len(of), batch_size)]
    )
    total = np.zeros((rows, each.shape[1]))
    np.add.at(total, of, each)
    count = np.bincount(of, minlength=rows)[:, None]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
