"""One survival model over the sites: its rounds of sums, its robust errors, its pooled baseline.

``add_sites`` is where sums of sites become one: with secure aggregation only its result would be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stages.results.survival import Coefficient
from ecgshared.stages.survival import SPREAD_EDGES, Cohort, Config, IntervalSums
from ecgshared.stats.cox import CoxSums, PooledHazard, RiskSums, exact_sums, pooled_hazard
from ecgshared.stats.cox_fit import CoxFit, Moments, Penalty, newton_fit
from ecgshared.stats.cox_proportional import ProportionalHazards, TrendSums, proportional_hazards, trend_outer
from ecgshared.stats.cox_residuals import ResidualTerms, residual_terms, robust_fit
from ecgshared.stats.influence import estimate
from server.pooling.combine import absences, number, quorum, released
from server.pooling.members import Members
from server.rounds.step_context import StepContext

_ROUNDS_A_MODEL = 1000


def add_sites(parts: Mapping[str, Any]) -> Any:
    """Add the sums of sites, given by name; each kind of sums knows how it adds."""
    items = list(parts.values())
    return type(items[0]).total(items) if hasattr(type(items[0]), "total") else np.sum(items, axis=0)


@dataclass
class Question:
    """Everything asked of the sites about one model.

    Attributes
    ----------
    number : of the model in the step. names, columns : its columns, and their places among all the step's.
    grid : of the exact mode, else None. absent : filled with who did not answer, and why.
    """

    context: StepContext
    step: Config
    number: int
    names: tuple[str, ...]
    columns: NDArray[np.int64]
    cohorts: Mapping[str, Cohort]
    grid: Floats | None
    absent: dict[str, Any]
    asked: int = field(default=0)

    def moments(self, sites: tuple[str, ...]) -> Moments:
        """Return the pooled moments of the model's columns."""
        total = Moments.total(
            Moments(int(self.cohorts[s].counts[0]), self.cohorts[s].mean, self.cohorts[s].sd) for s in sites
        )
        return Moments(total.count, total.mean[self.columns], total.sd[self.columns])

    def ask(self, phase: str, sites: tuple[str, ...], moments: Moments, **arrays: Any) -> Mapping[str, Any]:
        """Ask one thing about this model; return the replies by site."""
        sent: dict[str, NDArray[Any]] = {
            "model": np.array([float(self.number)]),
            "mean": moments.mean,
            "scale": moments.sd,
            **{name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()},
        }
        replies = self.context.ask(
            phase,
            round=_ROUNDS_A_MODEL * self.number + self.asked,
            arrays=sent,
            sites=sites,
            quorum=quorum(self.context, sites),
        )
        self.asked += 1
        absences(replies, self.absent, phase)
        return replies.by_site

    def singles(self, sites: tuple[str, ...], moments: Moments) -> dict[str, tuple[Floats, Floats]]:
        """Return the sites' own coefficients and errors; a site without a fit is noted as absent."""
        p = (len(self.names),)
        found = {}
        for site, reply in self.ask("single", sites, moments).items():
            if released(reply.coef, p) and released(reply.se, p):
                found[site] = (reply.coef, reply.se)
            else:
                self.absent.setdefault(site, {})["single"] = reply.problem or "withheld"
        return found

    def spread(self, sites: tuple[str, ...], moments: Moments, direction: Floats) -> Floats:
        """Return the counts of the linear predictor by bin; bins a site withheld count as empty."""
        n = len(SPREAD_EDGES) + 1
        replies = self.ask("spread", sites, moments, coef=direction).values()
        parts = [np.nan_to_num(r.counts) for r in replies if np.shape(r.counts) == (n,)]
        return np.sum(parts, axis=0) if parts else np.zeros(n)

    def baseline(self, sites: tuple[str, ...], moments: Moments, beta: Floats) -> tuple[Floats, Floats]:
        """Find the pooled baseline: times and log cumulative hazards at which predicted risk is the observed one.

        Sites weigh by their ECGs. A time that no site may tell of is left out.
        """
        at = self.step.baseline_years
        log_hazard, known = np.full(len(at), -3.0), np.zeros(len(at), dtype=bool)
        for turn in range(self.step.questions("baseline") - 2):
            replies = self.ask("baseline", sites, moments, coef=beta, log_hazard=log_hazard)
            gap, slope, n = np.zeros(len(at)), np.zeros(len(at)), np.zeros(len(at))
            seen = np.zeros(len(at))
            for site, r in replies.items():
                if any(np.shape(v) != at.shape for v in (r.predicted, r.slope, r.observed)):
                    continue
                told = np.isfinite(r.predicted) & np.isfinite(r.slope) & np.isfinite(r.observed)
                weight = np.where(told, self.cohorts[site].counts[0], 0.0)
                gap += weight * np.where(told, r.observed - r.predicted, 0.0)
                slope += weight * np.where(told, r.slope, 0.0)
                seen += weight * np.where(told, r.observed, 0.0)
                n += weight
            known = (n > 0) & (seen > 0) & (seen < n) & (slope > 0)
            step = np.where(known, np.clip(gap / np.where(known, slope, 1.0), -2.0, 2.0), 0.0)
            # Sites tell six digits: a smaller step would follow their rounding.
            if turn and np.max(np.abs(step), initial=0.0) < 1e-4:
                break
            log_hazard = log_hazard + step
        return at[known], np.maximum.accumulate(log_hazard[known])


def fit_over_sites(question: Question, sites: tuple[str, ...]) -> tuple[CoxFit, tuple[str, ...], Moments]:
    """Fit by Newton's method; where a site is missing the fit begins anew, as :class:`Members` has it.

    Returns
    -------
    The fit on standardised covariates, the sites whose data it is of, and the moments that standardised them.
    """
    members, step = Members(sites, ", ".join(question.names)), question.step
    one_round = _stratified if question.grid is None else _exact

    def fit() -> tuple[CoxFit, Moments]:
        moments = question.moments(members.now)
        found = newton_fit(
            partial(one_round, question, members, moments),
            question.names,
            moments.count,
            penalty=Penalty(step.penalizer, step.l1_ratio),
            tolerance=step.tolerance,
            max_rounds=step.max_rounds,
        )
        return found, moments

    found, moments = members.fit(fit)
    return found, members.now, moments


def _stratified(question: Question, members: Members, moments: Moments, beta: Floats) -> CoxSums:
    p = len(question.names)

    def sums_of(site: str, r: Any) -> CoxSums | None:
        if released(r.log_likelihood, (1,)) and released(r.gradient, (p,)) and released(r.hessian, (p, p)):
            return CoxSums(float(r.log_likelihood[0]), r.gradient, r.hessian, int(question.cohorts[site].counts[2]))
        return None

    replies = question.ask("newton", members.now, moments, coef=beta)
    total: CoxSums = add_sites(members.all_of({site: sums_of(site, r) for site, r in replies.items()}))
    return total


def _exact(question: Question, members: Members, moments: Moments, beta: Floats) -> CoxSums:
    total: RiskSums = add_sites(members.all_of(_risk(question, members.now, moments, beta)))
    hazard = pooled_hazard(total, question.step.ties)
    p = len(question.names)
    replies = question.ask("curvature", members.now, moments, coef=beta, grid=question.grid, **_hazard_arrays(hazard))
    found = members.all_of({s: r.hessian if released(r.hessian, (p, p)) else None for s, r in replies.items()})
    return exact_sums(total, add_sites(found), beta, question.step.ties)


def _risk(question: Question, sites: tuple[str, ...], moments: Moments, beta: Floats) -> dict[str, RiskSums | None]:
    """Ask for the risk sums; None where a site withheld them."""
    assert question.grid is not None
    k, p = len(question.grid), len(question.names)
    replies = question.ask("risk", sites, moments, coef=beta, grid=question.grid)
    return {site: _interval_sums(r, k, p) for site, r in replies.items()}


def _interval_sums(r: IntervalSums, k: int, p: int) -> RiskSums | None:
    shapes = {"shift": (1,), "leaving_wx": (k, p), "dying_wx": (k, p), "death_x": (p,)}
    if not all(released(getattr(r, name), shapes.get(name, (k,))) for name in RiskSums.__dataclass_fields__):
        return None
    values = {name: getattr(r, name) for name in RiskSums.__dataclass_fields__}
    counts = {name: np.round(values[name]).astype(np.int64) for name in ("leavers", "deaths")}
    return RiskSums(**{**values, **counts, "shift": float(r.shift[0])})


def _hazard_arrays(hazard: PooledHazard) -> dict[str, Any]:
    return {"increment": hazard.increment, "dying": hazard.dying, "shift": np.array([hazard.shift])}


def _residuals(
    question: Question, members: tuple[str, ...], moments: Moments, beta: Floats
) -> tuple[Mapping[str, Any], tuple[Floats, Floats]] | None:
    """Ask for the sums of residuals, and give what the pooled means take from them over time.

    None unless every member gave its own, as the fit is of them all.
    """
    arrays: dict[str, Any] = {"coef": beta}
    p, ties = len(question.names), question.step.ties
    outer = (np.zeros((p, p)), np.zeros((p, p)))
    if question.grid is not None:
        risk = _risk(question, members, moments, beta)
        given = {site: sums for site, sums in risk.items() if sums is not None}
        if set(given) != set(members):
            return None
        pooled = add_sites(given)
        arrays |= {"grid": question.grid, **_terms_arrays(residual_terms(pooled, ties))}
        outer = trend_outer(pooled, ties, question.grid)
    replies = question.ask("residuals", members, moments, **arrays)
    shapes = {
        **dict.fromkeys(("meat", "curvature_time", "curvature_square"), (p, p)),
        **dict.fromkeys(("residual", "residual_time"), (p,)),
        "times": (2,),
    }
    whole = all(released(getattr(r, name), shape) for r in replies.values() for name, shape in shapes.items())
    return (replies, outer) if whole and set(replies) == set(members) else None


def errors_and_hazards(
    question: Question, fit: CoxFit, members: tuple[str, ...], moments: Moments, notes: list[str]
) -> tuple[CoxFit, ProportionalHazards | None]:
    """Replace the errors by robust ones where wanted, and test proportional hazards against time in years."""
    asked = _residuals(question, members, moments, fit.beta)
    if asked is None:
        notes.append("A site gave no residuals: errors are the model's own, and proportional hazards are not tested.")
        return fit, None
    replies, outer = asked
    over_time: TrendSums = add_sites(
        {
            s: TrendSums(
                int(r.times[0]), float(r.times[1]), r.residual, r.residual_time, r.curvature_time, r.curvature_square
            )
            for s, r in replies.items()
        }
    )
    p, hazards = len(question.names), None
    cause_specific = question.step.hazard == "cause_specific"
    try:
        columns = {name: [j] for j, name in enumerate(question.names)}
        penalty = Penalty(question.step.penalizer, question.step.l1_ratio)
        if cause_specific:
            hazards = proportional_hazards(fit, over_time.less(outer), columns, ridge=penalty.ridge(moments.count))
    except StatisticsError as error:
        notes.append(f"Proportional hazards are not tested: {error.what}.")
    # What a lasso holds at 0 has no error, and its sums would spoil those of the others.
    kept = np.flatnonzero(np.isfinite(np.diag(fit.covariance)))
    block = np.ix_(kept, kept)
    part = replace(fit, beta=fit.beta[kept], covariance=fit.covariance[block])
    if question.step.robust:
        part = robust_fit(part, add_sites({s: r.meat[block] for s, r in replies.items()}))
        covariance = np.full((p, p), np.nan)
        covariance[block] = part.covariance
        fit = replace(fit, covariance=covariance, robust=True)
    return fit, hazards


def _terms_arrays(terms: ResidualTerms) -> dict[str, Any]:
    return {
        **_hazard_arrays(terms.hazard),
        "mean_at_risk": terms.mean,
        "drift": terms.drift,
        "dying_drift": terms.dying_drift,
    }


def coefficient(fit: CoxFit, j: int, per_sd: float) -> Coefficient:
    """Return a coefficient of a fit with its interval and the P of Wald's test; NaN where the fit has no error."""
    b, se = float(fit.beta[j]), float(np.sqrt(fit.covariance[j, j]))
    found = estimate(b, se**2 if np.isfinite(se) else np.nan, "identity")
    p = float(chi2.sf((b / se) ** 2, 1)) if se > 0 else np.nan
    return Coefficient(
        coef=number(b),
        se=number(se),
        low=number(found.low),
        high=number(found.high),
        hazard_ratio=number(np.exp(b)),
        p=number(p),
        per_sd=number(per_sd),
    )
