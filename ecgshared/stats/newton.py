"""Newton's method for any concave log-likelihood from anybody's sums, and a plain word where no finite coefficients fit
best, where inputs are collinear, or where it does not converge.

A ridge and a lasso may be taken from the log-likelihood. The lasso is solved as it stands (proximal Newton, Lee, Sun &
Saunders 2014, doi 10.1137/130921428), not smoothed: coefficients can be 0. Inputs should be standardised: then a
penalty treats them alike, and the limits below have a meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy.linalg import qr

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError


class Sums(Protocol):
    """Sums over rows at given coefficients.

    Attributes
    ----------
    log_likelihood : float.
    gradient : float array, shape = (p,), of the log-likelihood.
    hessian : float array, shape = (p, p), of the NEGATIVE log-likelihood (positive semi-definite).
    """

    @property
    def log_likelihood(self) -> float:
        """See above."""

    @property
    def gradient(self) -> Floats:
        """See above."""

    @property
    def hessian(self) -> Floats:
        """See above."""


SumsT = TypeVar("SumsT", bound=Sums)


@dataclass(frozen=True)
class Words:
    """How a kind of model speaks of its faults.

    Attributes
    ----------
    one, many : what a column is called.
    among : the rows in which one must vary.
    tell : what columns do that separate the outcome, and how such an outcome looks.
    effect : what runs away then.
    """

    one: str
    many: str
    among: str
    tell: str
    effect: str


@dataclass(frozen=True)
class Solution(Generic[SumsT]):
    """How far Newton's method came.

    Attributes
    ----------
    coef : float array, shape = (p,).
    sums, first : at ``coef`` (all but the last, quadratically small step), and at the start.
    rounds : int, the sums asked for.
    message : "" where it converged, else what is at fault.
    """

    coef: Floats
    sums: SumsT
    first: SumsT
    rounds: int
    message: str


@dataclass(frozen=True)
class _Problem(Generic[SumsT]):
    ask: Callable[[Floats], SumsT]
    names: Sequence[str]
    words: Words
    ridge: Floats
    lasso: float
    intercept: bool

    def penalty(self, coef: Floats) -> float:
        return float(self.lasso * np.abs(coef).sum() + 0.5 * self.ridge @ coef**2)

    def step(self, sums: SumsT, coef: Floats) -> Floats:
        hessian = sums.hessian + np.diag(self.ridge)
        gradient = sums.gradient - self.ridge * coef
        return _lasso_step(hessian, gradient, coef, self.lasso) if self.lasso else _solve(hessian, gradient)


def maximise(
    ask: Callable[[Floats], SumsT],
    start: Floats,
    *,
    names: Sequence[str],
    words: Words,
    ridge: Floats | float = 0.0,
    lasso: float = 0.0,
    intercept: bool = False,
    tolerance: float = 1e-9,
    max_rounds: int = 30,
) -> Solution[SumsT]:
    """Maximise the log-likelihood less ``ridge |b|^2 / 2 + lasso |b|_1``.

    Parameters
    ----------
    ask : gives the summed sums at coefficients, shape = (p,); one federated round each call.
    names : of the p coefficients; to say which one is at fault.
    ridge : one factor for all, or one each, shape = (p,).
    intercept : the first coefficient is one; it is never called the one at fault.
    tolerance : largest change of a coefficient in the last full step.
    max_rounds : cap on calls of ``ask``, halved steps included.

    Raises
    ------
    StatisticsError : inputs are collinear or do not vary, or the first sums are not finite.
    """
    coef = np.asarray(start, dtype=np.float64)
    problem = _Problem(
        ask, names, words, np.broadcast_to(np.asarray(ridge, dtype=np.float64), coef.shape), lasso, intercept
    )
    here = first = ask(coef)
    if not _finite(first):
        raise StatisticsError(f"the sums are not finite; look at the ranges of the {words.many}, or set a penalty")
    _require_independent(first.hessian + np.diag(problem.ridge), problem)
    rounds, gained = 1, np.inf
    while True:
        step = problem.step(here, coef)
        largest = float(np.max(np.abs(step), initial=0.0))
        if largest <= tolerance:
            # The last sums hold at coef; the remaining step is free and quadratically small.
            return Solution(coef + step, here, first, rounds, "")
        if gained < 1e-9 * (1 + abs(here.log_likelihood)) and largest > 0.1:
            return Solution(coef, here, first, rounds, _separated(step, problem))
        objective = here.log_likelihood - problem.penalty(coef)
        fraction = 1.0
        while True:
            if rounds >= max_rounds:
                return Solution(coef, here, first, rounds, _not_converged(here, coef, step, problem, max_rounds))
            at = coef + fraction * step
            there, rounds = ask(at), rounds + 1
            rise = (there.log_likelihood if _finite(there) else -np.inf) - problem.penalty(at) - objective
            # Rounding alone may lower a sum of many terms by a few parts in 1e12 near the top.
            if rise >= -1e-12 * abs(objective) or fraction < 1e-4:
                break
            fraction /= 2
        if not _finite(there):
            # Standardised inputs and still out of range: a coefficient has run away.
            return Solution(coef, here, first, rounds, _separated(step, problem))
        coef, here, gained = at, there, abs(rise)


def _solve(hessian: Floats, gradient: Floats) -> Floats:
    # Scaled to a unit diagonal: along a separating direction the information falls by orders of magnitude.
    scale = 1.0 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    step = scale * np.linalg.lstsq(hessian * np.outer(scale, scale), scale * gradient, rcond=None)[0]
    return np.asarray(np.clip(step, -10.0, 10.0), dtype=np.float64)


def _lasso_step(hessian: Floats, gradient: Floats, coef: Floats, lasso: float) -> Floats:
    """Coordinate descent on the quadratic model, exact to 1e-13."""
    z, slope = coef.copy(), gradient.copy()
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
    return np.asarray(np.clip(z - coef, -10.0, 10.0), dtype=np.float64)


def _finite(sums: Sums) -> bool:
    return bool(
        np.isfinite(sums.log_likelihood) and np.isfinite(sums.gradient).all() and np.isfinite(sums.hessian).all()
    )


def _require_independent(hessian: Floats, problem: _Problem[SumsT]) -> None:
    names, words = problem.names, problem.words
    diagonal = np.sqrt(np.maximum(np.diag(hessian), 0.0))
    if len(names) and diagonal.min() <= 0:
        flat = [name for name, value in zip(names, diagonal, strict=True) if value <= 0]
        raise StatisticsError(
            f"{words.one} does not vary among {words.among}", value=", ".join(flat), remedy="leave it out"
        )
    if problem.lasso or not len(names):
        return
    values, vectors = np.linalg.eigh(hessian / np.outer(diagonal, diagonal))
    if values[0] < 1e-10:
        raise StatisticsError(
            f"{words.many} are collinear: in each group one is a sum of the others",
            value="; ".join(_dependent(vectors[:, values < 1e-10], names)),
            remedy="leave one of each group out, or set a penalty above 0",
        )


def _dependent(directions: Floats, names: Sequence[str]) -> list[str]:
    """Name the inputs of each dependency; ``directions``, shape = (p, k), span what the data cannot tell."""
    k = directions.shape[1]
    _, _, pivots = qr(directions.T, pivoting=True)
    # One vector a pivot, 0 at the others' pivots: it touches few inputs.
    sparse = np.linalg.solve(directions.T[:, pivots[:k]], directions.T)
    return sorted({", ".join(names[int(j)] for j in np.flatnonzero(np.abs(row) > 1e-4)) for row in sparse})


def _separated(step: Floats, problem: _Problem[SumsT]) -> str:
    # Where no end is in sight, Newton's step points along the way there: all inputs that share in it move.
    share = np.abs(step)
    if problem.intercept and len(share) > 1:
        share[0] = 0.0
    who = ", ".join(
        problem.names[int(j)] for j in np.flatnonzero(share >= 0.2 * share.max()) if share[j] or len(share) == 1
    )
    words = problem.words
    return f"no finite coefficients fit best: {who} {words.tell}, and the {words.effect} runs away"


def _not_converged(sums: SumsT, coef: Floats, step: Floats, problem: _Problem[SumsT], rounds: int) -> str:
    errors = 1.0 / np.sqrt(np.maximum(np.diag(sums.hessian + np.diag(problem.ridge)), 1e-300))
    # Along a separating direction every step adds about one and the information falls e-fold: no standardised
    # coefficient that data determine has an error near this.
    if max(errors.max(), np.abs(coef).max()) > 50:
        return _separated(step, problem)
    worst = int(np.argmax(np.abs(step)))
    return (
        f"the fit did not converge in {rounds} rounds; {problem.names[worst]} still moves by {abs(step[worst]):.2g} "
        f"(it stands at {coef[worst]:.3g}, standardised)"
    )
