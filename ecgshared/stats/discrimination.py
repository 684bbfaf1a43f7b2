"""Precision and recall, and paired differences of AUC: exact at a site, with errors clustered by patient.

Average precision is the area under the precision-recall curve as steps (Davis & Goadrich 2006), the mean over cases of
the event rate at or above the case's score. Its interval is that of the infinitesimal jackknife on the logit scale
(Boyd et al. 2013, doi 10.1007/978-3-642-40994-3_55). The difference of two AUCs of the same ECGs takes DeLong's
components of both (DeLong et al. 1988): what the scores share cancels. So does what two outcomes of one score share,
their controls, in a placebo comparison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Ints
from ecgshared.stats.influence import AucVariance, Estimate, auc_influence, by_patient
from ecgshared.stats.roc import count_by_score
from ecgshared.stats.small_samples import few_events, logit_t_interval, satterthwaite, t_interval


def average_precision(score: NDArray[Any], y: NDArray[Any], patient: Ints) -> Estimate:
    """Return the average precision with a patient-clustered interval; shape = (n,) each.

    Raises
    ------
    StatisticsError : as :func:`ecgshared.stats.roc.auc`.
    """
    counts = count_by_score(score, y)
    cases_at = counts.cases.astype(np.float64)
    cases_above = np.cumsum(cases_at[::-1])[::-1]
    ecgs_above = np.cumsum((counts.cases + counts.controls)[::-1].astype(np.float64))[::-1]
    precision = cases_above / ecgs_above
    n_cases = cases_at.sum()
    value = float(cases_at @ precision / n_cases)
    # An ECG changes the precision at every case of its own score or lower: up where it is a case, down where not.
    per_case = np.cumsum(cases_at / ecgs_above)
    lost = np.cumsum(cases_at * precision / ecgs_above)
    case = np.asarray(y) == 1
    influence = (case * (precision[counts.index] - value + per_case[counts.index]) - lost[counts.index]) / n_cases
    each = by_patient(influence, patient)
    with_event, everybody = len(np.unique(patient[case])), len(each)
    without = len(np.unique(patient[~case]))
    if everybody < 2:
        return Estimate(value, np.nan, np.nan, np.nan)
    se = float(np.sqrt(each @ each * everybody / (everybody - 1)))
    if few_events(with_event, without):
        return Estimate(value, se, np.nan, np.nan)
    return Estimate(value, se, *logit_t_interval(value, se, with_event - 1))


def auc_difference(first: NDArray[Any], second: NDArray[Any], y: NDArray[Any], patient: Ints) -> Estimate:
    """Return AUC of ``first`` minus AUC of ``second`` on the same ECGs, patient-clustered; shape = (n,) each.

    With one ECG a patient it is DeLong's paired comparison. Two scores that rank alike differ by 0 without an error.

    Raises
    ------
    StatisticsError : as :func:`ecgshared.stats.roc.auc`.
    """
    (a, of_a), (b, of_b) = (auc_influence(score, y) for score in (first, second))
    found = AucVariance.of(of_a - of_b, y, patient)
    se = float(np.sqrt(found.variance)) if found.variance > 0 else np.nan
    if few_events(found.cases, found.controls):
        return Estimate(a - b, se, np.nan, np.nan)
    return Estimate(a - b, se, *t_interval(a - b, se, found.df))


def placebo_difference(score: NDArray[Any], first: NDArray[Any], second: NDArray[Any], patient: Ints) -> Estimate:
    """Return a score's AUC for one outcome less its AUC for another with the same controls, clustered by patient.

    With one ECG a patient it is DeLong's: the components of either's cases add, those of the controls are subtracted.

    Parameters
    ----------
    score, first, second, patient : shape = (n,). An outcome is 1, 0, or NaN where an ECG is no case and no control of
        it (a case of the other one).

    Raises
    ------
    StatisticsError : as :func:`ecgshared.stats.roc.auc`, of either outcome.
    """
    influence, values, cases = np.zeros(len(score)), [], []
    for sign, y in ((1.0, first), (-1.0, second)):
        known = np.isfinite(y)
        value, each = auc_influence(np.asarray(score)[known], y[known])
        influence[known] += sign * each
        values.append(value)
        cases.append(np.asarray(y) == 1)
    strata = (cases[0], cases[1] & ~cases[0], ~(cases[0] | cases[1]))
    columns = np.column_stack([np.where(stratum, influence, 0.0) for stratum in strata])
    people = [
        float(len(np.unique(patient[stratum & (np.isfinite(first) | np.isfinite(second))]))) for stratum in strata
    ]
    each = by_patient(columns, patient)
    total = each.sum(axis=1)
    difference = values[0] - values[1]
    if min(people) < 2:
        return Estimate(difference, np.nan, np.nan, np.nan)
    own = (each**2).sum(axis=0)
    parts = [float(square) * m / (m - 1) for square, m in zip(own, people, strict=True)]
    # What a patient's ECGs in several strata have in common.
    shared = float(total @ total - own.sum()) * len(each) / max(len(each) - 1, 1)
    variance = max(sum(parts) + shared, 0.0)
    se = float(np.sqrt(variance)) if variance > 0 else np.nan
    if few_events(min(people[:2]), people[2]):
        return Estimate(difference, se, np.nan, np.nan)
    df = satterthwaite(parts, [m - 1 for m in people])
    return Estimate(difference, se, *t_interval(difference, se, df))
