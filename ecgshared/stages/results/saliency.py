"""The result of ``saliency``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, Group, Number, ResultPart, StageResult


class Map(ResultPart):
    """Means over patients; by lead, in the standard order."""

    patients: Number
    sites: tuple[str, ...]
    share: dict[str, dict[str, Number]] = Field(description="by lead, then phase; they add up to 1")
    signed: dict[str, dict[str, Number]] = Field(description="the same with sign: above 0 raises the output")
    error: dict[str, dict[str, Number]] = Field(description="standard error of share, over patients")
    course: dict[str, tuple[Number, ...]] = Field(description="by lead: size along the window, per second")
    beat: dict[str, tuple[Number, ...]] = Field(description="by lead: the mean beat, mV")


class SiteMap(Map):
    """One site's own."""

    group: Group


class Result(StageResult):
    """Where in the beat and in which leads a net's output comes from."""

    head: str
    method: str
    times_s: tuple[float, ...] = Field(description="of course and beat, seconds from the middle of QRS")
    sites: dict[str, SiteMap]
    pooled: dict[Group, Map]
    absent: Absences
