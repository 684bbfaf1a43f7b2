"""What nets with heads share: from features of the signal, what stands beside it, and lead sizes to logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.errors import ModelError
from ecgshared.models.config import HeadedConfig, HeadSpec, Norm
from ecgshared.models.heads import MonotoneHeads

TYPICAL_RMS_MV = 0.2
FLOOR_RMS_MV = 0.005
"""Below this a lead is flat; its logarithm is kept finite."""


class HeadedNet(nn.Module, ABC):
    """A net over (B, 12, T), mV, with one output a head; a subclass gives ``features`` and calls ``add_readout``."""

    def __init__(self, config: HeadedConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__()
        self.heads, self.samples = tuple(heads), samples
        self._beside, self._lead_scale = len(config.covariates), config.lead_scale
        self.monotone = MonotoneHeads(heads, learned=config.learned_heads)

    def add_readout(self, features: int, hidden: int) -> None:
        """Make the layers behind ``features`` numbers: one hidden layer, or none where it has 0 units, and outputs."""
        features += self._beside + (12 if self._lead_scale else 0)
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.output = nn.Linear(hidden or features, len(self.heads))

    @abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the net makes of ECGs (B, 12, T): (B, W)."""

    def forward(self, x: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """Return logits (B, H) of ECGs x (B, 12, T), mV, and standardised covariates (B, C), NaN where missing.

        A missing covariate counts as 0, the mean of a standardised one.
        """
        if x.shape[1:] != (12, self.samples) or covariates.shape[1:] != (self._beside,):
            raise ModelError(
                "the input does not fit the model",
                value=f"ECG {tuple(x.shape)}, covariates {tuple(covariates.shape)}",
                allowed=f"(B, 12, {self.samples}) and (B, {self._beside})",
            )
        logits: torch.Tensor = self.monotone(self.output(self.represent(x, covariates)))
        return logits

    def for_export(self) -> None:
        """Compute from now on in the way that other runtimes do well; the numbers are the same."""

    def represent(self, x: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """Return what the last layer sees, shape (B, W): features, lead sizes, covariates, behind the hidden layer."""
        parts = [self.features(x)]
        if self._lead_scale:
            power = x.square().mean(-1).clamp_min(FLOOR_RMS_MV**2)
            parts.append(0.5 * power.log() - math.log(TYPICAL_RMS_MV))
        parts.append(torch.nan_to_num(covariates, nan=0.0))
        z = torch.cat([part.to(parts[0].dtype) for part in parts], 1)
        return z if self.hidden is None else F.relu(self.hidden(z))


def too_short(samples: int, remedy: str) -> ModelError:
    """Return the error of a net whose strides leave nothing of so few samples."""
    return ModelError("the input is too short for this model", value=f"{samples} samples", remedy=remedy)


def norm_of(kind: Norm, channels: int, groups: int) -> nn.Module:
    """Return a normalisation of (B, channels, ...): GroupNorm keeps no running statistics, which averaging handles
    worst."""
    if kind == "group":
        return nn.GroupNorm(groups, channels)
    return nn.BatchNorm1d(channels)


def draw_weights(model: nn.Module, seed: int) -> torch.Generator:
    """Draw the weights of convolutions and linear layers from ``seed`` alone, by torch's own defaults.

    Its constructors use the global generator. Return the generator, for what else a net begins with.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
    return generator
