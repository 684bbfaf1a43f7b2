"""The net of :mod:`ecgshared.models.s4`.

A channel's state space is x' = A x + u, y = Re(C x) + D u with diagonal complex A. Over steps of length Delta, held
constant within one, its impulse response is K_l = 2 Re sum_n C_n (exp(Delta A_n) - 1) / A_n exp(Delta A_n l), and the
layer is the convolution with K, by an FFT of twice the length. A second kernel runs backwards in time.

Delta and A learn at a tenth of the rate of the rest and are not pulled to zero by weight decay: what is trained is
their departure from where they begin, on a tenth of the scale. All arithmetic is real, so that a step is float32 or
float64 throughout and its kernel can be written into an exported graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.learning.draws import Dropout
from ecgshared.models.config import HeadSpec
from ecgshared.models.headed import HeadedNet, draw_weights
from ecgshared.models.s4 import S4Config

SHORTEST, LONGEST = 1e-3, 1e-1
"""Delta begins between these, log-uniform over the channels."""

SLOW = 0.1


class DiagonalStateSpace(nn.Module):
    """One S4D layer in both directions.

    ``steps`` and ``poles`` are departures of log Delta, and of log -Re A and Im A / pi, from where they begin.
    """

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(width))
        self.poles = nn.Parameter(torch.zeros(2, width, state))
        self.mixing = nn.Parameter(torch.zeros(2, 2, width, state))  # direction; real and imaginary part of C
        self.skip = nn.Parameter(torch.zeros(width))
        # Where Delta begins is drawn with the weights and belongs to the net, but is never trained: a buffer would
        # travel, so that it is laid on a grid that the width alone fixes.
        share = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        self._log_step = math.log(SHORTEST) + share * math.log(LONGEST / SHORTEST)
        self._frequency = torch.arange(state, dtype=torch.float64)
        self.direct = False
        """Convolve without FFT, for an exported graph."""

    def draw(self, generator: torch.Generator) -> None:
        """Draw C and D."""
        with torch.no_grad():
            self.mixing.normal_(0.0, math.sqrt(0.5), generator=generator)
            self.skip.normal_(generator=generator)

    def kernels(self, length: int) -> torch.Tensor:
        """Return K of both directions, shape = (2, width, length)."""
        like = self.skip
        step = (self._log_step.to(like) + SLOW * self.steps).exp()[:, None]
        real = -0.5 * (SLOW * self.poles[0]).exp()
        imaginary = math.pi * (self._frequency.to(like) + SLOW * self.poles[1])
        decay, turn = (step * real)[..., None], (step * imaginary)[..., None]
        time = torch.arange(length, device=like.device).to(like)
        envelope = (decay * time).exp()
        waves = torch.stack([envelope * (turn * time).cos(), envelope * (turn * time).sin()])  # (2, W, N, L)
        # (exp(Delta A) - 1) / A, as a pair of real numbers.
        grown = decay.exp()[..., 0]
        above_real, above_imaginary = grown * turn.cos()[..., 0] - 1, grown * turn.sin()[..., 0]
        size = real.square() + imaginary.square()
        hold_real = (above_real * real + above_imaginary * imaginary) / size
        hold_imaginary = (above_imaginary * real - above_real * imaginary) / size
        c_real, c_imaginary = self.mixing[:, 0], self.mixing[:, 1]
        weight = torch.stack(
            [c_real * hold_real - c_imaginary * hold_imaginary, -(c_real * hold_imaginary + c_imaginary * hold_real)]
        )  # (part, direction, W, N)
        return 2 * torch.einsum("pdwn,pwnl->dwl", weight, waves)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """(B, W, L) -> (B, W, L)."""
        length = u.shape[-1]
        there, back = self.kernels(length).to(u.dtype).unbind(0)
        if self.direct:
            # A correlation: the kernel that runs back in time first, then, mirrored, the one that runs on.
            both = torch.cat([there.flip(-1)[:, :-1], (there[:, :1] + back[:, :1]), back[:, 1:]], 1)
            y = F.conv1d(u, both[:, None], padding=length - 1, groups=u.shape[1])
        else:
            # One circular kernel of twice the length holds both: the backward one from its end.
            circle = torch.cat([there, there.new_zeros(len(there), 1), back[:, 1:].flip(-1)], 1)
            circle = circle + F.pad(back[:, :1], (0, 2 * length - 1))
            spectrum = torch.fft.rfft(u.to(_exact(u)), n=2 * length) * torch.fft.rfft(circle.to(_exact(u)))
            y = torch.fft.irfft(spectrum, n=2 * length)[..., :length].to(u.dtype)
        return y + self.skip[:, None] * u


def _exact(x: torch.Tensor) -> torch.dtype:
    """What an FFT is computed in: there is none of bfloat16."""
    return torch.promote_types(x.dtype, torch.float32)


class Block(nn.Module):
    """Norm, state space, GELU, dropout, 1x1 convolution with a gate; plus the input."""

    def __init__(self, config: S4Config) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, config.width)
        self.space = DiagonalStateSpace(config.width, config.state)
        self.mix = nn.Conv1d(config.width, 2 * config.width, 1)
        self.dropout = Dropout(config.dropout, channels=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, W, L) -> (B, W, L)."""
        y = self.dropout(F.gelu(self.space(self.norm(x))))
        return x + F.glu(self.mix(y), 1)


class S4(HeadedNet):
    """The net; see :class:`~ecgshared.models.s4.S4Config` for its parts."""

    def __init__(self, config: S4Config, heads: Sequence[HeadSpec], samples: int) -> None:
        super().__init__(config, heads, samples)
        self.stem = nn.Conv1d(
            12, config.width, config.stem_kernel, stride=config.stem_stride, padding=config.stem_kernel // 2
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.GroupNorm(1, config.width)
        self.add_readout(config.width, config.hidden)

    def for_export(self) -> None:
        """Convolve without FFT: transforms of odd lengths are slow elsewhere, and in float32 inexact."""
        for module in self.modules():
            if isinstance(module, DiagonalStateSpace):
                module.direct = True

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 12, T) -> (B, W)."""
        y = self.stem(x)
        for block in self.blocks:
            y = block(y)
        features: torch.Tensor = self.norm(y).mean(-1)
        return features


def build(
    config: S4Config,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> S4:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`."""
    model = S4(config, heads, samples)
    generator = draw_weights(model, seed)
    for module in model.modules():
        if isinstance(module, DiagonalStateSpace):
            module.draw(generator)
    return model.to(torch.float32 if dtype is None else dtype)
