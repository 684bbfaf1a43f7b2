"""The result of ``regress``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Heterogeneity, Number, ResultPart, StageResult


class CoefficientResult(EstimateResult):
    """One coefficient, on its term's own scale; error clustered by patient (CR1)."""

    p: Number
    deciding: Number = Field(
        description="effective number of patients who decide it: the interval is Student's t with one degree less, its "
        "error widened accordingly; none below 2"
    )


class GroupRate(ResultPart):
    """What a product of group and treatment says in rates, other terms at their means and other products' flags 0."""

    group: str
    treatment: str
    without: EstimateResult = Field(description="rate in the group without the treatment")
    expected: EstimateResult = Field(description="with the treatment, were the two effects to add up")
    change: EstimateResult = Field(
        description="by what share of `expected` the product moves it; -0.5 is half. Fieller's interval of a ratio, "
        "null where unbounded; logistic: on the log scale"
    )


class FitResult(ResultPart):
    """One fit. Without ``coefficients`` there is none, and ``reason`` says why."""

    sites: tuple[str, ...] = Field(description="whose ECGs it is of")
    ecgs: Number
    patients: Number
    events: Number = Field(description="ECGs with the outcome")
    r2: Number = Field(description="ols: share of variance explained; logistic: 1 - log-likelihood / that of no term")
    coefficients: dict[str, CoefficientResult] = Field(
        description="by term; and the intercept: with fixed effects, that of the average ECG"
    )
    rates: tuple[GroupRate, ...]
    reason: str = ""


class Together(ResultPart):
    """A term's coefficients at the sites by themselves, put together."""

    random: EstimateResult = Field(description="random effects, with Hartung and Knapp's interval")
    heterogeneity: Heterogeneity


class ModelResult(ResultPart):
    """One model of one outcome: all sites' sums, each site by itself, and how far sites differ."""

    name: str
    label: str
    outcome: str
    method: str
    terms: tuple[str, ...]
    fixed_effects: tuple[str, ...]
    pooled: FitResult
    sites: dict[str, FitResult]
    together: dict[str, Together] = Field(description="by term, where two sites or more have an estimate of their own")


class SiteRegressed(ResultPart):
    """A site of the step."""

    ecgs: Number
    patients: Number
    events: dict[str, Number] = Field(description="ECGs with each outcome")
    left_out: Number = Field(description="ECGs that lack a term or an outcome")
    closed: dict[str, str] = Field(description="what it may not sum, and why: a term, or 'outcome of term'")
    reason: str = Field(description="why it takes no part; empty where it does")


class Result(StageResult):
    """Regressions on ECGs that no training saw, all of the same ECGs."""

    outcomes: tuple[str, ...]
    treatment: str | None
    unknown_as_no: tuple[str, ...] = Field(description="columns whose terms are 0 where not known")
    cutoff: Number = Field(description="risk at or above which high_risk is 1; null where no term asks")
    means: dict[str, Number] = Field(description="of each term over all sites")
    sds: dict[str, Number] = Field(default={}, description="standard deviation of each term over all sites; 1 of none")
    models: tuple[ModelResult, ...]
    sites: dict[str, SiteRegressed]
    absent: Absences
