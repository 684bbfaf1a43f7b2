"""The result of ``summed_evaluate``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Number, ResultPart, StageResult


class BoundedArea(EstimateResult):
    """An AUC; the exact one of all scores put together lies between its bounds."""

    bound_low: Number
    bound_high: Number


class SummedHead(ResultPart):
    """One outcome over all hospitals together."""

    ecgs: Number
    patients: Number = Field(description="null where a hospital knows no patients")
    events: Number = Field(description="ECGs with the event")
    event_patients: Number
    few_events: bool
    base_rate: Number
    expected_over_observed: Number
    brier: Number
    auc: BoundedArea
    groups: int = Field(description="groups of scores that the bounds come from; 0 where none was large enough")
    calibration_intercept: EstimateResult
    calibration_slope: EstimateResult


class Result(StageResult):
    """How well a frozen score does over all hospitals together; ``together`` names them."""

    score: str
    heads: dict[str, SummedHead]
    absent: Absences
