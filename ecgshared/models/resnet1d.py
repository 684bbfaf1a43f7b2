"""resnet1d: a pre-activation 1-D ResNet over the whole recording, with a head for each endpoint."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ecgshared.models.config import HeadedConfig

Preset = Literal["paper64", "low_lvef", "small"]

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


class ResidualConfig(HeadedConfig):
    """A pre-activation 1-D ResNet, whatever it sees. What is not given is the preset's; every value may be overridden.

    A subclass names its presets.
    """

    net: ClassVar[str] = "ecgshared.models.resnet1d_net"
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    preset: str = Field(description="size")
    groups: int = Field(default=8, ge=1, description="channel groups of GroupNorm; must divide the width")
    blocks: int = Field(default=4, ge=0, le=128, description="residual blocks; the preset's where left out")
    width: int = Field(default=32, ge=1, le=1024, description="channels of a block")
    kernel: int = Field(default=7, ge=1, le=129, description="length of the filters, samples")
    every: int = Field(default=1, ge=1, description="every so many blocks the length is halved, from the first on")
    stem_stride: int = Field(default=1, ge=1, le=16, description="stride of the first convolution")
    pool: Literal["none", "mean"] = Field(default="none", description="mean over time, or flatten as the paper")
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
        return self

    @property
    def learned_heads(self) -> bool:
        """See :class:`~ecgshared.models.config.HeadedConfig`."""
        return self.paper_faithful


class Resnet1dConfig(ResidualConfig):
    """A pre-activation 1-D ResNet over the whole recording."""

    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    name: Literal["resnet1d"] = Field(default="resnet1d", description="residual net over the whole recording")
    preset: Preset = Field(
        default="small", description="size: the paper's 64 layers, its net of low LVEF, or a small one"
    )
