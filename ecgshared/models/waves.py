"""waves: a linear head on the size of the waves in each lead, a representation that nobody's data made."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ecgshared.models.config import HeadedConfig


class WavesConfig(HeadedConfig):
    """Three fixed numbers a lead (the usual highest and lowest deflection, the root mean square), then the heads.

    With some forty weights it is what a small hospital can train privately: the error that noise makes grows with the
    root of their number. Full-batch steps (``privacy.expected_batch_size`` of at least the patients of any site) cost
    exactly what the composition of Gaussian mechanisms costs, and the size of the site does not show.
    """

    net: ClassVar[str] = "ecgshared.models.waves_net"

    name: Literal["waves"] = Field(description="a linear head on the size of the waves in each lead")
    norm: Literal["group"] = Field(default="group", description="there is none; features are scaled by constants")
    usual_rate: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="public guess of how common a yes is, where the heads begin: steps are not spent on learning it",
    )
    lead_scale: Literal[False] = Field(default=False, description="the lead's size is among the features")
