"""Small things that the coordinator's statistics stages share: quorum, nulls, federated Newton."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stats.calibration import LogisticFit, LogisticSums, newton
from ecgshared.stats.influence import Estimate
from server.pooling.members import Members
from server.rounds.step_context import Replies, StepContext


def quorum(context: StepContext, sites: Sequence[str]) -> int | None:
    """Return how many of ``sites`` must answer: the study's quorum, never more than are asked.

    None stands for all that can: a site that is too small to say anything, say, has said all that it will.
    """
    wanted = context.study.federation.quorum
    return None if wanted == "all" else min(wanted, len(sites))


def number(value: Any) -> float | None:
    """Return a float, or None where it is withheld or undefined (JSON has neither NaN nor infinity)."""
    value = float(value)
    return value if np.isfinite(value) else None


def numbers(values: Any) -> tuple[float | None, ...]:
    """Return a vector as :func:`number` of each."""
    return tuple(number(v) for v in np.asarray(values, dtype=np.float64).ravel())


def est(values: Estimate | Floats) -> EstimateResult:
    """Return an estimate, or its four numbers (value, se, low, high), as a result has it."""
    value, se, low, high = numbers(values.as_array() if isinstance(values, Estimate) else values)
    return EstimateResult(value=value, se=se, low=low, high=high)


def bare(found: EstimateResult) -> EstimateResult:
    """Return an estimate without its interval."""
    return found.model_copy(update={"low": None, "high": None})


def absences(replies: Replies, into: dict[str, Any], phase: str) -> None:
    """Note who did not answer a phase, and why."""
    for site, reason in replies.absent.items():
        into.setdefault(site, {})[phase] = reason


def released(value: Any, shape: tuple[int, ...]) -> bool:
    """Say whether a site gave this array whole: of the right shape, nothing withheld."""
    return np.shape(value) == shape and bool(np.isfinite(value).all())


def federated_newton(
    ask_sums: Callable[[Floats, int, tuple[str, ...]], Mapping[str, LogisticSums | None]],
    sites: Sequence[str],
    start: Floats,
    *,
    names: Sequence[str],
    ridge: float = 0.0,
    max_iterations: int = 25,
    tolerance: float = 1e-9,
) -> tuple[LogisticFit, tuple[str, ...]]:
    """Fit over sites; where one is missing the fit goes on from where it was, as :class:`Members` has it.

    Parameters
    ----------
    ask_sums : given coefficients, a running number and sites, returns the sums of those that answered, None for one
        that withheld them.

    Returns
    -------
    The fit and the sites whose data it is of.
    """
    members, coef, asked = Members(sites, ", ".join(names[1:])), np.asarray(start, dtype=np.float64), 0

    def sums_at(at: Floats) -> LogisticSums:
        nonlocal coef, asked
        coef, asked = at, asked + 1
        return LogisticSums.total(members.all_of(ask_sums(at, asked - 1, members.now)).values())

    fit = members.fit(
        lambda: newton(sums_at, coef, names=names, ridge=ridge, max_iterations=max_iterations, tolerance=tolerance)
    )
    return fit, members.now
