"""Intervals that hold with few events: what the normal approximation promises needs more events than most sites have.

A standard error from ten events is itself an estimate, and near 0 or 1 it says too little. Two remedies are used
together. First, the interval is the set of values that the data do not contradict (Wilson 1927), so that the error is
that of the tested value, not that of the observed one. Second, the observed variance is moderated: it is averaged with
the variance a simple model gives for that many patients, which counts as ten degrees of freedom, and the quantile is
Student's t with the degrees of freedom of both (Satterthwaite 1946; Smyth 2004, doi 10.2202/1544-6115.1027). The model
of an AUC is Newcombe's (2006, method 5, doi 10.1002/sim.2324), which gives a perfect AUC an interval too.

Below :data:`MIN_EVENT_PATIENTS` patients with the event (or without it) no interval is given: none was found that
holds. A standard error of 0 says that the data cannot tell it, and is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, t

from ecgshared.errors import StatisticsError

MIN_EVENT_PATIENTS = 10
"""Fewer patients with the event, or without it: the figure stands without an interval."""
_PRIOR_DF = 10.0


def few_events(patients_with: float, patients_without: float = np.inf) -> bool:
    """Say whether a figure is of too few patients with (or without) the event to bear an interval; NaN is few."""
    return not min(patients_with, patients_without) >= MIN_EVENT_PATIENTS


def satterthwaite(variances: Sequence[float], df: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of independent variances; 0 where all are 0."""
    v, d = np.asarray(variances, dtype=np.float64), np.asarray(df, dtype=np.float64)
    below = float(np.sum(np.where(d > 0, v**2 / np.maximum(d, 1e-12), 0.0)))
    return float(v.sum()) ** 2 / below if below > 0 else 0.0


def auc_variance(auc: float, cases: float, controls: float) -> float:
    """Return the variance of an AUC under Newcombe's model, of that many patients with and without the event."""
    n = (cases + controls) / 2
    return auc * (1 - auc) * (1 + (n - 1) * ((1 - auc) / (2 - auc) + auc / (1 + auc))) / (cases * controls)


def auc_interval(
    auc: float,
    variance: float,
    df: float,
    strata: Sequence[tuple[float, float, float]],
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of an AUC from its (clustered) DeLong variance; it holds for 0 and 1 too.

    Parameters
    ----------
    variance, df : NaN or 0 variance: the model's alone.
    strata : (weight, patients with the event, patients without) of each AUC that was averaged; one for a plain AUC.
    """

    def model(at: float) -> float:
        return sum(w * w * auc_variance(at, m, n) for w, m, n in strata)

    if not 0 <= auc <= 1 or not all(m > 0 and n > 0 for _, m, n in strata):
        raise StatisticsError("an AUC lies in [0, 1] and has cases and controls", value=auc)
    inside = 0 < auc < 1 and variance > 0 and df > 0
    weight = df if inside else 0.0
    ratio = variance / model(auc) if inside else 1.0
    factor = (weight * ratio + _PRIOR_DF) / (weight + _PRIOR_DF)
    quantile = float(t.ppf(0.5 + confidence / 2, weight + _PRIOR_DF))

    def contradicted(at: float) -> float:
        return (at - auc) ** 2 - quantile**2 * factor * model(at)

    # At 0 and 1 the model's variance is 0 and the value itself a root: the limit is the one inside.
    low = float(brentq(contradicted, 0.0, min(auc, 1 - 1e-9))) if auc > 0 else 0.0
    high = float(brentq(contradicted, max(auc, 1e-9), 1.0)) if auc < 1 else 1.0
    return low, high


def rate_interval(rate: float, variance: float, patients: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a rate with as many trials as its (clustered) variance is worth.

    A rate of exactly 0 or 1 has no variance; it is worth one trial a patient. (Korn & Graubard 1998 do the same with
    the binomial's exact limits.)
    """
    if not 0 <= rate <= 1 or not patients > 0:
        return np.nan, np.nan
    trials = rate * (1 - rate) / variance if variance > 0 and 0 < rate < 1 else patients
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * rate * (1 - rate) / trials + z2**2 / (4 * trials**2)) / (1 + z2 / trials)
    low, high = float(centre - half), float(centre + half)
    return (0.0 if rate == 0 else low), (1.0 if rate == 1 else high)


def t_interval(value: float, se: float, df: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return value +- Student's quantile x ``se``; NaN where there is no error or no degree of freedom."""
    if not (se > 0 and df > 0):
        return np.nan, np.nan
    half = float(t.ppf(0.5 + confidence / 2, df)) * se
    return value - half, value + half


def logit_t_interval(value: float, se: float, df: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a concordance in (0, 1), symmetric on the logit scale, with Student's quantile."""
    if not (0 < value < 1 and se > 0 and df > 0):
        return np.nan, np.nan
    low, high = t_interval(float(logit(value)), se / (value * (1 - value)), df, confidence)
    return float(expit(low)), float(expit(high))
