"""One model of a regress step over sites: solved from their sums, its errors asked at the solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stages.results.regress import FitResult
from ecgshared.stats.calibration import LogisticSums
from ecgshared.stats.regression import (
    LinearSums,
    cr1,
    deciding_patients,
    solve,
)
from server.pooling.combine import federated_newton, released
from server.pooling.members import Members, NobodyLeft
from server.pooling.regression import Pooled, nothing, told


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
