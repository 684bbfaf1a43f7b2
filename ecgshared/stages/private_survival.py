"""private_survival: survival curves and one Cox model from counts that each hospital noises once, for an epsilon.

One phase, ``table``: how many patients stand in each cell of the inputs (cut where the study says), each interval of
time in which they leave, with the event or without, every number with Gaussian noise. A patient is in one number, so
that the noise pays for all that is made of the table: the curve of everybody, of the groups of each input, and a Cox
model (:mod:`ecgshared.stats.noised_survival`). It is charged in the site's ledger beside private training, under the
same caps.

Where the study says ``secure_sum``, the tables are added under masks and each hospital adds its share of the noise
alone, so that the SUM has what epsilon asks for, not every hospital's part of it: of ten hospitals of which six open a
sum, and one may tell its noise, the noise of the sum is smaller by a factor of sqrt(5).

Patients are one ECG each, the most recent one; who is not followed, or lacks an input, counts as that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.config import Config as BaseConfig
from ecgshared.errors import PrivacyError
from ecgshared.privacy.config import StatisticsPrivacy
from ecgshared.privacy.summed import Summand
from ecgshared.stages.results.private_survival import Result as Result
from ecgshared.stats.noised_survival import numbers_of
from ecgshared.study.endpoints import Event
from ecgshared.wire.protocol import Count, Public, Request, Split, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

MOST_CELLS, MOST_INTERVALS = 48, 60

LEAVES = {"table": "how many patients leave in each interval, by cell of the inputs, each number with Gaussian noise"}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Differential privacy with the patient as the unit, charged in the hospital's ledger: the noise covers all that is "
    "computed of the numbers. The number of the hospital's patients is taken as public."
)
"""What stands between these numbers and one patient."""
SUMMED = {"table": "own"}
"""What can be added under masks; a hospital's own patients meet its limits."""


class CutInput(BaseConfig):
    """An input and the values at which it is cut; its lowest group is what the others are compared with."""

    name: str = Field(description="age, male, or a covariate or declared number of the study")
    cuts: tuple[float, ...] = Field(
        default=(0.5,), min_length=1, max_length=5, description="rising; a value at a cut belongs above it"
    )

    @model_validator(mode="after")
    def _rises(self) -> CutInput:
        if any(not a < b for a, b in zip(self.cuts, self.cuts[1:], strict=False)) or not all(
            map(math.isfinite, self.cuts)
        ):
            raise ValueError("cuts must rise")
        return self

    @property
    def groups(self) -> int:
        """How many groups the cuts make."""
        return len(self.cuts) + 1


class Config(StepConfig):
    """A private_survival step, of the patients that train."""

    default_sites: ClassVar[str] = "train"
    splits_read: ClassVar[tuple[Split, ...]] = ("train", "validation")

    event: Event = Field(description="which event")
    inputs: tuple[CutInput, ...] = Field(
        default=(), max_length=4, description="of the Cox model and the groups' curves"
    )
    horizon_years: float = Field(gt=0, le=50, description="where the last interval ends")
    grid_years: float = Field(default=0.5, gt=0, description="length of an interval")
    splits: tuple[Literal["train", "validation"], ...] = Field(
        default=("train", "validation"), min_length=1, description="whose patients are counted"
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    privacy: StatisticsPrivacy = Field(description="what the table may cost")

    @property
    def reads_splits(self) -> tuple[Split, ...]:
        """The splits whose patients are counted."""
        return self.splits

    @property
    def intervals(self) -> int:
        """How many intervals there are."""
        return math.ceil(self.horizon_years / self.grid_years - 1e-9)

    @property
    def edges(self) -> Floats:
        """The ends of the intervals, years."""
        ends = np.minimum(np.arange(1, self.intervals + 1) * self.grid_years, self.horizon_years)
        return np.asarray(ends, dtype=np.float64)

    @property
    def cells(self) -> int:
        """How many combinations of groups there are."""
        return math.prod(one.groups for one in self.inputs)

    @model_validator(mode="after")
    def _small_enough(self) -> Config:
        names = [one.name for one in self.inputs]
        if len(set(names)) != len(names):
            raise ValueError("inputs: each name once")
        if self.cells > MOST_CELLS or self.intervals > MOST_INTERVALS:
            raise ValueError(
                f"{self.cells} cells of {self.intervals} intervals; at most {MOST_CELLS} and {MOST_INTERVALS}: every "
                "number bears its own noise"
            )
        return self

    def groups_of_cells(self) -> Floats:
        """Return which group of each input each cell is, int array, shape = (cells, inputs)."""
        sizes = [one.groups for one in self.inputs]
        return np.array(np.unravel_index(np.arange(self.cells), sizes), dtype=np.float64).T.reshape(
            self.cells, len(sizes)
        )

    def coded(self) -> tuple[tuple[str, ...], Floats]:
        """Return the Cox model's columns, one for each group but the lowest, and their values by cell, (cells, P)."""
        held, names, columns = self.groups_of_cells(), [], []
        for j, one in enumerate(self.inputs):
            for group in range(1, one.groups):
                names.append(group_name(one, group))
                columns.append(held[:, j] == group)
        return tuple(names), np.array(columns, dtype=np.float64).reshape(len(names), self.cells).T


def group_name(one: CutInput, group: int) -> str:
    """Return what a group is called: ``age 55 to 70``, ``age 70 or more``; of yes/no ``male``, ``not male``."""
    if one.cuts == (0.5,):
        return one.name if group else f"not {one.name}"
    if group == 0:
        return f"{one.name} below {one.cuts[0]:g}"
    if group == len(one.cuts):
        return f"{one.name} {one.cuts[-1]:g} or more"
    return f"{one.name} {one.cuts[group - 1]:g} to {one.cuts[group]:g}"


@payload("private_survival", "table")
@dataclass(frozen=True)
class Table:
    """Attributes: ``patients`` of the splits; ``counts``, noised, shape = (numbers,); ``noise_sd`` of each of
    them, under masks that of this hospital's share."""

    patients: Annotated[float, Count()]
    counts: Annotated[Floats, Sums()]
    noise_sd: Annotated[float, Public()]
    epsilon_spent: Annotated[float, Public()]
    delta: Annotated[float, Public()]


_TOLD = ("noise_sd", "epsilon_spent", "delta")


def as_sums(answer: Table, request: Request, study: Study, site: str) -> Summand:
    """Return a table as numbers that add up; what the noise is goes beside it."""
    told = {name: str(getattr(answer, name)) for name in _TOLD}
    return Summand({"patients": np.array([answer.patients]), "counts": answer.counts}, told=told)


def of_sums(cls: type[Any], sums: Mapping[str, Floats], told: Sequence[Mapping[str, str]], request: Request) -> Table:
    """Return added tables as one, its noise that of all shares together.

    Raises
    ------
    PrivacyError : a site did not say what its noise is.
    """
    try:
        noise, spent, delta = (np.array([float(texts[name]) for texts in told]) for name in _TOLD)
    except (KeyError, ValueError):
        raise PrivacyError("a site did not say what its noise is") from None
    return Table(
        float(sums["patients"][0]),
        sums["counts"],
        float(np.sqrt(noise @ noise)),
        float(spent.max()),
        float(delta.max()),
    )


def shape_of(step: Config) -> int:
    """Return how many numbers a hospital's table has."""
    return numbers_of(step.cells, step.intervals)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where the step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a private_survival step's configuration was expected")
    unknown = [one.name for one in step.inputs if one.name not in study.numbers]
    if unknown:
        raise ValueError(f"step {step.id!r}: inputs name {', '.join(unknown)}; allowed: {', '.join(study.numbers)}")
    outside = [site for site in study.members(step) if site not in study.sites.train]
    if outside:
        raise ValueError(
            f"step {step.id!r}: {', '.join(outside)} would be counted, but is no training site of the study"
        )
