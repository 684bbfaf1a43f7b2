"""arrhythmia: how often ventricular fibrillation or tachycardia follows a high-risk ECG, with sudden death and alone.

On the ECGs that no training saw. Outcomes are those of :data:`OUTCOMES`: sudden death; the composite, sudden death or
VF/VT, of whom sudden death is known; what VF/VT adds to sudden death; and VF/VT alone, of whom it is known: a death
before the horizon ends the view on it, and such an ECG has no label (death-censored). A hospital that knows of VF/VT
alone tells of it alone.

Rates stand above cuts of the score that all hospitals of a group share, among them two for the high-risk group: the
absolute cut-off of the threshold step, carried to every hospital as it is, and the cut above which as large a share of
ECGs lies as lay above that cut-off in the training hospitals' lockboxes.

How hospitals differ in what they find and write down: a logistic model of VF/VT on the logit of the risk, one intercept
for the training hospitals and one for each other. An odds ratio above 1 says that at the same predicted risk VF/VT is
written down more often there.

Phases: ``scale`` (sketches of scores), ``curve`` (counts above cuts), ``errors`` (squared per-patient influence on the
pooled rates), ``coding`` (Newton sums of the logistic model). Counts are of ECGs unless they say patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages.results.arrhythmia import Result as Result
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.wire.protocol import Count, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.stages.threshold import Config as Threshold
    from ecgshared.study.study import Study

LEAVES = {
    "scale": "mean scores of neighbouring ECGs, of patients with and without the event apart",
    "curve": "how many ECGs lie above cuts that all hospitals share, and how many of them are followed by sudden "
    "death, by VF/VT, by either",
    "errors": "sums over patients that the intervals of these rates take",
    "coding": "sums that one step of the fit of VF/VT on the predicted risk takes",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "A cut is answered where each group between two of them meets the hospital's limits for every outcome told, and "
    "where those who differ between two outcomes are nobody or enough; one score and one set of cuts a step."
)
"""What stands between these numbers and one patient."""

OUTCOMES = ("scd", "composite", "added", "vfvt")
"""Sudden death; it or VF/VT; VF/VT without it, of the same ECGs; VF/VT alone, death-censored."""
COUNTED = ("vfvt", "scd", "composite")
"""What is counted; what VF/VT adds is the composite less sudden death."""
MAX_CUTS = 64
LINES = 30
"""Sets of coefficients at which a site sums: what one fit asks for, halved steps included."""


class Config(StepConfig):
    """An arrhythmia step; it uses a threshold step."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    scd: str | None = Field(default=None, description="endpoint of sudden death; None where the study has none")
    vfvt: str = Field(description="endpoint of VF/VT, death-censored as every such endpoint is")
    top_shares: tuple[float, ...] = Field(
        default=(0.002, 0.005, 0.01, 0.022, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
        min_length=1,
        description="shares of ECGs at highest risk above which rates are told, ascending",
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    max_iterations: int = Field(default=25, ge=2, le=LINES, description="of Newton's method")

    @model_validator(mode="after")
    def _ascending(self) -> Config:
        if any(b <= a for a, b in pairwise(self.top_shares)) or not 0 < self.top_shares[0] <= self.top_shares[-1] <= 1:
            raise ValueError("top_shares must ascend within (0, 1]")
        return self


@payload("arrhythmia", "scale")
@dataclass(frozen=True)
class Scale:
    """Sketches of the scores, as in ``evaluate``; shape = (k,) each."""

    head: Annotated[Floats, Sums()]
    case: Annotated[Floats, Sums()]
    mean: Annotated[Floats, Sums()]
    ecgs: Annotated[Floats, Sums()]


@payload("arrhythmia", "curve")
@dataclass(frozen=True)
class Curve:
    """At each cut answered, descending, everybody last; C cuts. By :data:`COUNTED`, of ECGs at or above the cut:
    ``ecgs``, ``patients``, ``events``, ``event_patients``, shape = (C, 3). ``rate``, shape = (C, 4, 4): by
    :data:`OUTCOMES`, estimates of the site's own. ``cut``, shape = (C,)."""

    cut: Annotated[Floats, Sums()]
    ecgs: Annotated[Floats, Count()]
    patients: Annotated[Floats, Count()]
    events: Annotated[Floats, Count()]
    event_patients: Annotated[Floats, Count()]
    rate: Annotated[Floats, Statistic()]


@payload("arrhythmia", "errors")
@dataclass(frozen=True)
class Errors:
    """At the same cuts, by :data:`OUTCOMES`: squared influence on the pooled rate times its ECGs, shape = (C, 4)."""

    cut: Annotated[Floats, Sums()]
    squares: Annotated[Floats, Sums()]


@payload("arrhythmia", "coding")
@dataclass(frozen=True)
class CodingSums:
    """Of VF/VT on (1, logit of the risk) at the coefficients asked for; shapes (2,), (2, 2), (1,), (2, 2)."""

    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]
    log_likelihood: Annotated[Floats, Sums()]
    meat: Annotated[Floats, Sums()]


def fixed(step: StepConfig, study: Study) -> Threshold:
    """Return the threshold step whose cut-off is carried.

    Raises
    ------
    ValueError : the step uses none.
    """
    from ecgshared.stages.overlap import fixed as threshold_of

    return threshold_of(step, study)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where an arrhythmia step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("an arrhythmia step's configuration was expected")
    require_shared_model(step, study)
    risk_score(fixed(step, study), study)
    for name in (step.scd, step.vfvt):
        if name is not None and name not in study.endpoints:
            raise ValueError(f"step {step.id!r}: {name!r} is no endpoint; allowed: {', '.join(study.endpoints)}")
    if step.scd == step.vfvt:
        raise ValueError(f"step {step.id!r}: scd and vfvt name one endpoint")
