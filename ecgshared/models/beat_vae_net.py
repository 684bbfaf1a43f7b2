"""A variational autoencoder of single beats: a net on spline coefficients, and the published one, behind one interface.

No layer mixes items and none is normalised: what a beat weighs in millivolts is part of what is learned. All weights
are those of linear maps and convolutions, of which one patient's gradient can be told.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.ecg.dipole import INDEPENDENT, LIMB
from ecgshared.ecg.windows import BEAT_S
from ecgshared.errors import ModelError
from ecgshared.learning.draws import GaussianDraw
from ecgshared.models.beat_vae import BeatVaeConfig
from ecgshared.models.config import HeadSpec
from ecgshared.models.leads import time_basis, usual_directions
from ecgshared.models.varied import Varied

FINER, FINEST, MANY = 1.5, 3.0, 128
"""Knots against those of the median beat's basis: in a net of at most so MANY latents, and of more."""
UNIT = 3.0
"""From millivolts of a direction to a latent of about unit size."""
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -16.0, 4.0


class BeatVae(nn.Module, ABC):
    """What both nets share: the objective and the figures. A subclass gives ``encode`` and ``_decode``."""

    def __init__(self, config: BeatVaeConfig, samples: int) -> None:
        super().__init__()
        self.config, self.samples = config, samples
        self.kl_weight = config.kl_weight
        self.draw = GaussianDraw()
        # In a tuple: what is registered as a module would be trained, and travel.
        self._judge: tuple[nn.Module, int] | None = None

    def begin_round(self, number: int, rounds: int) -> None:
        """Set the weight of the KL term for global round ``number`` (1-based) of ``rounds``."""
        rising = self.config.kl_warmup * rounds
        self.kl_weight = self.config.kl_weight * (min(1.0, number / rising) if rising else 1.0)

    def take_judge(self, net: nn.Module, head: int) -> None:
        """Take the frozen net, and the number of its head, whose risk a reconstruction should keep."""
        self._judge = (net.eval().requires_grad_(False), head)

    @abstractmethod
    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance of the latent, shape = (B, latent) each, of beats (B, 12, W)."""

    @abstractmethod
    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        """Return beats (B, 12, W), mV, of latents (B, latent)."""

    def decode(self, z: torch.Tensor, conditions: torch.Tensor | None = None) -> torch.Tensor:
        """Return beats (B, 12, W), mV, of latents (B, latent); it has no conditions."""
        return self._decode(z)

    def forward(self, x: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """Return the posterior means, shape = (B, latent), of beats x (B, 12, W), mV; covariates are (B, 0)."""
        return self.encode(self._checked(x))[0]

    def judged(self, x: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """Return the figures of ``config.figures``: the mean absolute error of each reconstruction, uV, (B, 1)."""
        return 1000 * (self._decode(self(x, covariates)) - x).abs().mean((1, 2))[:, None]

    def item_losses(self, x: torch.Tensor, covariates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the objective of each beat, shape = (B,); labels are not read."""
        x = self._given(self._checked(x))
        mean, log_variance = self.encode(x)
        again = self._decode(self.draw(mean, log_variance))
        error = self._missed(again - x).sum(2).mean(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return error + self.kl_weight * kl + self._risk_change(x, again)

    def _given(self, x: torch.Tensor) -> torch.Tensor:
        """Return the beats that are learnt from: those of ``x``, or what they might be in others."""
        return x

    def _missed(self, error: torch.Tensor) -> torch.Tensor:
        """Return half the square of small errors; past ``robust_mv`` it grows as the error itself (pseudo-Huber)."""
        bend = self.config.robust_mv
        if bend == 0:
            return 0.5 * error.square()
        return error.square() / (1 + (1 + (error / bend).square()).sqrt())

    def _risk_change(self, x: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
        if self._judge is None or not self.config.consistency:
            return x.new_zeros(len(x))
        net, head = self._judge
        none = x.new_zeros((len(x), 0))
        with torch.no_grad():
            wanted = torch.sigmoid(net(x, none)[:, head])
        found = torch.sigmoid(net(again, none)[:, head])
        return self.config.consistency * (wanted - found).square()

    def start(self) -> None:
        """Set what the initial weights do not draw."""

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1:] != (12, self.samples):
            raise ModelError("the beats do not fit the model", value=tuple(x.shape), allowed=f"(B, 12, {self.samples})")
        return x


class SplineBeatVae(BeatVae):
    """The default net: on spline coefficients of the eight leads, a straight way in and out, and a perceptron beside.

    The straight way is what principal components would be, and begins where a beat's dipole would be seen slow before
    fast; the perceptrons add what is not linear. The dependent limb leads have levels of their own: preprocessing
    sets each lead to its own median, which is no sum of others.
    """

    def __init__(self, config: BeatVaeConfig, samples: int) -> None:
        super().__init__(config, samples)
        basis = time_basis(samples, BEAT_S, FINER if config.latent <= MANY else FINEST)
        self._basis = torch.from_numpy(basis)
        self._limb = torch.from_numpy(LIMB)
        hidden, latent = config.hidden, config.latent
        self.functions = basis.shape[1]
        self.vary = Varied(config.varied, samples, BEAT_S)
        numbers = 8 * self.functions + 4
        self.shortcut = nn.Linear(numbers, latent)
        self.into = nn.ModuleList([nn.Linear(numbers, hidden), nn.Linear(hidden, hidden)])
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.straight = nn.Linear(latent, numbers)
        self.out_of = nn.ModuleList([nn.Linear(latent, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, numbers)])

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`BeatVae.encode`."""
        eight = x[:, list(INDEPENDENT)]
        levels = (x[:, 2:6] - self._dependent(eight)).mean(2)
        coefficients = (eight @ self._basis.to(x.device, x.dtype)).flatten(1)
        given = torch.cat([coefficients, levels * math.sqrt(self.samples)], 1)
        y = given
        for layer in self.into:
            y = F.silu(layer(y))
        mean, log_variance = self.posterior(y).chunk(2, 1)
        return mean + self.shortcut(given), log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        y = z
        for layer in self.out_of[:-1]:
            y = F.silu(layer(y))
        made, levels = (self.straight(z) + self.out_of[-1](y)).split([8 * self.functions, 4], 1)
        eight = made.view(len(z), 8, self.functions) @ self._basis.to(z.device, z.dtype).T
        return self._twelve(eight, levels / math.sqrt(self.samples))

    def _given(self, x: torch.Tensor) -> torch.Tensor:
        eight = x[:, list(INDEPENDENT)]
        return self._twelve(self.vary(eight), (x[:, 2:6] - self._dependent(eight)).mean(2))

    def _twelve(self, eight: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return torch.cat([eight[:, :2], self._dependent(eight) + levels[:, :, None], eight[:, 2:]], 1)

    def _dependent(self, eight: torch.Tensor) -> torch.Tensor:
        """Return III, aVR, aVL, aVF by Einthoven and Goldberger, (B, 8, W) -> (B, 4, W)."""
        return torch.einsum("lk,bkt->blt", self._limb[2:].to(eight.device, eight.dtype), eight[:, :2])

    def start(self) -> None:
        """Begin as a projection on the directions a beat has most of, with little noise and little beside it."""
        directions = torch.from_numpy(usual_directions(self.functions, self.config.latent)).float()
        count, width = directions.shape
        with torch.no_grad():
            for parameter in (*self.shortcut.parameters(), *self.straight.parameters()):
                parameter.mul_(0.01)
            self.shortcut.weight[:count, :width] += UNIT * directions
            self.straight.weight[:width, :count] += directions.T / UNIT
            for layer in (self.posterior, self.out_of[-1]):
                for parameter in layer.parameters():
                    parameter.mul_(0.1)
            self.posterior.bias[self.config.latent :] = -3


class PublishedBeatVae(BeatVae):
    """The published net: twice convolution (12 channels, kernel 10), ReLU, average pooling; four layers of 100 out."""

    CHANNELS, WIDTH, UNITS = 12, 10, 100

    def __init__(self, config: BeatVaeConfig, samples: int) -> None:
        super().__init__(config, samples)
        length = samples
        for _ in range(2):
            length = (length - self.WIDTH + 1) // 2
        if length < 1:
            raise ModelError("the published net needs longer beats", value=samples, allowed="31 samples or more")
        self.down = nn.ModuleList(nn.Conv1d(12, self.CHANNELS, self.WIDTH) for _ in range(2))
        self.to_hidden = nn.Linear(self.CHANNELS * length, 128)
        self.posterior = nn.Linear(128, 2 * config.latent)
        widths = (config.latent, *[self.UNITS] * 4)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(self.UNITS, 12 * samples)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`BeatVae.encode`; the variance is a softplus."""
        y = x
        for conv in self.down:
            y = F.avg_pool1d(F.relu(conv(y)), 2)
        mean, raw = self.posterior(F.relu(self.to_hidden(y.flatten(1)))).chunk(2, 1)
        return mean, F.softplus(raw).clamp_min(1e-7).log()

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        y = z
        for layer in self.layers:
            y = F.relu(layer(y))
        out: torch.Tensor = self.out(y).view(len(z), 12, self.samples)
        return out


def build(
    config: BeatVaeConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> BeatVae:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`. It has no heads."""
    if heads:
        raise ModelError("a beat_vae has no heads", value=[head.name for head in heads], remedy="leave heads out")
    model: BeatVae = (PublishedBeatVae if config.paper_faithful else SplineBeatVae)(config, samples)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
    model.start()
    return model.to(torch.float32 if dtype is None else dtype)
