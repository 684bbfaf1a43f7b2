"""survival: Cox models of one event over sites, several sets of covariates side by side, on the same patients.

Phases: ``cohort`` (who takes part, and the moments to standardise by), ``newton`` (stratified: log-likelihood,
gradient, Hessian), ``risk`` and ``curvature`` (exact: sums by interval of a coarse common grid, then the part of the
Hessian), ``residuals`` (meat of the robust covariance, sums of the proportional-hazards test), ``single`` (the site's
own fit, for the forest plot), ``baseline`` (mean predicted and observed risk, to find the pooled baseline) and
``spread`` (counts of the linear predictor, to fix risk groups before a lockbox is opened).

Modes. ``stratified``: every site has its own baseline hazard; discloses least. ``exact``: one baseline for all, the
pooled Cox model of times moved up to a common grid, whose intervals each site must be able to serve
(:mod:`ecgshared.stats.cox_disclosure`). ``local``: each site fits by itself, the estimates are combined as random
effects (:mod:`ecgshared.stats.meta_analysis`). With ``hazard: subdistribution`` the stratified sums and the sites' own
fits are those of Fine and Gray's model (:mod:`ecgshared.stats.fine_gray`); its hazards are not tested for
proportionality.

What a site answers is capped: of each phase and model it answers so many DIFFERENT questions about one study and no
more, whatever the run is called (``QUESTIONS``). Coefficients that put the weight of the risk set on a few people count
as coming from those few (Kish's effective number), so that the gate withholds the sums. No baseline hazard of a single
site leaves: the pooled one at a few times makes the mean predicted risk of all training rows equal to what
was seen: the cumulative incidence (Aalen-Johansen), in which who dies of something else does not have the event.

Robust errors are clustered by patient within a site. Who is a patient at two hospitals counts as two: the sites cannot
know it, and nothing that would tell leaves them.

Coefficients are log hazard ratios per unit of the input; counts are of ECGs unless they say patients; withheld
numbers are null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ecgshared.arrays import Floats
from ecgshared.config import Config as BaseConfig
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.results.survival import Result as Result
from ecgshared.stats.cox_disclosure import NO_LIMITS, CoxLimits
from ecgshared.study.endpoints import Event
from ecgshared.study.score import require_shared_model
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]

BASELINE_POINTS = 8
"""Times between 0 and the horizon at which the pooled baseline hazard is known."""
SPREAD_EDGES = np.linspace(-4.0, 4.0, 33)
"""Bins of the linear predictor for the cuts of risk groups, divided by the length of the standardised coefficients."""
QUESTIONS: dict[str, int] = {"cohort": 3, "residuals": 3, "single": 2, "baseline": 15, "spread": 2}
"""Different questions a site answers about one model; of the others ``max_rounds``."""


LEAVES = {
    "cohort": "how many ECGs, patients and events could take part, how many lack an input, and mean and spread of each",
    "newton": "sums over patients that one step of the stratified fit takes: log-likelihood, gradient and Hessian",
    "risk": "sums over the patients who leave or have the event in each interval of a coarse common time grid",
    "curvature": "the hospital's part of the Hessian on that grid",
    "residuals": "sums over patients that robust errors and the test of proportional hazards take",
    "single": "coefficients and errors of the hospital's own fit",
    "baseline": "mean predicted and observed risk at a few times",
    "spread": "how many ECGs fall into each interval of the linear predictor",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Sums leave only where enough patients, events and departures stand behind them and no few of them carry the sum; "
    "so many different questions about one study are answered and no more."
)
"""What stands between these numbers and one patient."""


class ModelInputs(BaseConfig):
    """One Cox model of the step: its name and its inputs."""

    name: ModelName = Field(description="name of this model in the report")
    inputs: tuple[str, ...] = Field(
        min_length=1,
        description="age, male, covariates, age_gap (ecg_age less age), <age_sex step>.gap, <train step>.<head> (its "
        "logit), <cvae step>.latents, <calibrate step>.risk (its logit)",
    )


class Config(StepConfig):
    """A survival step: fitted where patients train; a ``survival_evaluate`` step judges it."""

    can_be_frozen: ClassVar[bool] = True
    read_later: ClassVar[tuple[str, ...]] = ("event", "models")

    default_sites: ClassVar[str] = "train"

    event: Event = Field(description="which event")
    # A list and no mapping: a mapping's order is not part of the study's hash, and models are asked for by place.
    models: tuple[ModelInputs, ...] = Field(min_length=1, max_length=6, description="the first is the reference")
    horizon_years: float = Field(gt=0, le=20, description="where calibration and AUC are read")
    follow_up_years: float | None = Field(
        default=None, gt=0, le=50, description="later times are cut off; None: all, and the horizon in exact mode"
    )
    splits: tuple[Literal["train", "validation"], ...] = Field(
        default=("train",), min_length=1, description="whose patients are fitted"
    )
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    one_ecg_per_patient: bool = Field(default=True, description="the most recent usable one: hazards are of people")
    mode: Literal["stratified", "exact", "local"] = Field(
        default="stratified",
        description="a baseline for each hospital (stratified), one for all (exact), or fits of their own (local)",
    )
    hazard: Literal["cause_specific", "subdistribution"] = Field(
        default="cause_specific",
        description="of those still alive (Cox), or subdistribution: Fine and Gray's model of the cumulative "
        "incidence, in which who dies of something else stays without the event; with a baseline and a curve of "
        "censoring for each hospital",
    )
    ties: Literal["efron", "breslow"] = Field(default="efron", description="how equal times are handled")
    penalizer: float = Field(default=0.0, ge=0, description="as in lifelines, on standardised inputs")
    l1_ratio: float = Field(default=0.0, ge=0, le=1, description="share of the penalty that is absolute values")
    robust: bool = Field(default=True, description="sandwich errors, clustered by patient")
    grid_years: float = Field(default=0.25, gt=0, description="exact: the finest interval of the common time grid")
    risk_groups: int = Field(default=3, ge=2, le=5, description="3: tertiles of the training rows")
    max_rounds: int = Field(default=12, ge=3, le=50, description="cap on the rounds a site answers, per model")
    tolerance: float = Field(
        default=1e-9, gt=0, le=1e-3, description="largest change of a coefficient at which the fit has converged"
    )

    @model_validator(mode="after")
    def _whole(self) -> Config:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("models: two have one name")
        for model in self.models:
            if len(set(model.inputs)) != len(model.inputs):
                raise ValueError(f"models: {model.name!r} must name each input once")
        if self.follow_up_years is not None and self.follow_up_years < self.horizon_years:
            raise ValueError("follow_up_years must not lie before horizon_years")
        if self.mode == "exact" and len(self.grid_edges) > 200:
            raise ValueError("grid_years gives more than 200 intervals; take a coarser grid")
        if self.hazard == "subdistribution" and (self.mode == "exact" or not self.robust):
            raise ValueError("hazard subdistribution: mode stratified or local, with robust errors (they are its own)")
        if self.mode == "local" and self.penalizer:
            raise ValueError("mode local combines unbiased estimates; penalizer must be 0")
        return self

    @property
    def grid_edges(self) -> Floats:
        """Ends of the finest intervals of the common grid, years."""
        end = self.follow_up_years or self.horizon_years
        return np.asarray(np.arange(1, max(round(end / self.grid_years), 1) + 1) * self.grid_years, dtype=np.float64)

    @property
    def baseline_years(self) -> Floats:
        """Where the pooled baseline hazard is known, shape = (BASELINE_POINTS,); the last is the horizon."""
        return np.asarray(self.horizon_years * np.arange(1, BASELINE_POINTS + 1) / BASELINE_POINTS, dtype=np.float64)

    @property
    def inputs_of(self) -> dict[str, tuple[str, ...]]:
        """Inputs by model, in the study's order."""
        return {model.name: model.inputs for model in self.models}

    @property
    def union(self) -> tuple[str, ...]:
        """All inputs of all models, in order of first mention."""
        return tuple(dict.fromkeys(name for model in self.models for name in model.inputs))

    def rounds_in_all(self) -> int:
        """Rounds of sums over all models: residuals hold three Hessians, and the site's own fit counts as one."""
        return len(self.models) * (self.max_rounds + 4)

    @property
    def reads_splits(self) -> tuple[Split, ...]:
        """The splits it is fitted on."""
        return self.splits

    def questions(self, phase: str) -> int:
        """How many different requests of a phase a site answers about one model."""
        return QUESTIONS.get(phase, self.max_rounds + 1)


@payload("survival", "cohort")
@dataclass(frozen=True)
class Cohort:
    """Who would take part. P columns, M edges of the grid (0 outside the exact mode).

    ``reason``: why the site cannot take part, or "". ``counts``: ECGs, patients, ECGs and patients with the event.
    ``left_out``: ECGs without a time, and without an input. ``missing``: shape = (P,), ECGs without this input.
    ``mean``, ``sd``: shape = (P,). ``servable``: shape = (M, M), see ``cox_disclosure.servable``.
    """

    reason: Annotated[str, Public()]
    patients_known: Annotated[int, Public()]
    counts: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]
    missing: Annotated[Floats, Count()]
    mean: Annotated[Floats, Statistic()]
    sd: Annotated[Floats, Statistic()]
    servable: Annotated[Floats, Statistic()]


@payload("survival", "newton")
@dataclass(frozen=True)
class NewtonSums:
    """At the coefficients asked for; shapes (1,), (p,), (p, p)."""

    log_likelihood: Annotated[Floats, Sums()]
    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]


@payload("survival", "risk")
@dataclass(frozen=True)
class IntervalSums:
    """The fields of ``cox.RiskSums``; ``shift``: shape = (1,)."""

    shift: Annotated[Floats, Sums()]
    leaving_w: Annotated[Floats, Sums()]
    leaving_wx: Annotated[Floats, Sums()]
    dying_w: Annotated[Floats, Sums()]
    dying_wx: Annotated[Floats, Sums()]
    dying_weight: Annotated[Floats, Sums()]
    death_x: Annotated[Floats, Sums()]
    leavers: Annotated[Floats, Sums()]
    deaths: Annotated[Floats, Sums()]


@payload("survival", "curvature")
@dataclass(frozen=True)
class Curvature:
    """The site's part of the Hessian, shape = (p, p)."""

    hessian: Annotated[Floats, Sums()]


@payload("survival", "residuals")
@dataclass(frozen=True)
class ResidualSums:
    """``meat``: shape = (p, p), summed over patients. ``times``: deaths, sum of their times in years. ``residual``,
    ``residual_time``: shape = (p,), Schoenfeld residuals and those times the time. ``curvature_time``,
    ``curvature_square``: shape = (p, p), the site's part of the Hessian (stratified: the Hessian) with deaths weighing
    their time, and its square.
    """

    meat: Annotated[Floats, Sums()]
    times: Annotated[Floats, Sums()]
    residual: Annotated[Floats, Sums()]
    residual_time: Annotated[Floats, Sums()]
    curvature_time: Annotated[Floats, Sums()]
    curvature_square: Annotated[Floats, Sums()]


@payload("survival", "single")
@dataclass(frozen=True)
class SingleFit:
    """The site's own fit: ``coef`` and ``se`` per unit of the input, shape = (p,). ``problem``: a word, or ""."""

    problem: Annotated[str, Public()]
    coef: Annotated[Floats, Statistic()]
    se: Annotated[Floats, Statistic()]


@payload("survival", "baseline")
@dataclass(frozen=True)
class BaselineSums:
    """At the hazards asked for, shape = (BASELINE_POINTS,): mean predicted risk, its slope by the log hazard, and
    observed risk where it may be told."""

    predicted: Annotated[Floats, Statistic()]
    slope: Annotated[Floats, Statistic()]
    observed: Annotated[Floats, Statistic()]


@payload("survival", "spread")
@dataclass(frozen=True)
class Spread:
    """ECGs by bin of the linear predictor asked for, shape = (len(SPREAD_EDGES) + 1,)."""

    counts: Annotated[Floats, Count()]


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a survival step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a survival step's configuration was expected")
    require_shared_model(step, study)
    allowed = allowed_inputs(step, study)
    unknown = [name for name in step.union if name not in allowed]
    if unknown:
        raise ValueError(
            f"step {step.id!r}: models name {', '.join(unknown)}; allowed: {', '.join(allowed)} (heads, latents and "
            "risks of steps it uses; age_gap where the study's covariates hold ecg_age)"
        )


def allowed_inputs(step: StepConfig, study: Study) -> tuple[str, ...]:
    """Return every input a survival step of this study may name."""
    names = list(study.numbers)
    if "ecg_age" in study.covariates:
        names.append("age_gap")
    for used in _reached(step, study):
        if used.stage == "calibrate":
            names.append(f"{used.id}.risk")
        elif used.stage == "train" and used.model.name == "cvae":  # type: ignore[attr-defined]
            names.append(f"{used.id}.latents")
        elif used.stage == "age_sex" and used.age is not None:  # type: ignore[attr-defined]
            names.append(f"{used.id}.gap")
        elif used.stage == "train":
            names += [f"{used.id}.{head}" for head in used.heads]  # type: ignore[attr-defined]
    return tuple(names)


def _reached(step: StepConfig, study: Study) -> list[StepConfig]:
    """Every step this one uses, directly or through others, in study order."""
    reached: set[str] = set()
    waiting = list(step.uses)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += study.step(name).uses
    return [s for s in study.steps if s.id in reached]


def columns_of(inputs: tuple[str, ...], study: Study) -> tuple[str, ...]:
    """Return the names of the columns behind inputs: ``<step>.latents`` is one column a latent."""
    names: list[str] = []
    for name in inputs:
        step, _, what = name.partition(".")
        if what == "latents":
            count: int = study.step(step).model.latent  # type: ignore[attr-defined]
            names += [f"{step}.z{i + 1}" for i in range(count)]
        else:
            names.append(name)
    return tuple(names)


def model_columns(step: Config, study: Study, model: str) -> NDArray[np.int64]:
    """Return which columns of the union a model takes, shape = (p,)."""
    union = columns_of(step.union, study)
    return np.array([union.index(name) for name in columns_of(step.inputs_of[model], study)], dtype=np.int64)


def cox_limits(limits: DisclosureLimits) -> CoxLimits:
    """Return a site's limits for Cox sums: its own, and never under those of the reference design."""
    if limits.withhold_nothing:
        return NO_LIMITS
    floor = CoxLimits()
    return CoxLimits(
        min_patients=max(limits.min_patients, floor.min_patients),
        min_events=max(limits.min_events, floor.min_events),
        min_leavers=max(limits.min_events, floor.min_leavers),
    )
