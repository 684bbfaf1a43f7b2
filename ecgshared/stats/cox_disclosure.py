"""When a site may send the sums of a Cox model, and on which time grid.

What could be learnt: subtracting the risk-set sums of neighbouring grid times leaves the sums over those who left
in between. With one leaver, at coefficients of 0, these ARE that person's covariates. And every further round gives
the same people's sums under other weights, so that a few people asked about many times could be solved for. Hence:

* a site takes part with ``min_patients`` patients and ``min_events`` events, and in a model with ``p`` covariates only
  while the numbers it sends in all rounds are fewer than those it holds (patients x p);
* in each interval at least ``min_leavers`` patients leave, and of those who die in it, and of those who leave
  otherwise, there are none or as many: subtraction gives each of the two groups;
* for an interval, too, the numbers sent in all rounds must be fewer than those held: with r rounds a group has more
  than r (p + 1) / p patients;
* those still at risk at the last grid time are at least ``min_patients``: no small tail.

Fewer numbers than unknowns means that no system of equations, linear or not, has the group's covariates as its only
solution in the real numbers. It is no proof for covariates of few possible values, and what remains disclosed is real:
mean covariates of groups of about ten patients and their times. Only secure aggregation hides those of a single site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.config import Config
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.stats.cox import Bools, Floats, Ints


class CoxLimits(Config):
    """A site's minimum groups for a Cox model. The defaults of ``fewer_numbers_than_held`` count equations."""

    min_patients: int = Field(default=10, ge=1, description="patients at the site, and in the last risk set")
    min_events: int = Field(default=10, ge=1, description="patients of the site with the event")
    min_leavers: int = Field(default=5, ge=1, description="patients who leave in an interval, and who die in it")
    fewer_numbers_than_held: bool = Field(default=True, description="no more numbers leave than the group holds")

    def group(self, n_covariates: int, rounds: int) -> int:
        """Return the least group behind p + 1 numbers sent in each of ``rounds`` rounds."""
        if not self.fewer_numbers_than_held:
            return self.min_leavers
        return max(self.min_leavers, rounds * (n_covariates + 1) // max(n_covariates, 1) + 1)


NO_LIMITS = CoxLimits(min_patients=1, min_events=1, min_leavers=1, fewer_numbers_than_held=False)


def require_site(
    event: NDArray[Any],
    patient: NDArray[Any],
    limits: CoxLimits,
    *,
    n_covariates: int,
    rounds: int,
    intervals: int = 0,
) -> None:
    """Refuse where the site as a whole is too small; both modes.

    Parameters
    ----------
    event : 0/1 array, shape = (n,).
    patient : int array, shape = (n,).
    rounds : the cap on rounds of sums in this study.
    intervals : of the common grid; 0 in the stratified mode.

    Raises
    ------
    Refused : ``TOO_FEW``.
    """
    patients = len(np.unique(patient))
    events = len(np.unique(np.asarray(patient)[np.asarray(event, dtype=bool)]))
    p = n_covariates
    if patients < limits.min_patients:
        raise Refused(RefusalCode.TOO_FEW, "the site has too few patients", value=patients, allowed=">= min_patients")
    if events < limits.min_events:
        raise Refused(RefusalCode.TOO_FEW, "the site has too few events", value=events, allowed=">= min_events")
    sent = rounds * ((p + 1) * (p + 2) // 2 + intervals * 2 * (p + 1))
    if limits.fewer_numbers_than_held and sent >= patients * p:
        raise Refused(
            RefusalCode.TOO_FEW,
            "the site would send as many numbers as it holds",
            value=sent,
            allowed=f"fewer than {patients} patients x {p} covariates",
            remedy="fewer covariates, rounds or intervals",
        )


def servable(
    time: NDArray[Any],
    event: NDArray[Any],
    patient: NDArray[Any],
    edges: NDArray[Any],
    limits: CoxLimits,
    *,
    n_covariates: int,
    rounds: int,
) -> Bools:
    """Say which stretches of the study's time grid the site can serve as ONE interval.

    Parameters
    ----------
    time, event, patient : arrays, shape = (n,): uncoarsened; one patient may have several rows.
    edges : float array, shape = (M,), ascending: ends of the finest intervals.

    Returns
    -------
    bool array, shape = (M, M): [i, j] True where intervals i..j (both included) put together meet the limits. The last
    column counts those followed beyond the last edge as leaving there.
    """
    edges, time = np.asarray(edges, dtype=np.float64), np.asarray(time, dtype=np.float64)
    m = len(edges)
    k = np.searchsorted(edges, time, side="left")
    dies = np.asarray(event, dtype=bool) & (k < m)
    k = np.minimum(k, m - 1)
    least = limits.group(n_covariates, rounds)
    ok = np.ones((m, m), dtype=np.bool_)
    for rows, may_be_none in ((np.ones(len(k), dtype=bool), False), (dies, True), (~dies, True)):
        people = _people_between(k[rows], np.asarray(patient)[rows], m)
        none = _between(np.bincount(k[rows], minlength=m)) == 0
        ok &= (people >= least) | (none if may_be_none else False)
        if not may_be_none:
            ok[:, -1] &= people[:, -1] >= limits.min_patients
    return np.triu(ok)


def _between(counts: Ints) -> Ints:
    total = np.concatenate([[0], np.cumsum(counts)])
    return np.asarray(total[None, 1:] - total[:-1, None], dtype=np.int64)


def _people_between(k: Ints, patient: NDArray[Any], m: int) -> Ints:
    # A patient with several rows counts at the last of them only: never more than the distinct patients of a stretch.
    last = np.full(len(np.unique(patient)), -1)
    np.maximum.at(last, np.unique(patient, return_inverse=True)[1], k)
    return _between(np.bincount(last, minlength=m))


def common_grid(edges: NDArray[Any], sites: Sequence[Bools]) -> Floats:
    """Return the finest grid that every site can serve: a subset of ``edges`` with the last one in it.

    Parameters
    ----------
    edges : float array, shape = (M,).
    sites : the answers of ``servable``, shape = (M, M) each.

    Raises
    ------
    StatisticsError : not even one interval for all follow-up can be served by every site.
    """
    if not sites:
        raise StatisticsError("no site said which intervals it can serve")
    m = len(edges)
    ok = np.logical_and.reduce([np.asarray(site, dtype=bool) for site in sites])
    # most[j]: the most intervals that tile the first j; came[j]: where the last of them begins.
    most, came = np.full(m + 1, -1), np.zeros(m + 1, dtype=np.int64)
    most[0] = 0
    for j in range(1, m + 1):
        reach = np.flatnonzero(ok[:j, j - 1] & (most[:j] >= 0))
        if len(reach):
            came[j] = reach[np.argmax(most[reach])]
            most[j] = most[came[j]] + 1
    if most[m] < 0:
        raise StatisticsError(
            "no time grid can be served by every site",
            remedy="leave out the smallest site, use fewer covariates or rounds, or fit site-stratified",
        )
    ends = [m]
    while came[ends[-1]] > 0:
        ends.append(int(came[ends[-1]]))
    return np.take(np.asarray(edges, dtype=np.float64), np.array(ends[::-1]) - 1)


def require_grid(
    time: NDArray[Any],
    event: NDArray[Any],
    patient: NDArray[Any],
    grid: NDArray[Any],
    limits: CoxLimits,
    *,
    n_covariates: int,
    rounds: int,
) -> None:
    """Refuse a grid with an interval below the limits: what a site checks before every answer.

    Raises
    ------
    Refused : ``TOO_FEW``.
    """
    require_site(event, patient, limits, n_covariates=n_covariates, rounds=rounds, intervals=len(grid))
    ok = np.diag(servable(time, event, patient, grid, limits, n_covariates=n_covariates, rounds=rounds))
    if not ok.all():
        raise Refused(
            RefusalCode.TOO_FEW,
            "too few patients leave in an interval of the time grid",
            value=int(np.argmin(ok)),
            remedy="a coarser grid",
        )
