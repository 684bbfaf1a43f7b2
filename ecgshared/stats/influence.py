"""Patient-clustered standard errors from sums of squared per-patient influence.

Each estimate is a smooth function of means over ECGs; an ECG's influence is its first-order share in the
estimate's error, a patient's the sum over the patient's ECGs. Only sums of squares over patients are needed,
so sites that share no patient add theirs, and the sum over sites equals the pooled computation when all use
the pooled curves.

AUC: clustered DeLong, Obuchowski 1997 (doi 10.2307/2533958), with its small-sample factors; with one ECG a
patient it is DeLong, DeLong & Clarke-Pearson 1988. Ratios: Taylor linearisation (Cochran, Sampling
Techniques, 1977, ch. 6). Intervals of AUCs and rates are those of :mod:`ecgshared.stats.small_samples`; others are
symmetric on the log scale (positive ratios) or as they are (slopes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.roc import auc_from_counts, count_by_score, placements_from_counts
from ecgshared.stats.small_samples import auc_interval, few_events, rate_interval, satterthwaite

Scale = Literal["logit", "log", "identity"]
CONFIDENCE = 0.95
"""Two-sided, of every interval of this module unless told otherwise."""


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and interval; NaN where undefined."""

    value: float
    se: float
    low: float
    high: float

    def as_array(self) -> Floats:
        """Return (value, se, low, high), shape = (4,)."""
        return np.array([self.value, self.se, self.low, self.high])


UNDEFINED = Estimate(np.nan, np.nan, np.nan, np.nan)


def interval(
    value: float, se: float, scale: Scale, confidence: float = CONFIDENCE, df: float = np.inf
) -> tuple[float, float]:
    """Return the two-sided interval, symmetric on ``scale``; NaN where the scale has no room for the value.

    ``df`` : degrees of freedom of ``se`` (Student's quantile); infinite takes the normal one.
    """
    z = float(t.ppf(0.5 + confidence / 2, df)) if np.isfinite(df) else float(norm.ppf(0.5 + confidence / 2))
    if scale == "identity":
        return value - z * se, value + z * se
    if scale == "log":
        if not value > 0:
            return np.nan, np.nan
        return float(value * np.exp(-z * se / value)), float(value * np.exp(z * se / value))
    if not 0 < value < 1:
        return np.nan, np.nan
    centre, half = np.log(value / (1 - value)), z * se / (value * (1 - value))
    return float(1 / (1 + np.exp(-(centre - half)))), float(1 / (1 + np.exp(-(centre + half))))


def estimate(
    value: float, variance: float, scale: Scale, confidence: float = CONFIDENCE, df: float = np.inf
) -> Estimate:
    """Return value, standard error and interval from a variance; a variance of 0 is no error, and gives none."""
    se = float(np.sqrt(variance)) if variance > 0 else np.nan
    return Estimate(float(value), se, *(interval(value, se, scale, confidence, df) if df > 0 else (np.nan, np.nan)))


def by_patient(values: NDArray[Any], patient: NDArray[np.int64]) -> Floats:
    """Sum ``values``, shape = (n,) or (n, p), over each patient's ECGs: shape = (patients,) or (patients,
    p)."""
    _, who = np.unique(patient, return_inverse=True)
    size = int(who.max()) + 1 if len(who) else 0
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 1:
        return np.bincount(who, weights=values, minlength=size).astype(np.float64)
    return np.stack([np.bincount(who, weights=column, minlength=size) for column in values.T], axis=1)


def auc_influence(score: NDArray[Any], y: NDArray[Any]) -> tuple[float, Floats]:
    """Return the AUC and each ECG's first-order share in its error, shape = (n,).

    Raises
    ------
    StatisticsError : as :func:`ecgshared.stats.roc.auc`.
    """
    counts = count_by_score(score, y)
    value = auc_from_counts(counts.cases, counts.controls)
    below, above = placements_from_counts(counts.cases, counts.controls)
    case = np.asarray(y) == 1
    return value, np.where(
        case, (below[counts.index] - value) / case.sum(), (above[counts.index] - value) / (~case).sum()
    )


@dataclass(frozen=True)
class AucVariance:
    """Variance of an AUC, or of a difference of two, with its degrees of freedom; NaN with fewer than two patients
    with (``cases``) or without (``controls``) the event."""

    variance: float
    df: float
    cases: float
    controls: float

    @classmethod
    def of(cls, influence: Floats, y: NDArray[Any], patient: NDArray[np.int64]) -> AucVariance:
        """Sum squared influences over patients (Obuchowski 1997); shape = (n,) each."""
        case = np.asarray(y) == 1
        sides = np.column_stack([np.where(case, influence, 0.0), np.where(case, 0.0, influence)])
        each = by_patient(sides, patient)
        m, n = float(len(np.unique(patient[case]))), float(len(np.unique(patient[~case])))
        a, b, ab = (float(each[:, i] @ each[:, j]) for i, j in ((0, 0), (1, 1), (0, 1)))
        return cls.from_parts(a, b, 2 * ab, m, n, float(len(each)))

    @classmethod
    def from_parts(
        cls, of_cases: float, of_controls: float, cross: float, cases: float, controls: float, patients: float
    ) -> AucVariance:
        """Apply the small-sample factors to sums over patients of squares and products of influence."""
        if min(cases, controls) < 2:
            return cls(np.nan, np.nan, cases, controls)
        parts = [of_cases * cases / (cases - 1), of_controls * controls / (controls - 1)]
        variance = max(sum(parts) + cross * patients / (patients - 1), 0.0)
        return cls(variance, satterthwaite(parts, [cases - 1, controls - 1]), cases, controls)

    def estimate(self, auc: float, confidence: float = CONFIDENCE) -> Estimate:
        """Return the AUC with its interval; none of either with few events, no error where it is 0."""
        se = float(np.sqrt(self.variance)) if self.variance > 0 else np.nan
        if few_events(self.cases, self.controls):
            return Estimate(auc, se, np.nan, np.nan)
        strata = [(1.0, self.cases, self.controls)]
        return Estimate(auc, se, *auc_interval(auc, self.variance, self.df, strata, confidence))


def clustered_auc(
    score: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64], confidence: float = CONFIDENCE
) -> Estimate:
    """Return the AUC with patient-clustered standard error and interval; no interval with few events.

    Parameters
    ----------
    score, y, patient : shape = (n,); a higher score means a higher risk.

    Raises
    ------
    StatisticsError : as :func:`ecgshared.stats.roc.auc`.
    """
    value, influence = auc_influence(score, y)
    return AucVariance.of(influence, y, patient).estimate(value, confidence)


def ratio_square_sum(
    numerator: NDArray[Any], denominator: NDArray[Any], patient: NDArray[np.int64], ratio: float
) -> float:
    """Return the sum over patients of (sum of numerator - ratio x sum of denominator)^2, shape = (n,) each.

    Divided by the squared pooled sum of the denominator it is the site's part of the ratio's variance.
    """
    residual = by_patient(np.asarray(numerator, dtype=np.float64) - ratio * np.asarray(denominator), patient)
    return float(residual @ residual)


def ratio_estimate(
    ratio: float,
    square_sum: float,
    total: float,
    patients: float,
    *,
    scale: Scale,
    patients_in: float | None = None,
    confidence: float = CONFIDENCE,
    df: float = np.inf,
) -> Estimate:
    """Return a ratio with clustered interval from (pooled) sums.

    Parameters
    ----------
    square_sum : sum over sites of :func:`ratio_square_sum`.
    total : pooled sum of the denominator.
    patients : distinct patients behind the sums.
    scale : "logit" is for rates, whose interval is Wilson's, see :func:`ecgshared.stats.small_samples.rate_interval`.
    patients_in : patients with a non-zero denominator; a rate of exactly 0 or 1 has no linearised error, and counts
        as this many trials instead.
    df : degrees of freedom of other scales' intervals.
    """
    if total <= 0 or patients < 2:
        return Estimate(float(ratio), np.nan, np.nan, np.nan)
    variance = square_sum / total**2 * patients / (patients - 1)
    if scale != "logit":
        return estimate(ratio, variance, scale, confidence, df)
    return rate_estimate(ratio, variance, patients_in or patients, confidence)


def rate_estimate(rate: float, variance: float, trials: float, confidence: float = CONFIDENCE) -> Estimate:
    """Return a rate with Wilson's interval; one of exactly 0 or 1 counts as so many ``trials``."""
    se = float(np.sqrt(variance)) if variance > 0 else np.nan
    return Estimate(float(rate), se, *rate_interval(rate, variance, trials, confidence))


def clustered_ratio(
    numerator: NDArray[Any],
    denominator: NDArray[Any],
    patient: NDArray[np.int64],
    scale: Scale = "logit",
    df: float = np.inf,
) -> Estimate:
    """Return sum(numerator) / sum(denominator) over ECGs with patient-clustered interval; shape = (n,)
    each."""
    total = float(np.sum(denominator))
    if total <= 0:
        raise StatisticsError("a ratio needs a positive denominator", value=total)
    ratio = float(np.sum(numerator)) / total
    inside = np.asarray(denominator) != 0
    # Patients outside the group have no influence; the small-sample factor counts those inside.
    n_inside = float(len(np.unique(patient[inside])))
    square_sum = ratio_square_sum(numerator, denominator, patient, ratio)
    return ratio_estimate(ratio, square_sum, total, n_inside, scale=scale, patients_in=n_inside, df=df)


def rate_above(above: NDArray[np.bool_], y: NDArray[Any], patient: NDArray[np.int64]) -> Estimate:
    """Return the event rate above a fixed cut with patient-clustered interval; shape = (n,) each."""
    if not np.any(above):
        return UNDEFINED
    inside = np.asarray(above, dtype=np.float64)
    return clustered_ratio(inside * np.asarray(y), inside, patient)
