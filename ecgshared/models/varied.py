"""Random changes of a training beat that keep it one: of its size, its pace, and how the leads see it."""

from __future__ import annotations

import torch

from ecgshared.learning.draws import Drawing


class Varied(Drawing):
    """Beats as other hearts in other chests might have them: larger or smaller, slower or faster, turned.

    A few hundred people are not all there are, and what is learnt of their beats alone fits others' less.
    """

    SIZE, PACE, TURN, PLACE_S = 0.3, (0.12, 0.15), 0.1, 0.003
    """Size times 1 +/- this; SD of how far time is stretched before and after R; SD of what each of the eight leads
    gets of another, half as much from limb to chest; SD of where R lies."""

    def __init__(self, strength: float, samples: int, window_s: tuple[float, float]) -> None:
        super().__init__()
        self.strength = strength
        before, after = window_s
        self.rate = samples / (after - before)
        self.peak = -before * self.rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return eight leads (B, 8, W), each beat changed by draws of its own; as they are outside training."""
        if not self.training or self.strength == 0:
            return x
        by, samples = self.strength, x.shape[2]
        pace = 1 + by * x.new_tensor(self.PACE) * self._normal(x, len(x), 2)
        place = by * self.PLACE_S * self.rate * self._normal(x, len(x), 1)
        t = torch.arange(samples, device=x.device, dtype=x.dtype)[None] - self.peak
        source = (torch.where(t < 0, t * pace[:, :1], t * pace[:, 1:]) + self.peak + place).clamp(0, samples - 1.001)
        left = source.long()
        share = (source - left)[:, None]
        index = left[:, None].expand(-1, x.shape[1], -1)
        x = x.gather(2, index) * (1 - share) + x.gather(2, index + 1) * share
        mixed = by * self.TURN * self._normal(x, len(x), 8, 8)
        mixed[:, 2:, :2] *= 0.5
        mixed[:, :2, 2:] *= 0.5
        size = 1 + min(by * self.SIZE, 0.9) * (2 * self._uniform(x, len(x), 1, 1) - 1)
        return size * (x + mixed @ x)

    def _normal(self, like: torch.Tensor, *shape: int) -> torch.Tensor:
        return like.new_empty(shape).normal_(generator=self.generator)

    def _uniform(self, like: torch.Tensor, *shape: int) -> torch.Tensor:
        return like.new_empty(shape).uniform_(generator=self.generator)
