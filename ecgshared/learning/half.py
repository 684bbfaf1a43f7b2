"""Convolutions over time in bfloat16, all else as it was: what :class:`~ecgshared.learning.loop.PlainStep` calls bf16.

Only what enters a product is rounded (8 bits of mantissa); products are summed in float32, and what comes out is
float32: norms, residual sums, losses and weights never lose a digit, as they do under autocast, which rounds the
residual stream block after block. A fresh net of 64 layers amplifies even this: its gradient on two ECGs is off by 0.30
of its length (autocast: 0.38). ``tests/benchmarks/test_paper64.py`` holds the learning curve against float32's.

On CPUs oneDNN's gradient of the weights is the dearest of a convolution's three parts. Here it is one matrix product
over the shifted signals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_COLUMNS = 1 << 13
"""Samples that a product for the gradient of the weights spans at least: shorter ones do not fill a core."""


class HalfConvolutions(TorchFunctionMode):
    """While entered, 1-D convolutions of float32 are computed by :class:`HalfConv1d`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a convolution in bfloat16, anything else as it is."""
        if func is torch.conv1d and args[0].dtype == torch.float32:
            return _conv1d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    (step,), (left,), (apart,) = ((v,) if isinstance(v, int) else tuple(v) for v in (stride, padding, dilation))
    y: torch.Tensor = HalfConv1d.apply(x, weight, step, left, apart, groups)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias[:, None]


class HalfConv1d(torch.autograd.Function):
    """A 1-D convolution without bias whose operands are rounded to bfloat16, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, dilation: int, groups: int
    ) -> torch.Tensor:
        """(B, C, T), (C', C, K) -> (B, C', T')."""
        half, narrow = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(half, narrow)
        ctx.how = (stride, padding, dilation, groups)
        return F.conv1d(half, narrow, None, stride, padding, dilation, groups).float()

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of signal and weights."""
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        of_x, of_weight = ctx.needs_input_grad[:2]
        half = grad[0].bfloat16()
        by_product = of_weight and x.device.type == "cpu" and (stride, dilation, groups) == (1, 1, 1)
        signal, weights, _ = torch.ops.aten.convolution_backward(
            half, x, weight, None, [stride], [padding], [dilation], False, [0], groups,
            [of_x, of_weight and not by_product, False],
        )  # fmt: skip
        if by_product:
            weights = weight_gradient(F.pad(x, (padding, padding)), half, weight.shape[-1])
        floats = (None if g is None else g.float() for g in (signal, weights))
        return (*floats, None, None, None, None)


def weight_gradient(x: torch.Tensor, grad: torch.Tensor, kernel: int) -> torch.Tensor:
    """Return sum over b, t of grad[b, o, t] x[b, c, t + k], shape = (O, C, K), float32.

    Parameters
    ----------
    x : shape = (B, C, T + K - 1), padded. grad : shape = (B, O, T).
    """
    batch, channels, _ = x.shape
    out_channels, length = grad.shape[1:]
    total = torch.zeros(out_channels, channels * kernel)
    together = max(1, _COLUMNS // max(length, 1))
    for start in range(0, batch, together):
        some = slice(start, start + together)
        shifted = x[some].unfold(2, kernel, 1).permute(1, 3, 0, 2).reshape(channels * kernel, -1)
        total += (grad[some].transpose(0, 1).reshape(out_channels, -1) @ shifted.T).float()
    return total.view(out_channels, channels, kernel)
