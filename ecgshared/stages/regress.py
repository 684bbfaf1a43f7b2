"""regress: linear and logistic regressions of outcomes on scores, groups and covariates, errors clustered by patient.

On the ECGs that no training saw: the lockbox at sites that train, everybody at the others. All models and outcomes of a
step are of the same ECGs, those whose every term and outcome is known, so that no two sums differ by a few people.

Phases: ``cohort`` (who is in it, which terms stay closed), ``sums`` (X'X, X'y, y'y; with fixed effects, of what a
site's own levels leave), ``newton`` (gradient and Hessian of a logistic model), ``errors`` (the middle of the sandwich,
at coefficients sent), ``own`` (a site's own fit). Which cells may not leave: :mod:`ecgshared.privacy.cross_tables`; and
a site with fewer patients than twice the numbers that leave in all takes no part.

Counts are of ECGs unless they say patients; withheld numbers are null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ecgshared.arrays import Floats
from ecgshared.config import Config as ConfigPart
from ecgshared.stages.results.regress import Result as Result
from ecgshared.study.populations import DERIVED
from ecgshared.study.score import RiskScore, require_shared_model, risk_score
from ecgshared.study.terms import Term
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

Method = Literal["ols", "logistic"]
Effect = Literal["site", "year", "month", "hour"]
OF_SCORE = {"high_risk": "1 at or above the cut of the threshold step", "risk": "the risk", "log_odds": "its logit"}
MOST_ERROR_QUESTIONS = 3
"""Sets of coefficients at which a site sums errors of one model: one, and two more where members change."""


LEAVES = {
    "cohort": "counts of ECGs, patients and outcomes, sums of each term, and which terms stay here and why",
    "sums": "sums of products of terms and outcomes, after the hospital's own months or hours where the study says so",
    "newton": "sums of a logistic model's steps at the coefficients asked for",
    "errors": "sums of squares and of fourth powers, over patients, of what each adds to a model's error",
    "own": "the hospital's own coefficients of a model, and their errors",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Sums of yes/no terms are the cells of their cross-table: a term with which any cell would hold too few patients, "
    "or too few with or without the outcome, stays at the hospital, and so do models with it. A hospital with fewer "
    "patients than twice the numbers that leave takes no part. One score and one cut a step are answered, and no "
    "oftener than a fit asks."
)
"""What stands between these numbers and one patient."""


class ModelConfig(ConfigPart):
    """One formula. Products need their two factors as terms beside them."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,29}$", description="name of this model in the report")
    label: str = Field(default="", max_length=80, description="in words, for reports")
    terms: tuple[str, ...] = Field(
        min_length=1, description="age, male, high_risk, risk, log_odds, covariates, defibrillator, lvef<=0.35, a:b"
    )
    fixed_effects: tuple[Effect, ...] = Field(
        default=(), description="intercepts of each site's own, by calendar year, month or hour; logistic: site alone"
    )

    @field_validator("terms")
    @classmethod
    def _terms(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        read = [Term.read(text) for text in texts]
        names = [term.text for term in read]
        if len({frozenset(name.split(":")) for name in names}) < len(names):
            raise ValueError("names a term twice")
        for term in read:
            lacking = [f.text for f in term.factors if len(term.factors) > 1 and f.text not in names]
            if lacking:
                raise ValueError(f"{term.text!r} needs {' and '.join(lacking)} as terms beside it")
        return tuple(names)

    @field_validator("fixed_effects")
    @classmethod
    def _once(cls, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
        if len(set(effects)) < len(effects):
            raise ValueError("names an effect twice")
        return effects

    @property
    def levels(self) -> tuple[str, ...]:
        """Calendar units whose levels each site absorbs; empty where only sites differ, or nothing."""
        return tuple(effect for effect in self.fixed_effects if effect != "site")


_WHO, _LOW = ("age", "male"), "lvef<=0.35"
_HIGH = ("high_risk", "defibrillator", "high_risk:defibrillator")
DEFIBRILLATOR_MODELS = (
    ModelConfig(name="ecg", label="high-risk ECG", terms=(*_WHO, *_HIGH)),
    ModelConfig(
        name="lvef",
        label="ejection fraction of 35% or less",
        terms=(*_WHO, _LOW, "defibrillator", f"{_LOW}:defibrillator"),
    ),
    ModelConfig(name="both", label="both", terms=(*_WHO, *_HIGH, _LOW, f"{_LOW}:defibrillator")),
)
"""The paper's comparison of those with and without a defibrillator (doi 10.1038/s41586-026-10674-6, Table 2)."""


class Config(StepConfig):
    """A regress step; it uses a threshold step for ``high_risk``, and what gives the score for ``risk``."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    outcome: tuple[str, ...] = Field(min_length=1, max_length=8, description="an endpoint, or several, a column each")
    models: tuple[ModelConfig, ...] = Field(
        default=(), max_length=12, description="the regressions, each with its terms"
    )
    methods: tuple[Method, ...] = Field(default=("ols",), min_length=1, description="ols: linear probability")
    defibrillator_study: bool = Field(
        default=False, description="models, treatment and unknown_as_no of the published comparison"
    )
    treatment: str | None = Field(
        default=None, description="of each product with it: the group's rate without it, and the change in percent"
    )
    unknown_as_no: tuple[str, ...] = Field(
        default=(), description="columns whose bound or flag counts as 0 where not known, if the hospital knows any"
    )
    score: str | None = Field(default=None, description="<train step>.<head> of risk and log_odds; None: calibrated")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    max_iterations: int = Field(default=25, ge=2, le=100, description="of Newton's method, logistic")
    tolerance: float = Field(
        default=1e-9, gt=0, le=1e-3, description="largest change of a coefficient at which the fit has converged"
    )

    @field_validator("outcome", mode="before")
    @classmethod
    def _one_is_a_list(cls, outcome: object) -> object:
        return (outcome,) if isinstance(outcome, str) else outcome

    @model_validator(mode="after")
    def _holds(self) -> Config:
        if self.defibrillator_study and (self.models or self.treatment or self.unknown_as_no):
            raise ValueError(
                "defibrillator_study brings its own models, treatment and unknown_as_no; give one or others"
            )
        if not self.formulas:
            raise ValueError("needs models, or defibrillator_study: true")
        for what, names in (
            ("outcome", self.outcome),
            ("models", tuple(m.name for m in self.models)),
            ("methods", self.methods),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} names one twice")
        if "logistic" in self.methods and any(m.levels for m in self.formulas):
            raise ValueError("fixed effects by year, month or hour are for methods: [ols]; logistic takes `site`")
        if self.treatment and not any(
            self.treatment in t.split(":") for m in self.formulas for t in m.terms if ":" in t
        ):
            raise ValueError(f"treatment {self.treatment!r} is in no product of the models")
        return self

    @property
    def formulas(self) -> tuple[ModelConfig, ...]:
        """The models, those of the preset where it is asked for."""
        return DEFIBRILLATOR_MODELS if self.defibrillator_study else self.models

    @property
    def treated(self) -> str | None:
        """The factor whose products are told as rates."""
        return "defibrillator" if self.defibrillator_study else self.treatment

    @property
    def as_no(self) -> tuple[str, ...]:
        """Columns of which not known is no."""
        return ("lvef",) if self.defibrillator_study else self.unknown_as_no

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every term of any model, once, in order: the columns of the sums."""
        return tuple(Term.read(text) for text in dict.fromkeys(t for model in self.formulas for t in model.terms))

    @property
    def levels(self) -> tuple[str, ...]:
        """Calendar units of any model."""
        return tuple(dict.fromkeys(level for model in self.formulas for level in model.levels))

    @property
    def effects(self) -> tuple[tuple[Effect, ...], ...]:
        """The distinct sets of fixed effects, () without; sums are asked once for each."""
        return tuple(dict.fromkeys(model.fixed_effects for model in self.formulas))

    @property
    def reads_columns(self) -> tuple[str, ...]:
        """What follows from the table beside age, sex and covariates."""
        named = (*(name for term in self.terms for name in term.columns), *self.levels)
        return tuple(dict.fromkeys(name for name in named if name in DERIVED and name != "male"))

    def columns_of(self, model: ModelConfig) -> list[int]:
        """Return the places of a model's terms among :attr:`terms`."""
        places = {term.text: j for j, term in enumerate(self.terms)}
        return [places[text] for text in model.terms]

    def numbers_sent(self) -> int:
        """Return how many numbers about its people leave a site in all; a symmetric matrix counts once."""
        q, outcomes = len(self.terms), len(self.outcome)
        each = q * (q + 1) // 2 + q + outcomes * (q + 2)
        sent = each * len(self.effects) if "ols" in self.methods else 2 * q
        for model in self.formulas:
            p = len(model.terms) + 1
            triangle = p * (p + 1) // 2
            errors, own = triangle + p, triangle + p
            sent += outcomes * (errors + own) * len(self.methods)
            if "logistic" in self.methods:
                sent += outcomes * (triangle + p + 1 + p)
        return sent


@payload("regress", "cohort")
@dataclass(frozen=True)
class Cohort:
    """``counts``: ECGs, patients. ``events``, shape = (O,). ``left_out``: ECGs that lack a term or outcome. Sums of the
    q terms, shape = (q,). ``closed``: "column,outcome,why", -1 for the intercept and for all outcomes.
    ``closed_effects``: numbers of the sets of fixed effects that it may not absorb. ``reason``: why the site takes no
    part, "" where it does."""

    counts: Annotated[Floats, Count()]
    events: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]
    total: Annotated[Floats, Sums()]
    squares: Annotated[Floats, Sums()]
    closed: Annotated[tuple[str, ...], Public()]
    closed_effects: Annotated[tuple[str, ...], Public()]
    reason: Annotated[str, Public()]


@payload("regress", "sums")
@dataclass(frozen=True)
class ProductSums:
    """Of standardised terms x and O outcomes y; shapes (q, q), (q,), (O, q), (O,), (O,), (1,). See
    :class:`ecgshared.stats.regression.LinearSums`."""

    xx: Annotated[Floats, Sums()]
    total: Annotated[Floats, Sums()]
    xy: Annotated[Floats, Sums()]
    y_total: Annotated[Floats, Sums()]
    yy: Annotated[Floats, Sums()]
    absorbed: Annotated[Floats, Count()]


@payload("regress", "newton")
@dataclass(frozen=True)
class NewtonSums:
    """Of one logistic model at the coefficients asked for; shapes (p + 1,), (p + 1, p + 1), (1,)."""

    gradient: Annotated[Floats, Sums()]
    hessian: Annotated[Floats, Sums()]
    log_likelihood: Annotated[Floats, Sums()]


@payload("regress", "errors")
@dataclass(frozen=True)
class ErrorSums:
    """Over patients: ``meat``, the outer products of scores, shape = (p + 1, p + 1); ``fourth``, influences on each
    coefficient to the fourth power, shape = (p + 1,)."""

    meat: Annotated[Floats, Sums()]
    fourth: Annotated[Floats, Sums()]


@payload("regress", "own")
@dataclass(frozen=True)
class OwnFit:
    """A site's own fit, terms as they are: shapes (p + 1,), (p + 1, p + 1), and (p + 1,) patients who decide each.
    ``reason``: why there is none."""

    coef: Annotated[Floats, Statistic()]
    covariance: Annotated[Floats, Statistic()]
    deciding: Annotated[Floats, Statistic()]
    reason: Annotated[str, Public()]


def score_of(step: Config, study: Study) -> RiskScore | None:
    """Return the score behind ``risk`` and ``log_odds``; None where no term names them."""
    named = {name for term in step.terms for name in term.columns}
    return risk_score(step, study) if named & {"risk", "log_odds"} else None


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a regress step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a regress step's configuration was expected")
    require_shared_model(step, study)
    unknown = [name for name in step.outcome if name not in study.endpoints]
    if unknown:
        raise ValueError(f"step {step.id!r}: outcome names {', '.join(unknown)}; allowed: {', '.join(study.endpoints)}")
    study.require_yes_no(step, step.outcome)
    known = {*study.numbers, *DERIVED, *OF_SCORE}
    faults = [fault for term in step.terms for fault in term.faults(known)]
    if step.defibrillator_study and "lvef" not in study.covariates:
        faults = ["defibrillator_study compares with reduced LVEF: name lvef under the study's `covariates`"]
    faults += [f"unknown_as_no names {name!r}, of no term" for name in step.as_no if not _in_a_term(step, name)]
    if faults:
        raise ValueError(f"step {step.id!r}: {'; '.join(faults)}")
    if _in_a_term(step, "high_risk") and study.used(step, "threshold") is None:
        raise ValueError(f"step {step.id!r}: high_risk needs a threshold step under `uses`")
    score_of(step, study)


def _in_a_term(step: Config, column: str) -> bool:
    return any(column in term.columns for term in step.terms)
