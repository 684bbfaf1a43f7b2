"""The Cox model from anybody's sums by Newton's method: standardisation, ridge and elastic net.

Penalty and standardisation are those of lifelines, so that numbers can be compared: covariates are divided by the
pooled standard deviation (n - 1), and the penalty is n x penalizer x (l1_ratio |b|_1 + (1 - l1_ratio) |b|^2 / 2) on the
standardised coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import CoxSums
from ecgshared.stats.newton import Solution, Words, maximise

_WORDS = Words(
    one="a covariate",
    many="covariates",
    among="those at risk when somebody has the event",
    tell=(
        "tell those with the event from the others at risk without fail (a level in which nobody, or everybody, has it)"
    ),
    effect="log hazard ratio",
)


@dataclass(frozen=True)
class Moments:
    """Count, mean and standard deviation (n - 1) of covariates; those of several sites combine exactly.

    Attributes
    ----------
    count : int.
    mean, sd : float arrays, shape = (p,).
    """

    count: int
    mean: Floats
    sd: Floats

    @classmethod
    def of(cls, x: NDArray[Any]) -> Moments:
        """Return the moments of rows; shape = (n, p), n at least 1."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or not len(x):
            raise StatisticsError("no rows to take moments of", value=x.shape)
        sd = x.std(axis=0, ddof=1) if len(x) > 1 else np.zeros(x.shape[1])
        # Where every value is the same, rounding would leave a mean and a deviation of about 1e-17 beside it.
        same = np.ptp(x, axis=0) == 0
        return cls(len(x), np.where(same, x[0], x.mean(axis=0)), np.where(same, 0.0, sd))

    @classmethod
    def total(cls, parts: Iterable[Moments]) -> Moments:
        """Combine sites (Chan et al. 1983, doi 10.2307/2683386)."""
        items = list(parts)
        if not items:
            raise StatisticsError("no site gave moments")
        count = sum(m.count for m in items)
        mean = np.sum([m.count * m.mean for m in items], axis=0) / count
        squares = np.sum([(m.count - 1) * m.sd**2 + m.count * (m.mean - mean) ** 2 for m in items], axis=0)
        same = np.all([m.mean == items[0].mean for m in items], axis=0) & np.all([m.sd == 0 for m in items], axis=0)
        return cls(count, mean, np.where(same, 0.0, np.sqrt(squares / max(count - 1, 1))))

    def standardise(self, x: NDArray[Any]) -> Floats:
        """Return (x - mean) / sd; shape = (n, p)."""
        return (np.asarray(x, dtype=np.float64) - self.mean) / self.sd

    def require_spread(self, names: Sequence[str]) -> None:
        """Refuse covariates that are the same in everybody."""
        flat = [name for name, sd in zip(names, self.sd, strict=True) if not sd > 0]
        if flat:
            raise StatisticsError("a covariate is the same in every row", value=", ".join(flat), remedy="leave it out")


@dataclass(frozen=True)
class Penalty:
    """``penalizer`` at least 0, ``l1_ratio`` 0 (ridge) to 1 (lasso); lifelines' convention."""

    penalizer: float = 0.0
    l1_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.penalizer) and self.penalizer >= 0):
            raise StatisticsError("penalizer is not valid", value=self.penalizer, allowed="0 or above")
        if not 0 <= self.l1_ratio <= 1:
            raise StatisticsError("l1_ratio is not valid", value=self.l1_ratio, allowed="0 (ridge) to 1 (lasso)")

    def ridge(self, n: int) -> float:
        """Return the factor of |b|^2 / 2."""
        return n * self.penalizer * (1 - self.l1_ratio)

    def lasso(self, n: int) -> float:
        """Return the factor of |b|_1."""
        return n * self.penalizer * self.l1_ratio

    def value(self, beta: Floats, n: int) -> float:
        """Return what is taken from the log-likelihood."""
        return float(self.lasso(n) * np.abs(beta).sum() + 0.5 * self.ridge(n) * beta @ beta)


@dataclass(frozen=True)
class CoxFit:
    """A fit, or how far it came.

    Attributes
    ----------
    beta : float array, shape = (p,), log hazard ratios.
    covariance : float array, shape = (p, p): inverse (penalised) information, or the sandwich where ``robust``; nan
        at coefficients that the l1 penalty holds at 0.
    log_likelihood, log_likelihood_null : float, partial, without the penalty; at ``beta`` and at 0.
    penalty : float, what the penalty takes from the log-likelihood at ``beta``.
    score_test : float, chi-squared of the score test that all coefficients are 0, nan with a penalty.
    events, rounds : int; rounds counts the sums asked for.
    converged : bool; False with a ``message`` that names the covariate at fault.
    """

    beta: Floats
    covariance: Floats
    log_likelihood: float
    log_likelihood_null: float
    penalty: float
    events: int
    rounds: int
    converged: bool
    message: str = ""
    robust: bool = False
    score_test: float = float("nan")

    @property
    def standard_errors(self) -> Floats:
        """Standard errors, shape = (p,)."""
        return np.sqrt(np.diag(self.covariance))

    def unstandardised(self, moments: Moments) -> CoxFit:
        """Turn a fit on standardised covariates into one on their own scale."""
        scale = 1.0 / moments.sd
        return replace(self, beta=self.beta * scale, covariance=self.covariance * np.outer(scale, scale))

    def require_converged(self) -> CoxFit:
        """Return the fit, or raise what it has to say."""
        if not self.converged:
            raise StatisticsError(self.message, remedy="set penalizer above 0, leave the covariate out, or join levels")
        return self


def newton_fit(
    ask: Callable[[Floats], CoxSums],
    names: Sequence[str],
    n: int,
    *,
    penalty: Penalty | None = None,
    tolerance: float = 1e-9,
    max_rounds: int = 30,
) -> CoxFit:
    """Maximise the penalised partial log-likelihood.

    Parameters
    ----------
    ask : gives the summed sums at coefficients, shape = (p,); one federated round each call.
    names : of the p covariates; to say which one is at fault.
    n : rows of all sites; the penalty grows with it.
    tolerance : largest change of a standardised coefficient in the last full step.
    max_rounds : cap on calls of ``ask``, halved steps included.

    Raises
    ------
    StatisticsError : covariates are collinear, or the sums are not finite, or there is no event.
    """
    penalty = penalty or Penalty()

    def asked(beta: Floats) -> CoxSums:
        sums = ask(beta)
        if not sums.events:
            raise StatisticsError("nobody has the event", remedy="check the event column and the time grid")
        return sums

    found = maximise(
        asked,
        np.zeros(len(names)),
        names=names,
        words=_WORDS,
        ridge=penalty.ridge(n),
        lasso=penalty.lasso(n),
        tolerance=tolerance,
        max_rounds=max_rounds,
    )
    return _fit(found, penalty, n)


def _fit(found: Solution[CoxSums], penalty: Penalty, n: int) -> CoxFit:
    beta, sums = found.coef, found.sums
    kept = np.flatnonzero((beta != 0) | (penalty.lasso(n) == 0))
    covariance = np.full((len(beta), len(beta)), np.nan)
    information = sums.hessian[np.ix_(kept, kept)] + penalty.ridge(n) * np.eye(len(kept))
    with np.errstate(all="ignore"):
        covariance[np.ix_(kept, kept)] = np.linalg.pinv(information, rcond=1e-15, hermitian=True)
    return CoxFit(
        beta,
        covariance,
        sums.log_likelihood,
        found.first.log_likelihood,
        penalty.value(beta, n),
        sums.events,
        found.rounds,
        not found.message,
        found.message,
        score_test=_score_test(found.first) if not (penalty.penalizer or found.message) else np.nan,
    )


def _score_test(null: CoxSums) -> float:
    return float(null.gradient @ np.linalg.lstsq(null.hessian, null.gradient, rcond=None)[0])
