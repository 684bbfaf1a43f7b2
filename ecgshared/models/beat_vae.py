"""beat_vae: a variational autoencoder of single beats, in whose latent space stage ``morph`` moves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ecgshared.models.config import BaseModelConfig, Sees

PRESETS: dict[str, dict[str, Any]] = {
    "full": {"latent": 512, "hidden": 512},
    "small": {"latent": 48, "hidden": 256},
}
PUBLISHED = {"latent": 512, "kl_weight": 0.01, "robust_mv": 0.0, "varied": 0.0}


class BeatVaeConfig(BaseModelConfig):
    """A variational autoencoder of single beats (after Nature 2026, doi 10.1038/s41586-026-10674-6).

    The default works on spline coefficients of the eight independent leads, by a perceptron beside a straight way; the
    other four leads follow by Einthoven and Goldberger. ``paper_faithful`` is the published net: two convolutions of
    12 channels in, a perceptron of four layers of 100 units out, twelve leads each for itself.

    The loss of a beat is half its squared error, less where it is large (``robust_mv``), summed over time and averaged
    over leads (mV^2), ``kl_weight`` times the divergence, and ``consistency`` times the squared change of the risk that
    the frozen net ``risk`` sees. It learns from beats that are ``varied``.
    """

    sees: ClassVar[Sees] = "single_beat"
    own_objective: ClassVar[bool] = True
    makes_beats: ClassVar[bool] = True
    net: ClassVar[str] = "ecgshared.models.beat_vae_net"

    name: Literal["beat_vae"] = Field(description="variational autoencoder of single beats")
    preset: Literal["full", "small"] = Field(default="full", description="size: 512 latents, or a small one of 48")
    paper_faithful: bool = Field(default=False, description="the published net and weights")
    latent: int = Field(default=512, ge=1, le=1024, description="numbers of the latent")
    hidden: int = Field(default=512, ge=1, le=4096, description="units of the perceptrons; not of paper_faithful")
    robust_mv: float = Field(
        default=0.01, ge=0, le=1, description="past it an error counts as itself and not as its square; 0: never"
    )
    varied: float = Field(
        default=1.0, ge=0, le=2, description="strength of random changes of size, pace and turn in training"
    )
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
