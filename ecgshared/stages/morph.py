"""morph: low-risk beats moved up a beat net's risk, and high-risk ones down it, at their own sites; only means leave.

Among people no training saw (validation patients at sites that train, everybody elsewhere). Phase ``risks`` releases
the distribution of predicted risk, from which the coordinator takes the percentiles where beats start and where they
are to arrive; phase ``morph`` moves one beat of each of some patients through the latent space of a VAE
(:mod:`ecgshared.learning.morph`) and tells means over them. A morph starts from a real person's beat, so a single one
stays at its site (``ecgfed site morph`` shows it there).

A study morphs once: two means of nearly the same people would tell of the few between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ecgshared.arrays import Floats
from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.features import AMPLITUDES, measure
from ecgshared.ecg.terminal import terminal_slopes
from ecgshared.ecg.windows import BEAT_S, samples_of
from ecgshared.stages.results.morph import Result as Result
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.study.score import trained_heads
from ecgshared.wire.protocol import Count, Split, Statistic, StepConfig, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, ...] = ("up", "down")
"""Low-risk beats up, high-risk beats down: the rows of all arrays that leave."""

MEASURED = ("qrs_axis_deg", "qrs_ms", "t_axis_deg")
BY_LEAD = ("r_mv", "s_mv", "d1", "d2")
"""Of each lead: R and S, and the mean first and second differences of the end of its QRS."""

_ASSUMED_RR_S = 0.9


LEAVES = {
    "risks": "mean predicted risk of neighbouring ECGs, a group at a time, and how many ECGs each group has",
    "morph": "means over patients of their beats, before and after, of the risk along the way, and of what is measured "
    "on the beats; no single beat, latent or morph",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each mean is of one beat of each of at least the hospital's own least number of patients, or is withheld; the "
    "hospital draws by itself whose, and never takes all who could be. A study morphs once, and a second question of "
    "the step is refused."
)
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A morph step. ``uses`` must lead to a train step of a beat_risk and one of a beat_vae."""

    default_sites: ClassVar[str] = "all"
    splits_read: ClassVar[tuple[Split, ...]] = ("validation",)

    risk: str = Field(description="the head that is climbed: <train step>.<head>, of a net of single beats")
    directions: tuple[Direction, ...] = Field(default=DIRECTIONS, min_length=1, description="up, down or both")
    low: float = Field(default=0.5, gt=0, lt=1, description="beats start up from below this percentile of risk")
    high: float = Field(default=0.9, gt=0, lt=1, description="and arrive at this one; beats start down from above it")
    beats: int = Field(default=56, ge=2, le=2000, description="at a site and in a direction, one of each patient")
    steps: int = Field(default=2000, ge=1, le=20_000, description="at most, of a beat that does not arrive")
    rate: float = Field(default=0.01, gt=0, description="of a step along the gradient of the logit")
    prior: float = Field(default=0.0, ge=0, description="pull of a latent towards the prior, beside the gradient")
    max_mse: float = Field(default=0.1, gt=0, description="a beat reconstructed worse is left out, mV^2")

    @field_validator("directions")
    @classmethod
    def _once(cls, directions: tuple[Direction, ...]) -> tuple[Direction, ...]:
        if len(set(directions)) < len(directions):
            raise ValueError("names a direction twice")
        return directions

    @model_validator(mode="after")
    def _apart(self) -> Config:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


@payload("morph", "risks")
@dataclass(frozen=True)
class Risks:
    """Predicted risk of held-out ECGs, on the logit scale: mean of each group of neighbours, and its ECGs; (k,)."""

    mean: Annotated[Floats, Statistic()]
    ecgs: Annotated[Floats, Count()]


@payload("morph", "morph")
@dataclass(frozen=True)
class Moved:
    """One site's means; the first axis is :data:`DIRECTIONS`, NaN in one that is not asked for. W samples a lead.

    ``counts``, shape = (2, 2): patients moved, and left out for their reconstruction. ``real``, ``start``, ``end``,
    shape = (2, 12, W), uV: of median single beats, of reconstructions, of morphs; ``spread``: SD over patients of
    ``end - start``. ``path``, shape = (2, P, 2): logit along the way, mean and SD. ``reached``, shape = (2, 3): share
    that arrived, mean steps, mean squared error of the reconstruction (mV^2). ``measured``, shape = (2, M, 4): of
    :data:`MEASURED` before, mean and SD, and of its change. ``by_lead``, shape = (2, 12, 4, 4): the same of
    :data:`BY_LEAD`.
    """

    counts: Annotated[Floats, Count()]
    real: Annotated[Floats, Statistic()]
    start: Annotated[Floats, Statistic()]
    end: Annotated[Floats, Statistic()]
    spread: Annotated[Floats, Statistic()]
    path: Annotated[Floats, Statistic()]
    reached: Annotated[Floats, Statistic()]
    measured: Annotated[Floats, Statistic()]
    by_lead: Annotated[Floats, Statistic()]


def measured(beats: np.ndarray, fs_hz: float) -> tuple[Floats, Floats]:
    """Return :data:`MEASURED`, shape = (n, M), and :data:`BY_LEAD`, shape = (n, 12, 4), of beats (n, 12, W) in mV."""
    centre, _ = samples_of(BEAT_S, fs_hz)
    places = np.array([0, round(_ASSUMED_RR_S * fs_hz)], dtype=np.int64)
    whole, by_lead = np.full((len(beats), len(MEASURED)), np.nan), np.full((len(beats), 12, len(BY_LEAD)), np.nan)
    for i, signal in enumerate(beats):
        level = signal[:, : round(0.06 * fs_hz)].mean(axis=1, keepdims=True)
        beat = MedianBeat(
            np.asarray(signal - level, dtype=np.float32),
            fs_hz,
            centre,
            places,
            np.ones(2, dtype=bool),
            np.ones(12, dtype=np.float32),
        )
        found, slopes = measure(beat), terminal_slopes(beat)
        whole[i] = [getattr(found, name) for name in MEASURED]
        by_lead[i, :, 0] = found.amplitudes_mv[AMPLITUDES.index("r")]
        by_lead[i, :, 1] = found.amplitudes_mv[AMPLITUDES.index("s")]
        by_lead[i, :, 2], by_lead[i, :, 3] = slopes.d1, slopes.d2
    return whole, by_lead


def nets(step: Config, study: Study) -> tuple[TrainConfig, TrainConfig, int]:
    """Return the train steps of the VAE and of the beat net, and the number of the head that is climbed.

    Raises
    ------
    ValueError : there is none, or they do not fit.
    """
    heads = trained_heads(step, study)
    if step.risk not in heads:
        raise ValueError(
            f"step {step.id!r}: risk {step.risk!r} is no head of a train step it uses; "
            f"allowed: {', '.join(heads) or '(it uses none)'}"
        )
    name, head = step.risk.split(".", 1)
    net = study.step(name)
    if not isinstance(net, TrainConfig) or net.model.sees != "single_beat" or net.model.side_inputs:
        raise ValueError(f"step {step.id!r}: risk must be of a net that sees single beats, without covariates")
    vaes = [
        s
        for s in (study.step(used) for used in step.uses)
        if isinstance(s, TrainConfig) and s.model.makes_beats and s.model.sees == "single_beat"
    ]
    if len(vaes) != 1:
        raise ValueError(f"step {step.id!r} must use one train step whose model is a beat_vae")
    return vaes[0], net, net.heads.index(head)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a morph step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a morph step's configuration was expected")
    for trained in nets(step, study)[:2]:
        if trained.strategy.name == "fedbn":
            raise ValueError(f"step {step.id!r}: the normalisation of {trained.id!r} stays at its sites (fedbn)")
    if sum(other.stage == "morph" for other in study.steps) > 1:
        raise ValueError(
            "a study morphs once: two means of nearly the same people would tell of the few between them; ask both "
            "directions in one step"
        )
