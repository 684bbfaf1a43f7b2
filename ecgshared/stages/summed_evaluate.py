"""summed_evaluate: how well a frozen score does over all hospitals together, from sums that hide each hospital's part.

For hospitals too small to tell anything of their own. Nothing of one hospital is known, to anybody: its counts, curve
and calibration are added under masks (``secure_sum`` of the study), and the limits hold for all hospitals together.

Phases: ``totals`` (counts, summed risk and squared error, where the scores lie), ``controls`` (ECGs without the event
between shared cuts), ``placed`` (the pooled control curve summed over cases), ``line`` (Newton sums of the calibration
line). The cuts are quantiles of a normal distribution of the scores of those without the event; where they leave too
few people between two of them the sites refuse, and a quarter fewer are asked for.

Where a score lies between two cuts is not known: the bounds of the AUC hold whatever it is, its value stands in their
middle. Its error has the cases' part exactly, clustered by patient, and the controls' part from Hanley and McNeil 1982
(doi 10.1148/radiology.143.1.7063747) with patients for ECGs. Counts are of ECGs unless they say patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy.stats import norm

from ecgshared.arrays import Floats
from ecgshared.stages.results.summed_evaluate import Result as Result
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.wire.protocol import Count, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

COUNTS = ("ecgs", "patients", "events", "event_patients", "free_patients")
LINES = 30
"""Different calibration lines a site sums at for one outcome."""
CURVES = 12
"""Different sets of cuts a site counts at for one outcome."""

LEAVES = {
    "totals": "only added to other hospitals': counts, summed risk and squared error, sums of scores and their squares",
    "controls": "only added to other hospitals': how many ECGs without the event lie between shared cuts of the score",
    "placed": "only added to other hospitals': of ECGs with the event, how many of all hospitals' without it lie below",
    "line": "only added to other hospitals': sums that one step of the fit of the calibration line takes",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Nothing leaves but numbers under masks, of which the sum over all hospitals alone can be read; and that only "
    "where all hospitals together meet the strictest limits among them, and no few patients carry the sum."
)
"""What stands between these numbers and one patient."""
SUMMED = dict.fromkeys(LEAVES, "pooled")
"""What can be added under masks, the limits then being those of all sites together."""


class Config(StepConfig):
    """A summed_evaluate step; it uses a calibrate step, or a train step and names the head."""

    default_sites: ClassVar[str] = "train"
    opens_lockbox: ClassVar[bool] = True

    score: str | None = Field(default=None, description="<train step>.<head>; None takes the calibrated risk")
    heads: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="endpoints the score is judged against; None takes the score's own"
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    bins: int = Field(default=128, ge=4, le=512, description="most groups of scores between cuts")


@payload("summed_evaluate", "totals")
@dataclass(frozen=True)
class Totals:
    """Of each head: ``counts`` (H, 5), see COUNTS; ``predicted``, ``squared``: (H,), summed risk and squared error;
    ``scores``: (H, 3), number, sum and sum of squares of the logit of the risk of those without the event."""

    counts: Annotated[Floats, Count()]
    predicted: Annotated[Floats, Sums()]
    squared: Annotated[Floats, Sums()]
    scores: Annotated[Floats, Sums()]


@payload("summed_evaluate", "controls")
@dataclass(frozen=True)
class Controls:
    """``counts``: (k + 1,), ECGs without the event below the first cut, between neighbours, and from the last on."""

    counts: Annotated[Floats, Count()]


@payload("summed_evaluate", "placed")
@dataclass(frozen=True)
class Placed:
    """Over ECGs with the event. ``share``: (2,), sums of the share of controls below, at least and at most.
    ``squares``: (3,), over patients: of the summed middle share's square, of it times their ECGs, of their ECGs'
    square."""

    share: Annotated[Floats, Sums()]
    squares: Annotated[Floats, Sums()]


@payload("summed_evaluate", "line")
@dataclass(frozen=True)
class LineSums:
    """Of the calibration line at the coefficients asked for; shapes (2,), (2, 2), (1,), (2, 2)."""

    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]
    log_likelihood: Annotated[Floats, Sums()]
    meat: Annotated[Floats, Sums()]


def normal_cuts(scores: Floats, bins: int) -> Floats:
    """Return ``bins - 1`` quantiles of the normal distribution with the moments (number, sum, squares)."""
    mean = scores[1] / scores[0]
    sd = max(scores[2] / scores[0] - mean**2, 1e-12) ** 0.5
    return np.asarray(mean + sd * norm.ppf(np.arange(1, bins) / bins), dtype=np.float64)


def heads_of(step: Config, study: Study) -> tuple[str, ...]:
    """Return the endpoints the score is judged against."""
    return step.heads or (risk_score(step, study).target,)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where the step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a summed_evaluate step's configuration was expected")
    if study.secure_sum is None:
        raise ValueError(f"step {step.id!r}: needs `secure_sum` in the study: its sums hide each hospital's part")
    require_shared_model(step, study)
    unknown = [head for head in heads_of(step, study) if head not in study.endpoints]
    if unknown:
        raise ValueError(f"step {step.id!r}: heads names {', '.join(unknown)}; allowed: {', '.join(study.endpoints)}")
    members = set(study.members(step))
    if members & set(study.sites.train) and members & set(study.sites.zero_shot):
        raise ValueError(
            f"step {step.id!r}: training hospitals and hospitals that never trained are never pooled together; give "
            "each a step of its own, `sites: train` and `sites: zero_shot`"
        )
