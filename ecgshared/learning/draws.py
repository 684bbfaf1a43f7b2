"""What a model draws, from a generator of its own, so that training is the same whatever else runs in the process."""

from __future__ import annotations

import torch
from torch import nn


class Drawing(nn.Module):
    """A module that draws. ``generator`` is set by the training loop; without one torch's global one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None


class Dropout(Drawing):
    """Set elements (or, with ``channels``, whole channels) to zero with probability ``p`` and scale the rest up."""

    def __init__(self, p: float, *, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = p, channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x, shape kept."""
        if not self.training or self.p == 0:
            return x
        shape = x.shape[:2] if self.channels else x.shape
        keep = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p, generator=self.generator)
        keep = keep.div_(1 - self.p)
        return x * (keep.unsqueeze(-1) if self.channels else keep)


class GaussianDraw(Drawing):
    """Draw from a diagonal Gaussian by its mean and log variance; the mean itself outside training."""

    def forward(self, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        """Return a draw of the mean's shape."""
        if not self.training:
            return mean
        noise = torch.empty_like(mean).normal_(generator=self.generator)
        return mean + noise * (0.5 * log_variance).exp()


def seed_draws(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let every :class:`Drawing` module draw from ``generator``, which must live on the model's device."""
    for module in model.modules():
        if isinstance(module, Drawing):
            module.generator = generator
