"""attia_cnn: the published net for age and sex, filters over time shared by all leads, then filters across them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ecgshared.models.config import HeadedConfig


class AttiaCnnConfig(HeadedConfig):
    """The convolutional net of Attia et al. 2019 (doi 10.1161/CIRCEP.119.007284), as described: eight layers over time
    with 16, 16, 32, 32, 64, 64, 64, 64 filters of 7, 5, 5, 5, 5, 3, 3, 3 samples, each normalised, rectified and
    max-pooled by 2; a layer of 128 filters across the leads; dense layers of 128 and 64 units.

    ``norm: batch`` is the published form; the default can be averaged and trained privately. At 100 Hz and 10 s it
    has 214 thousand parameters.
    """

    net: ClassVar[str] = "ecgshared.models.attia_cnn_net"

    name: Literal["attia_cnn"] = Field(description="filters over time, then across leads, as published for age and sex")
    groups: Literal[1, 2, 4, 8, 16] = Field(default=8, description="channel groups of GroupNorm")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of activations dropped in training")
    hidden: int = Field(default=64, ge=0, description="units of the layer before the heads; 0 has none")
    lead_scale: bool = Field(
        default=True, description="log RMS of each lead beside the features: GroupNorm hides amplitude"
    )
