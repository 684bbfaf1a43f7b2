"""threshold: the high-risk cut-off, fixed on validation patients.

The LARGEST top group whose lower 95% limit (two-sided, patient-clustered) of the event rate exceeds
``min_rate``. The lower limit need not be monotone in the cut, so every candidate is tried. Candidates are
the common bin edges at which some site's merged histogram has an edge; between a site's own edges its counts
are spread evenly.

Phases: ``histogram`` (merged score-bin x label counts), ``variance`` (for the pooled rate above each edge,
which the coordinator sends: sums of squared per-patient influence at the site's own edges).

Arrays: ``cut_bin``, shape = (1,): the first common bin of the high-risk group, N_BINS where there is none;
``cutoff``, shape = (1,): the same as a risk, inf where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages.results.threshold import Result as Result
from ecgshared.stats.influence import Estimate, ratio_estimate
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.wire.protocol import Count, Public, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study


LEAVES = {
    "histogram": "how many validation ECGs with and without the event fall into each interval of the score",
    "variance": "sums over patients that the interval of the event rate above each of these edges takes",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = "Neighbouring intervals are merged until each holds at least the hospital's own least size."
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A threshold step; it uses a calibrate step, or a train step and names the head."""

    can_be_frozen: ClassVar[bool] = True
    read_later: ClassVar[tuple[str, ...]] = ("target", "score")

    default_sites: ClassVar[str] = "train"

    score: str | None = Field(default=None, description="<train step>.<head>; None takes the calibrated risk")
    target: str | None = Field(default=None, description="endpoint; None takes the score's own")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    min_rate: float | None = Field(
        default=0.049, gt=0, lt=1, description="4.9%: median control-arm rate of six defibrillator trials"
    )
    top_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of ECGs; the rule where min_rate is null, the way out where none qualifies",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _has_a_rule(self) -> Config:
        if self.min_rate is None and self.top_share is None:
            raise ValueError("give min_rate, top_share, or both")
        return self


@payload("threshold", "histogram")
@dataclass(frozen=True)
class Histogram:
    """Merged bins, shape = (k,) each; ``counts``: ECGs, patients, events of the site's validation set."""

    lower: Annotated[Floats, Sums()]
    upper: Annotated[Floats, Sums()]
    cases: Annotated[Floats, Sums()]
    controls: Annotated[Floats, Sums()]
    counts: Annotated[Floats, Count()]
    patients_known: Annotated[int, Public()]


@payload("threshold", "variance")
@dataclass(frozen=True)
class EdgeVariance:
    """At the lower edge of each of the site's merged bins, shape = (k,): squared influence, and patients
    above."""

    edge: Annotated[Floats, Sums()]
    square_sum: Annotated[Floats, Sums()]
    patients_above: Annotated[Floats, Count()]


def target_of(step: Config, study: Study) -> str:
    """Return the endpoint the group's event rate is about."""
    return step.target or risk_score(step, study).target


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a threshold step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a threshold step's configuration was expected")
    require_shared_model(step, study)
    if target_of(step, study) not in study.endpoints:
        raise ValueError(
            f"step {step.id!r}: target {step.target!r} is no endpoint; allowed: {', '.join(study.endpoints)}"
        )


def at_edges(edge: NDArray[Any], values: NDArray[Any], wanted: NDArray[Any], n_bins: int) -> Floats:
    """Interpolate a site's cumulative numbers from its own edges to others; above the top bin nobody is left.

    Parameters
    ----------
    edge, values : shape = (k,), edges ascending; a withheld (NaN) value is passed over.
    wanted : shape = (m,), fine edges.
    """
    known = np.isfinite(values) & np.isfinite(edge)
    own, at_own = np.append(np.asarray(edge)[known], n_bins), np.append(np.asarray(values)[known], 0.0)
    return np.asarray(np.interp(wanted, own, at_own), dtype=np.float64)


@dataclass(frozen=True)
class Choice:
    """The candidate chosen, as an index into the candidates; None where none qualifies."""

    index: int | None
    estimates: tuple[Estimate, ...]


def largest_group(
    above: Floats, rate: Floats, square_sum: Floats, patients: Floats, *, min_rate: float, confidence: float
) -> Choice:
    """Choose the largest group whose lower limit exceeds ``min_rate``.

    Parameters
    ----------
    above : ECGs at or above each candidate cut, shape = (m,), in any order. rate : their event rate.
    square_sum : pooled sum of squared per-patient influence (times the group's size). patients : above the
        cut.
    """
    estimates = tuple(
        ratio_estimate(r, s, n, p, scale="logit", patients_in=p, confidence=confidence)
        for n, r, s, p in zip(above, rate, square_sum, patients, strict=True)
    )
    qualified = [i for i, e in enumerate(estimates) if e.low > min_rate]
    return Choice(max(qualified, key=lambda i: above[i]) if qualified else None, estimates)
