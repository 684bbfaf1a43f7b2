"""The result of ``describe``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import MeanSd, Number, ResultPart, StageResult

BySplit = dict[str, Number]
"""ECGs or patients by split: train, validation, lockbox."""


class FlowLine(ResultPart):
    """One rule of the exclusion flow and what it leaves."""

    reason: str
    ecgs: Number
    patients: Number


class SiteDescription(ResultPart):
    """One site's counts. At a site that trains, labels of the lockbox are neither read nor counted."""

    heads_offered: tuple[str, ...]
    patients_known: bool
    design: str = Field(default="cohort", description="cohort or case_control, by the hospital's own site file")
    lockbox_openings: int = Field(
        default=0, description="runs, of any study, that saw this hospital's lockbox before this one"
    )
    patients: BySplit
    ecgs: BySplit
    labelled: dict[str, BySplit] = Field(description="ECGs with a label, by endpoint")
    events: dict[str, BySplit] = Field(description="ECGs with the event, by endpoint")
    table1: dict[str, dict[str, MeanSd]] = Field(
        description="by group (all; <endpoint>: event; <endpoint>: no event), then by variable; over ECGs"
    )
    follow_up_years: MeanSd
    follow_up_quartiles: tuple[Number, ...] = Field(default=(), description="25, 50 and 75%, years")
    devices: dict[str, Number] = Field(description="ECGs by device")
    rates_hz: dict[str, Number] = Field(description="ECGs by sampling rate")
    flow: tuple[FlowLine, ...]


class PooledDescription(ResultPart):
    """Totals over the sites that answered; a withheld number counts as none."""

    patients: float
    ecgs: float
    labelled: dict[str, float]
    events: dict[str, float]
    training_age: MeanSd


class Result(StageResult):
    """Cohorts, Table 1, devices and exclusions, by site."""

    heads: tuple[str, ...]
    of_lockbox: bool = Field(default=False, description="of training sites' lockboxes, not of the rest")
    yes_no: tuple[str, ...] = Field(
        default=("male", "heart_failure", "diabetes", "hypertension", "previous_mi"),
        description="variables of Table 1 that are told as shares",
    )
    sites: dict[str, SiteDescription]
    absent: dict[str, str] = Field(description="reason by site")
    pooled: PooledDescription | None
