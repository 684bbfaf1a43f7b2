"""The result of ``contrast``. Counts are of ECGs unless they say patients."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Group, Number, ResultPart, StageResult


class RiskPair(ResultPart):
    """Two risks on the same ECGs."""

    brier: EstimateResult
    other_brier: EstimateResult
    brier_difference: EstimateResult = Field(description="Brier less other Brier: below zero where the first is closer")
    brier_p: Number
    slope: EstimateResult | None = Field(description="of calibration: one hospital's own; null over several")
    other_slope: EstimateResult | None
    sites: tuple[str, ...]


class Pair(ResultPart):
    """The first score and another on the same ECGs; AUC less other AUC, paired, clustered by patient."""

    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    auc: EstimateResult
    other_auc: EstimateResult
    difference: EstimateResult
    p: Number
    sites: tuple[str, ...]
    risks: RiskPair | None = Field(default=None, description="null where either is no risk, or no hospital may tell")


class PlaceboContrast(ResultPart):
    """One score's AUC for the outcome less that for the placebo; the two share their controls."""

    ecgs: Number
    events: Number
    event_patients: Number
    placebo_events: Number
    placebo_event_patients: Number
    auc: EstimateResult
    placebo_auc: EstimateResult
    difference: EstimateResult
    p: Number
    sites: tuple[str, ...]


class Contrasted(ResultPart):
    """What one site, or the sites of one group together (pairs of ECGs within a site), say."""

    pairs: dict[str, dict[str, Pair]] = Field(description="by outcome, then by the other score")
    placebo: dict[str, PlaceboContrast] = Field(description="by score; empty where the step has no placebo")


class SiteContrasted(Contrasted):
    """One site's own."""

    group: Group


class Result(StageResult):
    """Scores beside each other, and beside what they should not know."""

    score: str = Field(description="the first, which the others are compared with")
    others: tuple[str, ...]
    outcomes: tuple[str, ...]
    placebo: str | None
    sites: dict[str, SiteContrasted]
    pooled: dict[Group, Contrasted] = Field(description="within sites, weighted by pairs of cases and controls")
    absent: Absences
