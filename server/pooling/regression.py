"""One model of a regress step: what names it in questions, its part of a site's sums, and a fit told in rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.stages.regress import Cohort, Config, Method, ModelConfig, ProductSums
from ecgshared.stages.results.base import Absences
from ecgshared.stages.results.regress import CoefficientResult, FitResult, GroupRate
from ecgshared.stats.regression import (
    LinearSums,
    decided_estimate,
    decided_p,
    group_rates,
    to_terms,
)
from ecgshared.study.terms import Term
from server.pooling.combine import absences, est, number, quorum
from server.rounds.step_context import Replies, StepContext


@dataclass(frozen=True)
class Asked:
    """What all questions of a step share; ``mean`` and ``scale`` of its terms, shape = (q,)."""

    context: StepContext
    step: Config
    cohorts: Mapping[str, Cohort]
    mean: Floats
    scale: Floats
    absent: Absences

    def ask(
        self, phase: str, arrays: Mapping[str, NDArray[np.float64]], sites: tuple[str, ...], round_: int = 0
    ) -> Replies:
        """Ask sites one thing; who is absent is noted."""
        replies = self.context.ask(
            phase,
            round=round_,
            arrays={"mean": self.mean, "scale": self.scale, **arrays},
            sites=sites,
            quorum=quorum(self.context, sites),
        )
        absences(replies, self.absent, phase)
        return replies


@dataclass(frozen=True)
class Pooled:
    """One model, one outcome, one method."""

    asked: Asked
    model: ModelConfig
    outcome: int
    method: Method

    @property
    def columns(self) -> list[int]:
        """Places of the model's terms among the step's."""
        return self.asked.step.columns_of(self.model)

    @property
    def named(self) -> dict[str, NDArray[np.float64]]:
        """What names it in a question."""
        step = self.asked.step
        numbers = {
            "model": step.formulas.index(self.model),
            "outcome": self.outcome,
            "method": step.methods.index(self.method),
        }
        return {name: np.array([float(value)]) for name, value in numbers.items()}

    @property
    def raw(self) -> Floats:
        """From coefficients of standardised terms to those of terms as they are."""
        return to_terms(self.asked.mean[self.columns], self.asked.scale[self.columns])

    def open_at(self, site: str) -> bool:
        """Say whether a site closed nothing that the model needs."""
        cohort = self.asked.cohorts[site]
        closed = {tuple(map(int, line.split(",")[:2])) for line in cohort.closed}
        needed = {(j, o) for j in self.columns for o in (-1, self.outcome)} | {(-1, self.outcome)}
        effects = str(self.asked.step.effects.index(self.model.fixed_effects))
        if closed & needed or effects in cohort.closed_effects:
            return False
        return bool(np.isfinite(cohort.events[self.outcome]))

    def part(self, site: str, sums: ProductSums | None) -> LinearSums | None:
        """Return the model's own part of a site's sums; None where any of it was withheld."""
        if sums is None:
            return None
        at, o, q = np.array(self.columns), self.outcome, len(self.asked.step.terms)
        outcomes = len(self.asked.step.outcome)
        shapes = (np.shape(sums.xx), np.shape(sums.total), np.shape(sums.xy), np.shape(sums.y_total), np.shape(sums.yy))
        if shapes != ((q, q), (q,), (outcomes, q), (outcomes,), (outcomes,)):
            return None
        part = LinearSums(
            ecgs=float(self.asked.cohorts[site].counts[0]),
            total=sums.total[at],
            xx=sums.xx[np.ix_(at, at)],
            y_total=float(sums.y_total[o]),
            xy=sums.xy[o, at],
            yy=float(sums.yy[o]),
            absorbed=float(sums.absorbed[0]),
        )
        every = np.concatenate([part.total, part.xx.ravel(), part.xy, [part.y_total, part.yy, part.absorbed]])
        return part if np.isfinite(every).all() else None


def nothing(sites: tuple[str, ...], reason: str) -> FitResult:
    """Return the result of a fit that is none."""
    return FitResult(
        sites=sites, ecgs=None, patients=None, events=None, r2=None, coefficients={}, rates=(), reason=reason
    )


def told(
    pooled: Pooled, sites: tuple[str, ...], coef: Floats, covariance: Floats, deciding: Floats, r2: float
) -> FitResult:
    """Return a fit as a result has it; of terms as they are, intercept first."""
    names, cohorts = ("intercept", *pooled.model.terms), pooled.asked.cohorts
    se = np.sqrt(np.diag(covariance))
    ecgs, patients = (number(sum(float(cohorts[s].counts[i]) for s in sites)) for i in (0, 1))
    return FitResult(
        sites=sites,
        ecgs=ecgs,
        patients=patients,
        events=number(sum(float(cohorts[s].events[pooled.outcome]) for s in sites)),
        r2=number(r2),
        coefficients={
            name: CoefficientResult(
                **est(decided_estimate(float(coef[j]), float(se[j]), float(deciding[j]))).model_dump(),
                p=number(decided_p(float(coef[j]), float(se[j]), float(deciding[j]))),
                deciding=number(deciding[j]),
            )
            for j, name in enumerate(names)
        },
        rates=_rates(pooled, sites, coef, covariance, deciding),
    )


def _rates(
    pooled: Pooled, sites: tuple[str, ...], coef: Floats, covariance: Floats, deciding: Floats
) -> tuple[GroupRate, ...]:
    """What each product of a group and the treatment says."""
    treatment, cohorts = pooled.asked.step.treated, pooled.asked.cohorts
    terms = [Term.read(text) for text in pooled.model.terms]
    n = sum(float(cohorts[s].counts[0]) for s in sites)
    means = {
        term.text: sum(float(cohorts[s].total[j]) for s in sites) / n
        for term, j in zip(terms, pooled.columns, strict=True)
        if len(term.factors) == 1
    }
    products = {
        other.text: i + 1
        for i, term in enumerate(terms)
        for other in term.factors
        if len(term.factors) > 1 and treatment in [f.text for f in term.factors] and other.text != treatment
    }
    found = []
    for group, product in products.items():
        if treatment is None or not 0 <= means[group] <= 1:
            continue
        at = means | dict.fromkeys(products, 0.0) | {group: 1.0}
        without, expected = (
            np.array([1.0, *(np.prod([(at | {treatment: on})[f.text] for f in t.factors]) for t in terms)])
            for on in (0.0, 1.0)
        )
        expected[product] = 0.0
        rates = group_rates(
            coef,
            covariance,
            float(deciding[product]),
            without=without,
            expected=expected,
            product=product,
            logistic=pooled.method == "logistic",
        )
        found.append(
            GroupRate(
                group=group,
                treatment=treatment,
                without=est(rates.without),
                expected=est(rates.expected),
                change=est(rates.change),
            )
        )
    return tuple(found)
