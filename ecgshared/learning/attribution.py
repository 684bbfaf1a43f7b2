"""Which samples of an ECG a net's output hangs on: gradient times input, and integrated gradients.

Gradient times input is the first-order share of each sample in the output (Shrikumar et al. 2016, arXiv:1605.01713).
Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) average the gradient along the straight way from a
flat ECG to this one: the shares of all samples add up to the output less that of the flat ECG.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ecgshared.learning.attribution_methods import Method


def attribution(
    output: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, method: Method, steps: int = 32
) -> torch.Tensor:
    """Return each sample's share in the output of its ECG, shape as ``x``.

    Parameters
    ----------
    output : from ECGs (B, 12, T) to one number each, (B,).
    x : shape = (B, 12, T). steps : points along the way (Gauss-Legendre), of integrated gradients.
    """
    if method == "gradient_x_input":
        return _gradient(output, x) * x
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += float(weight) * _gradient(output, x * float(node))
    return total * x


def _gradient(output: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    point = x.detach().clone().requires_grad_(True)
    (found,) = torch.autograd.grad(output(point).sum(), point)
    return found.detach()
