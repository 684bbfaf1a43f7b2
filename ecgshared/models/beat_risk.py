"""beat_risk: the residual net over single beats, a head for each endpoint; what stage ``morph`` climbs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ecgshared.models.config import Sees
from ecgshared.models.resnet1d import ResidualConfig

PRESETS: dict[str, dict[str, Any]] = {
    # The published net (doi 10.1038/s41586-026-10674-6): 32 blocks, 4,356,119 parameters with 23 heads at 500 Hz.
    "paper": {
        "blocks": 32,
        "width": 64,
        "kernel": 16,
        "every": 5,
        "hidden": 0,
        "dropout": 0.5,
        "covariates": (),
    },
    # For a laptop. It keeps time: where in a beat a wave stands is what it is asked about.
    "small": {
        "blocks": 3,
        "width": 32,
        "kernel": 9,
        "every": 1,
        "hidden": 32,
        "dropout": 0.1,
        "stem_stride": 2,
        "lead_scale": True,
        "covariates": (),
    },
}


class BeatRiskConfig(ResidualConfig):
    """A pre-activation 1-D ResNet over single beats; an ECG's logit is the mean over its beats."""

    sees: ClassVar[Sees] = "single_beat"
    presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    name: Literal["beat_risk"] = Field(description="residual net over single beats")
    preset: Literal["paper", "small"] = Field(
        default="small", description="size: the paper's 64 layers, or a small one"
    )
