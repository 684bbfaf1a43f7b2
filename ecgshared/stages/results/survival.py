"""The result of ``survival``. Coefficients are log hazard ratios per unit of the input."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecgshared.stages.results.base import (
    Absences,
    EstimateResult,
    MeanSd,
    Number,
    ResultPart,
    StageResult,
)
from ecgshared.study.endpoints import Event


class Coefficient(ResultPart):
    """One input of a fitted model, with its 95% interval and Wald p value."""

    coef: Number
    se: Number
    low: Number
    high: Number
    hazard_ratio: Number
    p: Number
    per_sd: Number


class CoefficientAtSite(ResultPart):
    """A site's own fit of one input."""

    coef: Number
    se: Number


class ForestResult(ResultPart):
    """The sites' own fits of one input, what they say together, and how far they differ (Cochran's Q, I2, tau2)."""

    sites: dict[str, CoefficientAtSite]
    fixed: EstimateResult
    random: EstimateResult = Field(description="with Hartung and Knapp's interval")
    random_p: Number
    prediction: tuple[Number, Number] = Field(description="95% interval for another site's true value")
    q: Number
    p: Number
    i2: Number
    tau2: Number


class ChiSquared(ResultPart):
    """A test, its degrees of freedom and its p value."""

    chi2: Number
    degrees: int
    p: Number


class Baseline(ResultPart):
    """The pooled cumulative baseline hazard at a few times."""

    years: tuple[Number, ...]
    hazard: tuple[Number, ...]


class CoxModel(ResultPart):
    """One model over the sites."""

    inputs: tuple[str, ...]
    coefficients: dict[str, Coefficient]
    log_likelihood: Number
    log_likelihood_null: Number
    tests: dict[str, ChiSquared] = Field(
        description="that all coefficients are 0: likelihood_ratio and score (without a penalty), wald"
    )
    rounds: int
    robust: bool = Field(description="whether the errors are the sandwich's, clustered by patient")
    sites: tuple[str, ...]
    ecgs: Number
    patients: Number
    events: Number
    proportional_hazards: dict[str, ChiSquared] | None = Field(
        description='by input, and "GLOBAL": score test against time in years'
    )
    forest: dict[str, ForestResult]
    baseline: Baseline
    cuts: tuple[Number, ...] = Field(description="of the linear predictor, between risk groups")
    notes: tuple[str, ...]


class SiteFollowed(ResultPart):
    """Who was followed at a site, and who was left out."""

    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    left_out: dict[str, Number] = Field(description="ECGs by reason: time unknown, input missing")
    missing: dict[str, Number] = Field(description="ECGs by the input they lack")
    took_part: bool
    reason: str = Field(description="why the site took no part; empty where it did")


class Result(StageResult):
    """Cox models of one event, side by side, on the same patients."""

    event: Event
    mode: Literal["stratified", "exact", "local"]
    hazard: Literal["cause_specific", "subdistribution"] = "cause_specific"
    ties: Literal["efron", "breslow"]
    penalizer: float
    l1_ratio: float
    robust: bool
    one_ecg_per_patient: bool
    splits: tuple[str, ...]
    horizon_years: float
    follow_up_years: Number
    grid: tuple[Number, ...] | None = Field(description="exact mode: ends of the common intervals, years")
    standardised: dict[str, MeanSd]
    models: dict[str, CoxModel]
    sites: dict[str, SiteFollowed]
    absent: Absences
