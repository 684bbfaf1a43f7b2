"""The result of ``high_risk``. Counts are of ECGs unless they say patients."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Group, MeanSd, Number, ResultPart, StageResult


class Distribution(ResultPart):
    """How the risk is spread; quantiles rounded, of one site alone."""

    ecgs: Number
    mean: Number
    sd: Number
    quantiles: dict[str, Number] = Field(description="by percent")


class Variable(ResultPart):
    """One variable at high risk and not."""

    high: MeanSd
    others: MeanSd


class Band(ResultPart):
    """A band of the risk, or of the ejection fraction, and who has a defibrillator in it."""

    low: Number = Field(description="null: no lower end, or not measured")
    high: Number = Field(description="null: no upper end, or not measured")
    measured: bool
    ecgs: Number
    share_with_device: Number


class Captured(ResultPart):
    """Of all ECGs followed by the outcome, the share that a rule flags."""

    sites: tuple[str, ...]
    flagged_share: Number
    events: Number
    captured: EstimateResult


class Incidence(ResultPart):
    """Cumulative incidence at each time, with its interval, and ECGs still followed."""

    ecgs: Number
    events: Number
    risk: tuple[Number, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    at_risk: tuple[Number, ...]


class Profile(ResultPart):
    """What one site, or the sites of one group together, tell."""

    ecgs: Number
    patients: Number
    high_risk_share: Number
    distribution: Distribution
    variables: dict[str, Variable]
    devices_by_risk: tuple[Band, ...]
    devices_by_lvef: tuple[Band, ...]
    captured: dict[str, Captured] = Field(description="high_risk, then by marker; any_marker of several")
    incidence: dict[str, Incidence] = Field(description="high and others; empty where the step has no event")


class SiteProfile(Profile):
    """One site's own."""

    group: Group
    left_out: Number = Field(description="ECGs without a risk")


class Result(StageResult):
    """Who is at high risk, and what becomes of them."""

    cutoff: Number = Field(description="as a risk; null where no cut-off was fixed: then nobody is at high risk")
    outcome: str
    event: str | None
    times_years: tuple[float, ...]
    sites: dict[str, SiteProfile]
    pooled: dict[Group, Profile]
    absent: Absences
