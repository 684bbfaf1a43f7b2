"""Newton's method for the Cox model from anybody's sums: standardisation, ridge, elastic net, and a plain word where
no finite coefficients fit best.

Penalty and standardisation are those of lifelines, so that numbers can be compared: covariates are divided by the
pooled standard deviation (n - 1), and the penalty is n x penalizer x (l1_ratio |b|_1 + (1 - l1_ratio) |b|^2 / 2) on the
standardised coefficients. The l1 part is solved as it stands (proximal Newton, Lee, Sun & Saunders 2014, doi
10.1137/130921428), not smoothed: coefficients can be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import CoxSums


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
    ridge, lasso = penalty.ridge(n), penalty.lasso(n)
    beta = np.zeros(len(names))
    here = null = _require_finite(ask(beta))
    if not null.events:
        raise StatisticsError("nobody has the event", remedy="check the event column and the time grid")
    _require_independent(null.hessian + ridge * np.eye(len(beta)), names, lasso > 0)
    rounds, gained = 1, np.inf
    while True:
        step = _step(here, beta, ridge, lasso)
        largest = float(np.max(np.abs(step), initial=0.0))
        if largest <= tolerance:
            # The last sums hold at beta; the remaining step is free and quadratically small.
            return _fit(beta + step, here, null, penalty, n, rounds, "")
        if gained < 1e-9 * (1 + abs(here.log_likelihood)) and largest > 0.1:
            return _fit(beta, here, null, penalty, n, rounds, _separated(step, names))
        objective = here.log_likelihood - penalty.value(beta, n)
        fraction = 1.0
        while True:
            if rounds >= max_rounds:
                return _fit(beta, here, null, penalty, n, rounds, _not_converged(here, beta, step, names, max_rounds))
            there, rounds = ask(beta + fraction * step), rounds + 1
            rise = (
                (there.log_likelihood if _finite(there) else -np.inf)
                - penalty.value(beta + fraction * step, n)
                - objective
            )
            # Rounding alone may lower a sum of many terms by a few parts in 1e12 near the top.
            if rise >= -1e-12 * abs(objective) or fraction < 1e-4:
                break
            fraction /= 2
        if not _finite(there):
            # Standardised covariates and still out of range: a coefficient has run away.
            return _fit(beta, here, null, penalty, n, rounds, _separated(step, names))
        beta, here, gained = beta + fraction * step, there, abs(rise)


def _step(sums: CoxSums, beta: Floats, ridge: float, lasso: float) -> Floats:
    hessian = sums.hessian + ridge * np.eye(len(beta))
    gradient = sums.gradient - ridge * beta
    if not lasso:
        return _solve(hessian, gradient)
    return _lasso_step(hessian, gradient, beta, lasso)


def _solve(hessian: Floats, gradient: Floats) -> Floats:
    # Scaled to a unit diagonal: along a separating direction the information falls by orders of magnitude.
    scale = 1.0 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    step = scale * np.linalg.lstsq(hessian * np.outer(scale, scale), scale * gradient, rcond=None)[0]
    return np.asarray(np.clip(step, -10.0, 10.0), dtype=np.float64)


def _lasso_step(hessian: Floats, gradient: Floats, beta: Floats, lasso: float) -> Floats:
    """Coordinate descent on the quadratic model, exact to 1e-13."""
    z, slope = beta.copy(), gradient.copy()
    diagonal = np.maximum(np.diag(hessian), 1e-300)
    for _ in range(10_000):
        moved = 0.0
        for j in range(len(z)):
            pull = slope[j] + diagonal[j] * z[j]
            new = np.sign(pull) * max(abs(pull) - lasso, 0.0) / diagonal[j]
            change = new - z[j]
            if change:
                slope -= hessian[:, j] * change
                z[j], moved = new, max(moved, abs(change))
        if moved <= 1e-13 * (1 + np.abs(z).max()):
            break
    return np.asarray(np.clip(z - beta, -10.0, 10.0), dtype=np.float64)


def _fit(beta: Floats, sums: CoxSums, null: CoxSums, penalty: Penalty, n: int, rounds: int, message: str) -> CoxFit:
    kept = np.flatnonzero((beta != 0) | (penalty.lasso(n) == 0))
    covariance = np.full((len(beta), len(beta)), np.nan)
    information = sums.hessian[np.ix_(kept, kept)] + penalty.ridge(n) * np.eye(len(kept))
    with np.errstate(all="ignore"):
        covariance[np.ix_(kept, kept)] = np.linalg.pinv(information, rcond=1e-15, hermitian=True)
    return CoxFit(
        beta,
        covariance,
        sums.log_likelihood,
        null.log_likelihood,
        penalty.value(beta, n),
        sums.events,
        rounds,
        not message,
        message,
        score_test=_score_test(null) if not (penalty.penalizer or message) else np.nan,
    )


def _score_test(null: CoxSums) -> float:
    return float(null.gradient @ np.linalg.lstsq(null.hessian, null.gradient, rcond=None)[0])


def _finite(sums: CoxSums) -> bool:
    return bool(
        np.isfinite(sums.log_likelihood) and np.isfinite(sums.gradient).all() and np.isfinite(sums.hessian).all()
    )


def _require_finite(sums: CoxSums) -> CoxSums:
    if not _finite(sums):
        raise StatisticsError("the sums are not finite", remedy="look at the covariates' ranges, or set penalizer")
    return sums


def _require_independent(hessian: Floats, names: Sequence[str], sparse: bool) -> None:
    diagonal = np.sqrt(np.maximum(np.diag(hessian), 0.0))
    if len(names) and diagonal.min() <= 0:
        flat = [name for name, value in zip(names, diagonal, strict=True) if value <= 0]
        raise StatisticsError(
            "a covariate does not vary among those at risk when somebody has the event",
            value=", ".join(flat),
            remedy="leave it out",
        )
    if sparse or not len(names):
        return
    values, vectors = np.linalg.eigh(hessian / np.outer(diagonal, diagonal))
    if values[0] < 1e-10:
        raise StatisticsError(
            "covariates are collinear: in each group one is a sum of the others",
            value="; ".join(_dependent(vectors[:, values < 1e-10], names)),
            remedy="leave one of each group out, or set penalizer above 0",
        )


def _dependent(directions: Floats, names: Sequence[str]) -> list[str]:
    """Name the covariates of each dependency; ``directions``, shape = (p, k), span what the data cannot tell."""
    k = directions.shape[1]
    _, _, pivots = qr(directions.T, pivoting=True)
    # One vector a pivot, 0 at the others' pivots: it touches few covariates.
    sparse = np.linalg.solve(directions.T[:, pivots[:k]], directions.T)
    return sorted({", ".join(names[int(j)] for j in np.flatnonzero(np.abs(row) > 1e-4)) for row in sparse})


def _separated(step: Floats, names: Sequence[str]) -> str:
    # Where no end is in sight, Newton's step points along the way there: all covariates that share in it move.
    share = np.abs(step)
    who = ", ".join(names[int(j)] for j in np.flatnonzero(share > 0.2 * share.max()))
    return (
        f"no finite coefficients fit best: {who} tell those with the event from the others at risk without fail "
        "(a level in which nobody, or everybody, has it), and the log hazard ratio runs away"
    )


def _not_converged(sums: CoxSums, beta: Floats, step: Floats, names: Sequence[str], rounds: int) -> str:
    errors = 1.0 / np.sqrt(np.maximum(np.diag(sums.hessian), 1e-300))
    # No standardised coefficient that data determine has an error near this.
    if max(errors.max(), np.abs(beta).max()) > 50:
        return _separated(step, names)
    worst = int(np.argmax(np.abs(step)))
    return (
        f"the fit did not converge in {rounds} rounds; {names[worst]} still moves by {abs(step[worst]):.2g} (it stands "
        f"at {beta[worst]:.3g}, standardised)"
    )
