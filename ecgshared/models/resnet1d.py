"""resnet1d: a pre-activation 1-D ResNet over the whole recording, with a head for each endpoint."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ecgshared.models.config import BaseModelConfig, Norm

Preset = Literal["paper64", "low_lvef", "small"]
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


class ResidualConfig(BaseModelConfig):
    """A pre-activation 1-D ResNet, whatever it sees. What is not given is the preset's; every value may be overridden.

    A subclass names its presets.
    """

    net: ClassVar[str] = "ecgshared.models.resnet1d_net"
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    preset: str
    norm: Norm = Field(
        default="group",
        description="normalisation: over groups of channels (needed under privacy), or over the batch as the paper",
    )
    groups: int = Field(default=8, ge=1, description="channel groups of GroupNorm; must divide the width")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of activations dropped in training")
    covariates: tuple[Covariate, ...] = Field(default=("age", "male"), description="enter late, beside the features")
    blocks: int = Field(default=4, ge=0, le=128, description="residual blocks; the preset's where left out")
    width: int = Field(default=32, ge=1, le=1024, description="channels of a block")
    kernel: int = Field(default=7, ge=1, le=129, description="length of the filters, samples")
    every: int = Field(default=1, ge=1, description="every so many blocks the length is halved, from the first on")
    hidden: int = Field(default=0, ge=0, description="units of the layer before the heads; 0 has none")
    stem_stride: int = Field(default=1, ge=1, le=16, description="stride of the first convolution")
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
        preset = data.get("preset", cls.model_fields["preset"].default)
        return {**cls.presets[preset], **data} if isinstance(preset, str) and preset in cls.presets else data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.norm == "group" and self.width % self.groups:
            raise ValueError(f"groups must divide width; {self.width} channels cannot form {self.groups} groups")
        if len(set(self.covariates)) != len(self.covariates):
            raise ValueError("covariates names one twice")
        return self

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """See :class:`~ecgshared.models.config.BaseModelConfig`."""
        return self.covariates

    @property
    def mixes_patients(self) -> bool:
        """Batch normalisation does."""
        return self.norm == "batch"


class Resnet1dConfig(ResidualConfig):
    """A pre-activation 1-D ResNet over the whole recording."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    name: Literal["resnet1d"] = Field(default="resnet1d", description="residual net over the whole recording")
    preset: Preset = Field(
        default="small", description="size: the paper's 64 layers, its net of low LVEF, or a small one"
    )
