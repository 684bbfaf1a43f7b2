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
from ecgshared.stats.influence import Estimate, by_patient, clustered_ratio, estimate
from ecgshared.stats.newton import Words, maximise
from ecgshared.stats.roc import require_binary
from ecgshared.stats.small_samples import few_events

_WORDS = Words(
    one="an input",
    many="inputs",
    among="these ECGs",
    tell="separate cases from controls",
    effect="log odds ratio",
)


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
    iterations : int, the sums asked for.
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

    Parameters
    ----------
    sums_at : gives the (summed) sums at coefficients; one federated round each call.
    start : float array, shape = (p,).
    names : of the coefficients, the intercept first; only to say which one is at fault.
    max_iterations : cap on calls of ``sums_at``, halved steps included.
    tolerance : largest change of a coefficient in the last full step.

    Raises
    ------
    StatisticsError : inputs are collinear, an outcome is separated by them, or no convergence.
    """
    penalty = np.full(len(start), float(ridge))
    penalty[0] = 0.0
    found = maximise(
        sums_at,
        start,
        names=names,
        words=_WORDS,
        ridge=penalty,
        intercept=True,
        tolerance=tolerance,
        max_rounds=max_iterations,
    )
    if found.message:
        raise StatisticsError(found.message, remedy="set ridge above 0, use fewer inputs, or more events")
    covariance = np.asarray(np.linalg.inv(found.sums.hessian + np.diag(penalty)), dtype=np.float64)
    return LogisticFit(found.coef, covariance, found.sums.log_likelihood, found.rounds)


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


def brier_difference(
    first: NDArray[Any], second: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64]
) -> Estimate:
    """Return the Brier score of ``first`` less that of ``second`` on the same ECGs, patient-clustered; shape = (n,)
    each. Two equal risks differ by 0 without an error."""
    a, case = require_binary(first, y, both_classes=False)
    b, _ = require_binary(second, y, both_classes=False)
    return clustered_ratio(
        (a - case) ** 2 - (b - case) ** 2, np.ones(len(a)), patient, "identity", event_df(y, patient)
    )


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
