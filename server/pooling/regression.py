"""One model of a regress step over sites: solved from their sums, its errors asked at the solution, told in rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stages.regress import Cohort, Config, Method, ModelConfig, ProductSums
from ecgshared.stages.results.base import Absences
from ecgshared.stages.results.regress import CoefficientResult, FitResult, GroupRate
from ecgshared.stats.calibration import LogisticSums
from ecgshared.stats.regression import (
    LinearSums,
    cr1,
    decided_estimate,
    decided_p,
    deciding_patients,
    group_rates,
    solve,
    to_terms,
)
from ecgshared.study.terms import Term
from server.pooling.combine import absences, est, federated_newton, number, quorum, released
from server.pooling.members import Members, NobodyLeft
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


@dataclass(frozen=True)
class _Solved:
    """Coefficients of standardised terms: slopes and an intercept a site; ``bread`` from a site's scores to influences
    on the coefficients of terms as they are."""

    coef: Floats
    slopes: Floats
    intercepts: dict[str, float]
    bread: dict[str, Floats]
    parameters: float
    r2: float


def nothing(sites: tuple[str, ...], reason: str) -> FitResult:
    """Return the result of a fit that is none."""
    return FitResult(
        sites=sites, ecgs=None, patients=None, events=None, r2=None, coefficients={}, rates=(), reason=reason
    )


def pooled_fit(pooled: Pooled, able: tuple[str, ...], parts: Mapping[str, LinearSums]) -> FitResult:
    """Fit over the sites that can; where one is lost before its errors are told, without it."""
    members = Members(able, pooled.model.name)

    def once() -> FitResult:
        if pooled.method == "ols":
            solved = _linear(pooled, {s: parts[s] for s in members.now})
        else:
            solved, stayed = _logistic(pooled, members.now)
            members.all_of(dict.fromkeys(stayed, True))
        return _with_errors(pooled, solved, members)

    try:
        return members.fit(once)
    except (StatisticsError, NobodyLeft) as error:
        return nothing(members.now, f"{error.what}{'' if error.value is None else f': {error.value}'}")


def _linear(pooled: Pooled, parts: Mapping[str, LinearSums]) -> _Solved:
    fit = solve(list(parts.values()), pooled.model.terms)
    raw = pooled.raw
    return _Solved(
        coef=raw @ fit.coef,
        slopes=fit.coef[1:],
        intercepts=dict.fromkeys(parts, float(fit.coef[0])),
        bread=dict.fromkeys(parts, raw @ fit.bread),
        parameters=fit.parameters,
        r2=fit.r2,
    )


def _logistic(pooled: Pooled, sites: tuple[str, ...]) -> tuple[_Solved, tuple[str, ...]]:
    """Newton's method with one intercept, or one a site; return the sites that stayed to the end as well."""
    p, own = len(pooled.model.terms), bool(pooled.model.fixed_effects)
    places = {s: i if own else 0 for i, s in enumerate(sites)}
    k = len(sites) if own else 1
    cohorts, o = pooled.asked.cohorts, pooled.outcome

    def place(site: str) -> list[int]:
        return [places[site], *range(k, k + p)]

    def ask_sums(coef: Floats, number_: int, of: tuple[str, ...]) -> dict[str, LogisticSums | None]:
        intercepts = {s: float(coef[places[s]]) for s in of}
        arrays = pooled.named | {"coef": coef[k:], "intercepts": _stacked(pooled, intercepts)}
        found: dict[str, LogisticSums | None] = {}
        for s, a in pooled.asked.ask("newton", arrays, of, number_).by_site.items():
            whole = released(a.gradient, (p + 1,)) and released(a.hessian, (p + 1, p + 1))
            found[s] = None
            if whole and released(a.log_likelihood, (1,)):
                gradient, hessian = np.zeros(k + p), np.zeros((k + p, k + p))
                gradient[place(s)], hessian[np.ix_(place(s), place(s))] = a.gradient, a.hessian
                found[s] = LogisticSums(gradient, hessian, float(a.log_likelihood[0]))
        missing = [places[s] for s in sites if s not in of] if own else []
        first = next((found[s] for s in of if found.get(s) is not None), None)
        if missing and first is not None:
            # The intercept of a site that left: nothing tells of it, nothing depends on it.
            first.hessian[missing, missing] = 1.0
        return found

    start, n = np.zeros(k + p), np.array([cohorts[s].counts[0] for s in sites])
    events = np.array([cohorts[s].events[o] for s in sites])
    if 0 < events.sum() < n.sum():
        start[:k] = np.log(events.sum() / (n.sum() - events.sum()))
    intercept_names = [f"intercept of {s}" for s in sites] if own else ["intercept"]
    step = pooled.asked.step
    fit, stayed = federated_newton(
        ask_sums,
        sites,
        start,
        names=[*intercept_names, *pooled.model.terms],
        max_iterations=step.max_iterations,
        tolerance=step.tolerance,
    )
    # The intercept told is that of the average ECG.
    share = np.zeros(k)
    for s in stayed:
        share[places[s]] += float(cohorts[s].counts[0])
    average = np.zeros((p + 1, k + p))
    average[0, :k], average[1:, k:] = share / share.sum(), np.eye(p)
    to_raw = pooled.raw @ average
    total, with_event = (
        sum(v) for v in zip(*((float(cohorts[s].counts[0]), float(cohorts[s].events[o])) for s in stayed), strict=True)
    )
    null = sum(c * np.log(c / total) for c in (with_event, total - with_event) if c > 0)
    solved = _Solved(
        coef=to_raw @ fit.coef,
        slopes=fit.coef[k:],
        intercepts={s: float(fit.coef[places[s]]) for s in stayed},
        bread={s: (to_raw @ fit.covariance)[:, place(s)] for s in stayed},
        parameters=float((len(stayed) if own else 1) + p),
        r2=1 - fit.log_likelihood / null if null < 0 else np.nan,
    )
    return solved, stayed


def _stacked(pooled: Pooled, by_site: Mapping[str, float]) -> Floats:
    """One number a member of the step, in the study's order; 0 for others."""
    asked = pooled.asked
    return np.array([by_site.get(s, 0.0) for s in asked.context.study.members(asked.step)])


def _with_errors(pooled: Pooled, solved: _Solved, members: Members) -> FitResult:
    asked, k = pooled.asked, len(solved.coef)
    everybody = asked.context.study.members(asked.step)
    arrays = pooled.named | {
        "coef": solved.slopes,
        "intercepts": _stacked(pooled, solved.intercepts),
        "bread": np.stack([solved.bread.get(s, np.zeros((k, k))) for s in everybody]),
    }
    answers = asked.ask("errors", arrays, members.now)
    found = members.all_of(
        {s: a if released(a.meat, (k, k)) and released(a.fourth, (k,)) else None for s, a in answers.by_site.items()}
    )
    covariance, fourth = np.zeros((k, k)), np.zeros(k)
    for s, a in found.items():
        covariance += solved.bread[s] @ a.meat @ solved.bread[s].T
        fourth += a.fourth
    deciding = deciding_patients(np.diag(covariance), fourth)
    ecgs, patients = (sum(float(asked.cohorts[s].counts[i]) for s in found) for i in (0, 1))
    robust = covariance * cr1(patients, ecgs, solved.parameters)
    return told(pooled, tuple(found), solved.coef, robust, deciding, solved.r2)


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
