"""The result of ``summed_survival``. Coefficients are log hazard ratios per unit of the input."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecgshared.stages.results.base import Absences, MeanSd, Number, ResultPart, StageResult
from ecgshared.stages.results.survival import ChiSquared, Coefficient
from ecgshared.study.endpoints import Event


class SurvivalAt(ResultPart):
    """One point of the Kaplan-Meier curve of all hospitals together."""

    years: float
    at_risk: Number = Field(description="ECGs followed to the interval that ends here")
    events: Number
    survival: Number
    low: Number
    high: Number


class SummedModel(ResultPart):
    """One Cox model over all hospitals together."""

    inputs: tuple[str, ...]
    coefficients: dict[str, Coefficient]
    log_likelihood: Number
    log_likelihood_null: Number
    rounds: int
    robust: bool = Field(description="whether the errors are the sandwich's, clustered by patient")
    proportional_hazards: dict[str, ChiSquared] | None = Field(
        description='by input, and "GLOBAL": score test against time in years'
    )
    notes: tuple[str, ...]


class Result(StageResult):
    """Kaplan-Meier and Cox models over all hospitals together; ``together`` names them."""

    event: Event
    mode: Literal["stratified", "exact"]
    ties: Literal["efron", "breslow"]
    splits: tuple[str, ...]
    horizon_years: float
    ecgs: Number
    patients: Number
    events: Number = Field(description="ECGs with the event")
    event_patients: Number
    standardised: dict[str, MeanSd]
    curve: tuple[SurvivalAt, ...] = Field(description="empty where no grid leaves enough people in each interval")
    models: dict[str, SummedModel]
    absent: Absences
