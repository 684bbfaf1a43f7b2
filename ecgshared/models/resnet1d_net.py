"""Pre-activation 1-D ResNet of constant width over the twelve leads.

Architecture after the sudden-death risk net of Nature 2026 (doi 10.1038/s41586-026-10674-6); the presets reproduce
its parameter counts exactly. ``small`` puts the same blocks behind a strided stem and averages over time.

No in-place operation and zero padding only: per-sample gradients depend on both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.errors import ModelError
from ecgshared.learning.draws import Dropout
from ecgshared.models.config import HeadSpec
from ecgshared.models.heads import MonotoneHeads
from ecgshared.models.resnet1d import ResidualConfig

TYPICAL_RMS_MV = 0.2
FLOOR_RMS_MV = 0.005
"""Below this a lead is flat; its logarithm is kept finite."""


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


class Resnet1d(nn.Module):
    """The net; see :class:`~ecgshared.models.resnet1d.ResidualConfig` for its parts."""

    def __init__(self, config: ResidualConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__()
        self.config, self.heads, self.samples = config, tuple(heads), samples
        self.monotone = MonotoneHeads(heads, learned=config.paper_faithful)
        self.stem = SameConv(12, config.width, config.kernel, config.stem_stride)
        self.stem_norm = make_norm(config)
        self.first = FirstBlock(config)
        self.blocks = nn.ModuleList(Block(config, halves=i % config.every == 0) for i in range(config.blocks))
        self.norm = make_norm(config)
        features = self._features() + len(config.covariates) + (12 if config.lead_scale else 0)
        self.hidden = nn.Linear(features, config.hidden) if config.hidden else None
        self.output = nn.Linear(config.hidden or features, len(heads))

    def _features(self) -> int:
        config = self.config
        length = -(-self.samples // config.stem_stride) // 2
        length >>= len([i for i in range(config.blocks) if i % config.every == 0])
        if length < 1:
            raise ModelError(
                "the input is too short for this model",
                value=f"{self.samples} samples",
                remedy="fewer blocks, a larger `every`, a smaller `stem_stride`, or longer ECGs",
            )
        return config.width if config.pool == "mean" else config.width * length

    def forward(self, x: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """Return logits (B, H) of ECGs x (B, 12, T), mV, and standardised covariates (B, C), NaN where missing.

        A missing covariate counts as 0, the mean of a standardised one.
        """
        if x.shape[1:] != (12, self.samples) or covariates.shape[1:] != (len(self.config.covariates),):
            raise ModelError(
                "the input does not fit the model",
                value=f"ECG {tuple(x.shape)}, covariates {tuple(covariates.shape)}",
                allowed=f"(B, 12, {self.samples}) and (B, {len(self.config.covariates)})",
            )
        y = F.relu(self.stem_norm(self.stem(x)))  # (B, W, T / stride)
        y = self.first(y)
        for block in self.blocks:
            y = block(y)
        y = F.relu(self.norm(y))
        parts = [y.mean(-1) if self.config.pool == "mean" else y.flatten(1)]  # (B, W) or (B, W T')
        if self.config.lead_scale:
            power = x.square().mean(-1).clamp_min(FLOOR_RMS_MV**2)
            parts.append(0.5 * power.log() - math.log(TYPICAL_RMS_MV))
        parts.append(torch.nan_to_num(covariates, nan=0.0))
        z = torch.cat([part.to(parts[0].dtype) for part in parts], 1)
        if self.hidden is not None:
            z = F.relu(self.hidden(z))
        logits: torch.Tensor = self.monotone(self.output(z))
        return logits


def make_norm(config: ResidualConfig) -> nn.Module:
    """Return the normalisation of ``config``: GroupNorm keeps no running statistics, which averaging handles worst."""
    if config.norm == "group":
        return nn.GroupNorm(config.groups, config.width)
    return nn.BatchNorm1d(config.width)


def build(
    config: ResidualConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Resnet1d:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`."""
    model = Resnet1d(config, heads, samples)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Linear) and module.bias is not None:
            # torch's own defaults, drawn again from our generator: its constructors use the global one.
            bound = 1 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
    return model.to(torch.float32 if dtype is None else dtype)
