"""Receiver operating characteristic: exact area under the curve with ties, and its points.

The area is the Mann-Whitney statistic: the chance that a case scores above a control, ties counting one half
(Hanley & McNeil 1982, doi 10.1148/radiology.143.1.7063747). A higher score means a higher risk, everywhere
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError


@dataclass(frozen=True)
class ScoreCounts:
    """Cases and controls at each distinct score.

    Attributes
    ----------
    values : float array, shape = (k,), ascending.
    index : int array, shape = (n,): where each ECG's score stands in ``values``.
    cases, controls : int arrays, shape = (k,).
    """

    values: Floats
    index: Ints
    cases: Ints
    controls: Ints


@dataclass(frozen=True)
class Roc:
    """ROC points from (0, 0) to (1, 1); point i flags scores ``>= threshold[i]`` (the first flags nobody)."""

    fpr: Floats
    tpr: Floats
    threshold: Floats


def require_binary(
    score: NDArray[Any], y: NDArray[Any], *, both_classes: bool = True
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return score as float64 and y as bool; raise StatisticsError where they are not a scored 0/1
    outcome."""
    score, y = np.asarray(score, dtype=np.float64), np.asarray(y)
    if score.ndim != 1 or score.shape != y.shape:
        raise StatisticsError(
            "scores and outcomes do not match",
            value=(score.shape, y.shape),
            allowed="two vectors of one length",
        )
    if not np.isfinite(score).all():
        raise StatisticsError(
            "a score is not finite",
            value=float(score[~np.isfinite(score)][0]),
            remedy="leave unscored ECGs out first",
        )
    if not np.isin(y, (0, 1)).all():
        raise StatisticsError("an outcome is neither 0 nor 1", value=y[~np.isin(y, (0, 1))][0], allowed="0 or 1")
    case = y == 1
    if both_classes and (case.all() or not case.any()):
        raise StatisticsError(
            "the statistic needs cases and controls", value=f"{int(case.sum())} cases of {len(case)} ECGs"
        )
    return score, np.asarray(case, dtype=np.bool_)


def count_by_score(score: NDArray[Any], y: NDArray[Any]) -> ScoreCounts:
    """Count cases and controls at each distinct score, O(n log n)."""
    score, case = require_binary(score, y)
    values, index = np.unique(score, return_inverse=True)
    cases = np.bincount(index[case], minlength=len(values))
    return ScoreCounts(values, index, cases, np.bincount(index, minlength=len(values)) - cases)


def auc_from_counts(cases: NDArray[Any], controls: NDArray[Any]) -> float:
    """Return the AUC from counts on ascending common bins, shape = (k,) each; equal bins are ties."""
    below = np.cumsum(controls) - controls
    pairs = float(np.sum(cases)) * float(np.sum(controls))
    if pairs == 0:
        raise StatisticsError(
            "the AUC needs cases and controls",
            value=f"{np.sum(cases):g} cases, {np.sum(controls):g} controls",
        )
    # Counts and halves are exact in float64, so that bounds made of the same sums never cross by rounding.
    return float(np.sum(cases * (below + 0.5 * controls)) / pairs)


def auc(score: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the exact AUC with ties.

    Parameters
    ----------
    score : float array, shape = (n,), higher means more risk.
    y : 0/1 array, shape = (n,).

    Raises
    ------
    StatisticsError : a score is not finite, an outcome not 0/1, or one class is absent.
    """
    counts = count_by_score(score, y)
    return auc_from_counts(counts.cases, counts.controls)


def placements_from_counts(cases: NDArray[Any], controls: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return placement values on ascending bins: of a case (controls below it) and of a control (cases above
    it).

    Ties count one half. Shape = (k,) each, within [0, 1]. These are the structural components of DeLong et
    al. 1988 (doi 10.2307/2531595) and all a site needs to know of the pooled data to compute its influences.
    """
    n_cases, n_controls = float(np.sum(cases)), float(np.sum(controls))
    if n_cases == 0 or n_controls == 0:
        raise StatisticsError("placements need cases and controls", value=f"{n_cases:g} cases, {n_controls:g} controls")
    below = (np.cumsum(controls) - 0.5 * controls) / n_controls
    above = (n_cases - np.cumsum(cases) + 0.5 * cases) / n_cases
    return np.asarray(below, dtype=np.float64), np.asarray(above, dtype=np.float64)


def roc_curve(score: NDArray[Any], y: NDArray[Any]) -> Roc:
    """Return the ROC points at every distinct score, highest threshold first; shape = (k + 1,) each."""
    counts = count_by_score(score, y)
    tpr = np.cumsum(counts.cases[::-1]) / counts.cases.sum()
    fpr = np.cumsum(counts.controls[::-1]) / counts.controls.sum()
    return Roc(
        fpr=np.concatenate([[0.0], fpr]),
        tpr=np.concatenate([[0.0], tpr]),
        threshold=np.concatenate([[np.inf], counts.values[::-1]]),
    )
