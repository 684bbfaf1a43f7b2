"""Sums of patients' clipped gradients: by book-keeping where the model allows it, else by Opacus' hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from ecgshared.errors import PrivacyError
from ecgshared.privacy.book_keeping import BookKeeping, can_keep_books, set_stepwise
from ecgshared.privacy.layer_rules import conv1d_samples

Sums = dict[nn.Parameter, torch.Tensor]
Factors = Callable[[torch.Tensor], torch.Tensor]


class Clipper(Protocol):
    """Entered before a model's forward pass, left with the model as it was.

    ``inputs_alone``: the forward pass may be given inputs that take no part in the gradient.
    """

    @property
    def inputs_alone(self) -> bool:
        """See above."""
        ...

    def __enter__(self) -> Self:
        """Prepare the model."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the model as a plain one."""
        ...

    def clipped(self, items: torch.Tensor, factors: Factors) -> Sums:
        """Return the sums over samples of factor times gradient, of all weights that a gradient reached.

        Parameters
        ----------
        items : losses, shape = (B,), of a forward pass made inside.
        factors : of the norms, shape = (B,), float64; 0 leaves a sample out, whatever its gradient holds.
        """
        ...


def make_clipper(model: nn.Module) -> Clipper:
    """Return the fastest way to clip the gradients of ``model``.

    Raises
    ------
    PrivacyError : a convolution pads otherwise than with zeros, of which no rule here or in Opacus knows.
    """
    for name, layer in model.named_modules():
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            raise PrivacyError(
                "no rule bounds the gradient of such padding", where=name, value=layer.padding_mode, allowed="zeros"
            )
    return BookKeeping(model) if can_keep_books(model) else Hooks(model)


def bounded(norms: torch.Tensor, bound: float) -> torch.Tensor:
    """Return the factors that bring norms to at most ``bound``; 0 for one that is not finite.

    An error instead would tell that a patient with such a gradient is there.
    """
    return torch.where(torch.isfinite(norms), (bound / (norms + 1e-6)).clamp(max=1.0), 0.0)


class _FastHooks(GradSampleModule):  # type: ignore[misc]
    """Opacus' GradSampleModule with a faster rule for convolutions; Opacus' own table of rules stays as it is."""

    @staticmethod
    def _conv1d(
        layer: nn.Conv1d, activations: Sequence[torch.Tensor], backprops: torch.Tensor
    ) -> dict[torch.Tensor, torch.Tensor]:
        x = activations[0].to(backprops.dtype)
        result: dict[torch.Tensor, torch.Tensor] = {layer.weight: conv1d_samples(layer, x, backprops)}
        if layer.bias is not None:
            result[layer.bias] = backprops.sum(2)
        return result

    GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {**GradSampleModule.GRAD_SAMPLERS, nn.Conv1d: _conv1d}


class Hooks:
    """Every sample's gradient of every weight, held at once, clipped and added up."""

    inputs_alone = False

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._wrapped: Any = None

    def __enter__(self) -> Self:
        set_stepwise(self._model, True)
        self._wrapped = _FastHooks(self._model, loss_reduction="sum")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_stepwise(self._model, False)
        self._forget()
        if self._wrapped is not None:
            self._wrapped.to_standard_module()
        self._wrapped = None

    def clipped(self, items: torch.Tensor, factors: Factors) -> Sums:
        """Return the sums; see :class:`Clipper`."""
        items.sum().backward()  # type: ignore[no-untyped-call]
        samples: dict[nn.Parameter, torch.Tensor] = {}
        for p in self._model.parameters():
            held: Any = getattr(p, "grad_sample", None)
            if held is not None:
                samples[p] = torch.stack(held).sum(0) if isinstance(held, list) else held
        squares = [g.flatten(1).norm(2, dim=1).double().square() for g in samples.values()]
        factor = factors(torch.stack(squares).sum(0).sqrt())
        kept = factor != 0
        sums = {p: torch.einsum("i,i...->...", factor[kept].to(g.dtype), g[kept]) for p, g in samples.items()}
        self._forget()
        return sums

    def _forget(self) -> None:
        for p in self._model.parameters():
            p.grad = None
            if hasattr(p, "grad_sample"):
                p.grad_sample = None
