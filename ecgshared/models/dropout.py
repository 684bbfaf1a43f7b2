"""Dropout that draws from a generator of its own, so that training is the same whatever else runs in the process."""

from __future__ import annotations

import torch
from torch import nn


class Dropout(nn.Module):
    """Set elements (or, with ``channels``, whole channels) to zero with probability ``p`` and scale the rest up.

    ``generator`` is set by the training loop; without one torch's global generator is used.
    """

    def __init__(self, p: float, *, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x, shape kept."""
        if not self.training or self.p == 0:
            return x
        shape = x.shape[:2] if self.channels else x.shape
        keep = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p, generator=self.generator)
        keep = keep.div_(1 - self.p)
        return x * (keep.unsqueeze(-1) if self.channels else keep)


def seed_dropout(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let every :class:`Dropout` of ``model`` draw from ``generator``, which must live on the model's device."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = generator
