"""The result of ``survival_evaluate``. ``difference`` is to the step's first model, on the same patients."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import (
    Absences,
    EstimateResult,
    Group,
    Heterogeneity,
    IntervalUnit,
    Number,
    ResultPart,
    StageResult,
)
from ecgshared.study.endpoints import Event


class SurvivalCurve(ResultPart):
    """The share without the event by the result's ``times``, with its 95% interval, and the ECGs still followed.

    1 - Aalen-Johansen's cumulative incidence: who dies of something else has not had the event.
    """

    survival: tuple[Number, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    at_risk: tuple[Number, ...]


class PooledCurve(SurvivalCurve):
    """The mean of the sites' curves, weighted by ECGs."""

    sites: tuple[str, ...]


class SiteRiskGroup(ResultPart):
    """One risk group at one site; risks are by the horizon."""

    ecgs: Number
    events: Number
    predicted: Number
    observed: EstimateResult
    curve: SurvivalCurve


class PooledRiskGroup(ResultPart):
    """One risk group over a group of sites."""

    ecgs: Number
    events: Number
    curve: PooledCurve


class Differences(ResultPart):
    """A model's figures less those of the first model."""

    harrell: EstimateResult
    uno: EstimateResult
    auc: EstimateResult


class ModelFigures(ResultPart):
    """Concordance, AUC and Brier scores, and calibration of one model."""

    harrell: EstimateResult
    uno: EstimateResult
    auc: EstimateResult
    brier: EstimateResult
    integrated_brier: EstimateResult
    expected_over_observed: EstimateResult
    slope: EstimateResult
    difference: Differences


class SiteModel(ModelFigures):
    """One model at one site."""

    groups: tuple[SiteRiskGroup, ...]


class LogRankResult(ResultPart):
    """The log-rank test of the risk groups, stratified by site."""

    chi2: Number
    degrees: int | None
    p: Number
    sites: tuple[str, ...]


class Spread(Heterogeneity):
    """How far sites differ, their mean as random effects, and where another site's true value is expected."""

    random: EstimateResult
    prediction: tuple[Number, Number]
    sites: int


class PooledModel(ModelFigures):
    """One model over a group of sites."""

    heterogeneity: dict[str, Spread] = Field(
        description="of harrell (q, i2 and tau2 on the logit scale), slope, expected_over_observed (on the log scale)"
    )
    not_pooled: dict[str, dict[str, str]] = Field(description="by figure: sites left out of it, and why")
    log_rank: LogRankResult
    groups: tuple[PooledRiskGroup, ...]


class SiteSurvival(ResultPart):
    """One site."""

    group: Group
    interval_unit: IntervalUnit
    reason: str = Field(description="why the site took no part; empty where it did")
    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    left_out: dict[str, Number] = Field(description="ECGs by reason: time unknown, input missing")
    missing: dict[str, Number] = Field(description="ECGs by the input they lack")
    observed: EstimateResult = Field(description="risk by the horizon")
    models: dict[str, SiteModel]


class PooledSurvival(ResultPart):
    """One group of sites."""

    sites: tuple[str, ...]
    ecgs: Number
    events: Number
    interval_unit: IntervalUnit
    models: dict[str, PooledModel]


class Result(StageResult):
    """How well frozen survival models do, site by site and over each group of sites."""

    fit: str = Field(description="the survival step")
    event: Event
    horizon_years: float
    times: tuple[Number, ...] = Field(description="of the curves, years")
    models: dict[str, tuple[str, ...]] = Field(description="inputs by model")
    reference: str
    sites: dict[str, SiteSurvival]
    pooled: dict[Group, PooledSurvival]
    absent: Absences
