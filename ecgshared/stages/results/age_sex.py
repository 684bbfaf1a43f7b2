"""The result of ``age_sex``. Ages and errors are in years."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Group, Number, ResultPart, StageResult


class AgeGroup(ResultPart):
    """Errors in age over one group of ECGs: predicted less true age."""

    ecgs: Number
    patients: Number
    mae: EstimateResult = Field(description="mean absolute error; interval clustered by patient")
    bias: Number = Field(description="mean error")
    sd: Number = Field(description="of errors")
    r2: Number = Field(description="1 - mean square error / variance of age")
    agreement_low: Number = Field(description="limits of agreement: mean error - 1.96 SD")
    agreement_high: Number
    slope: Number = Field(description="of the error on the mean of predicted and true age")
    r: EstimateResult = Field(description="Pearson's, of predicted and true age; interval by Fisher's z, of patients")


class SexGroup(ResultPart):
    """Right answers about sex over one group of ECGs, at a probability of one half."""

    ecgs: Number
    patients: Number
    accuracy: EstimateResult = Field(description="interval clustered by patient")
    men: Number = Field(description="share of men")
    predicted_men: Number = Field(description="mean probability: calibration in the large")
    auc: EstimateResult


class Judged(ResultPart):
    """Figures by group: all, sexes, decades."""

    age: dict[str, AgeGroup]
    sex: dict[str, SexGroup]
    age_difference: EstimateResult | None = Field(description="mean absolute error, this model less the other's")
    sex_difference: EstimateResult | None = Field(description="accuracy, this model less the other's")
    age_chance: EstimateResult | None = Field(
        description="mean absolute error, less that of telling everybody the training patients' mean age"
    )
    sex_chance: EstimateResult | None = Field(
        description="accuracy, less that of telling everybody the training patients' more frequent sex"
    )


class Gap(ResultPart):
    """The line of predicted less true age on age, over validation patients; what is left of it is the age gap."""

    intercept: Number
    slope: Number
    sd: Number = Field(description="of the gap that is left")
    ecgs: Number
    sites: tuple[str, ...]


class Result(StageResult):
    """How well age and sex are told, by site and pooled over training and over unseen sites."""

    age: str | None
    sex: str | None
    against: dict[str, str]
    coverage: float
    gap: Gap | None
    conformal: dict[str, Number] = Field(description="half width, years, of a prediction's interval, by head")
    sites: dict[str, Judged]
    pooled: dict[Group, Judged]
    withheld: tuple[str, ...] = Field(description="sites that told of no group")
    absent: Absences
