"""calibrate: one logistic score of trained heads, age and sex, fitted exactly over sites by Newton's method.

Phases: ``moments`` (sums to standardise by), ``newton`` (gradient, Hessian and log-likelihood at
coefficients, once an iteration), ``errors`` (the meat of the patient-clustered covariance).

A Hessian of p + 1 coefficients from few patients would give them away: its sums count as coming from nobody
unless the site has at least 2 (p + 1) patients. Nor may coefficients sent from outside turn the sums on a
few people: the effective number of patients, (sum of w)^2 / sum of w^2 with w a patient's weight in Hessian
or gradient (Kish 1965), is what the site's limits are held against.

Counts are of ECGs unless they say patients; withheld numbers are null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit

from ecgshared.arrays import Floats
from ecgshared.stages.results.calibrate import Result as Result
from ecgshared.stats.influence import by_patient
from ecgshared.study.score import calibrate_inputs, require_shared_model, trained_heads
from ecgshared.wire.protocol import Count, Evidence, Public, Split, StepConfig, Sums, Together, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study


LEAVES = {
    "moments": "how many ECGs, patients and events the fit would use, and the sum and sum of squares of each input",
    "newton": "sums over patients that one step of the logistic fit takes: gradient, Hessian and log-likelihood",
    "errors": "the sum over patients from which errors clustered by patient are computed",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Sums leave only where the hospital has twice as many patients as coefficients, at least its own least size, and "
    "no few of them carry the sum; and no oftener than a fit asks for them."
)
"""What stands between these numbers and one patient."""

SUMMED = {"moments": "pooled", "newton": "pooled", "errors": "pooled"}
"""What can be added under masks, the limits then being those of all sites together."""

QUESTIONS = {"moments": 3, "errors": 3}
"""Different questions a site answers about one step; of sums at coefficients ``max_iterations`` and one."""


class Config(StepConfig):
    """A calibrate step."""

    can_be_frozen: ClassVar[bool] = True
    read_later: ClassVar[tuple[str, ...]] = ("target",)

    default_sites: ClassVar[str] = "train"

    target: str = Field(description="endpoint that the risk is calibrated for")
    inputs: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="<train step>.<head>, age, male, covariates; None takes all heads, age, male",
    )
    split: Literal["validation", "train"] = Field(default="validation", description="train: as the paper did")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    ridge: float = Field(default=0.0, ge=0, description="penalty on the coefficients of standardised inputs")
    max_iterations: int = Field(default=25, ge=1, le=100, description="most Newton steps")
    tolerance: float = Field(
        default=1e-9, gt=0, le=1e-3, description="largest change of a coefficient at which the fit has converged"
    )

    @property
    def reads_splits(self) -> tuple[Split, ...]:
        """The split it is fitted on."""
        return (self.split,)

    def questions(self, phase: str) -> int:
        """How many different requests of a phase a site answers, whatever the run is called."""
        return QUESTIONS.get(phase, self.max_iterations + 1)


@payload("calibrate", "moments")
@dataclass(frozen=True)
class Moments:
    """``counts``: ECGs, patients, events. ``left_out``: ECGs without label or input. Sums over ECGs, shape =
    (p,)."""

    counts: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]
    total: Annotated[Floats, Sums()]
    squares: Annotated[Floats, Sums()]
    patients_known: Annotated[int, Public()]


@payload("calibrate", "newton")
@dataclass(frozen=True)
class NewtonSums:
    """At the coefficients asked for; shapes (p + 1,), (p + 1, p + 1), (1,)."""

    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]
    log_likelihood: Annotated[Floats, Sums()]


@payload("calibrate", "errors")
@dataclass(frozen=True)
class ErrorSums:
    """``meat``: sum over patients of gradient x gradient', shape = (p + 1, p + 1)."""

    meat: Annotated[Floats, Sums()]


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a calibrate step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a calibrate step's configuration was expected")
    require_shared_model(step, study)
    if step.target not in study.endpoints:
        raise ValueError(
            f"step {step.id!r}: target {step.target!r} is no endpoint; allowed: {', '.join(study.endpoints)}"
        )
    study.require_yes_no(step, (step.target,))
    allowed = (*trained_heads(step, study), *study.numbers)
    inputs = calibrate_inputs(step, study)
    unknown = [name for name in inputs if name not in allowed]
    if unknown:
        raise ValueError(
            f"step {step.id!r}: inputs names {', '.join(unknown)}; allowed: {', '.join(allowed)} "
            "(heads of train steps it uses, columns of the study)"
        )
    if len(set(inputs)) != len(inputs):
        raise ValueError(f"step {step.id!r}: inputs names one thing twice")


def standardised_design(x: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return the column of ones and (x - mean) / scale, shape = (n, p + 1)."""
    return np.column_stack([np.ones(len(x)), (x - mean) / scale])


def effective_patients(design: Floats, y: NDArray[Any], patient: NDArray[np.int64], coef: Floats) -> float:
    """Return the least effective number of patients behind Hessian and gradient at ``coef``; see the
    module's text.

    Parameters
    ----------
    design : float array, shape = (n, p + 1). y, patient : shape = (n,). coef : shape = (p + 1,).
    """
    p = expit(design @ coef)
    least = np.inf
    for weight in (p * (1 - p), np.abs(np.asarray(y) - p)):
        w = by_patient(weight, patient)
        squares = float(w @ w)
        least = min(least, float(w.sum()) ** 2 / squares if squares > 0 else 0.0)
    return least


def sums_together(
    patient: NDArray[np.int64],
    y: NDArray[Any],
    parameters: int,
    design: Floats | None = None,
    coef: Floats | None = None,
) -> Together:
    """Return what is held against the limits of all sites together; see :func:`effective_patients` of one site's."""
    y = np.asarray(y)
    carried = np.zeros((0, 2))
    if design is not None and coef is not None:
        p = expit(design @ coef)
        weights = [by_patient(w, patient) for w in (p * (1 - p), np.abs(y - p))] if len(y) else [np.zeros(0)] * 2
        carried = np.array([[w.sum(), w @ w] for w in weights])
    with_event, without = (len(np.unique(patient[y == v])) for v in (1, 0))
    patients = np.array([len(np.unique(patient))])
    return Together(patients, np.array([with_event, without]), carried, 2 * parameters, untold=("left_out",))


def sums_evidence(patients: int, events: int, parameters: int, effective: float | None = None) -> Evidence:
    """Return the evidence behind sums over one group: nobody where ``patients < 2 parameters``."""
    enough = patients if patients >= 2 * parameters else 0
    if effective is not None:
        enough = min(enough, int(effective))
    return Evidence(np.array(enough), np.array(events))
