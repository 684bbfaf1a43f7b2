"""The result of ``private_survival``. Coefficients are log hazard ratios against the lowest group of the input."""

from __future__ import annotations

from pydantic import Field

from ecgshared.privacy.config import StatisticsPrivacy
from ecgshared.stages.results.base import Absences, Number, ResultPart, StageResult
from ecgshared.stages.results.train import PrivacyAccount
from ecgshared.study.endpoints import Event


class NoisedPoint(ResultPart):
    """One point of a curve; null where the noise may have made it."""

    years: float
    at_risk: Number
    events: Number
    survival: Number
    low: Number
    high: Number


class NoisedCoefficient(ResultPart):
    """A log hazard ratio with a 95% interval of chance and noise; null where there is no estimate."""

    coef: Number
    se: Number
    low: Number
    high: Number
    hazard_ratio: Number
    p: Number
    noise: Number = Field(description="share of the variance that the noise made")


class Result(StageResult):
    """Curves by group and a Cox model, from counts that every hospital noised once."""

    event: Event
    horizon_years: float
    splits: tuple[str, ...]
    patients: Number = Field(description="over the hospitals that answered; taken as public")
    noise_sd: Number = Field(description="of a number of the table of all hospitals together")
    numbers: int = Field(description="of one hospital's table")
    curves: dict[str, tuple[NoisedPoint, ...]] = Field(description="by group; `everybody` first")
    coefficients: dict[str, NoisedCoefficient]
    privacy: StatisticsPrivacy
    sites: dict[str, PrivacyAccount]
    absent: Absences
