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
    """An estimate whose bounds contain what the scores of all sites, put together, would give."""

    bound_low: Number
    bound_high: Number


class BoundedNumber(ResultPart):
    """A number known to its bounds; no value where they lie too far apart."""

    value: Number
    bound_low: Number
    bound_high: Number


class RateAtShare(ResultPart):
    """What acting on a risk of at least ``cutoff`` would mean: it flags ``share`` of the ECGs, of which ``rate`` have
    the event (PPV), and with them ``captured`` of the events."""

    cutoff: Number = None
    share: Number
    rate: EstimateResult
    captured: Number = None
    npv: Number = None
    accuracy: Number = None
    net_benefit: Number = Field(default=None, description="at the threshold probability ``cutoff``, per ECG")


class BoundedRateAtShare(RateAtShare):
    """The same over several sites, with bounds of rate, captured share and net benefit."""

    bound_low: Number
    bound_high: Number
    captured_low: Number = None
    captured_high: Number = None
    net_benefit_low: Number = None
    net_benefit_high: Number = None


class Compared(ResultPart):
    """This score against another on the ECGs that have both; AUC minus other AUC, paired, by patient."""

    auc: Number
    other_auc: Number
    difference: EstimateResult
    p: Number
    ecgs: Number
    events: Number


class SiteAtThreshold(ResultPart):
    """At the fixed threshold: share of ECGs above it, PPV, sensitivity, specificity, NPV, accuracy."""

    share: EstimateResult
    ppv: EstimateResult
    sensitivity: EstimateResult
    specificity: EstimateResult
    npv: EstimateResult | None = None
    accuracy: EstimateResult | None = None


class PooledAtThreshold(ResultPart):
    """At the fixed threshold, over the sites that released the counts."""

    sites: tuple[str, ...]
    share: Number
    ppv: EstimateResult
    sensitivity: EstimateResult
    specificity: EstimateResult | None = None
    npv: EstimateResult | None = None
    accuracy: EstimateResult | None = None
    net_benefit: Number = None


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
    """ECGs of like predicted risk over several sites, between cuts that all answered: bounds are the value."""

    ecgs: Number
    mean_predicted: Number
    observed: Number
    bound_low: Number
    bound_high: Number
    low: Number = None
    high: Number = None


class RocCurve(ResultPart):
    """False and true positive rate at released edges, both ascending."""

    fpr: tuple[Number, ...]
    tpr: tuple[Number, ...]


class BoundedRocCurve(RocCurve):
    """The same over several sites; each point lies in its box."""

    tpr_low: tuple[Number, ...]
    tpr_high: tuple[Number, ...]
    fpr_low: tuple[Number, ...] = ()
    fpr_high: tuple[Number, ...] = ()


class WeightedFigures(ResultPart):
    """By the end of the horizon, with everybody who is followed, weighted by the chance to be (IPCW).

    Counts are of those followed, events of those seen by the horizon. ``sites``: those pooled, none at one site;
    pooled, the AUC is that of pairs within a hospital. ``ppv``: at the fixed threshold.
    """

    sites: tuple[str, ...] = ()
    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    auc: EstimateResult
    event_rate: EstimateResult
    expected_over_observed: EstimateResult
    brier: EstimateResult
    ppv: EstimateResult


class SiteHead(ResultPart):
    """One endpoint at one site."""

    ecgs: Number
    patients: Number
    events: Number
    event_patients: Number
    few_events: bool = Field(default=False, description="too few patients with, or without, the event for intervals")
    left_out: Number = Field(description="ECGs without score or label")
    base_rate: Number
    mean_predicted: Number
    auc: EstimateResult
    average_precision: EstimateResult | None = Field(default=None, description="area under precision and recall")
    brier: EstimateResult
    scaled_brier: Number = Field(default=None, description="1 - Brier / (Brier of the base rate)")
    calibration_slope: EstimateResult
    calibration_intercept: EstimateResult
    expected_over_observed: EstimateResult
    ppv: tuple[RateAtShare, ...]
    threshold: SiteAtThreshold | None
    subgroups: dict[str, Subgroup]
    calibration_curve: tuple[CalibrationGroup, ...]
    roc: RocCurve | None
    compared: dict[str, Compared] = Field(default_factory=dict, description="by the other score")
    weighted: WeightedFigures | None = Field(default=None, description="for censoring; null where the study does not")


class SiteEvaluation(ResultPart):
    """One site's own figures, by endpoint."""

    group: Group
    interval_unit: IntervalUnit
    heads: dict[str, SiteHead]


class PooledHead(ResultPart):
    """One endpoint over the sites of one group that released their counts; one site alone shows its own figures."""

    sites: tuple[str, ...]
    ecgs: Number
    events: Number
    event_patients: Number = None
    few_events: bool = Field(default=False, description="too few patients with the event for intervals")
    base_rate: Number
    auc: BoundedEstimate = Field(description="no value where the bounds lie too far apart")
    auc_within_sites: EstimateResult | None = Field(
        default=None, description="of pairs within a site: the sites' own AUCs, weighted by their pairs"
    )
    average_precision: BoundedNumber | None = None
    expected_over_observed: EstimateResult
    brier: Number
    scaled_brier: Number = None
    ppv: tuple[BoundedRateAtShare, ...]
    threshold: PooledAtThreshold | None
    roc: BoundedRocCurve | None
    calibration_curve: tuple[PooledCalibrationGroup, ...]
    subgroups: dict[str, EstimateResult]
    calibration_intercept: EstimateResult
    calibration_slope: EstimateResult
    compared: dict[str, Compared] = Field(default_factory=dict, description="by the other score, pairs within sites")
    weighted: WeightedFigures | None = Field(default=None, description="for censoring; null where the study does not")
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
