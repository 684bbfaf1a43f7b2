"""overlap: the high-risk ECG beside a marker in use (ejection fraction of 35% or less): who has either, both, neither.

On the ECGs that no training saw, with a risk and a known outcome. The marker is yes, no or not known; so each ECG lies
in one of six cells, and the groups told (:data:`GROUPS`) are unions of them. ``high_only`` counts who was never
measured as not known to have the marker, as the published figure does; ``high_normal`` and ``high_unknown`` tell them
apart.

Phases: ``cells`` (counts and own rates), ``scale`` (sketches of scores, from which a second cut is chosen), ``matched``
(the same at the cut above which lie about as many ECGs as have the marker), ``errors`` (squared per-patient influence
on pooled rates and differences). Which groups a site may tell: :mod:`ecgshared.privacy.unions`. Of the second cut it
tells what holds together with the first: the ECGs between the two are a group as any other.

Counts are exact, of ECGs unless they say patients; withheld numbers are null. A group's rate is over the sites that
told it, which stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from ecgshared.arrays import Floats
from ecgshared.config import Label
from ecgshared.privacy.unions import Cells
from ecgshared.stages.results.overlap import Result as Result
from ecgshared.study.populations import DERIVED
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.study.terms import Factor, Term
from ecgshared.wire.protocol import Count, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.stages.threshold import Config as Threshold
    from ecgshared.study.study import Study

LEAVES = {
    "cells": "counts of ECGs, patients and events, and event rates, of those at high risk and those with the marker: "
    "either, both, neither, and those of whom the marker is not known",
    "scale": "mean scores of neighbouring ECGs, of patients with and without the event apart",
    "matched": "the same counts and rates at one other cut, above which about as many ECGs lie as have the marker",
    "errors": "sums over patients that the intervals of the pooled rates and of their differences take",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "A cross-table is told where every cell that is not empty meets the hospital's limits, else coarser ones of which "
    "that is so; ECGs between the two cuts are such a cell too. One score and one other cut a step are answered."
)
"""What stands between these numbers and one patient."""

NO, YES, UNKNOWN = 0, 1, 2
"""The marker of an ECG."""
GROUPS = (
    *("all", "high", "marker", "measured", "normal", "unknown"),
    *("both", "marker_only", "high_only", "high_normal", "high_unknown", "neither"),
)
"""Groups of ECGs: at high risk, with the marker, with the marker known, known not to have it, not known; and how they
meet. ``high_only`` is ``high_normal`` and ``high_unknown`` together, ``neither`` who is neither at high risk nor known
to have the marker."""
PAIRS = (("high", "marker"), ("high_normal", "marker"), ("high_only", "marker_only"))
"""Rates that are compared, the first less the second."""


def members(name: str, band: int, level: int) -> bool:
    """Say whether a cell belongs to a group; ``band`` 1 at high risk."""
    high = band == 1
    return {
        "all": True,
        "high": high,
        "marker": level == YES,
        "measured": level != UNKNOWN,
        "normal": level == NO,
        "unknown": level == UNKNOWN,
        "both": high and level == YES,
        "marker_only": not high and level == YES,
        "high_only": high and level != YES,
        "high_normal": high and level == NO,
        "high_unknown": high and level == UNKNOWN,
        "neither": not high and level != YES,
    }[name]


def groups_of_cells(high: tuple[int, ...], bands: int) -> list[Cells]:
    """Return the cells (3 x band + level) of each of :data:`GROUPS`; ``high`` are the bands at high risk."""
    cells = list(product(range(bands), (NO, YES, UNKNOWN)))
    return [frozenset(3 * b + v for b, v in cells if members(name, int(b in high), v)) for name in GROUPS]


def partitions(bands: int) -> list[list[Cells]]:
    """Return the partitions that may be told, the finest first: risk by marker; risk by known to have it; risk by
    known at all; either alone."""
    levels = ([{NO}, {YES}, {UNKNOWN}], [{NO, UNKNOWN}, {YES}], [{NO, YES}, {UNKNOWN}], [{NO, YES, UNKNOWN}])
    apart, together = [{b} for b in range(bands)], [set(range(bands))]
    return [
        [frozenset(3 * b + v for b in row for v in column) for row in rows for column in columns]
        for rows in (apart, together)
        for columns in levels
    ]


class Config(StepConfig):
    """An overlap step; it uses a threshold step."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    marker: str = Field(default="lvef<=0.35", description="a flag, or a bound on a column: who has the marker in use")
    marker_label: Label = Field(default=None, description="the marker in words, for reports")
    outcome: str | None = Field(default=None, description="endpoint of the rates; None takes the threshold's")
    size_matched: bool = Field(
        default=True, description="tell rates also at a cut above which about as many ECGs lie as have the marker"
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")

    @field_validator("marker")
    @classmethod
    def _one_factor(cls, text: str) -> str:
        read = Term.read(text)
        if len(read.factors) > 1:
            raise ValueError(f"{text!r} is a product; give one column, or a bound on it")
        return read.text

    @property
    def factor(self) -> Factor:
        """The marker."""
        return Term.read(self.marker).factors[0]

    @property
    def reads_columns(self) -> tuple[str, ...]:
        """The marker's column where it follows from the table."""
        return (self.factor.column,) if self.factor.column in DERIVED else ()


@payload("overlap", "cells")
@dataclass(frozen=True)
class CellCounts:
    """Of each of :data:`GROUPS`: ``sizes``, ECGs and patients, shape = (G, 2); ``events``, the same with the event;
    ``rate``, estimates of the site's own, shape = (G, 4). Of each of :data:`PAIRS`: ``difference``, value, se, low,
    high and P, shape = (D, 5). ``left_out``: ECGs without a risk or the outcome, shape = (1,)."""

    sizes: Annotated[Floats, Count()]
    events: Annotated[Floats, Count()]
    rate: Annotated[Floats, Statistic()]
    difference: Annotated[Floats, Statistic()]
    left_out: Annotated[Floats, Count()]


@payload("overlap", "scale")
@dataclass(frozen=True)
class Scale:
    """Sketches of the scores, as in ``evaluate``; shape = (k,) each."""

    head: Annotated[Floats, Sums()]
    case: Annotated[Floats, Sums()]
    mean: Annotated[Floats, Sums()]
    ecgs: Annotated[Floats, Sums()]


@payload("overlap", "matched")
@dataclass(frozen=True)
class Matched:
    """As :class:`CellCounts`, at the other cut."""

    sizes: Annotated[Floats, Count()]
    events: Annotated[Floats, Count()]
    rate: Annotated[Floats, Statistic()]
    difference: Annotated[Floats, Statistic()]


@payload("overlap", "errors")
@dataclass(frozen=True)
class Errors:
    """At both cuts, the fixed one first: ``squares``, shape = (2, G), of influence on a group's pooled rate times its
    ECGs; of influence on each pair's difference ``pair_squares`` and ``pair_fourths``, shape = (2, D)."""

    squares: Annotated[Floats, Sums()]
    pair_squares: Annotated[Floats, Sums()]
    pair_fourths: Annotated[Floats, Sums()]


def outcome_of(step: Config, study: Study) -> str:
    """Return the endpoint of the rates."""
    from ecgshared.stages.threshold import target_of

    return step.outcome or target_of(fixed(step, study), study)


def fixed(step: StepConfig, study: Study) -> Threshold:
    """Return the threshold step whose group is at high risk.

    Raises
    ------
    ValueError : the step uses none.
    """
    from ecgshared.stages.threshold import Config as Threshold

    found = study.used(step, "threshold")
    if not isinstance(found, Threshold):
        raise ValueError(f"step {step.id!r}: high risk needs a threshold step under `uses`")
    return found


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where an overlap step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("an overlap step's configuration was expected")
    require_shared_model(step, study)
    risk_score(fixed(step, study), study)
    if outcome_of(step, study) not in study.endpoints:
        raise ValueError(
            f"step {step.id!r}: outcome {step.outcome!r} is no endpoint; allowed: {', '.join(study.endpoints)}"
        )
    faults = Term.read(step.marker).faults({"age", "male", *study.covariates, *DERIVED})
    if faults:
        raise ValueError(f"step {step.id!r}: {'; '.join(faults)}; the marker is a column under `covariates`")
