"""contrast: scores beside each other on the same ECGs, and arrests that the score should not know.

On the ECGs that no training saw, against each outcome. The first score is compared with every other, in pairs, on the
ECGs that have both: a calibrated risk, a trained head (of a single lead, say), or a column (the ejection fraction, a
published score). Placebo: with ``placebo`` named, each score's AUC for the first outcome less its AUC for the placebo
outcome, which has the same controls (arrests of a heart's rhythm, and other arrests); a score that knows of rhythm
alone tells the second from controls by chance.

Two scores that are risks (calibrated ones, trained heads) are compared as such too, where a hospital's table is no
case-control series: Brier scores with their paired difference, and calibration slopes.

Phases: ``compare`` (AUCs and paired differences), ``risks`` (Brier scores and slopes), ``placebo`` (AUCs of both
outcomes, and their difference). Counts are of ECGs unless they say patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages.results.contrast import Result as Result
from ecgshared.study.score import RiskScore, named_scores, require_shared_model
from ecgshared.wire.protocol import Count, Split, Statistic, StepConfig, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

LEAVES = {
    "compare": "the AUC of a score and of others on the same ECGs, and the paired differences",
    "risks": "the Brier score and the calibration slope of a risk and of others on the same ECGs, and the paired "
    "differences of the Brier scores",
    "placebo": "the AUC of each score for two outcomes with the same controls, and the difference",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each figure stands for a group of at least the hospital's own least size and least number of events; groups that "
    "differ by fewer patients are not both told; the scores of a step are answered once, as they are."
)
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A contrast step; it uses the steps whose scores it names."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)
    by_ranks: ClassVar[bool] = True

    scores: tuple[str, ...] = Field(
        min_length=1,
        max_length=16,
        description="the first is compared with the others: calibrate steps, <train step>.<head>, columns; -lvef: the "
        "lower, the riskier",
    )
    outcomes: tuple[str, ...] = Field(min_length=1, max_length=6, description="endpoints")
    placebo: str | None = Field(
        default=None, description="endpoint with the controls of the first outcome, which scores should not know"
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")

    @model_validator(mode="after")
    def _once(self) -> Config:
        for what, names in (("scores", self.scores), ("outcomes", self.outcomes)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} names one twice")
        if self.placebo in self.outcomes:
            raise ValueError("the placebo is one of the outcomes")
        if len(self.scores) == 1 and self.placebo is None:
            raise ValueError("name a second score, or a placebo")
        return self


@payload("contrast", "compare")
@dataclass(frozen=True)
class Compared:
    """The first score against V others on the ECGs that have both, of H outcomes. ``counts``: (H, V, 4), ECGs,
    patients, events, patients with an event. ``auc``: (H, V, 2, 4), estimates of the first and of the other.
    ``difference``: (H, V, 4)."""

    counts: Annotated[Floats, Count()]
    auc: Annotated[Floats, Statistic()]
    difference: Annotated[Floats, Statistic()]


@payload("contrast", "risks")
@dataclass(frozen=True)
class Risks:
    """The first risk against V others on the ECGs that have both, of H outcomes; NaN where either score is no risk.
    ``brier``: (H, V, 3, 4), estimates of the first, of the other and of their difference. ``slope``: (H, V, 2, 4)."""

    brier: Annotated[Floats, Statistic()]
    slope: Annotated[Floats, Statistic()]


@payload("contrast", "placebo")
@dataclass(frozen=True)
class Placebo:
    """Of S scores: ``counts``: (S, 2, 4), of the first outcome and of the placebo. ``auc``: (S, 2, 4). ``difference``:
    (S, 4), the first less the second."""

    counts: Annotated[Floats, Count()]
    auc: Annotated[Floats, Statistic()]
    difference: Annotated[Floats, Statistic()]


def scores_of(step: Config, study: Study) -> tuple[RiskScore, ...]:
    """Return the step's scores, the first one first."""
    return named_scores(step.scores, step, study, "scores")


def risks_of(step: Config, study: Study) -> tuple[bool, ...]:
    """Say of each score whether it is a risk: a calibrated one or a trained head, not a column's share of its range."""
    return tuple(score.within is None for score in scores_of(step, study))


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a contrast step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a contrast step's configuration was expected")
    require_shared_model(step, study)
    named = [*step.outcomes, *([step.placebo] if step.placebo else [])]
    unknown = [name for name in named if name not in study.endpoints]
    if unknown:
        raise ValueError(
            f"step {step.id!r}: {', '.join(unknown)} is no endpoint; allowed: {', '.join(study.endpoints)}"
        )
    study.require_yes_no(step, named)
    scores_of(step, study)
