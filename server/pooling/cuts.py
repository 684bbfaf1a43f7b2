"""Cuts that all sites share, and what the sites' answers at them say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.control_bins import ControlBins, between
from ecgshared.stats.score_scale import HIGHEST, LOWEST, Sketch, pooled_sketch, quantile_cut


@dataclass(frozen=True)
class SiteCuts:
    """One site's released counts of one outcome.

    Attributes
    ----------
    cuts : float array, shape = (c,), descending; the last is LOWEST, everybody.
    cases : float array, shape = (c,): case ECGs at or above each.
    """

    bins: ControlBins
    cuts: Floats
    cases: Floats

    def __post_init__(self) -> None:
        if not len(self.cuts) == len(self.cases) > 0 or self.cuts[-1] != LOWEST:
            raise StatisticsError("a site's cuts do not end with everybody")
        if (np.diff(self.cuts) >= 0).any() or (np.diff(self.cases, prepend=0.0) < 0).any():
            raise StatisticsError("a site's cuts do not descend, or its counts do not add up")
        if not self.bins.divided_by(self.cuts) or (self.cases != np.round(self.cases)).any():
            raise StatisticsError("a site's cuts lie inside its bins, or hold no counts")

    @property
    def n_cases(self) -> float:
        """All case ECGs."""
        return float(self.cases[-1])


def site_cuts(lower: Floats, upper: Floats, controls: Floats, cut: Floats, cases: Floats) -> SiteCuts | None:
    """Return a site's released counts; None where it withheld any (parts of a histogram are none).

    Raises
    ------
    StatisticsError : what came is no histogram.
    """
    columns = (lower, upper, controls, cut, cases)
    if not len(lower) or not len(cut) or not all(np.isfinite(c).all() for c in columns):
        return None
    order = np.argsort(-cut, kind="stable")
    bins = ControlBins(lower, upper, controls, np.zeros(len(lower), dtype=np.int64))
    if bins.lower[0] < LOWEST or bins.upper[-1] > HIGHEST:
        raise StatisticsError("a site's bins do not lie on the scale")
    return SiteCuts(bins, cut[order], cases[order])


def released_sketches(head: Floats, case: Floats, mean: Floats, ecgs: Floats, h: int) -> tuple[Sketch, Sketch]:
    """Return a site's sketches of controls and of cases of head ``h``; what it withheld is left out."""
    columns = np.array([head, case, mean, ecgs], dtype=np.float64).reshape(4, -1)
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    mine = columns[:, (columns[0] == h) & (columns[3] > 0) & (np.abs(columns[2]) < HIGHEST)]
    unknown: Ints = np.zeros(0, dtype=np.int64)
    controls, cases = (Sketch(part[2], part[3], unknown) for part in (mine[:, mine[1] == 0], mine[:, mine[1] == 1]))
    return controls, cases


_OF_CASES = (0.5, 0.25, 0.75)
_MORE_OF_CASES = (0.125, 0.375, 0.625, 0.875)
_DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def evaluation_cuts(sketches: Sequence[tuple[Sketch, Sketch]], top_shares: Sequence[float]) -> tuple[float, ...]:
    """Return the cuts an evaluation asks for, the most wanted first.

    Those that divide the cases come first: a site of ten events can answer one cut at most, and it should be the same
    one everywhere. Then come the shares of interest, and tenths of everybody for calibration.
    """
    cases = pooled_sketch([c for _, c in sketches])
    everybody = pooled_sketch([part for pair in sketches for part in pair])
    found: list[float] = []
    for sketch, shares in (
        (cases, _OF_CASES),
        (everybody, [s for s in top_shares if s < 1]),
        (cases, _MORE_OF_CASES),
        (everybody, _DECILES),
    ):
        if len(sketch[0]):
            found += [quantile_cut(*sketch, share) for share in shares]
    return tuple(dict.fromkeys(found))


def padded(rows: Sequence[Sequence[float]]) -> Floats:
    """Return cuts of several heads as one array, shape = (heads, longest); HIGHEST asks for nothing."""
    width = max([1, *(len(row) for row in rows)])
    return np.array([[*row, *[HIGHEST] * (width - len(row))] for row in rows], dtype=np.float64)


@dataclass(frozen=True)
class PooledCuts:
    """Counts of several sites at cuts, each with the fewest and the most it can be.

    Attributes
    ----------
    sites : at least one. cuts : float array, shape = (m,), descending; above LOWEST, where everybody stands.
    """

    sites: Mapping[str, SiteCuts]
    cuts: Floats

    @property
    def n_cases(self) -> float:
        """Case ECGs of all sites."""
        return sum(s.n_cases for s in self.sites.values())

    @property
    def n_controls(self) -> float:
        """Control ECGs of all sites."""
        return sum(s.bins.total for s in self.sites.values())

    @cached_property
    def cases(self) -> tuple[Floats, Floats]:
        """Fewest and most cases at or above each cut, shape = (m,) each."""
        bounds = [between(s.cuts, s.cases, self.cuts, s.n_cases) for s in self.sites.values()]
        return np.sum([low for low, _ in bounds], axis=0), np.sum([high for _, high in bounds], axis=0)

    @cached_property
    def controls(self) -> tuple[Floats, Floats]:
        """Fewest and most controls at or above each cut, shape = (m,) each."""
        bounds = [s.bins.above(self.cuts) for s in self.sites.values()]
        return np.sum([low for low, _ in bounds], axis=0), np.sum([high for _, high in bounds], axis=0)

    @property
    def likely(self) -> Floats:
        """ECGs at or above each cut, midway between the fewest and the most; shape = (m,)."""
        (c_low, c_high), (k_low, k_high) = self.cases, self.controls
        return np.asarray((c_low + c_high + k_low + k_high) / 2, dtype=np.float64)

    def everywhere(self) -> Floats:
        """Return the cuts that every site answered, descending: there all counts are exact."""
        known: Floats = self.cuts
        for site in self.sites.values():
            known = known[np.isin(known, site.cuts)]
        return np.asarray(known, dtype=np.float64)

    def rate(self) -> tuple[Floats, Floats, Floats]:
        """Return the event rate above each cut: likely, least and largest; NaN where nobody can be."""
        (c_low, c_high), (k_low, k_high) = self.cases, self.controls
        return (
            _ratio(c_low + c_high, c_low + c_high + k_low + k_high),
            _ratio(c_low, c_low + k_high),
            _ratio(c_high, c_high + k_low),
        )


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0), dtype=np.float64)


def average_precision_bounds(cases: Floats, controls: tuple[Floats, Floats]) -> tuple[float, float]:
    """Bound the average precision by counts at cuts where the cases are exact.

    Parameters
    ----------
    cases : shape = (m,), ascending from the highest cut down; the last is all of them.
    controls : fewest and most at or above each cut, shape = (m,) each.
    """
    rank = np.arange(1, cases[-1] + 1)
    segment = np.searchsorted(cases, rank, side="left")
    fewest = np.concatenate([[0.0], controls[0][:-1]])[segment]
    most = controls[1][segment]
    # Cases of one score share its precision, the best of which is that of the segment's last case.
    best = cases[segment]
    return float(np.mean(rank / (rank + most))), float(np.mean(best / (best + fewest)))
