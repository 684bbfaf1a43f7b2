"""high_risk: how the risk is spread, who is at high risk, who has a defibrillator, and what becomes of them.

On the ECGs that no training saw, with a risk. One question, every figure exact at the site and added up over sites:

* the distribution of the risk: mean, standard deviation, quantiles;
* variables of those at high risk and of the others: age, sex, covariates and declared columns of the study;
* the share with a defibrillator by bands of the risk and of the ejection fraction;
* of all ECGs followed by the outcome, the share flagged by high risk, by each marker in use (``markers``), and by any
  of them where there are several: the rest had no known risk factor;
* the cumulative incidence of ``event`` at high risk and not (Aalen-Johansen: who dies of something else does not have
  it), at times.

Bands are the study's own numbers, not quantiles of anybody's risks. Counts are of ECGs unless they say patients;
withheld numbers are null.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages.overlap import fixed
from ecgshared.stages.results.high_risk import Result as Result
from ecgshared.study.columns import ANATOMY
from ecgshared.study.endpoints import Event
from ecgshared.study.populations import DERIVED
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.study.terms import Factor, Term
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

LEAVES = {
    "tell": "mean, spread and quantiles of the risk; sums of the study's variables at high risk and not; how many have "
    "a defibrillator by bands of the risk and of the ejection fraction; how many of the events high risk and other "
    "markers flag; and the share that has had the event at several times"
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each number stands for a group of at least the hospital's own least size; where subtraction would give a withheld "
    "one back, another is withheld with it; quantiles are rounded, and times stand where enough patients leave between "
    "them. One score and one cut a step are answered."
)
"""What stands between these numbers and one patient."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.978, 0.99)
GROUPS = ("high", "others")
ALSO = ("defibrillator", "lvef_measured")
"""Variables told beside age, sex and the study's numbers."""
ANY = "any_marker"
"""The rule that flags whomever at least one of several markers does."""
MOST_EDGES = 12


class Config(StepConfig):
    """A high_risk step; it uses a threshold step."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    outcome: str | None = Field(default=None, description="endpoint whose events are flagged; None: the threshold's")
    markers: tuple[str, ...] = Field(
        default=(), max_length=8, description="markers in use beside high risk: lvef<=0.35, previous_mi; unknown is no"
    )
    event: Event | None = Field(default=None, description="event of the cumulative incidence; None tells of none")
    times_years: tuple[float, ...] = Field(
        default=(0.25, 0.5, 1, 2, 3, 4, 5), min_length=1, max_length=20, description="at which it is told"
    )
    risk_bands: tuple[float, ...] = Field(
        default=(0.001, 0.003, 0.01, 0.03, 0.1), max_length=MOST_EDGES, description="edges of bands of the risk"
    )
    lvef_bands: tuple[float, ...] = Field(
        default=(0.35, 0.5), max_length=MOST_EDGES, description="edges of bands of the ejection fraction, upper ends"
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")

    @field_validator("markers")
    @classmethod
    def _factors(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        read = [Term.read(text) for text in texts]
        if any(len(term.factors) > 1 for term in read):
            raise ValueError("a marker is one column, or a bound on it")
        return tuple(term.text for term in read)

    @model_validator(mode="after")
    def _ascending(self) -> Config:
        for name in ("times_years", "risk_bands", "lvef_bands"):
            values = getattr(self, name)
            if any(b <= a for a, b in pairwise(values)) or any(v <= 0 for v in values):
                raise ValueError(f"{name} must ascend and be above 0")
        return self

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The markers."""
        return tuple(Term.read(text).factors[0] for text in self.markers)

    @property
    def rules(self) -> tuple[str, ...]:
        """What flags ECGs: high risk, the markers, and any of several."""
        return ("high_risk", *self.markers, *((ANY,) if len(self.markers) > 1 else ()))

    @property
    def reads_columns(self) -> tuple[str, ...]:
        """What follows from the table beside age, sex and covariates."""
        named = ("defibrillator", *(f.column for f in self.factors))
        return tuple(dict.fromkeys(name for name in named if name in DERIVED and name != "male"))


@payload("high_risk", "tell")
@dataclass(frozen=True)
class Told:
    """One site's figures. V variables (:func:`variables_of`), B bands, M markers, T times.

    ``counts``: (3,), ECGs, patients, left out. ``moments``: (3,), ECGs, sums of risk and of its square. ``quantiles``:
    (Q,). ``groups``: (2,), ECGs of :data:`GROUPS`. ``variables``: (2, V, 3), n, sum and sum of squares.
    ``devices_by_risk``: (B + 1, 2), ECGs and those with a defibrillator; ``devices_by_lvef``: (L + 2, 2), the last not
    measured. ``flagged``: (1 + M, 4), ECGs, flagged, events, events flagged, high risk first; ``captured``: (1 + M, 4)
    the site's own estimate. ``curve``: (2, T, 3), 1 - incidence, error of its logarithm, ECGs still followed;
    ``events``: (2, 2), followed ECGs and those with the event.
    """

    counts: Annotated[Floats, Count()]
    moments: Annotated[Floats, Sums()]
    quantiles: Annotated[Floats, Statistic()]
    groups: Annotated[Floats, Count()]
    variables: Annotated[Floats, Sums()]
    devices_by_risk: Annotated[Floats, Count()]
    devices_by_lvef: Annotated[Floats, Count()]
    flagged: Annotated[Floats, Count()]
    captured: Annotated[Floats, Statistic()]
    curve: Annotated[Floats, Statistic()]
    events: Annotated[Floats, Count()]
    patients_known: Annotated[int, Public()]


def variables_of(study: Study) -> tuple[str, ...]:
    """Return the variables told of either group: age, sex, the study's numbers (no anatomy), and :data:`ALSO`."""
    anatomy = {column.name for column in ANATOMY}
    return (*(name for name in study.numbers if name not in anatomy), *ALSO)


def outcome_of(step: Config, study: Study) -> str:
    """Return the endpoint whose events are flagged."""
    from ecgshared.stages.threshold import target_of

    return step.outcome or target_of(fixed(step, study), study)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a high_risk step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a high_risk step's configuration was expected")
    require_shared_model(step, study)
    risk_score(fixed(step, study), study)
    outcome = outcome_of(step, study)
    if outcome not in study.endpoints:
        raise ValueError(f"step {step.id!r}: outcome {outcome!r} is no endpoint; allowed: {', '.join(study.endpoints)}")
    study.require_yes_no(step, [outcome])
    faults = [fault for text in step.markers for fault in Term.read(text).faults({*study.numbers, *DERIVED})]
    if faults:
        raise ValueError(f"step {step.id!r}: {'; '.join(faults)}")
