"""The result of ``calibrate``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, Number, ResultPart, StageResult


class SiteCalibration(ResultPart):
    """What a site brought to the fit."""

    ecgs: Number
    patients: Number
    events: Number = Field(description="ECGs with the event")
    left_out: Number = Field(description="ECGs whose label or an input is unknown")
    took_part: bool


class Result(StageResult):
    """One logistic score. Coefficients are on the inputs' own scale; counts are of the sites that took part."""

    target: str
    split: str
    inputs: tuple[str, ...]
    coef: dict[str, Number] = Field(description="by input; and the intercept")
    se: dict[str, Number]
    se_patient_clustered: dict[str, Number] | None = Field(
        description="null where a site knows no patients or withheld what it takes"
    )
    covariance: tuple[tuple[Number, ...], ...] | None = Field(
        default=None, description="of the coefficients, intercept first: clustered by patient where that is known"
    )
    ecgs: Number
    patients: Number
    events: Number
    iterations: int
    log_likelihood: Number
    ridge: float
    sites: dict[str, SiteCalibration]
    withheld: tuple[str, ...] = Field(description="sites that answered and took no part")
    absent: Absences
