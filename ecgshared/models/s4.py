"""s4: diagonal structured state spaces (S4D) over the recording, in both directions, by FFT."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ecgshared.models.config import HeadedConfig


class S4Config(HeadedConfig):
    """A stack of diagonal state-space layers (S4D-Lin; Gu et al. 2022, arXiv 2206.11893).

    On ECGs deeper and wider ones did best (Mehari and Strodthoff 2022, arXiv 2211.07579: four layers, width up to
    512). The default, for a CPU, has 56 thousand parameters; ``width: 512, state: 8`` some 2.3 million.
    """

    net: ClassVar[str] = "ecgshared.models.s4_net"

    name: Literal["s4"] = Field(description="diagonal structured state spaces, in both directions")
    norm: Literal["group"] = Field(default="group", description="normalisation over all channels of an ECG")
    width: int = Field(default=64, ge=1, le=1024, description="channels of a layer")
    state: int = Field(default=8, ge=1, le=256, description="complex states of a channel; each stands for a pair")
    blocks: int = Field(default=4, ge=1, le=32, description="layers")
    stem_stride: int = Field(default=4, ge=1, le=16, description="stride of the convolution before the layers")
    stem_kernel: int = Field(default=9, ge=1, le=129, description="its filters' length, samples")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of activations dropped in training")
    hidden: int = Field(default=32, ge=0, description="units of the layer before the heads; 0 has none")
    lead_scale: bool = Field(
        default=True, description="log RMS of each lead beside the features: normalisation hides amplitude"
    )
