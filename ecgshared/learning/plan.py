"""How a site trains between two messages: what a study says, checked without torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ecgshared.config import Config

Precision = Literal["fp32", "bf16", "fp64"]


class ScheduleConfig(Config):
    """The learning rate by GLOBAL round: a site that missed rounds uses the same rate as the others."""

    kind: Literal["constant", "step", "cosine"] = Field(
        default="constant", description="constant, times `factor` every so many rounds, or a cosine"
    )
    every: int = Field(default=10, ge=1, description="step: rounds between two reductions")
    factor: float = Field(default=0.5, gt=0, lt=1, description="step: what the rate is multiplied by")
    floor: float = Field(default=0.01, ge=0, le=1, description="cosine: the last round's share of the rate")
    warmup_rounds: int = Field(default=0, ge=0, description="linear rise to the full rate")


class OptimiserConfig(Config):
    """The local optimiser.

    ``between_rounds`` says what happens to its state (momentum, second moments) when new global weights arrive:
    ``reset`` starts anew, so that a round depends on the weights alone; ``keep`` carries it on at the site.
    """

    name: Literal["sgd", "adam", "adamw"] = Field(default="adam", description="name of the optimiser")
    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd only")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="decay of Adam's two running means")
    weight_decay: float = Field(default=0.0, ge=0, description="pull of the weights to zero")
    between_rounds: Literal["reset", "keep"] = Field(
        default="reset", description="whether its running means are kept at a site or start afresh each round"
    )
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="how the learning rate falls over the rounds"
    )

    @model_validator(mode="after")
    def _fits(self) -> OptimiserConfig:
        if self.momentum and self.name != "sgd":
            raise ValueError("momentum belongs to sgd; adam and adamw have betas")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self


class LocalWork(Config):
    """How much a site does in one round: ``epochs`` over its ECGs, or a fixed number of ``steps``.

    With ``steps`` every site moves equally far, however many records it has; private training asks for it, because
    the number of steps is then public.
    """

    epochs: int | None = Field(default=None, ge=1, description="passes over the site's patients in a round")
    steps: int | None = Field(default=None, ge=1, description="steps in a round, in place of epochs")
    batch_size: int | None = Field(default=64, ge=1, description="null takes all ECGs in one batch")
    prox_mu: float = Field(default=0.0, ge=0, description="FedProx: pull towards the received weights")
    max_grad_norm: float | None = Field(default=None, gt=0, description="clips the whole batch's gradient")

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_unless_told(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("epochs") is None and data.get("steps") is None:
            return {**data, "epochs": 1}
        return data

    @model_validator(mode="after")
    def _one_of_two(self) -> LocalWork:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        return self

    def steps_for(self, items: int) -> int:
        """Return the number of optimiser steps for ``items`` ECGs; 0 where there are none."""
        if items == 0:
            return 0
        if self.steps is not None:
            return self.steps
        per_epoch = 1 if self.batch_size is None else math.ceil(items / self.batch_size)
        return (self.epochs or 1) * per_epoch


class EarlyStopping(Config):
    """When training ends before its planned rounds: no better pooled validation loss for ``patience`` rounds.

    The weights of the best round are kept. The study of sudden death trained for at least 40 epochs with a patience of
    10 and halved the rate every 10 (``schedule: {kind: step, every: 10}``).
    """

    patience: int = Field(ge=1, le=1000, description="rounds without a better validation loss after which to stop")
    min_rounds: int = Field(default=0, ge=0, description="rounds that are trained whatever validation says")
    min_gain: float = Field(default=0.0, ge=0, description="how much lower a loss must be to count as better")


MAINS_HZ = (50.0, 60.0)


class AugmentConfig(Config):
    """Random changes of a training ECG. All off by default; each is drawn anew for every ECG and step."""

    shift_seconds: float = Field(
        default=0.0, ge=0, le=5, description="largest shift in time, gap filled with 0: a random crop"
    )
    scale: float = Field(default=0.0, ge=0, lt=1, description="amplitude times 1 +/- this, alike on all leads")
    wander_mv: float = Field(default=0.0, ge=0, le=1, description="largest amplitude of a 0.05-0.5 Hz baseline sine")
    mains_mv: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="largest amplitude of mains hum, of 50 or 60 Hz; needs more than 100 samples a second",
        exclude_if=lambda value: value == 0,
    )
    muscle_mv: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="largest SD, at its middle, of a burst of muscle noise of 0.2 to 1.5 s",
        exclude_if=lambda value: value == 0,
    )
    electrode_cm: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="SD of how far each chest electrode lies from its place, up and around the chest, by the forward "
        "model's lead field",
        exclude_if=lambda value: value == 0,
    )
    noise_mv: float = Field(default=0.0, ge=0, le=0.5, description="SD of white noise")
    lead_dropout: float = Field(default=0.0, ge=0, lt=1, description="probability that a lead is set to 0")

    @property
    def any(self) -> bool:
        """Whether anything is changed at all."""
        return any(value > 0 for _, value in self)


def learning_rate(optimiser: OptimiserConfig, round_number: int, rounds: int) -> float:
    """Return the learning rate of global round ``round_number`` (1-based) of ``rounds``."""
    schedule, done = optimiser.schedule, round_number - 1
    if done < schedule.warmup_rounds:
        return optimiser.lr * (done + 1) / (schedule.warmup_rounds + 1)
    done -= schedule.warmup_rounds
    if schedule.kind == "step":
        return optimiser.lr * schedule.factor ** (done // schedule.every)
    if schedule.kind == "cosine":
        last = max(rounds - schedule.warmup_rounds - 1, 1)
        share = 0.5 * (1 + math.cos(math.pi * min(done / last, 1.0)))
        return optimiser.lr * (schedule.floor + (1 - schedule.floor) * share)
    return optimiser.lr
