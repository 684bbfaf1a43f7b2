"""The result of ``evaluate``. Counts are of ECGs unless they say patients."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import (
    Absences,
    EstimateResult,
    Group,
    IntervalUnit,
    Number,
    ResultPart,
    StageResult,
)


class BoundedEstimate(EstimateResult):
    """An estimate whose bounds contain the value that unmerged scores would give."""

    bound_low: Number
    bound_high: Number


class RateAtShare(ResultPart):
    """Event rate (PPV) among the ECGs at highest risk; ``share`` is that of the nearest edge of the merged bins."""

    wanted_share: float
    share: Number
    rate: EstimateResult


class BoundedRateAtShare(RateAtShare):
    """The same over several sites, with bounds."""

    bound_low: Number
    bound_high: Number


class SiteAtThreshold(ResultPart):
    """At the fixed threshold: share of ECGs above it, PPV, sensitivity, specificity."""

    share: EstimateResult
    ppv: EstimateResult
    sensitivity: EstimateResult
    specificity: EstimateResult


class PooledAtThreshold(ResultPart):
    """At the fixed threshold, over the sites that released the counts."""

    sites: tuple[str, ...]
    share: Number
    ppv: EstimateResult
    sensitivity: EstimateResult


class Subgroup(ResultPart):
    """One subgroup at one site."""

    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    mean_predicted: Number
    observed: Number
    auc: EstimateResult


class CalibrationGroup(ResultPart):
    """ECGs of like predicted risk at one site."""

    ecgs: Number
    mean_predicted: Number
    observed: EstimateResult


class PooledCalibrationGroup(ResultPart):
    """ECGs of like predicted risk over several sites, with bounds."""

    ecgs: Number
    mean_predicted: Number
    observed: Number
    bound_low: Number
    bound_high: Number


class RocCurve(ResultPart):
    """False and true positive rate at released edges, both ascending."""

    fpr: tuple[Number, ...]
    tpr: tuple[Number, ...]


class BoundedRocCurve(RocCurve):
    """The same over several sites; the curve of unmerged scores lies in the band."""

    tpr_low: tuple[Number, ...]
    tpr_high: tuple[Number, ...]


class SiteHead(ResultPart):
    """One endpoint at one site."""

    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    left_out: Number = Field(description="ECGs without score or label")
    base_rate: Number
    mean_predicted: Number
    auc: EstimateResult
    brier: EstimateResult
    calibration_slope: EstimateResult
    calibration_intercept: EstimateResult
    expected_over_observed: EstimateResult
    ppv: tuple[RateAtShare, ...]
    threshold: SiteAtThreshold | None
    subgroups: dict[str, Subgroup]
    calibration_curve: tuple[CalibrationGroup, ...]
    roc: RocCurve | None


class SiteEvaluation(ResultPart):
    """One site's own figures, by endpoint."""

    group: Group
    interval_unit: IntervalUnit
    heads: dict[str, SiteHead]


class PooledHead(ResultPart):
    """One endpoint over the sites of one group that released a histogram of it."""

    sites: tuple[str, ...]
    ecgs: Number
    events: Number
    base_rate: Number
    auc: BoundedEstimate
    expected_over_observed: EstimateResult
    brier: Number
    ppv: tuple[BoundedRateAtShare, ...]
    threshold: PooledAtThreshold | None
    roc: BoundedRocCurve | None
    calibration_curve: tuple[PooledCalibrationGroup, ...]
    subgroups: dict[str, EstimateResult]
    calibration_intercept: EstimateResult
    calibration_slope: EstimateResult
    withheld: tuple[str, ...] = Field(description="sites of the group that are no part of this")
    interval_unit: IntervalUnit


class Result(StageResult):
    """How well a frozen score does, site by site and over each group of sites."""

    score: str
    heads: tuple[str, ...]
    threshold: Number = Field(description="the fixed cut-off as a risk; null where there is none")
    top_shares: tuple[float, ...]
    sites: dict[str, SiteEvaluation]
    pooled: dict[Group, dict[str, PooledHead]] = Field(description="by group of sites, then by endpoint")
    absent: Absences
