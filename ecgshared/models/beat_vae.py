"""beat_vae: a variational autoencoder of single beats, in whose latent space stage ``morph`` moves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ecgshared.models.config import BaseModelConfig, Sees

PRESETS: dict[str, dict[str, Any]] = {
    "full": {"latent": 512, "width": 32, "hidden": 512},
    "small": {"latent": 48, "width": 16, "hidden": 128},
}
PUBLISHED = {"latent": 512, "kl_weight": 0.01}


class BeatVaeConfig(BaseModelConfig):
    """A variational autoencoder of single beats (after Nature 2026, doi 10.1038/s41586-026-10674-6).

    The default decodes by convolutions, beside a part straight in the latent, to the eight independent leads; the
    other four follow by Einthoven and Goldberger. ``paper_faithful`` is the published net: two convolutions of 12
    channels in, a perceptron of four layers of 100 units out, twelve leads each for itself.

    The loss of a beat is half its squared error, summed over time and averaged over leads (mV^2), ``kl_weight`` times
    the divergence, and ``consistency`` times the squared change of the risk that the frozen net ``risk`` sees.
    """

    sees: ClassVar[Sees] = "single_beat"
    own_objective: ClassVar[bool] = True
    makes_beats: ClassVar[bool] = True
    net: ClassVar[str] = "ecgshared.models.beat_vae_net"

    name: Literal["beat_vae"] = Field(description="variational autoencoder of single beats")
    preset: Literal["full", "small"] = Field(default="full", description="size: 512 latents, or a small one of 48")
    paper_faithful: bool = Field(default=False, description="the published net and weights")
    latent: int = Field(default=512, ge=1, le=1024, description="numbers of the latent")
    width: int = Field(default=32, ge=1, le=512, description="channels of the convolutions; not of paper_faithful")
    hidden: int = Field(default=512, ge=1, le=4096, description="units between them and the latent; not the paper's")
    kl_weight: float = Field(default=0.001, ge=0, description="of the divergence, in nats; paper: 0.01")
    kl_warmup: float = Field(default=0.25, ge=0, le=1, description="share of the rounds over which kl_weight rises")
    risk: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_-]{0,39}\.[a-z][a-z0-9_-]{0,39}$",
        description="<train step>.<head> of a beat net without covariates whose risk a reconstruction should keep",
    )
    consistency: float = Field(default=0.01, ge=0, description="weight of its squared change")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", "full")
        found = PRESETS[preset] if isinstance(preset, str) and preset in PRESETS else {}
        return {**found, **(PUBLISHED if data.get("paper_faithful") is True else {}), **data}

    @property
    def judge(self) -> str | None:
        """The frozen head it is trained beside."""
        return self.risk if self.consistency > 0 else None

    @property
    def figures(self) -> tuple[str, ...]:
        """The mean absolute error of the reconstruction."""
        return ("reconstruction_uv",)

    @property
    def latent_size(self) -> int:
        """The posterior mean's."""
        return self.latent
