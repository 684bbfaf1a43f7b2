"""Patient-clustered standard errors from sums of squared per-patient influence.

Each estimate is a smooth function of means over ECGs; an ECG's influence is its first-order share in the
estimate's error, a patient's the sum over the patient's ECGs. Only sums of squares over patients are needed,
so sites that share no patient add theirs, and the sum over sites equals the pooled computation when all use
the pooled curves.

AUC: clustered DeLong, Obuchowski 1997 (doi 10.2307/2533958), with its small-sample factors; with one ECG a
patient it is DeLong, DeLong & Clarke-Pearson 1988. Ratios: Taylor linearisation (Cochran, Sampling
Techniques, 1977, ch. 6). Intervals are symmetric on the logit scale (AUC, rates), the log scale (positive
ratios) or as they are (slopes).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError
from ecgshared.stats.roc import auc_from_counts, count_by_score, placements_from_counts, require_binary

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


def interval(value: float, se: float, scale: Scale, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the two-sided interval, symmetric on ``scale``; NaN where the scale has no room for the
    value."""
    z = float(norm.ppf(0.5 + confidence / 2))
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


def estimate(value: float, variance: float, scale: Scale, confidence: float = CONFIDENCE) -> Estimate:
    """Return value, standard error and interval from a variance."""
    se = float(np.sqrt(max(variance, 0.0)))
    return Estimate(float(value), se, *interval(value, se, scale, confidence))


def by_patient(values: NDArray[Any], patient: NDArray[np.int64]) -> Floats:
    """Sum ``values``, shape = (n,) or (n, p), over each patient's ECGs: shape = (patients,) or (patients,
    p)."""
    _, who = np.unique(patient, return_inverse=True)
    size = int(who.max()) + 1 if len(who) else 0
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 1:
        return np.bincount(who, weights=values, minlength=size).astype(np.float64)
    return np.stack([np.bincount(who, weights=column, minlength=size) for column in values.T], axis=1)


@dataclass(frozen=True)
class AucSums:
    """What a site adds to the variance of a pooled AUC; three sums of products over patients and three
    counts.

    Attributes
    ----------
    cases, controls, cross : sums over patients of a^2, b^2 and a b, where a and b are the summed influences
        of the patient's case ECGs and control ECGs.
    patients_with_case, patients_with_control, patients : distinct patients.
    """

    cases: float
    controls: float
    cross: float
    patients_with_case: float
    patients_with_control: float
    patients: float

    def as_array(self) -> Floats:
        """Return the six numbers, shape = (6,), in the order of the attributes."""
        return np.array(
            [
                self.cases,
                self.controls,
                self.cross,
                self.patients_with_case,
                self.patients_with_control,
                self.patients,
            ]
        )

    @classmethod
    def total(cls, parts: Iterable[NDArray[Any]]) -> AucSums:
        """Add the arrays of several sites."""
        return cls(*(float(x) for x in np.sum(np.stack(list(parts)), axis=0)))

    @property
    def variance(self) -> float:
        """Variance of the AUC; NaN with fewer than two patients on either side."""
        i10, i01, i = self.patients_with_case, self.patients_with_control, self.patients
        if min(i10, i01) < 2:
            return np.nan
        return self.cases * i10 / (i10 - 1) + self.controls * i01 / (i01 - 1) + 2 * self.cross * i / (i - 1)


def auc_sums(
    index: NDArray[np.int64],
    y: NDArray[Any],
    patient: NDArray[np.int64],
    *,
    case_placement: NDArray[Any],
    control_placement: NDArray[Any],
    auc: float,
    n_cases: float,
    n_controls: float,
) -> AucSums:
    """Return one site's part of the variance of a pooled AUC.

    Parameters
    ----------
    index : int array, shape = (n,): the common bin of each ECG of this site.
    y, patient : shape = (n,).
    case_placement, control_placement : float arrays, shape = (bins,): pooled curves, see
        ``placements_from_counts``.
    auc, n_cases, n_controls : pooled, of ECGs.
    """
    case = np.asarray(y) == 1
    influence = np.where(case, (case_placement[index] - auc) / n_cases, (control_placement[index] - auc) / n_controls)
    a = by_patient(np.where(case, influence, 0.0), patient)
    b = by_patient(np.where(case, 0.0, influence), patient)
    has_case, has_control = by_patient(case, patient) > 0, by_patient(~case, patient) > 0
    return AucSums(
        float(a @ a),
        float(b @ b),
        float(a @ b),
        float(has_case.sum()),
        float(has_control.sum()),
        float(len(a)),
    )


def clustered_auc(
    score: NDArray[Any], y: NDArray[Any], patient: NDArray[np.int64], confidence: float = CONFIDENCE
) -> Estimate:
    """Return the AUC with patient-clustered standard error and logit interval.

    Parameters
    ----------
    score, y, patient : shape = (n,); a higher score means a higher risk.

    Raises
    ------
    StatisticsError : as :func:`ecgshared.stats.roc.auc`.
    """
    counts = count_by_score(score, y)
    value = auc_from_counts(counts.cases, counts.controls)
    v10, v01 = placements_from_counts(counts.cases, counts.controls)
    sums = auc_sums(
        counts.index,
        y,
        patient,
        case_placement=v10,
        control_placement=v01,
        auc=value,
        n_cases=float(counts.cases.sum()),
        n_controls=float(counts.controls.sum()),
    )
    return (
        estimate(value, sums.variance, "logit", confidence)
        if np.isfinite(sums.variance)
        else Estimate(value, np.nan, np.nan, np.nan)
    )


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
) -> Estimate:
    """Return a ratio with clustered interval from (pooled) sums.

    Parameters
    ----------
    square_sum : sum over sites of :func:`ratio_square_sum`.
    total : pooled sum of the denominator.
    patients : distinct patients behind the sums.
    patients_in : patients with a non-zero denominator; a rate of exactly 0 or 1 has no linearised error, and
        gets Wilson's interval (1927) with this many trials instead.
    """
    if total <= 0 or patients < 2:
        return Estimate(float(ratio), np.nan, np.nan, np.nan)
    variance = square_sum / total**2 * patients / (patients - 1)
    result = estimate(ratio, variance, scale, confidence)
    if scale == "logit" and ratio in (0.0, 1.0) and patients_in:
        z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
        edge = z2 / (patients_in + z2)
        low, high = (0.0, edge) if ratio == 0 else (1 - edge, 1.0)
        return Estimate(float(ratio), result.se, low, high)
    return result


def clustered_ratio(
    numerator: NDArray[Any], denominator: NDArray[Any], patient: NDArray[np.int64], scale: Scale = "logit"
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
    return ratio_estimate(ratio, square_sum, total, n_inside, scale=scale, patients_in=n_inside)


def top_group_square_sum(
    above: NDArray[np.bool_],
    y: NDArray[Any],
    patient: NDArray[np.int64],
    *,
    rate: float,
    marginal_rate: float,
    share: float,
) -> float:
    """Return a site's sum of squared patient influences on the event rate of the top ``share``, times the
    group's size.

    The cut is the quantile that leaves ``share`` above it and moves with the sample: an ECG that enters
    pushes one of the ``marginal_rate`` (event rate AT the cut) out. With ``marginal_rate = rate`` the cut is
    a fixed number.
    """
    inside = np.asarray(above, dtype=np.float64)
    residual = by_patient(inside * (np.asarray(y) - marginal_rate) - share * (rate - marginal_rate), patient)
    return float(residual @ residual)


def top_group_rate(
    above: NDArray[np.bool_], y: NDArray[Any], patient: NDArray[np.int64], marginal_rate: float | None = None
) -> Estimate:
    """Return the event rate above a cut with clustered logit interval.

    ``marginal_rate`` None: the cut is a fixed number; else the cut is a quantile, see
    :func:`top_group_square_sum`.
    """
    require_binary(np.asarray(above, dtype=np.float64), y, both_classes=False)
    total = float(np.sum(above))
    if total <= 0:
        return UNDEFINED
    rate = float(np.sum(np.asarray(y)[above])) / total
    square_sum = top_group_square_sum(
        above,
        y,
        patient,
        rate=rate,
        marginal_rate=rate if marginal_rate is None else marginal_rate,
        share=total / len(above),
    )
    n_inside = float(len(np.unique(patient[above])))
    return ratio_estimate(rate, square_sum, total, n_inside, scale="logit", patients_in=n_inside)
