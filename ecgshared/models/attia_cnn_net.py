"""The net of :mod:`ecgshared.models.attia_cnn`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.errors import ModelError
from ecgshared.learning.draws import Dropout
from ecgshared.models.attia_cnn import AttiaCnnConfig
from ecgshared.models.config import HeadSpec
from ecgshared.models.headed import HeadedNet, draw_weights, too_short

FILTERS = (16, 16, 32, 32, 64, 64, 64, 64)
KERNELS = (7, 5, 5, 5, 5, 3, 3, 3)
ACROSS = 128
DENSE = 128


class AttiaCnn(HeadedNet):
    """The net; see :class:`~ecgshared.models.attia_cnn.AttiaCnnConfig` for its parts."""

    def __init__(self, config: AttiaCnnConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__(config, heads, samples)
        length = samples >> len(FILTERS)
        if length < 1:
            raise too_short(samples, f"at least {1 << len(FILTERS)} samples: a higher rate, or longer ECGs")
        self.over_time = nn.ModuleList(
            nn.Conv2d(before, after, (1, kernel), padding=(0, kernel // 2))
            for before, after, kernel in zip((1, *FILTERS), FILTERS, KERNELS, strict=False)
        )
        self.norms = nn.ModuleList(_norm(config, filters) for filters in FILTERS)
        self.across = nn.Conv2d(FILTERS[-1], ACROSS, (12, 1))
        self.across_norm = _norm(config, ACROSS)
        self.dense = nn.Linear(ACROSS * length, DENSE)
        self.dropout = Dropout(config.dropout)
        self.add_readout(DENSE, config.hidden)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 12, T) -> (B, 128)."""
        y = x[:, None]
        for conv, norm in zip(self.over_time, self.norms, strict=True):
            y = F.max_pool2d(F.relu(norm(conv(y))), (1, 2))  # (B, filters, 12, T / 2)
        y = F.relu(self.across_norm(self.across(y)))  # (B, 128, 1, T / 256)
        features: torch.Tensor = self.dropout(F.relu(self.dense(y.flatten(1))))
        return features


def _norm(config: AttiaCnnConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    if channels % config.groups:
        raise ModelError("groups must divide every layer's filters", value=config.groups, allowed="1, 2, 4, 8, 16")
    return nn.GroupNorm(config.groups, channels)


def build(
    config: AttiaCnnConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> AttiaCnn:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`."""
    model = AttiaCnn(config, heads, samples)
    draw_weights(model, seed)
    return model.to(torch.float32 if dtype is None else dtype)
