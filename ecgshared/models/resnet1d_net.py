"""Pre-activation 1-D ResNet of constant width over the twelve leads.

Architecture after the sudden-death risk net of Nature 2026 (doi 10.1038/s41586-026-10674-6); the presets reproduce
its parameter counts exactly. ``small`` puts the same blocks behind a strided stem and averages over time.

No in-place operation and zero padding only: per-sample gradients depend on both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.learning.draws import Dropout
from ecgshared.models.config import HeadSpec
from ecgshared.models.headed import HeadedNet, draw_weights, norm_of, too_short
from ecgshared.models.resnet1d import ResidualConfig


class SameConv(nn.Module):
    """A convolution that keeps the length (divided by its stride); an even kernel pads one more on the right."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        left, right = (kernel - 1) // 2, kernel // 2
        # A symmetric pad goes into the convolution itself, which saves a copy of the input.
        self.pad = (left, right) if left != right else (0, 0)
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride=stride, padding=0 if left != right else left)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, C', T / stride)."""
        y: torch.Tensor = self.conv(F.pad(x, self.pad) if any(self.pad) else x)
        return y


def halve(x: torch.Tensor) -> torch.Tensor:
    """Keep every second sample, floor(T / 2) of them, as many as max-pooling by 2 leaves."""
    return x[..., : x.shape[-1] // 2 * 2 : 2]


class FirstBlock(nn.Module):
    """Convolution, norm, ReLU, channel dropout, convolution on every second sample, plus the max-pooled input."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.conv1 = SameConv(config.width, config.width, config.kernel)
        self.norm = make_norm(config)
        self.dropout = Dropout(config.dropout, channels=True)
        self.conv2 = SameConv(config.width, config.width, config.kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, W, T) -> (B, W, T // 2)."""
        y = self.dropout(F.relu(self.norm(self.conv1(halve(x)))))
        out: torch.Tensor = self.conv2(y) + F.max_pool1d(x, 2)
        return out


class Block(nn.Module):
    """Twice norm, ReLU, dropout, convolution; once more norm, ReLU, dropout; plus identity (max-pooled if halving)."""

    def __init__(self, config: ResidualConfig, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.norms = nn.ModuleList(make_norm(config) for _ in range(3))
        self.convs = nn.ModuleList(SameConv(config.width, config.width, config.kernel) for _ in range(2))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, W, T) -> (B, W, T) or (B, W, T // 2)."""
        y = halve(x) if self.halves else x
        for norm, conv in zip(self.norms, self.convs, strict=False):
            y = conv(self.dropout(F.relu(norm(y))))
        y = self.dropout(F.relu(self.norms[2](y)))
        out: torch.Tensor = y + (F.max_pool1d(x, 2) if self.halves else x)
        return out


class Resnet1d(HeadedNet):
    """The net; see :class:`~ecgshared.models.resnet1d.ResidualConfig` for its parts."""

    def __init__(self, config: ResidualConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__(config, heads, samples)
        self.config = config
        self.stem = SameConv(12, config.width, config.kernel, config.stem_stride)
        self.stem_norm = make_norm(config)
        self.first = FirstBlock(config)
        self.blocks = nn.ModuleList(Block(config, halves=i % config.every == 0) for i in range(config.blocks))
        self.norm = make_norm(config)
        self.add_readout(self._features(), config.hidden)

    def _features(self) -> int:
        config = self.config
        length = -(-self.samples // config.stem_stride) // 2
        length >>= len([i for i in range(config.blocks) if i % config.every == 0])
        if length < 1:
            raise too_short(self.samples, "fewer blocks, a larger `every`, a smaller `stem_stride`, or longer ECGs")
        return config.width if config.pool == "mean" else config.width * length

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 12, T) -> (B, W), or (B, W T') without pooling over time."""
        y = F.relu(self.stem_norm(self.stem(x)))  # (B, W, T / stride)
        y = self.first(y)
        for block in self.blocks:
            y = block(y)
        y = F.relu(self.norm(y))
        return y.mean(-1) if self.config.pool == "mean" else y.flatten(1)


def make_norm(config: ResidualConfig) -> nn.Module:
    """Return the normalisation of ``config``."""
    return norm_of(config.norm, config.width, config.groups)


def build(
    config: ResidualConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Resnet1d:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`."""
    model = Resnet1d(config, heads, samples)
    draw_weights(model, seed)
    return model.to(torch.float32 if dtype is None else dtype)
