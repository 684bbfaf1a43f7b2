"""evaluate: how well a frozen score tells who has the event, on lockboxes and at sites that never trained.

Phases: ``local`` (exact figures of one site, as scalars), ``histogram`` (merged score-bin x label counts,
for pooled curves), ``influence`` (sums of squared per-patient influence against the pooled curves, for
pooled intervals) and ``slope`` (Newton sums of the pooled calibration line). Everything about a cut - PPV
curve, calibration groups, the threshold - is read at edges of the site's ONE merged histogram, so that no
two numbers differ by a small group.

null: withheld by the site, or undefined for so few. Bounds contain the value that unmerged scores would give;
``low`` and ``high`` are the 95% interval. Counts are of ECGs unless they say patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages.results.evaluate import Result as Result
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.wire.protocol import Count, Public, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

CALIBRATION_GROUPS = 10
COUNTS = ("ecgs", "patients", "events", "event_patients")
AT_THRESHOLD = ("share", "ppv", "sensitivity", "specificity")


LEAVES = {
    "local": "the hospital's own figures: counts, AUC, calibration, event rates at shares and at the threshold, and "
    "the same in subgroups",
    "histogram": "how many ECGs with and without the event fall into each interval of the score, and their summed risk",
    "influence": "sums over patients that the intervals of the pooled figures take",
    "slope": "sums over patients that one step of the fit of the pooled calibration line takes",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each figure stands for a group of at least the hospital's own least size and least number of events, or is "
    "withheld; neighbouring intervals of the score are merged until each does."
)
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """An evaluate step; it uses a calibrate step, or a train step and names the head, and perhaps a
    threshold."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True

    score: str | None = Field(default=None, description="<train step>.<head>; None takes the calibrated risk")
    heads: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="endpoints the score is judged against; None takes the score's own",
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    subgroups: tuple[Literal["sex", "age"], ...] = ("sex", "age")
    age_bands: tuple[float, ...] = Field(default=(0, 50, 65, 80, 130), min_length=2)
    top_shares: tuple[float, ...] = Field(
        default=(0.002, 0.005, 0.01, 0.022, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0), min_length=1
    )

    @model_validator(mode="after")
    def _ascending(self) -> Config:
        for name, values in (("age_bands", self.age_bands), ("top_shares", self.top_shares)):
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} must ascend")
        if not (self.top_shares[0] > 0 and self.top_shares[-1] <= 1):
            raise ValueError("top_shares must lie in (0, 1]")
        return self


@payload("evaluate", "local")
@dataclass(frozen=True)
class LocalResults:
    """One site's exact figures. H heads, G subgroups, K top shares, Q calibration groups; estimates are
    (value, se, low, high).

    ``counts``: (H, 4), see COUNTS; ``left_out``: (H,) ECGs without score or label. ``subgroup_rates``: (H,
    G, 2), mean predicted and observed. ``top``: (H, K, 5), share and PPV. ``at_threshold``: (H, 4, 4), see
    AT_THRESHOLD. ``calibration``: (H, Q, 6), ECGs, mean predicted, observed.
    """

    counts: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]
    mean_predicted: Annotated[Floats, Statistic()]
    auc: Annotated[Floats, Statistic()]
    brier: Annotated[Floats, Statistic()]
    intercept: Annotated[Floats, Statistic()]
    slope: Annotated[Floats, Statistic()]
    expected_over_observed: Annotated[Floats, Statistic()]
    top: Annotated[Floats, Statistic()]
    at_threshold: Annotated[Floats, Statistic()]
    subgroup_counts: Annotated[Floats, Count()]
    subgroup_rates: Annotated[Floats, Statistic()]
    subgroup_auc: Annotated[Floats, Statistic()]
    calibration: Annotated[Floats, Statistic()]
    patients_known: Annotated[int, Public()]


@payload("evaluate", "histogram")
@dataclass(frozen=True)
class Histograms:
    """Merged bins of all heads, one after another, shape = (k,) each; ``predicted``: summed risk of each
    bin's ECGs."""

    head: Annotated[Floats, Sums()]
    lower: Annotated[Floats, Sums()]
    upper: Annotated[Floats, Sums()]
    cases: Annotated[Floats, Sums()]
    controls: Annotated[Floats, Sums()]
    predicted: Annotated[Floats, Sums()]


@payload("evaluate", "influence")
@dataclass(frozen=True)
class Influence:
    """Squared influences against the pooled curves sent.

    ``auc``: (H, 6), see AucSums. ``in_large``, ``sensitivity``: (H,). At each of the site's merged bins'
    lower edges, shape = (k,): its ``head``, the ``edge``, ``edge_square_sum`` of the rate above it, ``edge_patients``
    above it.
    """

    auc: Annotated[Floats, Sums()]
    in_large: Annotated[Floats, Sums()]
    sensitivity: Annotated[Floats, Sums()]
    head: Annotated[Floats, Sums()]
    edge: Annotated[Floats, Sums()]
    edge_square_sum: Annotated[Floats, Sums()]
    edge_patients: Annotated[Floats, Count()]


@payload("evaluate", "slope")
@dataclass(frozen=True)
class SlopeSums:
    """Of one head's calibration line at the coefficients asked for; shapes (2,), (2, 2), (1,), (2, 2)."""

    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]
    log_likelihood: Annotated[Floats, Sums()]
    meat: Annotated[Floats, Sums()]


def heads_of(step: Config, study: Study) -> tuple[str, ...]:
    """Return the endpoints the score is judged against."""
    return step.heads or (risk_score(step, study).target,)


def subgroup_names(step: Config) -> tuple[tuple[str, ...], ...]:
    """Return the names of the cells of each partition; the last of each holds those of whom it is not
    known."""
    names: list[tuple[str, ...]] = []
    for partition in step.subgroups:
        if partition == "sex":
            names.append(("female", "male", "sex unknown"))
        else:
            bands = pairwise(step.age_bands)
            known = (f"age {low:g} to under {high:g}" for low, high in bands)
            names.append((*known, "age unknown or outside"))
    return tuple(names)


def subgroup_index(step: Config, age: NDArray[np.float32], male: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Return for each partition the cell of each ECG, shape = (n,); see :func:`subgroup_names`."""
    cells = []
    for partition in step.subgroups:
        if partition == "sex":
            cells.append(np.where(np.isnan(male), 2, np.nan_to_num(male)).astype(np.int64))
        else:
            last = len(step.age_bands) - 1
            band = np.searchsorted(np.asarray(step.age_bands), np.nan_to_num(age, nan=-1.0), side="right") - 1
            cells.append(np.where((band < 0) | (band >= last), last, band).astype(np.int64))
    return cells


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where an evaluate step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("an evaluate step's configuration was expected")
    require_shared_model(step, study)
    unknown = [head for head in heads_of(step, study) if head not in study.endpoints]
    if unknown:
        raise ValueError(f"step {step.id!r}: heads names {', '.join(unknown)}; allowed: {', '.join(study.endpoints)}")
    judged = study.used(step, "threshold")
    if judged is not None and risk_score(judged, study) != risk_score(step, study):
        raise ValueError(f"step {step.id!r}: the threshold {judged.id!r} was fixed on another score")
