"""The result of ``train``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.ecg.input import InputConfig
from ecgshared.learning.plan import AugmentConfig, LocalWork, OptimiserConfig
from ecgshared.models import ModelConfig
from ecgshared.privacy.config import PrivacyConfig
from ecgshared.stages.results.base import Number, ResultPart, StageResult


class ValidationRound(ResultPart):
    """Figures of the global weights after ``round`` rounds (0: the initial ones)."""

    round: int
    loss: Number
    auc: dict[str, Number] = Field(description="by endpoint: the sites' own, averaged with their weights")
    sites: dict[str, dict[str, Number]] = Field(description="AUC by site and endpoint, or the model's own figures")


class TrainingRound(ResultPart):
    """Training loss of one round."""

    round: int
    loss: Number
    sites: dict[str, Number]


class PrivacyAccount(ResultPart):
    """What a site spent."""

    noise_multiplier: float
    epsilon_spent: float
    delta: float


class PrivacyResult(PrivacyConfig):
    """What was asked, what each site spent, and what that covers."""

    sites: dict[str, PrivacyAccount]
    covers: str
    does_not_cover: str


class Result(StageResult):
    """A trained model. ``model``, ``input``, ``seed`` and ``covariates`` let the weights be used without the study."""

    heads: tuple[str, ...]
    judged: tuple[str, ...] = Field(description="what losses are of: the heads, or the model's own figures")
    sites: tuple[str, ...]
    withheld_sites: tuple[str, ...] = Field(description="sites that withheld how many ECGs they train on")
    rounds: int = Field(description="trained; fewer than planned where training stopped early")
    planned_rounds: int | None = Field(default=None, description="None: a file of an older version does not say")
    stopped_early: bool = Field(default=False, description="whether early_stopping ended it")
    started_from: str | None = Field(default=None, description="the step whose weights it began with")
    parameters: int
    trained_parameters: int | None = Field(default=None, description="fewer than parameters behind a frozen trunk")
    layout: str = Field(description="hash of the order of the parameters")
    kept_round: int
    strategy: str
    model: ModelConfig
    input: InputConfig
    seed: int
    covariates: tuple[str, ...] = Field(description="rows of the array standardise")
    local: LocalWork
    optimiser: OptimiserConfig
    augment: AugmentConfig = Field(default=AugmentConfig(), description="how training ECGs were varied")
    learning_rate: tuple[float, ...]
    validation: tuple[ValidationRound, ...]
    training_loss: tuple[TrainingRound, ...]
    absent: dict[str, dict[str, int]] = Field(description="rounds by site and reason")
    privacy: PrivacyResult | None
