"""What every model says of itself, whatever it is. No torch here: a study is read and checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ecgshared.config import Config
from ecgshared.ecg.windows import BEAT_S, samples_of
from ecgshared.study.endpoints import Event

Norm = Literal["group", "batch"]
Covariate = Literal["age", "male"]
Lead = Literal["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
Sees = Literal["recording", "median_beat", "single_beat"]

BEAT_WINDOW_S = (-0.3, 0.5)
"""What a model of median beats sees, seconds from the middle of QRS: 400 samples at 500 Hz."""


@dataclass(frozen=True)
class HeadSpec:
    """One output of a model.

    Heads that share a ``group`` are one event at several horizons: their probabilities never fall with the horizon.
    ``group`` and ``horizon_years`` go together; both are None for a head on its own.

    A ``continuous`` head tells a number on the net's own scale
    (:meth:`ecgshared.study.endpoints.ContinuousEndpoint.standardise`); every other a logit.
    """

    name: str
    group: str | None = None
    horizon_years: float | None = None
    continuous: bool = False


class BaseModelConfig(Config):
    """The base of every model's configuration; what a subclass does not say is as here.

    Attributes
    ----------
    sees : the whole recording, its median beat over :data:`BEAT_WINDOW_S`, or single beats over
        :data:`~ecgshared.ecg.windows.BEAT_S`: one drawn anew whenever an ECG is trained on, and all of them where it
        is judged, their outputs averaged.
    own_objective : it has no heads and learns what its own ``item_losses`` say; see :func:`ecgshared.models.build`.
    makes_beats : its net has ``decode(z, conditions)``, from a latent to a beat of ``samples`` samples a lead.
    net : the module with ``build``, where it is another one: imported, with torch, when a net is built.
    head_parts, last_parts : modules of the net behind its representation, and the last of them; () where it has none.
        What is not among them is the trunk, which another training may start from and keep frozen.
    """

    sees: ClassVar[Sees] = "recording"
    own_objective: ClassVar[bool] = False
    makes_beats: ClassVar[bool] = False
    net: ClassVar[str] = ""
    head_parts: ClassVar[tuple[str, ...]] = ()
    last_parts: ClassVar[tuple[str, ...]] = ()

    name: str

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """What the net is given beside the signal, in its order: age, male, covariates of the study."""
        return ()

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what validation judges a model with its own objective by; one with heads is judged by those."""
        return ()

    @property
    def event(self) -> Event | None:
        """The event whose time and status are its labels instead of heads, or None."""
        return None

    @property
    def judge(self) -> str | None:
        """``<train step>.<head>`` of a frozen net that it is trained beside, or None."""
        return None

    @property
    def latent_size(self) -> int:
        """Numbers of the latent that ``forward`` gives of an ECG; 0 where it gives none."""
        return 0

    @property
    def mixes_patients(self) -> bool:
        """Whether a patient's output depends on the others of the batch: such a net cannot be trained privately."""
        return False

    def samples(self, fs_hz: float, seconds: float) -> int:
        """Return the samples per lead the model sees of recordings of ``seconds`` at ``fs_hz``."""
        if self.sees == "median_beat":
            return sum(samples_of(BEAT_WINDOW_S, fs_hz))
        if self.sees == "single_beat":
            return sum(samples_of(BEAT_S, fs_hz))
        return round(fs_hz * seconds)


class HeadedConfig(BaseModelConfig):
    """The base of nets with a head for each endpoint, which all end alike; see :mod:`ecgshared.models.headed`."""

    head_parts: ClassVar[tuple[str, ...]] = ("hidden", "output", "monotone")
    last_parts: ClassVar[tuple[str, ...]] = ("output", "monotone")

    norm: Norm = Field(
        default="group",
        description="normalisation: over groups of channels (needed under privacy), or over the batch as the paper",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of activations dropped in training")
    covariates: tuple[Covariate, ...] = Field(default=("age", "male"), description="enter late, beside the features")
    hidden: int = Field(default=0, ge=0, description="units of the layer before the heads; 0 has none")
    lead_scale: bool = Field(
        default=False, description="log RMS of each lead beside the features: GroupNorm hides amplitude"
    )
    leads: tuple[Lead, ...] | None = Field(
        default=None,
        min_length=1,
        description="the leads it sees, the others held at zero (a single-lead model); all where left out",
        exclude_if=lambda leads: leads is None,
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        for what, names in (("covariates", self.covariates), ("leads", self.leads or ())):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} names one twice")
        return self

    @property
    def learned_heads(self) -> bool:
        """Whether the first group of four horizons has the published learned layer."""
        return False

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """See :class:`BaseModelConfig`."""
        return self.covariates

    @property
    def mixes_patients(self) -> bool:
        """Batch normalisation does."""
        return self.norm == "batch"
