"""What a study says about its model. No torch here: a study is read and checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from ecgshared.config import Config
from ecgshared.study.columns import COVARIATES
from ecgshared.study.endpoints import Event

Preset = Literal["paper64", "low_lvef", "beat", "small"]
Norm = Literal["group", "batch"]
Covariate = Literal["age", "male"]

PRESETS: dict[str, dict[str, Any]] = {
    # The published nets (doi 10.1038/s41586-026-10674-6): constant width, no pooling over time before the head.
    "paper64": {"blocks": 32, "width": 128, "kernel": 16, "every": 4, "hidden": 128, "dropout": 0.4},
    "low_lvef": {
        "blocks": 12,
        "width": 128,
        "kernel": 16,
        "every": 4,
        "hidden": 0,
        "dropout": 0.4,
        "covariates": (),
    },
    "beat": {
        "blocks": 32,
        "width": 64,
        "kernel": 16,
        "every": 5,
        "hidden": 0,
        "dropout": 0.5,
        "covariates": (),
    },
    # For a laptop: the same blocks behind a strided stem, averaged over time.
    "small": {
        "blocks": 4,
        "width": 32,
        "kernel": 7,
        "every": 1,
        "hidden": 32,
        "dropout": 0.1,
        "stem_stride": 4,
        "pool": "mean",
        "lead_scale": True,
    },
}


@dataclass(frozen=True)
class HeadSpec:
    """One output of a model.

    Heads that share a ``group`` are one event at several horizons: their probabilities never fall with the horizon.
    ``group`` and ``horizon_years`` go together; both are None for a head on its own.
    """

    name: str
    group: str | None = None
    horizon_years: float | None = None


class Resnet1dConfig(Config):
    """A pre-activation 1-D ResNet. What is not given is the preset's; every value may be overridden."""

    name: Literal["resnet1d"] = "resnet1d"
    preset: Preset = "small"
    norm: Norm = "group"
    groups: int = Field(default=8, ge=1, description="channel groups of GroupNorm; must divide the width")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    covariates: tuple[Covariate, ...] = Field(default=("age", "male"), description="enter late, beside the features")
    blocks: int = Field(default=4, ge=0, le=128)
    width: int = Field(default=32, ge=1, le=1024)
    kernel: int = Field(default=7, ge=1, le=129)
    every: int = Field(default=1, ge=1, description="every so many blocks the length is halved, from the first on")
    hidden: int = Field(default=0, ge=0, description="units of the layer before the heads; 0 has none")
    stem_stride: int = Field(default=1, ge=1, le=16)
    pool: Literal["none", "mean"] = Field(default="none", description="mean over time, or flatten as the paper")
    lead_scale: bool = Field(
        default=False, description="log RMS of each lead beside the features: GroupNorm hides amplitude"
    )
    paper_faithful: bool = Field(
        default=False,
        description="the published learned cumulative layer on the first group of four horizons",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", "small")
        return {**PRESETS[preset], **data} if isinstance(preset, str) and preset in PRESETS else data

    @property
    def figures(self) -> tuple[str, ...]:
        """None of its own: it is judged by its heads."""
        return ()

    @model_validator(mode="after")
    def _fits(self) -> Resnet1dConfig:
        if self.norm == "group" and self.width % self.groups:
            raise ValueError(f"groups must divide width; {self.width} channels cannot form {self.groups} groups")
        if len(set(self.covariates)) != len(self.covariates):
            raise ValueError("covariates names one twice")
        return self


BEAT_WINDOW_S = (-0.3, 0.5)
"""What a model of median beats sees, seconds from the middle of QRS: 400 samples at 500 Hz."""


class CoxHeadConfig(Config):
    """A log hazard learned together with the beats.

    The default is linear in the posterior mean, with Efron's ties. Risk sets are those of a batch, and so of one site:
    with ``local.batch_size: null`` of its whole training cohort. ``paper_faithful`` is the published form: one sigmoid
    unit on the drawn latent, risk sets that are prefixes of the batch sorted by time, ties as they fall.
    """

    event: Event
    weight: float = Field(default=1.0, gt=0, description="of the mean partial likelihood beside the beat; paper: 50")
    paper_faithful: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        return {"weight": 50.0, **data} if isinstance(data, dict) and data.get("paper_faithful") is True else data


class CvaeConfig(Config):
    """A conditional variational autoencoder of median beats.

    ``paper_faithful`` is the published net (doi 10.3389/fdgth.2025.1558589): convolutions over time, then over leads,
    10 latents, batch normalisation, MSE + KL; ``hidden``, ``sources`` and ``noise_uv`` are not its own. The default
    decodes a few sources in a fixed basis of time and mixes them to the eight independent leads by a matrix that
    follows from the conditions, as a lead field does.
    """

    name: Literal["cvae"]
    conditions: tuple[str, ...] = Field(
        default=("age", "male"), description="age, male, covariates of the study; missing ones are masked"
    )
    paper_faithful: bool = False
    latent: int = Field(default=16, ge=1, le=256)
    hidden: int = Field(default=256, ge=1, le=4096)
    sources: int = Field(default=4, ge=1, le=64, description="waves that the conditions mix to leads; a dipole has 3")
    noise_uv: float = Field(default=80.0, gt=0, description="SD of what no latent explains: weighs error against KL")
    kl_weight: float = Field(default=1.0, ge=0)
    kl_warmup: float = Field(default=0.3, ge=0, le=1, description="share of the rounds over which kl_weight rises")
    condition_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of ECGs trained as if without any")
    norm: Norm = Field(default="group", description="paper_faithful: batch; group lets it train privately")
    survival: CoxHeadConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("paper_faithful") is not True:
            return data
        return {"latent": 10, "norm": "batch", "kl_warmup": 0.0, **data}

    @model_validator(mode="after")
    def _fits(self) -> CvaeConfig:
        allowed = ("age", "male", *COVARIATES)
        unknown = [name for name in self.conditions if name not in allowed]
        if unknown:
            raise ValueError(f"conditions names {', '.join(unknown)}; allowed: {', '.join(allowed)}")
        if len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions names one twice")
        return self

    @property
    def covariates(self) -> tuple[str, ...]:
        """What is fetched beside the signal."""
        return self.conditions

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what validation judges the model by."""
        return ("reconstruction_uv",)


def _name_of(data: Any) -> str:
    found = data.get("name", "resnet1d") if isinstance(data, dict) else getattr(data, "name", "resnet1d")
    return str(found)


ModelConfig = Annotated[
    Annotated[Resnet1dConfig, Tag("resnet1d")] | Annotated[CvaeConfig, Tag("cvae")],
    Discriminator(
        _name_of,
        custom_error_type="no_such_model",
        custom_error_message="name must be one of resnet1d, cvae",
    ),
]
"""The configuration of any model, told apart by ``name`` (``resnet1d`` where none is given)."""


def input_samples(config: Resnet1dConfig | CvaeConfig, fs_hz: float, seconds: float) -> int:
    """Return the samples per lead a model sees: the whole recording, or the window of its median beat."""
    if isinstance(config, CvaeConfig):
        return round(fs_hz * -BEAT_WINDOW_S[0]) + round(fs_hz * BEAT_WINDOW_S[1])
    return round(fs_hz * seconds)
