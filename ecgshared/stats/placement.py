"""The pooled AUC from one sum a site: the pooled control curve, placed over the site's own cases.

The AUC is the mean, over cases, of the share of controls below (Mann-Whitney; ties count half). A site knows its own
cases and controls exactly, and those of others to their bins: it returns the fewest and the most controls that can lie
below its cases, and the exact pooled AUC lies between the two.

The error is that of DeLong et al. 1988 (doi 10.2307/2531595), clustered by patient (Obuchowski 1997), from sums over
patients: of a case, the share of controls below; of a control, the share of cases above, for which the coordinator
sends the pooled sketch of cases. The sums are not centred, so that they can be made before the AUC is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.control_bins import ControlBins
from ecgshared.stats.influence import AucVariance, by_patient

N_SUMS = 13


@dataclass(frozen=True)
class ControlCurve:
    """Pooled controls by the edges of all sites' bins.

    ``lower``, ``upper`` ascend, shape = (k,); ``by_lower[i]`` controls lie in bins that begin at or below ``lower[i]``,
    ``by_upper[i]`` in bins that end at or below ``upper[i]``.
    """

    lower: Floats
    by_lower: Floats
    upper: Floats
    by_upper: Floats

    def __post_init__(self) -> None:
        for edge, count in ((self.lower, self.by_lower), (self.upper, self.by_upper)):
            if edge.shape != count.shape or edge.ndim != 1 or not len(edge):
                raise StatisticsError("a control curve needs as many counts as edges", value=edge.shape)
            if (np.diff(edge) < 0).any() or (np.diff(count) < 0).any() or count[0] < 0:
                raise StatisticsError("a control curve must ascend")

    @property
    def total(self) -> float:
        """All controls."""
        return float(self.by_lower[-1])

    def below(self, score: Floats) -> tuple[Floats, Floats]:
        """Return the fewest and the most controls below each score."""
        surely = np.searchsorted(self.upper, score, side="right")
        possibly = np.searchsorted(self.lower, score, side="right")
        return (
            np.concatenate([[0.0], self.by_upper])[surely],
            np.concatenate([[0.0], self.by_lower])[possibly],
        )


def pooled_curve(bins: Iterable[ControlBins]) -> ControlCurve:
    """Return the curve of several sites' bins."""
    parts = list(bins)
    columns = [np.concatenate([getattr(p, name) for p in parts]) for name in ("lower", "upper", "controls")]
    by_low, by_up = (np.argsort(edge, kind="stable") for edge in columns[:2])
    return ControlCurve(
        columns[0][by_low], np.cumsum(columns[2][by_low]), columns[1][by_up], np.cumsum(columns[2][by_up])
    )


def own_placements(score: Floats, y: NDArray[Any]) -> Floats:
    """Return how many of the site's own controls lie below each of its cases, ties counting half; shape = (cases,)."""
    case = np.asarray(y) == 1
    controls = np.sort(score[~case])
    left, right = (np.searchsorted(controls, score[case], side=side) for side in ("left", "right"))
    return np.asarray((left + right) / 2, dtype=np.float64)


def isolates(value: Floats, own: Floats, patient: Ints, segment: Ints, least: int) -> bool:
    """Say whether a curve would single out fewer than ``least`` of the patients it is summed over.

    A curve that is high above one score and low below it turns the sum into a count of the cases above. How many cases
    lie between the cuts that the site answered is known; what varies inside these segments is not. A gap inside one,
    with fewer than ``least`` patients on a side, can be read off the sum when little else varies: where it is wider
    than half of all the rest, the curve is refused. A control curve climbs all the way and leaves no such gap. Where
    the site's own controls leave one at the same place, its own AUC tells as much, and the curve is let pass.

    Parameters
    ----------
    value, own : float arrays, shape = (n,): the curve of other sites' controls, and that of the site's own, at each
        case, as shares.
    patient, segment : int arrays, shape = (n,): whose case it is, and between which answered cuts it lies.
    """
    sent, honest = _by_segment(value, patient, segment), _by_segment(own, patient, segment)
    varies, varies_honestly = (sum(_spread(v) for v in parts) for parts in (sent, honest))
    for mine, theirs in zip(sent, honest, strict=True):
        n = len(mine)
        for k in range(1, min(least, n)):
            for first in {k, n - k}:
                if _gap(mine, first, varies) > 0.5 and not _gap(theirs, first, varies_honestly) > 0.25:
                    return True
    return False


def _by_segment(value: Floats, patient: Ints, segment: Ints) -> list[Floats]:
    """Mean value of each patient's cases in each segment, ascending."""
    found = []
    for s in np.unique(segment):
        inside = segment == s
        _, who, count = np.unique(patient[inside], return_inverse=True, return_counts=True)
        found.append(np.sort(by_patient(value[inside], who) / count))
    return found


def _spread(ordered: Floats) -> float:
    return float((ordered - ordered[0]).sum())


def _gap(ordered: Floats, first: int, varies: float) -> float:
    """Gap before element ``first``, over all that varies besides: the gap itself moves those above it."""
    gap = float(ordered[first] - ordered[first - 1])
    return gap / max(varies - gap * (len(ordered) - first), 1e-9)


@dataclass(frozen=True)
class Placed:
    """What one site's cases and controls say of the pooled AUC.

    ``pairs``: fewest and most pairs in which the case stands higher, shape = (2,). ``sums``: shape = (13,), see
    :class:`AucTotals`. ``others``, ``own``: the curves of other sites' controls and of its own at each case, as
    shares; they stay at the site.
    """

    pairs: Floats
    sums: Floats
    others: Floats
    own: Floats


def place(
    score: Floats,
    y: NDArray[Any],
    patient: Ints,
    own: ControlBins,
    controls: ControlCurve,
    case_position: Floats,
    case_weight: Floats,
) -> Placed:
    """Place the pooled curves over one site's ECGs.

    Parameters
    ----------
    score, y, patient : shape = (n,).
    own : the site's bins, which are part of ``controls``; inside its own data the site counts exactly.
    case_position, case_weight : pooled sketch of cases, ascending; shape = (m,) each. Where it is empty, the site's own
        cases stand for all.

    Raises
    ------
    StatisticsError : the curve does not contain the site's own controls, so it is not the pooled one.
    """
    case = np.asarray(y) == 1
    low, high = (
        everyone - mine
        for everyone, mine in zip(controls.below(score[case]), pooled_curve([own]).below(score[case]), strict=True)
    )
    others = controls.total - own.total
    at_edges = controls.below(own.upper)[0] - pooled_curve([own]).below(own.upper)[0]
    if (at_edges < 0).any() or (low < 0).any() or (high < low).any() or (high > others).any():
        raise StatisticsError("the pooled control curve does not contain this site's own controls")
    exact = own_placements(score, y)
    below = ((low + high) / 2 + exact) / controls.total
    if not len(case_weight):
        case_position, case_weight = np.sort(score[case]), np.ones(int(case.sum()))
    cumulative = np.concatenate([[0.0], np.cumsum(case_weight)])
    left, right = (cumulative[np.searchsorted(case_position, score[~case], side=side)] for side in ("left", "right"))
    above = 1 - (left + right) / 2 / cumulative[-1]
    return Placed(
        pairs=np.array([(low + exact).sum(), (high + exact).sum()]),
        sums=_sums(case, patient, below, above),
        others=(low + high) / 2 / max(others, 1.0),
        own=exact / own.total,
    )


def _sums(case: NDArray[np.bool_], patient: Ints, below: Floats, above: Floats) -> Floats:
    """Sum the products of what each patient brings: placements of its cases and controls, and their numbers."""
    columns = np.zeros((len(case), 4))
    columns[case, 0], columns[case, 1] = below, 1.0
    columns[~case, 2], columns[~case, 3] = above, 1.0
    each = by_patient(columns, patient)
    products = each.T @ each
    s, c, t, d = 0, 1, 2, 3
    pairs = ((s, s), (s, c), (c, c), (t, t), (t, d), (d, d), (s, t), (s, d), (c, t), (c, d))
    counts = ((each[:, 1] > 0).sum(), (each[:, 3] > 0).sum(), len(each))
    return np.array([*(products[i, j] for i, j in pairs), *counts], dtype=np.float64)


@dataclass(frozen=True)
class AucTotals:
    """Sums of several sites, added up.

    In the order of the array: over patients, products of s (summed placements of the patient's cases), c (its case
    ECGs), t (summed placements of its controls), d (its control ECGs): ss, sc, cc, tt, td, dd, st, sd, ct, cd; then the
    patients with a case, with a control, and all.
    """

    values: Floats

    @classmethod
    def total(cls, parts: Iterable[Floats]) -> AucTotals:
        """Add the sums of several sites."""
        return cls(np.sum(np.stack(list(parts)), axis=0))

    @property
    def patients(self) -> tuple[float, float, float]:
        """Patients with a case, with a control, and all."""
        with_case, with_control, everybody = (float(v) for v in self.values[10:])
        return with_case, with_control, everybody

    def variance(self, auc: float, n_cases: float, n_controls: float) -> AucVariance:
        """Return the variance of an AUC of so many case and control ECGs, the sums taken about ``auc``."""
        ss, sc, cc, tt, td, dd, st, sd, ct, cd = (float(v) for v in self.values[:10])
        return AucVariance.from_parts(
            max(ss - 2 * auc * sc + auc**2 * cc, 0.0) / n_cases**2,
            max(tt - 2 * auc * td + auc**2 * dd, 0.0) / n_controls**2,
            2 * (st - auc * sd - auc * ct + auc**2 * cd) / (n_cases * n_controls),
            *self.patients,
        )
