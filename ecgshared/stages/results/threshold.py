"""The result of ``threshold``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, IntervalUnit, Number, ResultPart, StageResult


class SiteValidation(ResultPart):
    """A site's validation set."""

    ecgs: Number
    patients: Number
    events: Number


class Candidates(ResultPart):
    """All cuts that were tried: the risk, the share of ECGs above it, their event rate, its limits, and the least and
    largest it can be with what some sites may not count."""

    cutoff: tuple[Number, ...]
    share: tuple[Number, ...]
    rate: tuple[Number, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    bound_low: tuple[Number, ...] = ()
    bound_high: tuple[Number, ...] = ()


class Result(StageResult):
    """The cut-off, why it is there, and the candidates it was chosen from."""

    target: str
    rule: Literal["min_rate", "top_share", "none"]
    min_rate: float | None
    top_share: float | None
    confidence: float = 0.95
    qualified: bool | None = Field(description="whether a group's lower limit exceeds min_rate; null without one")
    cutoff: Number = Field(description="as a risk; null where there is no high-risk group")
    share_above: Number
    share_bounds: tuple[Number, Number] | None = None
    rate: EstimateResult | None
    rate_bounds: tuple[Number, Number] | None
    ecgs: Number
    events: Number
    candidates: Candidates
    interval_unit: IntervalUnit
    sites: dict[str, SiteValidation]
    withheld: tuple[str, ...] = Field(description="sites that answered and are not part of the choice")
    absent: Absences
