"""regress, at the site: who is in it, sums of products, Newton sums, clustered errors, and its own fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.regression import RegressionRows, regression_rows
from client.rows.risk import received
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import group_size
from ecgshared.stages.calibrate import effective_patients
from ecgshared.stages.regress import (
    MOST_ERROR_QUESTIONS,
    Cohort,
    Config,
    ErrorSums,
    Method,
    ModelConfig,
    NewtonSums,
    OwnFit,
    ProductSums,
)
from ecgshared.stats.calibration import fit_logistic, logistic_sums
from ecgshared.stats.influence import by_patient
from ecgshared.stats.regression import (
    absorb,
    cr1,
    deciding_patients,
    linear_residual,
    linear_sums,
    patient_scores,
    solve,
    to_terms,
)
from ecgshared.wire.protocol import Answer, Evidence, Request


def cohort(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``cohort``."""
    rows = regression_rows(site, request)
    size = group_size(rows.patient)
    told = Evidence(np.array(0 if rows.reason else size.patients))
    free = Evidence(np.where(rows.free, size.patients, 0))
    outcomes = [group_size(rows.patient, rows.y[:, o]) for o in range(rows.y.shape[1])]
    closed = [f"{j},-1,{why}" for j, why in rows.closed.columns.items()]
    closed += [f"{j},{o},{why}" for (j, o), why in rows.closed.outcomes.items()]
    return Answer(
        Cohort(
            counts=np.array([len(rows.y), size.patients], dtype=np.float64),
            events=rows.y.sum(axis=0).astype(np.float64),
            left_out=np.array([len(rows.left_out)], dtype=np.float64),
            total=rows.x.sum(axis=0),
            squares=(rows.x**2).sum(axis=0),
            closed=tuple(closed),
            closed_effects=tuple(str(i) for i, hidden in enumerate(rows.effects) if not hidden),
            reason=rows.reason,
        ),
        {
            "counts": told,
            "events": Evidence(
                np.where(rows.pairs[:, 0], size.patients, 0), np.array([found.events for found in outcomes])
            ),
            "left_out": Evidence(np.array(len(np.unique(rows.left_out)))),
            "total": free,
            "squares": free,
        },
    )


def sums(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``sums``: of all terms, under one of the step's sets of fixed effects."""
    rows, step = _taking_part(site, request)
    number = _number(request, "effects", len(step.effects))
    effects = step.effects[number]
    x = _standardised(rows.x, request)
    found = linear_sums(x, rows.y.astype(np.float64), rows.absorbed(effects))
    patients = group_size(rows.patient).patients if rows.effects[number] else 0
    pairs, alone = np.where(rows.pairs, patients, 0), np.where(rows.free, patients, 0)
    return Answer(
        ProductSums(
            xx=found[0].xx,
            total=found[0].total,
            xy=np.stack([one.xy for one in found]),
            y_total=np.array([one.y_total for one in found]),
            yy=np.array([one.yy for one in found]),
            absorbed=np.array([found[0].absorbed]),
        ),
        {
            "xx": Evidence(np.where(np.outer(rows.free, rows.free), patients, 0)),
            "total": Evidence(alone),
            "xy": Evidence(pairs[:, 1:]),
            "y_total": Evidence(pairs[:, 0]),
            "yy": Evidence(pairs[:, 0]),
            "absorbed": Evidence(np.array(patients)),
        },
    )


def newton(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``newton``: of one logistic model at the coefficients sent."""
    rows, step = _taking_part(site, request)
    asked = _question(site, request, rows, step)
    spend(site, request, f"newton {asked.topic}", cap=3 * step.max_iterations)
    design = np.column_stack([np.ones(len(asked.x)), asked.x])
    found = logistic_sums(design, asked.y, asked.coef)
    effective = effective_patients(design, asked.y, rows.patient, asked.coef) if len(design) else 0.0
    evidence = _evidence(asked, rows, effective)
    return Answer(
        NewtonSums(found.gradient, found.hessian, np.array([found.log_likelihood])),
        dict.fromkeys(("gradient", "hessian", "log_likelihood"), evidence),
    )


def errors(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``errors``: of one model at the coefficients sent."""
    rows, step = _taking_part(site, request)
    asked = _question(site, request, rows, step)
    spend(site, request, f"errors {asked.topic}", cap=MOST_ERROR_QUESTIONS)
    members = site.study.members(step)
    p = len(asked.coef)
    bread = received(request, "bread", (len(members), p, p))[members.index(site.settings.site)]
    x, residual = asked.residual(rows)
    scores = patient_scores(x, residual, rows.patient)
    fourth = ((scores @ bread.T) ** 4).sum(axis=0)
    weight = by_patient(np.abs(residual), rows.patient)
    effective = float(weight.sum()) ** 2 / float(weight @ weight) if weight.any() else 0.0
    evidence = _evidence(asked, rows, effective)
    return Answer(ErrorSums(scores.T @ scores, fourth), {"meat": evidence, "fourth": evidence})


def own(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``own``: one model fitted here alone."""
    rows, step = _taking_part(site, request)
    model, outcome, method = _which(request, step)
    allowed = _allowed(rows, step, model, outcome)
    size = group_size(rows.patient, rows.y[:, outcome])
    p = len(model.terms) + 1
    coef, covariance, deciding = np.full(p, np.nan), np.full((p, p), np.nan), np.full(p, np.nan)
    reason = "" if allowed else "closed here"
    if allowed:
        try:
            coef, covariance, deciding = own_fit(rows, step.columns_of(model), outcome, model, method)
        except (StatisticsError, np.linalg.LinAlgError):
            reason = "no finite coefficients fit best here"
    evidence = Evidence(np.array(size.patients if allowed else 0), np.array(size.events))
    return Answer(
        OwnFit(coef, covariance, deciding, reason), dict.fromkeys(("coef", "covariance", "deciding"), evidence)
    )


PHASES = {"cohort": cohort, "sums": sums, "newton": newton, "errors": errors, "own": own}


def own_fit(
    rows: RegressionRows, columns: list[int], outcome: int, model: ModelConfig, method: Method
) -> tuple[Floats, Floats, Floats]:
    """Return a site's own coefficients, their clustered covariance and how many patients decide each.

    Raises
    ------
    StatisticsError : there is no fit.
    """
    y, patients = rows.y[:, outcome].astype(np.float64), float(len(np.unique(rows.patient)))
    mean, scale = rows.x[:, columns].mean(axis=0), rows.x[:, columns].std(axis=0)
    if not (scale > 1e-12).all():
        raise StatisticsError("a term does not vary here", value=model.terms[int(np.argmin(scale))])
    x = (rows.x[:, columns] - mean) / scale
    raw = to_terms(mean, scale)
    if method == "logistic":
        fit = fit_logistic(x, y, names=model.terms)
        design = np.column_stack([np.ones(len(x)), x])
        residual, bread, parameters, coef = y - expit(design @ fit.coef), fit.covariance, float(len(fit.coef)), fit.coef
    else:
        levels = rows.absorbed(model.levels)
        line = solve(linear_sums(x, y[:, None], levels), model.terms)
        within = absorb(np.column_stack([x, y]), levels)[0]
        x = within[:, :-1]
        residual = linear_residual(x, within[:, -1], line.coef, absorbed=bool(levels))
        bread, parameters, coef = line.bread, line.parameters, line.coef
    influence = patient_scores(x, residual, rows.patient) @ (raw @ bread).T
    covariance = influence.T @ influence * cr1(patients, len(y), parameters)
    deciding = deciding_patients((influence**2).sum(axis=0), (influence**4).sum(axis=0))
    return raw @ coef, covariance, deciding


@dataclass(frozen=True)
class _Question:
    """One model of one outcome, its standardised terms (n, p), and the coefficients asked about, intercept first."""

    model: ModelConfig
    method: Method
    topic: str
    x: Floats
    y: Floats
    coef: Floats
    allowed: bool
    events: int

    def residual(self, rows: RegressionRows) -> tuple[Floats, Floats]:
        """Return the terms and what the coefficients leave of the outcome; with levels, within them."""
        if self.method == "logistic":
            return self.x, self.y - expit(self.coef[0] + self.x @ self.coef[1:])
        effects = self.model.fixed_effects
        within = absorb(np.column_stack([self.x, self.y]), rows.absorbed(effects))[0]
        x, y = within[:, :-1], within[:, -1]
        return x, linear_residual(x, y, self.coef, absorbed=bool(effects))


def _taking_part(site: SiteContext, request: Request) -> tuple[RegressionRows, Config]:
    rows, step = regression_rows(site, request), site.step
    assert isinstance(step, Config)
    if rows.reason:
        raise Refused(RefusalCode.TOO_FEW, f"this site takes no part: {rows.reason}")
    return rows, step


def _number(request: Request, name: str, below: int) -> int:
    number = int(received(request, name, (1,))[0])
    if not 0 <= number < below:
        raise Refused(RefusalCode.BAD_REQUEST, f"no such number of {name}", value=number, allowed=f"0..{below - 1}")
    return number


def _which(request: Request, step: Config) -> tuple[ModelConfig, int, Method]:
    return (
        step.formulas[_number(request, "model", len(step.formulas))],
        _number(request, "outcome", len(step.outcome)),
        step.methods[_number(request, "method", len(step.methods))],
    )


def _allowed(rows: RegressionRows, step: Config, model: ModelConfig, outcome: int) -> bool:
    columns = np.array(step.columns_of(model))
    absorbed = rows.effects[step.effects.index(model.fixed_effects)]
    return bool(absorbed and rows.free[columns].all() and rows.pairs[outcome, np.append(0, columns + 1)].all())


def _question(site: SiteContext, request: Request, rows: RegressionRows, step: Config) -> _Question:
    model, outcome, method = _which(request, step)
    columns = step.columns_of(model)
    members = site.study.members(step)
    slopes = received(request, "coef", (len(columns),))
    intercepts = received(request, "intercepts", (len(members),))
    return _Question(
        model=model,
        method=method,
        topic=f"{model.name} {step.outcome[outcome]} {method}",
        x=_standardised(rows.x, request)[:, columns],
        y=rows.y[:, outcome].astype(np.float64),
        coef=np.concatenate([[intercepts[members.index(site.settings.site)]], slopes]),
        allowed=_allowed(rows, step, model, outcome),
        events=group_size(rows.patient, rows.y[:, outcome]).events,
    )


def _evidence(asked: _Question, rows: RegressionRows, effective: float) -> Evidence:
    patients = min(group_size(rows.patient).patients, int(effective + 1e-9))
    return Evidence(np.array(patients if asked.allowed else 0), np.array(asked.events))


def _standardised(x: Floats, request: Request) -> Floats:
    q = (x.shape[1],)
    mean, scale = received(request, "mean", q), received(request, "scale", q)
    if not (scale > 0).all():
        raise Refused(RefusalCode.BAD_REQUEST, "scales must be positive", value=float(scale.min()))
    return np.asarray((x - mean) / scale, dtype=np.float64)
