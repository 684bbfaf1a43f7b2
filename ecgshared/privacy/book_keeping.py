"""Clipping each patient's gradient with one backward pass and without holding every patient's gradient.

Book-keeping (Bu et al. 2023, arXiv:2210.00038): the backward pass leaves out the weights, and each layer notes its
input and the gradient of its output. From these follow the norms of the samples' gradients, hence the factors of the
clipping, and then, layer by layer, the clipped SUM by one weighted weight gradient. The rules of the layers are in
:mod:`ecgshared.privacy.layer_rules`; Opacus' hooks (:mod:`ecgshared.privacy.clipping`) are the oracle, and take the
models that have other layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from ecgshared.errors import PrivacyError
from ecgshared.privacy import layer_rules as rules

LAYERS = (nn.Conv1d, nn.GroupNorm, nn.Linear)


def can_keep_books(model: nn.Module) -> bool:
    """Tell whether every trained weight is of a layer with a rule here."""
    known = {id(p) for layer in model.modules() if isinstance(layer, LAYERS) for p in layer.parameters(recurse=False)}
    return all(id(p) in known for p in model.parameters() if p.requires_grad)


def set_stepwise(model: nn.Module, stepwise: bool) -> None:
    """Make recurrent layers call their parts, or not: a kernel of torch's hides what becomes of each sample."""
    for module in model.modules():
        if hasattr(module, "stepwise"):
            module.stepwise = stepwise  # type: ignore[assignment]


@dataclass
class _Notes:
    """What one layer noted of one pass: inputs and gradients of outputs of its calls; or what it could say at once."""

    calls: int = 0
    inputs: list[torch.Tensor] = field(default_factory=list)
    gradients: list[torch.Tensor] = field(default_factory=list)

    def joined(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and output gradient of all calls, one after the other in time."""
        if len(self.inputs) == 1:
            return self.inputs[0], self.gradients[0]
        return torch.cat(self.inputs, 1), torch.cat(self.gradients, 1)


class BookKeeping:
    """Makes of a backward pass the sum of clipped gradients; see :class:`ecgshared.privacy.clipping.Clipper`."""

    inputs_alone = True

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, LAYERS) and _trained(m)]
        owners: dict[int, int] = {}
        for layer in self._layers:
            for p in layer.parameters(recurse=False):
                owners[id(p)] = owners.get(id(p), 0) + 1
        # A weight of two layers: what it owes a sample is a sum over both, whose norm is not theirs added up.
        self._shared = {key for key, count in owners.items() if count > 1}
        self._notes: dict[nn.Module, _Notes] = {}
        self._samples: dict[nn.Parameter, torch.Tensor] = {}
        self._squares: torch.Tensor | float = 0.0

    def __enter__(self) -> Self:
        for layer in self._layers:
            layer.forward = self._noting(layer)
        set_stepwise(self._model, True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in self._layers:
            vars(layer).pop("forward", None)
        set_stepwise(self._model, False)
        self._forget()

    def clipped(
        self, items: torch.Tensor, factors: Callable[[torch.Tensor], torch.Tensor]
    ) -> dict[nn.Parameter, torch.Tensor]:
        """Return the sums over samples of factor times gradient, of all weights that a gradient reached.

        Parameters
        ----------
        items : losses, shape = (B,).
        factors : of the norms, shape = (B,), float64; 0 leaves a sample out, whatever its gradient holds.
        """
        try:
            if items.requires_grad:
                items.sum().backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                self._close()
                squares = self._squares
                if not isinstance(squares, torch.Tensor):
                    squares = items.new_zeros(len(items), dtype=torch.float64)
                self._require_whole(squares, len(items))
                return self._sums(factors(squares.sqrt()))
        finally:
            self._forget()

    def _require_whole(self, squares: torch.Tensor, samples: int) -> None:
        """Refuse a model some of whose gradients went past the books: their norms would be too small."""
        past = [name for name, p in self._model.named_parameters() if p.grad is not None]
        if past or len(squares) != samples:
            raise PrivacyError(
                "the gradients of this model cannot be told apart by patient",
                where=", ".join(past) or "batch",
                value=f"{len(squares)} gradients of {samples} patients",
                remedy="weights must be used by their own layers, with the patient as the first dimension",
            )

    def _forget(self) -> None:
        self._notes, self._samples, self._squares = {}, {}, 0.0

    def _noting(self, layer: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """What stands in for the layer's ``forward``."""

        def forward(x: torch.Tensor) -> torch.Tensor:
            if not torch.is_grad_enabled():
                plain: torch.Tensor = type(layer).forward(layer, x)
                return plain
            self._notes.setdefault(layer, _Notes()).calls += 1
            anchor = next(p for p in layer.parameters(recurse=False) if p.requires_grad)
            run: Any = _GroupNorm if isinstance(layer, nn.GroupNorm) else _Product
            out: torch.Tensor = run.apply(x, anchor, layer, self)
            return out

        return forward

    def note(self, layer: nn.Module, x: torch.Tensor, g: torch.Tensor) -> None:
        """Take the input of one call of a convolution or a linear layer, and the gradient of its output."""
        notes = self._notes[layer]
        weight: Any = layer.weight
        if isinstance(layer, nn.Conv1d):
            alone = notes.calls == 1 and id(weight) not in self._shared
            if weight.requires_grad and not (alone and rules.has_products(layer, g.shape[-1])):
                self._add(weight, rules.conv1d_samples(layer, x, g))
            elif weight.requires_grad:
                self._count(rules.conv1d_norms(layer, x, g))
                notes.inputs, notes.gradients = [x], [g]
            if layer.bias is not None and layer.bias.requires_grad:
                self._add(layer.bias, g.sum(2))
            return
        # (B, C) or (B, ..., C), as a sequence in time.
        x, g = (part.reshape(len(part), -1, part.shape[-1]) for part in (x, g))
        notes.inputs.append(x)
        notes.gradients.append(g)

    def note_samples(self, layer: nn.GroupNorm, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Take each sample's gradient of a normalisation."""
        for p, samples in ((layer.weight, weight), (layer.bias, bias)):
            if p is not None and p.requires_grad:
                self._add(p, samples)

    def _add(self, p: Any, samples: torch.Tensor) -> None:
        self._samples[p] = self._samples[p] + samples if p in self._samples else samples

    def _count(self, squares: torch.Tensor) -> None:
        self._squares = self._squares + squares

    def _close(self) -> None:
        """Count what could not be counted before the whole pass was over."""
        for layer, notes in self._notes.items():
            if isinstance(layer, nn.Linear) and notes.inputs:
                x, g = notes.joined()
                notes.inputs, notes.gradients = [x], [g]
                if layer.bias is not None and layer.bias.requires_grad:
                    self._add(layer.bias, g.sum(1))
                if id(layer.weight) in self._shared and layer.weight.requires_grad:
                    self._add(layer.weight, rules.linear_samples(x, g))
                    notes.inputs = []
                elif layer.weight.requires_grad:
                    self._count(rules.linear_norms(x, g))
        for samples in self._samples.values():
            self._count(torch.linalg.vector_norm(samples.flatten(1), dim=1).double().square())

    def _sums(self, factor: torch.Tensor) -> dict[nn.Parameter, torch.Tensor]:
        """Weigh the samples by their factors and add them up, layer by layer, dropping what is done."""
        sums: dict[nn.Parameter, torch.Tensor] = {}
        kept = factor != 0
        clean = bool(kept.all())
        for p in list(self._samples):
            samples = self._samples.pop(p)
            weights, samples = _of(factor.to(samples.dtype), kept, clean), _of(samples, kept, clean)
            sums[p] = torch.tensordot(weights, samples, dims=1)
        for layer, notes in self._notes.items():
            if not notes.inputs:
                continue
            x, g = (_of(part, kept, clean) for part in (notes.inputs[0], notes.gradients[0]))
            # Not in place: layers on both sides of an addition noted the same gradient.
            g = g * _of(factor, kept, clean).to(g.dtype)[:, None, None]
            notes.inputs, notes.gradients = [], []
            weight: Any = layer.weight
            if isinstance(layer, nn.Conv1d):
                sums[weight] = rules.conv1d_sum(layer, x, g) if len(x) else torch.zeros_like(weight)
            elif weight.requires_grad:
                sums[weight] = g.flatten(0, 1).T @ x.flatten(0, 1)
        return sums


def _of(part: torch.Tensor, kept: torch.Tensor, clean: bool) -> torch.Tensor:
    """The samples that count: one that is not finite times 0 is not 0."""
    return part if clean else part[kept]


def _trained(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


class _Product(torch.autograd.Function):
    """A convolution or a linear layer whose backward pass notes, and makes no gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, anchor: torch.Tensor, layer: nn.Module, book: BookKeeping) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.book = layer, book
        out: torch.Tensor = type(layer).forward(layer, x)
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (x,), layer = ctx.saved_tensors, ctx.layer
        ctx.book.note(layer, x, g)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return rules.conv1d_input(layer, x, g) if isinstance(layer, nn.Conv1d) else g @ layer.weight, None, None, None


class _GroupNorm(torch.autograd.Function):
    """A group normalisation whose backward pass notes each sample's gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, anchor: torch.Tensor, layer: nn.GroupNorm, book: BookKeeping
    ) -> torch.Tensor:
        x = x.contiguous()
        batch, channels, places = len(x), layer.num_channels, x[0, 0].numel()
        out, mean, rstd = torch.native_group_norm(
            x, layer.weight, layer.bias, batch, channels, places, layer.num_groups, layer.eps
        )
        ctx.save_for_backward(x, mean, rstd)
        ctx.layer, ctx.book = layer, book
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        x, mean, rstd = ctx.saved_tensors
        dx, weight, bias = rules.group_norm_backward(ctx.layer, x, g, mean, rstd)
        ctx.book.note_samples(ctx.layer, weight, bias)
        return dx, None, None, None
