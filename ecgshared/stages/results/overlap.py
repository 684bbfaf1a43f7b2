"""The result of ``overlap``. Counts are of ECGs unless they say patients."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Group, Number, ResultPart, StageResult


class GroupOverlap(ResultPart):
    """One group of ECGs (all, high, marker, both, ...), over the sites that told it."""

    sites: tuple[str, ...] = Field(description="whose ECGs share and size are of")
    ecgs: Number
    patients: Number
    share: Number = Field(description="of all ECGs of these sites")
    rate_sites: tuple[str, ...] = Field(description="whose ECGs the rate is of: fewer may tell of events")
    events: Number
    event_patients: Number
    rate: EstimateResult


class Difference(ResultPart):
    """The rate of one group less that of another, clustered by patient, and P of no difference."""

    first: str
    second: str
    sites: tuple[str, ...]
    difference: EstimateResult
    p: Number


class AtCut(ResultPart):
    """All groups with the high-risk group at one cut."""

    cutoff: Number = Field(description="as a risk")
    groups: dict[str, GroupOverlap]
    differences: tuple[Difference, ...]


class Overlap(ResultPart):
    """At the fixed cut, and at one above which about as many ECGs lie as have the marker."""

    fixed: AtCut
    matched: AtCut | None


class SiteOverlap(ResultPart):
    """One site's own."""

    group: Group
    left_out: Number = Field(description="ECGs without a risk or the outcome")
    overlap: Overlap


class Result(StageResult):
    """High-risk ECG and the marker in use: who has either, both, neither, and how often the event follows."""

    outcome: str
    marker: str
    label: str = ""
    cutoff: Number = Field(description="risk at which the high-risk group begins; null where no cut was fixed")
    sites: dict[str, SiteOverlap]
    pooled: dict[Group, Overlap] = Field(description="by group of sites; a group of one site is that site")
    absent: Absences
