"""crnn: convolutions over the recording, then a bidirectional GRU over what they leave of time."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ecgshared.models.config import HeadedConfig


class CrnnConfig(HeadedConfig):
    """A convolutional recurrent net for age and sex, after Galliani and Rechsteiner (OST): CNN layers, then a biGRU.

    Each block halves time twice (a stride, a pooling); the GRU's states of both directions are averaged over time. The
    default has 57 thousand parameters.
    """

    net: ClassVar[str] = "ecgshared.models.crnn_net"

    name: Literal["crnn"] = Field(description="convolutions, then a bidirectional GRU")
    widths: tuple[int, ...] = Field(
        default=(32, 48, 64), min_length=1, max_length=8, description="channels of the blocks, each a quarter as long"
    )
    kernel: int = Field(default=7, ge=1, le=129, description="length of the filters, samples")
    groups: int = Field(default=8, ge=1, description="channel groups of GroupNorm; must divide the widths")
    units: int = Field(default=32, ge=1, le=1024, description="units of the GRU in each direction")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of activations dropped in training")
    hidden: int = Field(default=32, ge=0, description="units of the layer before the heads; 0 has none")
    lead_scale: bool = Field(
        default=True, description="log RMS of each lead beside the features: GroupNorm hides amplitude"
    )

    @model_validator(mode="after")
    def _fits(self) -> CrnnConfig:
        wrong = [width for width in self.widths if width < 1 or (self.norm == "group" and width % self.groups)]
        if wrong:
            raise ValueError(f"groups must divide the widths; {wrong[0]} channels cannot form {self.groups} groups")
        return self
