"""The net of :mod:`ecgshared.models.waves`: features without parameters, and a linear head that begins at nothing.

Features are scaled by round numbers and whitened by the second moments of made hearts (``ecgshared/waves.json``, made
by ``simulations/judging/wave_scales.py``): the same whoever trains, and nobody's data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import nn

from ecgshared.models.config import HeadSpec
from ecgshared.models.headed import HeadedNet, draw_weights
from ecgshared.models.waves import WavesConfig
from ecgshared.models.waves_features import wave_sizes

BOUND = 3.0
"""Whitened features are held within -/+ this."""


@cache
def made_scales() -> dict[str, Any]:
    """Return mean, shape = (36,), and whitening, shape = (36, 36), of the wave sizes of made hearts."""
    return dict(json.loads((files("ecgshared") / "waves.json").read_text(encoding="utf-8")))


class Waves(HeadedNet):
    """The net; see :class:`~ecgshared.models.waves.WavesConfig`."""

    def __init__(self, config: WavesConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__(config, heads, samples)
        scales = made_scales()
        self._mean = torch.tensor(scales["mean"], dtype=torch.float64)
        self._whitening = torch.tensor(scales["whitening"], dtype=torch.float64)
        self.add_readout(len(self._mean), config.hidden)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 12, T) -> (B, 36), whitened and bounded."""
        mean, whitening = (part.to(x.device, x.dtype) for part in (self._mean, self._whitening))
        return ((wave_sizes(x) - mean) @ whitening).clamp(-BOUND, BOUND)


def build(
    config: WavesConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Waves:
    """Build the net; its outputs begin at the usual rate (a number's at 0), a hidden layer with weights of ``seed``."""
    model = Waves(config, heads, samples)
    draw_weights(model, seed)
    nn.init.zeros_(model.output.weight)
    usual = math.log(config.usual_rate / (1 - config.usual_rate))
    with torch.no_grad():
        model.output.bias.copy_(torch.tensor([0.0 if head.continuous else usual for head in heads]))
    return model.to(torch.float32 if dtype is None else dtype)
