"""A conditional variational autoencoder of median beats (Sang et al. 2025, doi 10.3389/fdgth.2025.1558589).

Two nets behind one interface. The published one convolves over time, then over leads. The default is shaped like
the physics of the ECG: a few source waves of a latent in a fixed basis of time, mixed to the eight independent leads
by a matrix of the conditions, as a lead field mixes the heart's dipole. The other four leads follow by Einthoven and
Goldberger.

Conditions are standardised; a missing one is 0 with a mask beside it. No layer mixes items (GroupNorm where the
published net is trained privately), and no constant stands among the weights that travel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.ecg.dipole import INDEPENDENT, LIMB
from ecgshared.errors import ModelError
from ecgshared.learning.cox_loss import cox_items, published_cox_items
from ecgshared.learning.draws import Dropout, GaussianDraw
from ecgshared.models.config import BEAT_WINDOW_S, HeadSpec
from ecgshared.models.cvae import CvaeConfig
from ecgshared.models.leads import time_basis, usual_directions
from ecgshared.models.varied import Varied

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -12.0, 4.0
EMBEDDING = 64
UNIT = 3.0
"""From a coefficient of a direction to a latent, where the net begins as a projection."""


class Cvae(nn.Module, ABC):
    """What both nets share: the objective, the figures, masks.

    A subclass gives ``encode`` and ``decode``.
    """

    def __init__(self, config: CvaeConfig, samples: int) -> None:
        super().__init__()
        self.config, self.samples = config, samples
        self.kl_weight = config.kl_weight
        self.draw = GaussianDraw()
        self.drop = Dropout(config.condition_dropout, channels=True)
        self._limb = torch.from_numpy(LIMB)
        self.hazard: nn.Linear | None = None
        if config.survival is not None:
            # A constant added to every log hazard changes nothing; through a sigmoid it does.
            self.hazard = nn.Linear(config.latent, 1, bias=config.survival.paper_faithful)

    @property
    def inputs(self) -> int:
        """Numbers that :meth:`masked` gives: values and their masks."""
        return 2 * len(self.config.conditions)

    def begin_round(self, number: int, rounds: int) -> None:
        """Set the weight of the KL term for global round ``number`` (1-based) of ``rounds``."""
        rising = self.config.kl_warmup * rounds
        self.kl_weight = self.config.kl_weight * (min(1.0, number / rising) if rising else 1.0)

    def masked(self, conditions: torch.Tensor) -> torch.Tensor:
        """Return values (0 where missing) and masks (1 where known), shape = (B, 2 C), of conditions (B, C)."""
        if conditions.shape[1:] != (len(self.config.conditions),):
            raise ModelError(
                "the conditions do not fit the model",
                value=tuple(conditions.shape),
                allowed=f"(B, {len(self.config.conditions)})",
            )
        known = (~torch.isnan(conditions)).to(conditions.dtype)
        both = torch.stack([torch.nan_to_num(conditions, nan=0.0), known], 2)
        if self.training and self.config.condition_dropout:
            kept = (self.drop(torch.ones_like(both[:, :1])) > 0).to(both.dtype)
            both = both * kept
        return both.flatten(1)

    @abstractmethod
    def encode(self, x: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance of the latent, shape = (B, latent) each, of beats (B, 12, T) and masks."""

    def decode(self, z: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Return beats (B, 12, T), mV, of latents (B, latent) and standardised conditions (B, C)."""
        return self._decode(z, self.masked(conditions))

    @abstractmethod
    def _decode(self, z: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return beats (B, 12, T), mV, of latents (B, latent) and masked conditions (B, 2 C)."""

    def forward(self, x: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Return the posterior means, shape = (B, latent), of beats x (B, 12, T), mV, and conditions (B, C)."""
        return self.encode(self._checked(x), self.masked(conditions))[0]

    def judged(self, x: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        """Return the figures of ``config.figures``: the mean absolute error of each reconstruction over leads and
        samples, uV, shape = (B, 1)."""
        again = self.decode(self(x, conditions), conditions)
        return 1000 * (again - x).abs().mean((1, 2))[:, None]

    def item_losses(self, x: torch.Tensor, conditions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the objective of each beat, shape = (B,): the negative evidence bound up to a constant and scale.

        With a Cox head its share is added: ``labels`` (B, 2) then hold years and 1 or 0 for an event, NaN where not
        known. Without one they are not read.
        """
        losses, mean, drawn = self.bound(self._checked(x), self.masked(conditions))
        head = self.config.survival
        if head is None or self.hazard is None:
            return losses
        if head.paper_faithful:
            hazards = published_cox_items(torch.sigmoid(self.hazard(drawn))[:, 0], labels[:, 0], labels[:, 1])
        else:
            hazards = cox_items(self.hazard(mean)[:, 0], labels[:, 0], labels[:, 1])
        return losses + head.weight * hazards

    @abstractmethod
    def bound(self, x: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the objective (B,), and the latent's mean and the one drawn (B, latent)."""

    def start(self) -> None:
        """Set what the initial weights do not draw."""

    def twelve(self, eight: torch.Tensor) -> torch.Tensor:
        """Return the twelve leads, (B, 8, ...) -> (B, 12, ...)."""
        limb = torch.einsum("lk,bk...->bl...", self._limb.to(eight.device, eight.dtype), eight[:, :2])
        return torch.cat([limb, eight[:, 2:]], 1)

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1:] != (12, self.samples):
            raise ModelError("the beats do not fit the model", value=tuple(x.shape), allowed=f"(B, 12, {self.samples})")
        return x


class LeadFieldCvae(Cvae):
    """The default net. A beat's eight independent leads are ``gain(z) M(c) (S0(c) + S(z)) + R(z)``.

    M mixes the sources S, the usual ones and this person's, to leads; gains are a person's own of each lead; R is what
    neither explains, and is penalised. S(z) and R(z) have a straight part, so that few people teach at least what
    principal components would. ``S(0)``, ``R(0)`` make the USUAL beat of the conditions, which is fitted to
    every beat besides; the encoder sees what a beat has beyond it. So a latent has nothing to gain from the
    conditions, and what they do to the usual beat, M does to everybody's.
    """

    REST_PENALTY = 1.0
    """Of the mean square of R beside the squared error."""

    def __init__(self, config: CvaeConfig, samples: int) -> None:
        super().__init__(config, samples)
        self._basis = torch.from_numpy(time_basis(samples, BEAT_WINDOW_S))
        self.functions = self._basis.shape[1]
        self.vary = Varied(config.varied, samples, BEAT_WINDOW_S)
        self.penalty = 0.0 if config.components else self.REST_PENALTY
        hidden, latent, sources = config.hidden, config.latent, config.sources
        given, coefficients = max(self.inputs, 1), 8 * self.functions
        self.encoder = nn.Sequential(
            *(nn.Linear(coefficients + given, hidden), nn.ELU()),
            *(nn.Linear(hidden, hidden), nn.ELU()),
        )
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.shortcut = nn.Linear(coefficients, latent, bias=False)
        self.field = nn.Linear(given, 8 * sources)
        self.bend = nn.Sequential(nn.Linear(given, EMBEDDING), nn.ELU())
        self.bend_out = nn.Linear(EMBEDDING, 8 * sources, bias=False)
        self.usual = nn.Linear(given, sources * self.functions)
        self.person = nn.Sequential(nn.Linear(latent, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU())
        self.waves = nn.Linear(hidden, sources * self.functions)
        self.gains = nn.Linear(hidden, 8)
        self.rest = nn.Linear(hidden, coefficients)
        self.straight = nn.Linear(latent, sources * self.functions + coefficients, bias=False)

    @property
    def values(self) -> int:
        """Coefficients of the eight independent leads."""
        return 8 * self.functions

    def masked(self, conditions: torch.Tensor) -> torch.Tensor:
        """See :meth:`Cvae.masked`; one column of zeros where the model has no conditions."""
        given = super().masked(conditions)
        return given if given.shape[1] else given.new_zeros(len(given), 1)

    def coefficients(self, x: torch.Tensor) -> torch.Tensor:
        """Return the spline coefficients of the eight independent leads, shape = (B, 8, J)."""
        # What is to be matched is never rounded to bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            return x[:, list(INDEPENDENT)] @ self._basis.to(x.device, x.dtype)

    def leads(self, z: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the coefficients that decode from a latent, and R's share of them, shape = (B, 8, J) each."""
        h = self.person(z)
        waves, rest = self.straight(z).split([self.waves.out_features, self.rest.out_features], 1)
        waves = (self.usual(given) + self.waves(h) + waves).view(len(z), self.config.sources, self.functions)
        mixing = (self.field(given) + self.bend_out(self.bend(given))).view(len(z), 8, self.config.sources)
        rest = (self.rest(h) + rest).view(len(z), 8, self.functions)
        return (1 + self.gains(h))[:, :, None] * (mixing @ waves) + rest, rest

    def encode(self, x: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`Cvae.encode`."""
        return self._posterior(self.coefficients(x) - self._usual(given), given)

    def _usual(self, given: torch.Tensor) -> torch.Tensor:
        return self.leads(self._in_gradient(given.new_zeros(len(given), self.config.latent)), given)[0]

    def _in_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """Let a leaf take part in the gradient, which nobody reads: a private step's hooks warn where none does."""
        return x.requires_grad_() if torch.is_grad_enabled() and self.training else x

    def _posterior(self, beyond: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = beyond.flatten(1)
        mean, log_variance = self.posterior(self.encoder(torch.cat([flat, given], 1))).chunk(2, 1)
        return mean + self.shortcut(flat), log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def _decode(self, z: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.twelve(self.leads(z, given)[0] @ self._basis.to(z.device, z.dtype).T)

    def bound(self, x: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`Cvae.bound`; errors are relative to the noise, KL is spread over the beat's numbers."""
        if self.config.varied:
            x = self.twelve(self.vary(x[:, list(INDEPENDENT)]))
        wanted = self.coefficients(x)
        usual = self._usual(given)
        # Detached, or the usual beat would be bent to what suits the encoder.
        mean, log_variance = self._posterior(self._in_gradient((wanted - usual).detach()), given)
        drawn = self.draw(mean, log_variance)
        again, rest = self.leads(drawn, given)
        error = self._error(again - wanted) + self._error(usual - wanted) + self.penalty * self._error(rest)
        return error + self.kl_weight * _kl(mean, log_variance) / self.values, mean, drawn

    def _error(self, missed: torch.Tensor) -> torch.Tensor:
        """Half the mean square over twelve leads and all samples, in units of the noise variance, shape = (B,)."""
        variance = (self.config.noise_uv / 1000) ** 2
        missed = missed.to(torch.promote_types(missed.dtype, torch.float32))
        return self.twelve(missed).square().mean((1, 2)) * (self.functions / self.samples) / (2 * variance)

    def start(self) -> None:
        """Begin with latents of about unit size, small noise on them, and nothing beyond sources and gains."""
        with torch.no_grad():
            self.shortcut.weight *= 6
            self.posterior.bias[self.config.latent :] = -2
            self.rest.weight *= 0.1
            self.rest.bias.zero_()
            self.straight.weight *= 0.1
            if self.config.components:
                directions = torch.from_numpy(usual_directions(self.functions, self.config.latent)).float()
                found = len(directions)
                self.shortcut.weight *= 0.02
                self.shortcut.weight[:found] += UNIT * directions
                self.straight.weight[self.waves.out_features :, :found] += directions.T / UNIT


class PublishedCvae(Cvae):
    """The published net: five filters over time, five over leads, ELU, normalisation, average pooling; its mirror."""

    FILTERS, WIDTH = 5, 40

    def __init__(self, config: CvaeConfig, samples: int) -> None:
        super().__init__(config, samples)
        if samples < 2 * self.WIDTH:
            raise ModelError("the published net needs longer beats", value=samples, allowed="80 samples or more")
        self.length = (samples - self.WIDTH + 1) // 2
        flat = self.FILTERS * self.length
        self.over_time = nn.Conv2d(1, self.FILTERS, (1, self.WIDTH))
        self.over_leads = nn.Conv2d(self.FILTERS, self.FILTERS, (12, 1))
        self.norms = nn.ModuleList(self._norm() for _ in range(4))
        self.posterior = nn.Linear(flat + self.inputs, 2 * config.latent)
        self.unfold = nn.Linear(config.latent + self.inputs, flat)
        self.to_leads = nn.ConvTranspose2d(self.FILTERS, self.FILTERS, (12, 1))
        self.to_time = nn.ConvTranspose2d(self.FILTERS, 1, (1, self.WIDTH))

    def _norm(self) -> nn.Module:
        return nn.BatchNorm2d(self.FILTERS) if self.config.norm == "batch" else nn.GroupNorm(1, self.FILTERS)

    def encode(self, x: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`Cvae.encode`."""
        y = self.norms[0](F.elu(self.over_time(x[:, None])))
        y = self.norms[1](F.elu(self.over_leads(y)))
        flat = F.avg_pool2d(y, (1, 2)).flatten(1)
        mean, log_variance = self.posterior(torch.cat([flat, given], 1)).chunk(2, 1)
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def _decode(self, z: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        y = F.elu(self.unfold(torch.cat([z, given], 1))).view(len(z), self.FILTERS, 1, self.length)
        y = F.interpolate(self.norms[2](y), size=(1, self.samples - self.WIDTH + 1), mode="nearest")
        y = self.norms[3](F.elu(self.to_leads(y)))
        out: torch.Tensor = self.to_time(y)[:, 0]
        return out

    def bound(self, x: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`Cvae.bound`: the sum of squared errors over leads and samples, mV^2, plus KL."""
        mean, log_variance = self.encode(x, given)
        drawn = self.draw(mean, log_variance)
        error = (self._decode(drawn, given) - x).square().sum((1, 2))
        return error + self.kl_weight * _kl(mean, log_variance), mean, drawn


def _kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Divergence of each posterior from the standard Gaussian, nats, shape = (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def build(
    config: CvaeConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> Cvae:
    """Build the net with weights from ``seed`` alone; see :func:`ecgshared.models.build`. It has no heads."""
    if heads:
        raise ModelError("a cvae has no heads", value=[head.name for head in heads], remedy="leave heads out")
    model: Cvae = (PublishedCvae if config.paper_faithful else LeadFieldCvae)(config, samples)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
    model.start()
    return model.to(torch.float32 if dtype is None else dtype)
