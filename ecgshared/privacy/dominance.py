"""Whether a mean or a sum of a score is a group's, or a few patients' in disguise.

Who asks chooses the score, within what a model can be made to say: one that is 1 for a single known person and 0 for
all others turns every figure into that person's outcome. What counts is who carries the spread of the values: the
effective number of patients of |v - mean|, (sum of w)^2 / sum of w^2 with w a patient's share (Kish, Survey Sampling,
1965, 11.7). One person who stands out counts for four, ten for forty, whatever the others' number; values spread evenly
over n count for 3/4 n, normal ones for 2/3 n, exponential ones (many low risks, few high) for half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ecgshared.arrays import Floats, Ints
from ecgshared.privacy.disclosure import DisclosureLimits


def carriers(values: Floats, patient: Ints) -> float:
    """Return the effective number of patients who carry the spread of values; all of them where there is none.

    Parameters
    ----------
    values : float array, shape = (n,). patient : int array, shape = (n,).
    """
    if not len(values):
        return 0.0
    apart = np.abs(np.asarray(values, dtype=np.float64) - float(np.mean(values)))
    # What rounding leaves of equal values is no spread.
    apart[apart <= 1e-12 * max(1.0, float(np.abs(values).max()))] = 0.0
    weight = np.bincount(np.unique(patient, return_inverse=True)[1], weights=apart)
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / square if square > 0 else float(len(np.unique(patient)))


def carried(values: Floats, patient: Ints, limits: DisclosureLimits) -> bool:
    """Say whether enough patients carry the spread: as many as a group of the least size that alone stands out, of a
    small group half of it."""
    if limits.withhold_nothing or not len(values):
        return True
    least = limits.min_patients
    return carriers(values, patient) >= max(least, min(4 * least, len(np.unique(patient)) / 2))


def few_stand_out(values: Floats, patient: Ints, limits: DisclosureLimits) -> bool:
    """Say whether one or two patients, or hardly more, carry nearly all of the spread.

    A milder rule than :func:`carried`, for inputs without bounds: an ECG full of noise may well give a net's largest
    logit, but not one beside which all others are nearly the same.
    """
    if limits.withhold_nothing or not len(values):
        return False
    return carriers(values, patient) < min(limits.min_patients, len(np.unique(patient)) / 2)


def ranked(values: Floats) -> NDArray[np.float64]:
    """Return mid-ranks: figures of order alone (an AUC) hang on these."""
    return np.asarray(rankdata(values), dtype=np.float64)
