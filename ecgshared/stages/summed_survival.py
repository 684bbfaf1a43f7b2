"""summed_survival: Kaplan-Meier and Cox models over all hospitals together, from sums that hide each hospital's part.

For hospitals too small to tell anything of their own. Its sums are those of ``survival``, added under masks
(``secure_sum`` of the study), and the limits hold for all hospitals together: no hospital need serve an interval of the
time grid by itself, so that the grid is as fine as enough people of ALL hospitals leave and die in each interval.

Phases: ``who`` (counts and the moments to standardise by), ``life_table`` (who leaves, and who has the event, in each
interval), and those of ``survival``: ``newton``, ``risk``, ``curvature``, ``residuals``. Where the sites refuse a grid,
one half as fine is asked for.

Survival is Kaplan and Meier's (1958) of times moved up to the end of their interval, with Greenwood's variance; a death
of something else is censoring. Coefficients are log hazard ratios per unit of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.stages import survival
from ecgshared.stages.results.summed_survival import Result as Result
from ecgshared.stages.survival import Curvature, IntervalSums, NewtonSums, ResidualSums
from ecgshared.wire.protocol import Count, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

GRIDS = 6
"""Different time grids a site counts at."""

LEAVES = {
    "who": "only added to other hospitals': how many ECGs, patients and events, and sums of the inputs and squares",
    "life_table": "only added to other hospitals': how many leave, and have the event, in each interval of time",
    "newton": "only added to other hospitals': sums that one step of the stratified fit takes",
    "risk": "only added to other hospitals': sums over those who leave or have the event in each interval",
    "curvature": "only added to other hospitals': the hospital's part of the Hessian",
    "residuals": "only added to other hospitals': sums that robust errors and the test of proportional hazards take",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Nothing leaves but numbers under masks, of which the sum over all hospitals alone can be read; and that only "
    "where all hospitals together meet the strictest limits among them, and no few patients carry the sum."
)
"""What stands between these numbers and one patient."""
SUMMED = dict.fromkeys(LEAVES, "pooled")
"""What can be added under masks, the limits then being those of all sites together."""


class Config(survival.Config):
    """A summed_survival step: fitted where patients train."""

    can_be_frozen = False
    read_later = ()

    mode: Literal["stratified", "exact"] = Field(
        default="exact", description="a baseline for each hospital (stratified), or one for all (exact)"
    )

    @model_validator(mode="after")
    def _cause_specific(self) -> Config:
        if self.hazard != "cause_specific":
            raise ValueError("hazard: sums under masks are those of Cox's model; a survival step fits Fine and Gray's")
        return self

    def questions(self, phase: str) -> int:
        """How many different requests of a phase a site answers about one model."""
        return {"who": 3, "life_table": GRIDS, "residuals": 3}.get(phase, 2 * self.max_rounds + 2)


@payload("summed_survival", "who")
@dataclass(frozen=True)
class Who:
    """``counts``: ECGs, patients, ECGs and patients with the event. ``total``, ``squares``: (P,), of the inputs."""

    counts: Annotated[Floats, Count()]
    total: Annotated[Floats, Sums()]
    squares: Annotated[Floats, Sums()]


@payload("summed_survival", "life_table")
@dataclass(frozen=True)
class LifeTable:
    """``counts``: (k, 2), ECGs that leave, and that have the event, after the last edge and up to the next."""

    counts: Annotated[Floats, Count()]


payload("summed_survival", "newton")(NewtonSums)
payload("summed_survival", "risk")(IntervalSums)
payload("summed_survival", "curvature")(Curvature)
payload("summed_survival", "residuals")(ResidualSums)


def grids(step: Config) -> list[Floats]:
    """Return the time grids to ask for, the finest first; each ends where the study's does."""
    edges = step.grid_edges
    found = [edges[::-1][:: 2**halved][::-1] for halved in range(GRIDS)]
    return [np.ascontiguousarray(grid) for i, grid in enumerate(found) if i == 0 or len(grid) < len(found[i - 1])]


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where the step does not fit its study."""
    if study.secure_sum is None:
        raise ValueError(f"step {step.id!r}: needs `secure_sum` in the study: its sums hide each hospital's part")
    survival.check(step, study)
    outside = [site for site in study.members(step) if site not in study.sites.train]
    if outside:
        raise ValueError(
            f"step {step.id!r}: {', '.join(outside)} would be fitted, but is no training site of the study"
        )
