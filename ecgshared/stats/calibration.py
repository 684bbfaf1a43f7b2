"""Logistic regression from summed gradients and Hessians, and how well predicted risks agree with what
happened.

Newton's method needs of each site only its log-likelihood, gradient and Hessian at common coefficients, and
their sums over sites are those of the pooled data: the federated fit IS the pooled one. Calibration slope
and intercept: Cox 1958 (doi 10.1093/biomet/45.3-4.562). Clustered covariance: the sandwich of Liang & Zeger
1986 (doi 10.1093/biomet/73.1.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.few_events import few_events
from ecgshared.stats.influence import Estimate, by_patient, clustered_ratio, estimate
from ecgshared.stats.roc import require_binary


@dataclass(frozen=True)
class LogisticSums:
    """Sums over ECGs at given coefficients; those of several sites add.

    Attributes
    ----------
    gradient : float array, shape = (p,), of the log-likelihood.
    hessian : float array, shape = (p, p), of the NEGATIVE log-likelihood (positive semi-definite).
    log_likelihood : float.
    """

    gradient: Floats
    hessian: Floats
    log_likelihood: float

    @classmethod
    def total(cls, parts: Iterable[LogisticSums]) -> LogisticSums:
        """Add the sums of several sites."""
        items = list(parts)
        if not items:
            raise StatisticsError("no site gave sums to add")
        return cls(
            np.sum([s.gradient for s in items], axis=0),
            np.sum([s.hessian for s in items], axis=0),
            float(sum(s.log_likelihood for s in items)),
        )


@dataclass(frozen=True)
class LogisticFit:
    """A converged fit.

    Attributes
    ----------
    coef : float array, shape = (p,).
    covariance : float array, shape = (p, p): inverse information.
    log_likelihood : float, without the penalty.
    iterations : int.
    """

    coef: Floats
    covariance: Floats
    log_likelihood: float
    iterations: int


def logit(risk: NDArray[Any]) -> Floats:
    """Return log(p / (1 - p)), shape as given, clipped to +-27.6 (p within 1e-12 of 0 or 1)."""
    p = np.clip(np.asarray(risk, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def logistic_sums(x: Floats, y: NDArray[Any], coef: Floats) -> LogisticSums:
    """Return the sums of one site.

    Parameters
    ----------
    x : float array, shape = (n, p), the intercept's column of ones included.
    y : 0/1 array, shape = (n,).
    coef : float array, shape = (p,).
    """
    eta = x @ coef
    p = expit(eta)
    y = np.asarray(y, dtype=np.float64)
    return LogisticSums(
        gradient=x.T @ (y - p),
        hessian=(x * (p * (1 - p))[:, None]).T @ x,
        log_likelihood=float(np.sum(y * eta - np.logaddexp(0.0, eta))),
    )


def score_meat(x: Floats, y: NDArray[Any], patient: NDArray[np.int64], coef: Floats) -> Floats:
    """Return the sum over patients of the outer product of the patient's gradient, shape = (p, p)."""
    scores = by_patient(x * (np.asarray(y, dtype=np.float64) - expit(x @ coef))[:, None], patient)
    return np.asarray(scores.T @ scores, dtype=np.float64)


def sandwich(covariance: Floats, meat: Floats, patients: float) -> Floats:
    """Return the patient-clustered covariance, shape = (p, p), from inverse information and pooled meat."""
    return np.asarray(covariance @ meat @ covariance * patients / max(patients - 1, 1), dtype=np.float64)


def newton(
    sums_at: Callable[[Floats], LogisticSums],
    start: Floats,
    *,
    names: Sequence[str],
    ridge: float = 0.0,
    max_iterations: int = 25,
    tolerance: float = 1e-9,
) -> LogisticFit:
    """Maximise the log-likelihood less ``ridge / 2`` times the squared coefficients (the first, the
    intercept, free).

    Inputs should be standardised: then the penalty treats them alike, and the limits below have a meaning.

    Parameters
    ----------
    sums_at : gives the (summed) sums at coefficients; one federated round each call.
    start : float array, shape = (p,).
    names : of the coefficients, the intercept first; only to say which one is at fault.
    tolerance : largest change of a coefficient in the last full step.

    Raises
    ------
    StatisticsError : inputs are collinear, an outcome is separated by them, or no convergence.
    """
    penalty = np.full(len(start), float(ridge))
    penalty[0] = 0.0
    coef = np.asarray(start, dtype=np.float64)
    here = _penalised(sums_at(coef), coef, penalty)
    _require_independent(here.hessian, names, first=True)
    for iteration in range(1, max_iterations + 1):
        _require_independent(here.hessian, names, first=False)
        step = np.linalg.solve(here.hessian, here.gradient)
        if not np.isfinite(step).all():
            raise StatisticsError("the fit left the range of numbers", remedy="set ridge, or look at the inputs")
        if np.max(np.abs(step)) <= tolerance:
            # The last sums already hold at coef; the remaining step is free and quadratically small.
            final = coef + step
            covariance = np.asarray(np.linalg.inv(here.hessian), dtype=np.float64)
            plain = here.log_likelihood + 0.5 * float(penalty @ coef**2)
            return LogisticFit(final, covariance, plain, iteration)
        fraction = 1.0
        while True:
            there = _penalised(sums_at(coef + fraction * step), coef + fraction * step, penalty)
            # Rounding alone may lower a sum of many terms by a few parts in 1e12 near the top.
            if there.log_likelihood >= here.log_likelihood - 1e-12 * abs(here.log_likelihood) or fraction < 1e-4:
                break
            fraction /= 2
        coef, here = coef + fraction * step, there
    raise _not_converged(coef, here.hessian, names, max_iterations)


def _penalised(sums: LogisticSums, coef: Floats, penalty: Floats) -> LogisticSums:
    return LogisticSums(
        sums.gradient - penalty * coef,
        sums.hessian + np.diag(penalty),
        sums.log_likelihood - 0.5 * float(penalty @ coef**2),
    )


def _require_independent(hessian: Floats, names: Sequence[str], *, first: bool) -> None:
    if not np.isfinite(hessian).all():
        raise StatisticsError("the sums are not finite", remedy="look at the inputs' ranges")
    diagonal = np.sqrt(np.diag(hessian))
    if (diagonal <= 0).any() and first:
        raise StatisticsError(
            "an input does not vary among these ECGs",
            value=names[int(np.argmin(diagonal))],
            remedy="leave it out",
        )
    if (diagonal <= 0).any():
        raise _separated(names, -diagonal)
    values, vectors = np.linalg.eigh(hessian / np.outer(diagonal, diagonal))
    if values[0] < 1e-10:
        if not first:
            raise _separated(names, np.abs(vectors[:, 0]) / diagonal)
        involved = [names[int(i)] for i in np.flatnonzero(np.abs(vectors[:, 0]) > 0.1)]
        raise StatisticsError(
            "inputs are collinear",
            value=", ".join(involved),
            remedy="leave one of them out, or set ridge above 0",
        )


def _separated(names: Sequence[str], uncertainty: Floats) -> StatisticsError:
    return StatisticsError(
        "the inputs separate cases from controls, so that no finite coefficients fit best",
        value=names[int(np.argmax(uncertainty))],
        remedy="set ridge above 0, use fewer inputs, or more events",
    )


def _not_converged(coef: Floats, hessian: Floats, names: Sequence[str], iterations: int) -> StatisticsError:
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    # Along a separating direction every step adds about one and the information falls e-fold: no standardised
    # coefficient that data determine has an error near this.
    if errors.max() > 50:
        return _separated(names, errors)
    return StatisticsError(
        f"the fit did not converge in {iterations} iterations",
        value=f"largest coefficient {np.max(np.abs(coef)):.3g} of {names[int(np.argmax(np.abs(coef)))]}",
        remedy="raise max_iterations, or set ridge above 0",
    )


def to_raw_scale(coef: Floats, covariance: Floats, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Turn a fit on (x - mean) / scale into one on x; intercept first. Shapes (p + 1,), (p + 1, p + 1),
    (p,), (p,)."""
    transform = np.diag(np.concatenate([[1.0], 1.0 / scale]))
    transform[0, 1:] = -mean / scale
    return transform @ coef, transform @ covariance @ transform.T


def fit_logistic(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    names: Sequence[str] | None = None,
    ridge: float = 0.0,
    max_iterations: int = 25,
) -> LogisticFit:
    """Fit y on x, shape = (n, p) without the column of ones; ``coef[0]`` is the intercept, the rest on x's
    own scale."""
    x = np.asarray(x, dtype=np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    labels = ["intercept", *(names or [f"input {j}" for j in range(x.shape[1])])]
    if not (scale > 0).all():
        raise StatisticsError("an input does not vary among these ECGs", value=labels[1 + int(np.argmin(scale))])
    design = np.column_stack([np.ones(len(x)), (x - mean) / scale])
    require_binary(np.zeros(len(x)), y)
    fit = newton(
        lambda coef: logistic_sums(design, y, coef),
        np.zeros(design.shape[1]),
        names=labels,
        ridge=ridge,
        max_iterations=max_iterations,
    )
    coef, covariance = to_raw_scale(fit.coef, fit.covariance, mean, scale)
    return LogisticFit(coef, covariance, fit.log_likelihood, fit.iterations)


def calibration_line(risk: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64]) -> tuple[Estimate, Estimate]:
    """Return calibration intercept and slope: the logistic regression of y on logit(risk), patient-clustered.

    A slope below 1 says that risks are spread too far; shape = (n,) each. The errors count as many degrees of freedom
    as there are patients with the event (or without it, if fewer), less one; no interval with few.
    """
    require_binary(risk, y)
    x = logit(risk)
    fit = fit_logistic(x[:, None], y, names=["logit of the risk"])
    design = np.column_stack([np.ones(len(x)), x])
    covariance = sandwich(fit.covariance, score_meat(design, y, patient, fit.coef), float(len(np.unique(patient))))
    df = event_df(y, patient)
    intercept, slope = (estimate(fit.coef[j], covariance[j, j], "identity", df=df) for j in (0, 1))
    return intercept, slope


def event_df(y: NDArray[Any], patient: NDArray[np.int64]) -> float:
    """Return the degrees of freedom of an error that hangs on events; 0, which gives no interval, with few."""
    case = np.asarray(y) == 1
    least = min(len(np.unique(patient[case])), len(np.unique(patient[~case])))
    return 0.0 if few_events(least) else least - 1.0


def brier(risk: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64]) -> Estimate:
    """Return the mean squared difference of risk and outcome (Brier 1950), patient-clustered; shape = (n,)
    each."""
    score, case = require_binary(risk, y, both_classes=False)
    return clustered_ratio((score - case) ** 2, np.ones(len(score)), patient, "log", event_df(y, patient))


def expected_over_observed(risk: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64]) -> Estimate:
    """Return predicted over observed events, patient-clustered, interval on the log scale; shape = (n,)
    each."""
    score, case = require_binary(risk, y)
    df = event_df(y, patient)
    ratio = clustered_ratio(score, case.astype(np.float64), patient, "log", df)
    # Every ECG bears on the numerator, so the number of clusters is all patients, not those with an event.
    inside, all_patients = len(np.unique(patient[case])), len(np.unique(patient))
    if inside < 2 or not np.isfinite(ratio.se):
        return ratio
    variance = ratio.se**2 * (inside - 1) / inside * all_patients / (all_patients - 1)
    return estimate(ratio.value, variance, "log", df=df)


@dataclass(frozen=True)
class CalibrationCurve:
    """Observed against predicted by group of predicted risk, ascending; shapes (k,), (k,) and (k, 4): value,
    se, low, high."""

    n: NDArray[np.int64]
    mean_predicted: Floats
    observed: Floats


def calibration_curve(
    risk: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64], group: NDArray[np.int64]
) -> CalibrationCurve:
    """Return mean predicted and observed rate (value, se, low, high) of each group 0..k-1; none may be
    empty."""
    score, case = require_binary(risk, y, both_classes=False)
    n = np.bincount(group)
    if (n == 0).any():
        raise StatisticsError("a group of the calibration curve is empty", value=int(np.argmin(n)))
    observed = [
        clustered_ratio(case[group == g].astype(float), np.ones(n[g]), patient[group == g]).as_array()
        for g in range(len(n))
    ]
    return CalibrationCurve(n, np.bincount(group, weights=score) / n, np.stack(observed))


def quantile_groups(risk: NDArray[Any], n_groups: int = 10) -> NDArray[np.int64]:
    """Return the group 0..k-1 of each risk by quantile, shape = (n,); ties stay together, so k may be
    less."""
    cuts = np.unique(np.quantile(risk, np.arange(1, n_groups) / n_groups))
    return np.unique(np.searchsorted(cuts, risk, side="right"), return_inverse=True)[1]
