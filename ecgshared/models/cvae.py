"""cvae: a conditional variational autoencoder of median beats, with or without a Cox head."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ecgshared.config import Config
from ecgshared.models.config import BaseModelConfig, Norm, Sees
from ecgshared.study.endpoints import Event


class CoxHeadConfig(Config):
    """A log hazard learned together with the beats.

    The default is linear in the posterior mean, with Efron's ties. Risk sets are those of a batch, and so of one site:
    with ``local.batch_size: null`` of its whole training cohort. ``paper_faithful`` is the published form: one sigmoid
    unit on the drawn latent, risk sets that are prefixes of the batch sorted by time, ties as they fall.
    """

    event: Event = Field(description="which event")
    weight: float = Field(default=1.0, gt=0, description="of the mean partial likelihood beside the beat; paper: 50")
    paper_faithful: bool = Field(default=False, description="loss as published: the batch is the risk set")

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        return {"weight": 50.0, **data} if isinstance(data, dict) and data.get("paper_faithful") is True else data


class CvaeConfig(BaseModelConfig):
    """A conditional variational autoencoder of median beats.

    ``paper_faithful`` is the published net (doi 10.3389/fdgth.2025.1558589): convolutions over time, then over leads,
    10 latents, batch normalisation, MSE + KL; ``hidden``, ``sources`` and ``noise_uv`` are not its own. The default
    decodes a few sources in a fixed basis of time and mixes them to the eight independent leads by a matrix that
    follows from the conditions, as a lead field does.
    """

    sees: ClassVar[Sees] = "median_beat"
    own_objective: ClassVar[bool] = True
    makes_beats: ClassVar[bool] = True
    net: ClassVar[str] = "ecgshared.models.cvae_net"

    name: Literal["cvae"] = Field(description="conditional variational autoencoder of median beats")
    conditions: tuple[str, ...] = Field(
        default=("age", "male"), description="age, male, covariates of the study; missing ones are masked"
    )
    paper_faithful: bool = Field(default=False, description="layers and loss as published")
    latent: int = Field(default=16, ge=1, le=256, description="number of latents")
    hidden: int = Field(default=256, ge=1, le=4096, description="units of a hidden layer")
    sources: int = Field(default=4, ge=1, le=64, description="waves that the conditions mix to leads; a dipole has 3")
    noise_uv: float = Field(default=80.0, gt=0, description="SD of what no latent explains: weighs error against KL")
    kl_weight: float = Field(default=1.0, ge=0, description="weight of the divergence from the prior")
    kl_warmup: float = Field(default=0.3, ge=0, le=1, description="share of the rounds over which kl_weight rises")
    condition_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of ECGs trained as if without any")
    components: bool = Field(
        default=False,
        description="begin as a projection on what beats have most of, and leave free what no source explains: for few "
        "beats and few conditions; not of paper_faithful",
    )
    varied: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="strength of random changes of size, pace and turn in training; with no condition of anatomy",
    )
    norm: Norm = Field(default="group", description="paper_faithful: batch; group lets it train privately")
    survival: CoxHeadConfig | None = Field(default=None, description="a Cox head on the latents, trained with them")

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("paper_faithful") is not True:
            return data
        return {"latent": 10, "norm": "batch", "kl_warmup": 0.0, **data}

    @model_validator(mode="after")
    def _fits(self) -> CvaeConfig:
        # Which columns there are only the study knows; a train step is checked against it.
        unknown = [name for name in self.conditions if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
        if unknown:
            raise ValueError(f"conditions names {', '.join(unknown)}; allowed: age, male, the study's covariates")
        if len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions names one twice")
        if self.paper_faithful and (self.components or self.varied):
            raise ValueError("components and varied are not of the published net")
        turned = [name for name in self.conditions if name.startswith(("heart_", "electrode_"))]
        if self.varied and turned:
            raise ValueError(f"varied beats would not be those of their conditions {', '.join(turned)}; leave it at 0")
        return self

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """See :class:`~ecgshared.models.config.BaseModelConfig`."""
        return self.conditions

    @property
    def figures(self) -> tuple[str, ...]:
        """The mean absolute error of the reconstruction."""
        return ("reconstruction_uv",)

    @property
    def event(self) -> Event | None:
        """That of the Cox head, where it has one."""
        return None if self.survival is None else self.survival.event

    @property
    def latent_size(self) -> int:
        """The posterior mean's."""
        return self.latent

    @property
    def mixes_patients(self) -> bool:
        """Batch normalisation does."""
        return self.norm == "batch"
