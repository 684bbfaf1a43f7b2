"""What a study says about its model. No torch here: a study is read and checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from ecgshared.config import Config

Preset = Literal["paper64", "low_lvef", "beat", "small"]
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
    norm: Literal["group", "batch"] = "group"
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

    @model_validator(mode="after")
    def _fits(self) -> Resnet1dConfig:
        if self.norm == "group" and self.width % self.groups:
            raise ValueError(f"groups must divide width; {self.width} channels cannot form {self.groups} groups")
        if len(set(self.covariates)) != len(self.covariates):
            raise ValueError("covariates names one twice")
        return self


ModelConfig = Resnet1dConfig
"""The configuration of any model. A second model makes this a union, told apart by ``name``."""
