"""The net of :mod:`ecgshared.models.waves`: features without parameters, and a linear head that begins at nothing.

Features are scaled by round numbers of textbook ECGs, the same whoever trains, and bounded, so that no recording makes
a gradient that clipping would have to cut to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ecgshared.models.config import HeadSpec
from ecgshared.models.headed import FLOOR_RMS_MV, HeadedNet, draw_weights
from ecgshared.models.waves import WavesConfig

WINDOWS = 8
"""The recording is cut into so many parts, each with a beat or more; the median of their extremes is no artefact's."""

HIGHEST_MV = (0.6, 0.8, 0.4, 0.1, 0.4, 0.5, 0.3, 0.6, 0.8, 1.1, 1.1, 1.0)
LOWEST_MV = (-0.2, -0.2, -0.3, -0.7, -0.3, -0.2, -0.8, -1.1, -0.9, -0.6, -0.4, -0.3)
"""Usual extremes of I, II, III, aVR, aVL, aVF, V1 to V6 about the median."""
SPREAD_MV = 0.4
TYPICAL_RMS_MV = 0.2
SPREAD_LOG_RMS = 0.4
BOUND = 4.0
"""Standardised features are held within -/+ this."""


class Waves(HeadedNet):
    """The net; see :class:`~ecgshared.models.waves.WavesConfig`."""

    def __init__(self, config: WavesConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__(config, heads, samples)
        self._usual = torch.tensor([HIGHEST_MV, LOWEST_MV], dtype=torch.float64)
        self.add_readout(3 * 12, config.hidden)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 12, T) -> (B, 36): highest and lowest deflection, and log RMS, of each lead, standardised."""
        length = self.samples // WINDOWS
        parts = x[..., : length * WINDOWS].unflatten(-1, (WINDOWS, length))
        usual = self._usual.to(x.device, x.dtype)
        high = (parts.amax(-1).median(-1).values - usual[0]) / SPREAD_MV
        low = (parts.amin(-1).median(-1).values - usual[1]) / SPREAD_MV
        power = x.square().mean(-1).clamp_min(FLOOR_RMS_MV**2)
        size = (0.5 * power.log() - torch.log(power.new_tensor(TYPICAL_RMS_MV))) / SPREAD_LOG_RMS
        return torch.cat([high, low, size], 1).clamp(-BOUND, BOUND)


def build(
    config: WavesConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Waves:
    """Build the net; its last layer begins at zero, what is before it with weights from ``seed``."""
    model = Waves(config, heads, samples)
    draw_weights(model, seed)
    nn.init.zeros_(model.output.weight)
    nn.init.zeros_(model.output.bias)
    return model.to(torch.float32 if dtype is None else dtype)
