"""evaluate: how well a frozen score tells who has the event, on lockboxes and at sites that never trained.

Phases: ``local`` (exact figures of one site, as scalars), ``scale`` (where the scores lie, so that cuts can be chosen
that all sites share), ``histogram`` (controls on the site's own bins, cases above the cuts, exact rates there),
``placement`` (the pooled control curve summed over the site's cases), ``slope`` (Newton sums of the pooled calibration
line), ``compare`` (paired differences of AUC), ``weighted`` (own figures weighted for censoring). What the three counts
disclose together is argued in :mod:`ecgshared.stats.control_bins`. Every point of a curve stands at a cut that sites
answered; nothing lies between.

Where the study says ``secure_sum``, nothing of one hospital is told to anybody, and all of this is over the sites of
the step together: ``totals`` (counts, summed risk and squared error, where the scores lie), ``controls`` (ECGs without
the event between shared cuts), ``placed`` (the pooled control curve summed over cases), ``line`` (Newton sums of the
calibration line), added under masks, the limits being those of all sites together.

null: withheld by the site, or undefined for so few. Bounds contain the value that the scores of all sites, put
together, would give; ``low`` and ``high`` are the 95% interval, absent below ten patients with the event. Counts are of
ECGs unless they say patients. A group of one site shows that site's own figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages.results.evaluate import Result as Result
from ecgshared.study.score import (
    RiskScore,
    named_scores,
    require_shared_model,
    risk_score,
)
from ecgshared.study.subgroups import Partition, derived_columns, partitions
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

COUNTS = ("ecgs", "patients", "events", "event_patients")
AT_THRESHOLD = ("share", "ppv", "sensitivity", "specificity", "npv", "accuracy")
WEIGHTED = ("auc", "event_rate", "expected_over_observed", "brier", "ppv")
"""What is also told with weights for censoring, in this order."""
MAX_BOUNDS = 0.03
"""A pooled AUC whose bounds lie further apart is told by its bounds alone: its place between them is not known."""

LINES = 30
"""Different calibration lines a site sums at for one outcome: what one fit asks for, halved steps included."""


LEAVES = {
    "local": "the hospital's own figures: counts, AUC, precision, calibration, rates at the threshold, and counts and "
    "AUC in subgroups",
    "scale": "mean scores of neighbouring ECGs, of patients with and without the event apart",
    "histogram": "how many ECGs without the event fall into each interval of the score, how many with it lie above "
    "cuts that all hospitals share, and event rate and summed risk there",
    "placement": "how many of all hospitals' ECGs without the event score below the hospital's own with it, one sum, "
    "and sums over patients that the intervals of the pooled figures take",
    "slope": "sums over patients that one step of the fit of the pooled calibration line takes",
    "compare": "the AUC of this score and of others on the same ECGs, and the difference",
    "weighted": "AUC, event rate, expected over observed, Brier score and precision at the threshold of everybody who "
    "is followed, weighted by the chance to be (studies with censoring: ipcw)",
    "totals": "only added to other hospitals': counts, summed risk and squared error, sums of scores and their squares",
    "controls": "only added to other hospitals': how many ECGs without the event lie between shared cuts of the score",
    "placed": "only added to other hospitals': of ECGs with the event, how many of all hospitals' without it lie below",
    "line": "only added to other hospitals': sums that one step of the fit of the calibration line takes",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each figure stands for a group of at least the hospital's own least size and least number of events, or is "
    "withheld. Intervals hold at least the hospital's own least size; cuts divide cases "
    "into groups that meet its limits; one score a step, and of it one set of cuts and one curve, is answered. Under "
    "secure_sum only the last four leave, under masks: the sum over all hospitals alone can be read, and only where "
    "all of them together meet the strictest limits among them, and no few patients carry it."
)
"""What stands between these numbers and one patient."""
SUMMED = dict.fromkeys(("totals", "controls", "placed", "line"), "pooled")
"""What is added under masks, the limits then being those of all sites together; nothing else leaves then."""
CURVES = 12
"""Different sets of cuts a site counts at for one outcome under masks."""
SUMMED_COUNTS = (*COUNTS, "free_patients")


class Config(StepConfig):
    """An evaluate step; it uses a calibrate step, or a train step and names the head, and perhaps a
    threshold."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    by_ranks: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    score: str | None = Field(default=None, description="<train step>.<head>; None takes the calibrated risk")
    heads: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="endpoints the score is judged against; None takes the score's own",
    )
    compare: tuple[str, ...] = Field(
        default=(),
        max_length=5,
        description="other scores on the same ECGs: a calibrate step, or <train step>.<head>, that this step uses; or "
        "a column that is a number or a flag (-lvef: the lower, the riskier)",
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    subgroups: tuple[str, ...] = Field(
        default=("sex", "age"),
        max_length=12,
        description="columns whose groups are judged apart: sex, age, a flag or a category of the study, or a bound on "
        "a number (lvef<=0.35)",
    )
    age_bands: tuple[float, ...] = Field(
        default=(0, 50, 65, 80, 130), min_length=2, description="inner bounds of the age groups, years"
    )
    top_shares: tuple[float, ...] = Field(
        default=(0.002, 0.005, 0.01, 0.022, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
        min_length=1,
        description="shares of highest risk whose rates are given",
    )

    @property
    def reads_columns(self) -> tuple[str, ...]:
        """Columns of subgroups that follow from the table."""
        return derived_columns(self.subgroups)

    @model_validator(mode="after")
    def _ascending(self) -> Config:
        for name, values in (("age_bands", self.age_bands), ("top_shares", self.top_shares)):
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must ascend")
        if len(set(self.subgroups)) != len(self.subgroups):
            raise ValueError("subgroups must name each once")
        derived_columns(self.subgroups)
        if not (self.top_shares[0] > 0 and self.top_shares[-1] <= 1):
            raise ValueError("top_shares must lie in (0, 1]")
        return self


@payload("evaluate", "local")
@dataclass(frozen=True)
class LocalResults:
    """One site's exact figures. H heads, G subgroups; estimates are (value, se, low, high).

    ``counts``: (H, 4), see COUNTS; ``left_out``: (H,) ECGs without score or label. ``subgroup_rates``: (H,
    G, 2), mean predicted and observed. ``at_threshold``: (H, 6, 4), see AT_THRESHOLD.
    """

    counts: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]
    mean_predicted: Annotated[Floats, Statistic()]
    auc: Annotated[Floats, Statistic()]
    average_precision: Annotated[Floats, Statistic()]
    brier: Annotated[Floats, Statistic()]
    intercept: Annotated[Floats, Statistic()]
    slope: Annotated[Floats, Statistic()]
    expected_over_observed: Annotated[Floats, Statistic()]
    at_threshold: Annotated[Floats, Statistic()]
    subgroup_counts: Annotated[Floats, Count()]
    subgroup_rates: Annotated[Floats, Statistic()]
    subgroup_auc: Annotated[Floats, Statistic()]
    patients_known: Annotated[int, Public()]


@payload("evaluate", "scale")
@dataclass(frozen=True)
class Scale:
    """Sketches of the scores (logit of the risk), one after another: ``mean`` of at least ten neighbours, and ``ecgs``
    that many. ``head``: which outcome; ``case``: 1 where the neighbours have the event. Shape = (k,) each."""

    head: Annotated[Floats, Sums()]
    case: Annotated[Floats, Sums()]
    mean: Annotated[Floats, Sums()]
    ecgs: Annotated[Floats, Sums()]


@payload("evaluate", "histogram")
@dataclass(frozen=True)
class Histograms:
    """Control bins of all heads, one after another, and cases above cuts.

    ``head``, ``lower``, ``upper``, ``controls``: shape = (k,). At each cut answered, of any head, shape = (c,):
    ``cut_head``, ``cut``, ``cases`` and ``predicted`` (summed risk) at or above it, ``rate``: (c, 4), the event rate
    there; of the group from this cut to the next one answered ``group``: (c, 6), ECGs, mean predicted risk, observed
    rate. The last cut of a head is the lower end of the scale: everybody.
    """

    head: Annotated[Floats, Sums()]
    lower: Annotated[Floats, Sums()]
    upper: Annotated[Floats, Sums()]
    controls: Annotated[Floats, Sums()]
    cut_head: Annotated[Floats, Sums()]
    cut: Annotated[Floats, Sums()]
    cases: Annotated[Floats, Sums()]
    predicted: Annotated[Floats, Sums()]
    rate: Annotated[Floats, Sums()]
    group: Annotated[Floats, Sums()]


@payload("evaluate", "placement")
@dataclass(frozen=True)
class Placement:
    """One head's part of the pooled AUC and of the errors of pooled ratios.

    ``pairs``: (2,), ``sums``: (13,), see :mod:`ecgshared.stats.placement`. ``in_large``, ``sensitivity``: (1,), squared
    influence on expected over observed and on the sensitivity at the threshold. At the cuts the site answered, shape =
    (c,): ``cut``, ``square_sum`` of influence on the pooled rate above it (of the threshold: the pooled PPV there),
    ``patients`` above it.
    """

    pairs: Annotated[Floats, Sums()]
    sums: Annotated[Floats, Sums()]
    in_large: Annotated[Floats, Sums()]
    sensitivity: Annotated[Floats, Sums()]
    cut: Annotated[Floats, Sums()]
    square_sum: Annotated[Floats, Sums()]
    patients: Annotated[Floats, Count()]


@payload("evaluate", "compare")
@dataclass(frozen=True)
class Compared:
    """This score against others on the ECGs that have both. H heads, V other scores.

    ``counts``: (H, V, 4), see COUNTS, of those ECGs. ``auc``: (H, V, 2), of this score and of the other.
    ``difference``: (H, V, 4), estimate of the first minus the second.
    """

    counts: Annotated[Floats, Count()]
    auc: Annotated[Floats, Statistic()]
    difference: Annotated[Floats, Statistic()]


@payload("evaluate", "weighted")
@dataclass(frozen=True)
class Weighted:
    """One site's figures by the end of each horizon, weighted for censoring; H heads, NaN where one has no horizon.

    ``counts``: (H, 4), ECGs followed, their patients, ECGs with the event by the horizon, patients with it.
    ``figures``: (H, 5, 4), see WEIGHTED. ``moments``: (H, 4), mean predicted risk of those followed, its variance, that
    of the event rate, and their covariance.
    """

    counts: Annotated[Floats, Count()]
    figures: Annotated[Floats, Statistic()]
    moments: Annotated[Floats, Statistic()]


@payload("evaluate", "slope")
@dataclass(frozen=True)
class SlopeSums:
    """Of one head's calibration line at the coefficients asked for; shapes (2,), (2, 2), (1,), (2, 2)."""

    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]
    log_likelihood: Annotated[Floats, Sums()]
    meat: Annotated[Floats, Sums()]


@payload("evaluate", "totals")
@dataclass(frozen=True)
class Totals:
    """Of each head: ``counts`` (H, 5), see SUMMED_COUNTS; ``predicted``, ``squared``: (H,), summed risk and squared
    error; ``scores``: (H, 3), number, sum and sum of squares of the logit of the risk of those without the event."""

    counts: Annotated[Floats, Count()]
    predicted: Annotated[Floats, Sums()]
    squared: Annotated[Floats, Sums()]
    scores: Annotated[Floats, Sums()]


@payload("evaluate", "controls")
@dataclass(frozen=True)
class Controls:
    """``counts``: (k + 1,), ECGs without the event below the first cut, between neighbours, and from the last on."""

    counts: Annotated[Floats, Count()]


@payload("evaluate", "placed")
@dataclass(frozen=True)
class Placed:
    """Over ECGs with the event. ``share``: (2,), sums of the share of controls below, at least and at most.
    ``squares``: (3,), over patients: of the summed middle share's square, of it times their ECGs, of their ECGs'
    square."""

    share: Annotated[Floats, Sums()]
    squares: Annotated[Floats, Sums()]


payload("evaluate", "line")(SlopeSums)


def heads_of(step: Config, study: Study) -> tuple[str, ...]:
    """Return the endpoints the score is judged against."""
    return step.heads or (risk_score(step, study).target,)


def compared_scores(step: Config, study: Study) -> tuple[RiskScore, ...]:
    """Return the scores that the step's own is compared with.

    Raises
    ------
    ValueError : one is neither a calibrate step nor a trained head that the step uses.
    """
    return named_scores(step.compare, step, study, "compare")


def partitions_of(step: Config, study: Study | None = None) -> tuple[Partition, ...]:
    """Return the subgroups that are judged apart; without a study those of sex and age alone can be named."""
    return partitions(step.subgroups, step.age_bands, study)


def subgroup_names(step: Config, study: Study | None = None) -> tuple[str, ...]:
    """Return the names of the cells of all partitions, one after another."""
    return tuple(name for partition in partitions_of(step, study) for name in partition.names)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where an evaluate step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("an evaluate step's configuration was expected")
    require_shared_model(step, study)
    unknown = [head for head in heads_of(step, study) if head not in study.endpoints]
    if unknown:
        raise ValueError(f"step {step.id!r}: heads names {', '.join(unknown)}; allowed: {', '.join(study.endpoints)}")
    study.require_yes_no(step, heads_of(step, study))
    compared_scores(step, study)
    try:
        names = subgroup_names(step, study)
    except ValueError as error:
        raise ValueError(f"step {step.id!r}: {error}") from error
    if len(set(names)) != len(names):
        raise ValueError(f"step {step.id!r}: two subgroups have one name")
    judged = study.used(step, "threshold")
    if judged is not None and risk_score(judged, study) != risk_score(step, study):
        raise ValueError(f"step {step.id!r}: the threshold {judged.id!r} was fixed on another score")
    if study.secure_sum is not None and step.frozen is None:
        _check_summed(step, study)


def _check_summed(step: Config, study: Study) -> None:
    """Raise ValueError where sums over the sites of a step together are of no group, or cannot tell what is asked."""
    groups = {study.sites.group_of(site) for site in study.members(step)}
    if len(groups) > 1 or "case_control" in groups:
        raise ValueError(
            f"step {step.id!r}: under secure_sum an evaluation is of all its hospitals together, and training "
            "hospitals, hospitals that never trained and case-control series are never pooled together; give each a "
            "step of its own, `sites: train` and `sites: zero_shot`"
        )
    if step.compare:
        raise ValueError(f"step {step.id!r}: compare needs each hospital's own figures, which secure_sum hides")
