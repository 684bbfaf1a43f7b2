"""Score-bin x label histograms on common public bins, merged to a site's limits, and what they say when
pooled.

Bins are 1,024 equal steps of the logit of the risk from -12 to 12, the ends taking what lies beyond: fixed
numbers, so that no data-dependent edge travels but a merge. Sites merge differently; every number made of
several merged histograms carries a lower and an upper bound that contain the value the unmerged scores would
give, because each count's position is only known to its interval and the bounds place it at whichever end is
worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, MergedBins, merge_bins
from ecgshared.stats.roc import auc_from_counts, placements_from_counts

N_BINS = 1024
LOGIT_LOW, LOGIT_HIGH = -12.0, 12.0


def logit(risk: NDArray[Any]) -> Floats:
    """Return log(p / (1 - p)), shape as given, clipped to +-27.6 (p within 1e-12 of 0 or 1)."""
    p = np.clip(np.asarray(risk, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


def bin_edges() -> Floats:
    """Return the common edges on the logit scale, shape = (1025,)."""
    return np.linspace(LOGIT_LOW, LOGIT_HIGH, N_BINS + 1)


def edge_risk(edge: NDArray[Any] | int) -> Floats:
    """Return the risk at fine-bin edge number ``edge`` (0..1024); ECGs of a bin >= edge have at least this
    risk."""
    value = LOGIT_LOW + (LOGIT_HIGH - LOGIT_LOW) / N_BINS * np.asarray(edge, dtype=np.float64)
    return np.asarray(1 / (1 + np.exp(-value)), dtype=np.float64)


def bin_of_risk(risk: NDArray[Any]) -> Ints:
    """Return the common bin of each risk in [0, 1], shape = (n,); monotone in the risk."""
    risk = np.asarray(risk, dtype=np.float64)
    if not ((risk >= 0) & (risk <= 1)).all():
        raise StatisticsError("a risk lies outside [0, 1]", value=float(risk[~((risk >= 0) & (risk <= 1))][0]))
    return np.clip(np.searchsorted(bin_edges(), logit(risk), side="right") - 1, 0, N_BINS - 1)


@dataclass(frozen=True)
class ScoreHistogram:
    """Counts of ECGs on intervals of fine bins; ``lower[i] <= bin < upper[i]``, ascending, disjoint.

    Attributes
    ----------
    lower, upper : int arrays, shape = (k,).
    cases, controls : float arrays of whole numbers, shape = (k,).
    """

    lower: Ints
    upper: Ints
    cases: Floats
    controls: Floats

    def __post_init__(self) -> None:
        if not len(self.lower) == len(self.upper) == len(self.cases) == len(self.controls):
            raise StatisticsError("a histogram's columns differ in length")
        if len(self.lower) and (
            (self.upper <= self.lower).any()
            or (self.lower[1:] < self.upper[:-1]).any()
            or self.lower[0] < 0
            or not (np.isfinite(self.cases) & np.isfinite(self.controls)).all()
            or (self.cases < 0).any()
            or (self.controls < 0).any()
        ):
            raise StatisticsError("a histogram's intervals overlap, run backwards, or hold no counts")

    @property
    def above(self) -> tuple[Floats, Floats]:
        """Cases and controls at or above each interval's lower edge, shape = (k,) each."""
        return np.cumsum(self.cases[::-1])[::-1], np.cumsum(self.controls[::-1])[::-1]

    def edge_near_share(self, shares: Sequence[float] | Floats) -> Ints:
        """Return for each share the interval whose lower edge leaves the nearest share of ECGs above it."""
        cases, controls = self.above
        if len(cases) == 0:
            raise StatisticsError("an empty histogram has no edge")
        share = (cases + controls) / (cases[0] + controls[0])
        return np.array([int(np.argmin(np.abs(share - wanted))) for wanted in shares], dtype=np.int64)


def score_histogram(
    bins: Ints,
    y: NDArray[Any],
    patient: Ints,
    limits: DisclosureLimits,
    *,
    n_bins: int = N_BINS,
    barrier: int | None = None,
) -> tuple[ScoreHistogram, MergedBins]:
    """Count cases and controls by merged bin; empty where the whole does not meet ``limits``.

    Each interval holds at least ``min_patients`` distinct patients, ``min_events`` with the event and as
    many without (see :func:`ecgshared.privacy.disclosure.merge_bins`). The second result names the groups
    behind each interval.

    Parameters
    ----------
    bins : int array, shape = (n,); ``bin_of_risk(risk)``, or ranks among distinct scores in ungated tests.
    y, patient : shape = (n,).
    barrier : fine bin at which an interval should begin.
    """
    merged = merge_bins(bins, y, patient, limits, n_bins=n_bins, barrier=barrier)
    case = np.asarray(y) == 1
    cases = np.concatenate([[0], np.cumsum(np.bincount(bins[case], minlength=n_bins))])
    controls = np.concatenate([[0], np.cumsum(np.bincount(bins[~case], minlength=n_bins))])
    counts = ScoreHistogram(
        merged.lower,
        merged.upper,
        (cases[merged.upper] - cases[merged.lower]).astype(np.float64),
        (controls[merged.upper] - controls[merged.lower]).astype(np.float64),
    )
    return counts, merged


@dataclass(frozen=True)
class Bounded:
    """A curve or number with bounds that contain the value of the unmerged scores; shape as the
    statistic's."""

    value: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class PooledCurves:
    """Several sites' histograms, pooled.

    Attributes
    ----------
    cases, controls : float arrays, shape = (bins,): each interval's count spread evenly over its fine bins.
    cases_above, controls_above : bounded counts at or above each fine edge, shape = (bins + 1,).
    auc : bounded; NaN where a class is absent.
    """

    cases: Floats
    controls: Floats
    cases_above: Bounded
    controls_above: Bounded
    auc: Bounded

    @property
    def n_cases(self) -> float:
        """Case ECGs."""
        return float(self.cases_above.low[0])

    @property
    def n_controls(self) -> float:
        """Control ECGs."""
        return float(self.controls_above.low[0])

    @property
    def placements(self) -> tuple[Floats, Floats]:
        """Placement values by fine bin, shape = (bins,) each; what sites need for their influences."""
        return placements_from_counts(self.cases, self.controls)

    def roc(self) -> tuple[Bounded, Bounded]:
        """Return false and true positive rate at each fine edge, shape = (bins + 1,) each."""
        return _scaled(self.controls_above, self.n_controls), _scaled(self.cases_above, self.n_cases)

    def share_above(self) -> Bounded:
        """Return the share of ECGs at or above each fine edge, shape = (bins + 1,)."""
        n = self.n_cases + self.n_controls
        c, k = self.cases_above, self.controls_above
        return Bounded((c.value + k.value) / n, (c.low + k.low) / n, (c.high + k.high) / n)

    def rate_above(self) -> Bounded:
        """Return the event rate (PPV) at or above each fine edge, shape = (bins + 1,); NaN where nobody
        is."""
        c, k = self.cases_above, self.controls_above
        return Bounded(_rate(c.value, k.value), _rate(c.low, k.high), _rate(c.high, k.low))

    def marginal_rate(self) -> Floats:
        """Return the event rate near each fine edge, shape = (bins + 1,): between 2/3 and 3/2 of the group
        above it."""
        order = slice(None, None, -1)
        n = (self.cases_above.value + self.controls_above.value)[order]
        return marginal_rate(n, self.cases_above.value[order])[order]

    def edge_near_share(self, share: float) -> int:
        """Return the fine edge that leaves the share of ECGs nearest to ``share`` above it."""
        return int(np.argmin(np.abs(self.share_above().value - share)))


def marginal_rate(n_above: NDArray[Any], cases_above: NDArray[Any]) -> Floats:
    """Return the event rate AT each cut from cumulative counts (ascending), shape = (k,).

    Estimated over the ECGs ranked between 2/3 and 3/2 of the group's size, wide enough to be stable with few
    events.
    """
    n, c = np.asarray(n_above, dtype=np.float64), np.asarray(cases_above, dtype=np.float64)
    inner, outer = n / 1.5, np.minimum(n * 1.5, n[-1])
    gained = np.interp(outer, n, c) - np.interp(inner, n, c)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(outer > inner, gained / (outer - inner), 0.0)


def pool(histograms: Sequence[ScoreHistogram], n_bins: int = N_BINS) -> PooledCurves:
    """Pool histograms of any merges; an empty one adds nothing.

    Raises
    ------
    StatisticsError : an interval reaches beyond the common bins.
    """
    empty = np.zeros(0)
    lower = np.concatenate([empty, *(h.lower for h in histograms)]).astype(np.int64)
    upper = np.concatenate([empty, *(h.upper for h in histograms)]).astype(np.int64)
    cases = np.concatenate([empty, *(h.cases for h in histograms)])
    controls = np.concatenate([empty, *(h.controls for h in histograms)])
    if len(upper) and upper.max() > n_bins:
        raise StatisticsError(
            "a histogram reaches beyond the common bins", value=int(upper.max()), allowed=f"<= {n_bins}"
        )
    placed: dict[str, tuple[Floats, Floats, Floats]] = {}
    for name, count in (("cases", cases), ("controls", controls)):
        low = _at(lower, count, n_bins)
        high = _at(upper - 1, count, n_bins)
        placed[name] = (_spread(lower, upper, count, n_bins), low, high)
    case, control = placed["cases"], placed["controls"]
    return PooledCurves(
        cases=case[0],
        controls=control[0],
        cases_above=_above(*case),
        controls_above=_above(*control),
        auc=_auc_bounds(case, control),
    )


def pooled_auc(histograms: Sequence[ScoreHistogram], own_auc: Sequence[float], n_bins: int = N_BINS) -> Bounded:
    """Return the pooled AUC with bounds, taking pairs WITHIN a site from its exact AUC.

    The pooled AUC is a sum over pairs of sites (whose case, whose control); a site that released its own AUC leaves
    nothing uncertain about its own pairs, and one site alone nothing at all.

    Parameters
    ----------
    own_auc : exact AUC of each histogram's site, NaN where it is not known (or lies outside what its histogram allows).
    """
    everything = pool(histograms, n_bins)
    pairs = everything.n_cases * everything.n_controls
    if not pairs:
        return everything.auc
    value, low, high = (x * pairs for x in (everything.auc.value, everything.auc.low, everything.auc.high))
    for histogram, own in zip(histograms, own_auc, strict=True):
        mine = pool([histogram], n_bins)
        own_pairs = mine.n_cases * mine.n_controls
        if not own_pairs or not mine.auc.low - 1e-12 <= own <= mine.auc.high + 1e-12:
            continue
        # Pairs are counted in halves: rounding to them undoes the division exactly.
        exact = round(2 * own * own_pairs) / 2
        value += exact - mine.auc.value * own_pairs
        low += exact - round(mine.auc.low * own_pairs)
        high += exact - round(mine.auc.high * own_pairs)
    low, high = round(2 * low) / 2 / pairs, round(2 * high) / 2 / pairs
    return Bounded(float(np.clip(value / pairs, low, high)), low, high)


def _auc_bounds(case: tuple[Floats, Floats, Floats], control: tuple[Floats, Floats, Floats]) -> Bounded:
    pairs = float(case[1].sum()) * float(control[1].sum())
    if pairs == 0:
        return Bounded(np.nan, np.nan, np.nan)
    # Lowest: every case at the bottom of its interval, every control at the top, and the same fine bin lost.
    surely = float(np.sum(case[1] * (np.cumsum(control[2]) - control[2])))
    surely_not = float(np.sum(control[1] * (np.cumsum(case[2]) - case[2])))
    low, high = surely / pairs, (pairs - surely_not) / pairs
    return Bounded(float(np.clip(auc_from_counts(case[0], control[0]), low, high)), low, high)


def _spread(lower: Ints, upper: Ints, count: Floats, n_bins: int) -> Floats:
    if not len(lower):
        return np.zeros(n_bins)
    # Repeating a share over its bins keeps whole numbers whole; running sums of differences would not.
    width = upper - lower
    bins = np.repeat(lower - np.concatenate([[0], np.cumsum(width)[:-1]]), width) + np.arange(width.sum())
    return _at(bins, np.repeat(count / width, width), n_bins)


def _at(bins: Ints, count: Floats, n_bins: int) -> Floats:
    return np.bincount(bins, weights=count, minlength=n_bins).astype(np.float64)


def _above(spread: Floats, at_low: Floats, at_high: Floats) -> Bounded:
    value, low, high = (np.append(np.cumsum(counts[::-1])[::-1], 0.0) for counts in (spread, at_low, at_high))
    # Sums of fractions may miss a whole number by a rounding error; the bounds are whole and do not.
    return Bounded(np.clip(value, low, high), low, high)


def _scaled(counts: Bounded, total: float) -> Bounded:
    return Bounded(counts.value / total, counts.low / total, counts.high / total)


def _rate(cases: Floats, controls: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(cases + controls > 0, cases / (cases + controls), np.nan)
