"""The result of ``arrhythmia``. Counts are of ECGs unless they say patients."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Group, Number, ResultPart, StageResult


class Point(ResultPart):
    """ECGs at or above a cut, and how often the outcome follows."""

    cutoff: Number = Field(description="as a risk; 0 where it is everybody")
    share: Number
    ecgs: Number
    events: Number
    rate: EstimateResult
    sites: tuple[str, ...] = Field(description="whose ECGs it is of")


class Incidence(ResultPart):
    """One outcome above every cut, the highest first; of everybody last."""

    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    points: tuple[Point, ...]
    at_cutoff: Point | None = Field(description="above the absolute cut-off, carried as it is")
    same_share: Point | None = Field(description="above the cut of the share that the cut-off had where it was trained")


class SiteIncidence(ResultPart):
    """One site's own, by outcome: scd, composite, added (VF/VT without sudden death), vfvt."""

    group: Group
    outcomes: dict[str, Incidence]


class Coded(ResultPart):
    """How much likelier VF/VT is written down at a site than in the training sites, at the same predicted risk."""

    odds_ratio: EstimateResult
    p: Number
    ecgs: Number
    events: Number


class Coding(ResultPart):
    """VF/VT on the logit of the risk, an intercept for the training sites together and one for each other."""

    slope: EstimateResult
    reference: tuple[str, ...]
    sites: dict[str, Coded]
    reason: str = Field(default="", description="why there is no such model; empty where there is")


class Result(StageResult):
    """Ventricular arrhythmia above cuts of the risk, with sudden death and alone."""

    scd: str | None
    vfvt: str
    cutoff: Number = Field(description="as a risk; null where no cut-off was fixed")
    share: Number = Field(description="of the training sites' ECGs at or above it")
    sites: dict[str, SiteIncidence]
    pooled: dict[Group, dict[str, Incidence]] = Field(description="by group of sites, then by outcome")
    coding: Coding
    absent: Absences
