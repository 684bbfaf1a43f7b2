"""The net of :mod:`ecgshared.models.crnn`: blocks of convolutions, then a gated recurrent unit in both directions.

The GRU is torch's own kernel. In private training it is stepped through two linear layers a direction, whose gradients
can be told apart by patient; both give the same numbers from the same weights.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.learning.draws import Dropout
from ecgshared.models.config import HeadSpec
from ecgshared.models.crnn import CrnnConfig
from ecgshared.models.headed import HeadedNet, draw_weights, norm_of, too_short


class ConvBlock(nn.Module):
    """Convolution with stride 2, norm, ReLU, max-pooling by 2, dropout of whole channels."""

    def __init__(self, config: CrnnConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, config.kernel, stride=2, padding=config.kernel // 2)
        self.norm = norm_of(config.norm, channels_out, config.groups)
        self.dropout = Dropout(config.dropout, channels=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, C', about T / 4)."""
        y: torch.Tensor = self.dropout(F.max_pool1d(F.relu(self.norm(self.conv(x))), 2))
        return y


class Direction(nn.Module):
    """The weights of a GRU in one direction: of its input and of its state; gates in the order reset, update, new."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.input = nn.Linear(channels, 3 * units)
        self.state = nn.Linear(units, 3 * units)

    @property
    def weights(self) -> list[torch.Tensor]:
        """As torch's kernel wants them."""
        return [self.input.weight, self.state.weight, self.input.bias, self.state.bias]

    def stepped(self, x: torch.Tensor, *, backwards: bool) -> torch.Tensor:
        """(B, T, C) -> states (B, T, units), step by step (Cho et al. 2014, in torch's form)."""
        gates = self.input(x)
        # A leaf that takes part in the gradient, which nobody reads: Opacus' hooks warn where none does.
        h = x.new_zeros(len(x), self.units).requires_grad_(torch.is_grad_enabled())
        states: list[torch.Tensor] = []
        times = range(x.shape[1])
        for t in reversed(times) if backwards else times:
            reset_x, update_x, new_x = gates[:, t].chunk(3, 1)
            reset_h, update_h, new_h = self.state(h).chunk(3, 1)
            update = torch.sigmoid(update_x + update_h)
            new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            h = new + update * (h - new)
            states.append(h)
        return torch.stack(states[::-1] if backwards else states, 1)


class BiGru(nn.Module):
    """A gated recurrent unit in both directions."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.there, self.back = Direction(channels, units), Direction(channels, units)
        self.stepwise = False
        """Set by a private step, which must see the layers called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, 2 units)."""
        if self.stepwise or not len(x):
            return torch.cat([self.there.stepped(x, backwards=False), self.back.stepped(x, backwards=True)], 2)
        h = x.new_zeros(2, len(x), self.units)
        weights = [*self.there.weights, *self.back.weights]
        with warnings.catch_warnings():
            # A card's kernel says that it copies the weights to one place at every call: some 20 kB.
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
            states: torch.Tensor = torch._VF.gru(x, h, weights, True, 1, 0.0, self.training, True, True)[0]
        return states


class Crnn(HeadedNet):
    """The net; see :class:`~ecgshared.models.crnn.CrnnConfig` for its parts."""

    def __init__(self, config: CrnnConfig, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__(config, heads, samples)
        widths = (12, *config.widths)
        self.blocks = nn.ModuleList(ConvBlock(config, before, after) for before, after in itertools.pairwise(widths))
        length = samples
        for _ in config.widths:
            length = ((length + 2 * (config.kernel // 2) - config.kernel) // 2 + 1) // 2
        if length < 1:
            raise too_short(samples, "fewer widths, or longer ECGs")
        self.gru = BiGru(config.widths[-1], config.units)
        self.dropout = Dropout(config.dropout)
        self.add_readout(2 * config.units, config.hidden)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 12, T) -> (B, 2 units)."""
        for block in self.blocks:
            x = block(x)
        features: torch.Tensor = self.dropout(self.gru(x.transpose(1, 2)).mean(1))
        return features


def build(
    config: CrnnConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Crnn:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`."""
    model = Crnn(config, heads, samples)
    generator = draw_weights(model, seed)
    bound = 1 / math.sqrt(config.units)
    with torch.no_grad():
        for parameter in model.gru.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return model.to(torch.float32 if dtype is None else dtype)
