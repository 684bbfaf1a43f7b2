"""When a site may send the sums of a Cox model, and on which time grid.

What could be learnt: subtracting the risk-set sums of neighbouring grid times leaves the sums over those who left
in between. With one leaver, at coefficients of 0, these ARE that person's covariates. Every further round gives the
same people's sums under other weights: five people asked about eight times are found by least squares. And a
coordinator that asks at very large coefficients puts all the weight on one person. Hence:

* a site takes part with ``min_patients`` patients and ``min_events`` events, and in a model with ``p`` covariates only
  while it holds (patients x p) more numbers than it sends in all rounds;
* in each interval at least ``min_leavers`` patients leave, and of those who die in it, and of those who leave
  otherwise, there are none or as many: subtraction gives each of the two groups;
* such a group holds more than ``held_per_number`` times as many: with r rounds it has more than ``held_per_number`` x
  r (p + 1) / p patients;
* those still at risk at the last grid time are at least ``min_patients``: no small tail;
* nobody carries more than ``max_share`` of a group's weight at the coefficients asked about (the dominance rule of
  Hundepool et al., Statistical Disclosure Control, Wiley, 2012, chapter 4).

With fewer numbers than unknowns no system of equations, linear or not, determines a group's covariates where these are
continuous; with half as many its solutions lie far apart. The limits of this, plainly: it does NOT hold for covariates
of few values (two yes-or-no covariates have four combinations, and two rounds give how many of an interval's leavers
have each); an outlier weighs more than the others, and a coordinator that asks at far-flung coefficients can pin it
narrowly; and means over groups of a dozen patients, with the interval in which they left, are disclosed in any case.
Only secure aggregation hides those of a single site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.config import Config
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.stats.cox import SurvivalRows


class CoxLimits(Config):
    """A site's minimum groups for a Cox model."""

    min_patients: int = Field(default=10, ge=1, description="patients at the site, and in the last risk set")
    min_events: int = Field(default=10, ge=1, description="patients of the site with the event")
    min_leavers: int = Field(default=5, ge=1, description="patients who leave in an interval, and who die in it")
    max_share: float = Field(default=0.5, gt=0, le=1, description="of a group's weight that one patient may carry")
    held_per_number: float = Field(default=2.0, ge=0, description="numbers an interval's group holds for each it sends")

    def group(self, n_covariates: int, rounds: int) -> int:
        """Return the least group behind p + 1 numbers sent in each of ``rounds`` rounds."""
        sent = self.held_per_number * rounds * (n_covariates + 1)
        return max(self.min_leavers, int(sent // max(n_covariates, 1)) + 1 if sent else 1)


NO_LIMITS = CoxLimits(min_patients=1, min_events=1, min_leavers=1, max_share=1.0, held_per_number=0.0)
"""Simulation and tests only."""


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
    if limits.held_per_number and sent >= patients * p:
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


def require_no_dominance(
    rows: SurvivalRows, patient: NDArray[Any], beta: Floats, limits: CoxLimits, *, by_interval: bool
) -> None:
    """Refuse coefficients at which one patient carries most of a group's weight.

    Parameters
    ----------
    patient : int array, in the order of the arrays given to ``prepare``.
    by_interval : True in the exact mode, where those who die, and those who leave otherwise, are a group in every
        interval; False in the stratified mode, where only sums over the site leave.

    Raises
    ------
    Refused : ``TOO_FEW``.
    """
    # Twice the interval, one more for those who die.
    group = 2 * rows.interval + rows.event if by_interval else np.zeros(len(rows.x), dtype=np.int64)
    eta = rows.x @ beta
    # Against the largest of each group, or the weights of a whole group could vanish and pass.
    largest = np.full(int(group.max(initial=0)) + 1, -np.inf)
    np.maximum.at(largest, group, eta)
    pairs, member = np.unique(np.stack([group, np.asarray(patient)[rows.row]]), axis=1, return_inverse=True)
    carried = np.bincount(member.ravel(), weights=rows.weight * np.exp(eta - largest[group]))
    share = carried / np.bincount(pairs[0], weights=carried)[pairs[0]]
    if not (share <= limits.max_share).all():
        raise Refused(
            RefusalCode.TOO_FEW,
            "at these coefficients one patient carries most of a group's weight",
            value=float(share.max()),
            allowed=f"at most {limits.max_share:g}",
        )
