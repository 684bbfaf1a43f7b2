"""How well predicted survival agrees with what happened: AUC by a horizon, Brier score, calibration.

Who is censored before the horizon has an unknown outcome; the others are weighted by the inverse chance of being
seen (:mod:`ecgshared.stats.censoring`). AUC: cumulative cases against dynamic controls, Uno et al. 2007 (doi
10.1198/016214507000000149), Hung & Chiang 2010. Brier score: Graf et al. 1999. Observed risk: 1 - Kaplan-Meier.
All come with each ECG's influence, that of the censoring weights included, so that intervals cluster by patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.censoring import Censoring, censoring, require_survival
from ecgshared.stats.concordance import Influenced, clustered_variance
from ecgshared.stats.cox import prepare, risk_sums, stratified_sums
from ecgshared.stats.cox_fit import newton_fit
from ecgshared.stats.cox_residuals import residual_terms, score_meat, score_residuals
from ecgshared.stats.few_events import few_events_estimate
from ecgshared.stats.influence import Estimate
from ecgshared.stats.kaplan_meier import kaplan_meier, log_survival_influence


def free_at(time: Floats, event: NDArray[np.bool_], horizon: float) -> NDArray[np.bool_]:
    """Say who is known to be free of the event at ``horizon``, shape = (n,): followed past it, or censored on its day.

    On one day events come before censorings, as everywhere here. So a follow-up that is cut at the horizon leaves every
    status there known.
    """
    return np.asarray((time > horizon) | ((time == horizon) & ~event), dtype=np.bool_)


def cumulative_auc(time: NDArray[Any], event: NDArray[Any], risk: NDArray[Any], horizon: float) -> Influenced:
    """Return the chance that an ECG with the event by ``horizon`` has a higher risk than one free of it then.

    Parameters
    ----------
    time, event, risk : shape = (n,). horizon : in the unit of ``time``.

    Raises
    ------
    StatisticsError : no event by the horizon, or nobody known to be free of it then.
    """
    time, event = require_survival(time, event)
    risk = np.asarray(risk, dtype=np.float64)
    chance = censoring(time, event)
    case, control = event & (time <= horizon), free_at(time, event, horizon)
    if not case.any() or not control.any():
        raise StatisticsError("an AUC needs events by the horizon and people followed to it", value=horizon)
    weight = 1.0 / chance.before(time[case])
    beaten = _share_below(risk[control], risk[case])
    value = float(weight @ beaten) / float(weight.sum())
    order = np.argsort(risk[case], kind="stable")
    ranked, cumulated = risk[case][order], np.concatenate([[0.0], np.cumsum(weight[order])])
    low, high = (cumulated[np.searchsorted(ranked, risk[control], side=side)] for side in ("left", "right"))
    above = 1 - (low + high) / 2 / cumulated[-1]
    influence = np.zeros(len(time))
    excess = weight * (beaten - value) / weight.sum()
    influence[case] = excess
    influence[control] = (above - value) / control.sum()
    return Influenced(value, influence + chance.influence(-excess, time[case], before=True))


def _share_below(others: Floats, mine: Floats) -> Floats:
    ordered = np.sort(others)
    low, high = (np.searchsorted(ordered, mine, side=side) for side in ("left", "right"))
    return np.asarray((low + high) / 2 / len(ordered), dtype=np.float64)


def brier_score(time: NDArray[Any], event: NDArray[Any], survival: NDArray[Any], horizon: float) -> Influenced:
    """Return the weighted mean squared difference of predicted survival and status at ``horizon``.

    Parameters
    ----------
    survival : float array, shape = (n,): predicted chance to be free of the event at ``horizon``.

    Raises
    ------
    StatisticsError : everybody is censored before the horizon, so that nobody is known to be free of the event then.
    """
    time, event = require_survival(time, event)
    return _brier(time, event, np.asarray(survival, dtype=np.float64), horizon, censoring(time, event))


def _brier(time: Floats, event: NDArray[np.bool_], survival: Floats, horizon: float, chance: Censoring) -> Influenced:
    case, control = event & (time <= horizon), free_at(time, event, horizon)
    # Who is censored on the day of the horizon counts: the chance is that of being followed to that day.
    free = float(chance.before(horizon))
    if not control.any():
        raise StatisticsError("a Brier score needs people followed to the horizon", value=horizon)
    term = np.zeros(len(time))
    term[case] = survival[case] ** 2 / chance.before(time[case])
    term[control] = (1 - survival[control]) ** 2 / free
    value = float(term.mean())
    through = chance.influence(-term[case] / len(time), time[case], before=True)
    through += chance.influence(
        np.array([-term[control].sum() / len(time)]), np.array([horizon], dtype=np.float64), before=True
    )
    return Influenced(value, (term - value) / len(time) + through)


def integrated_brier(time: NDArray[Any], event: NDArray[Any], survival: NDArray[Any], at: NDArray[Any]) -> Influenced:
    """Return the Brier score averaged over time from 0 to the last of ``at``, by the trapezoidal rule.

    Parameters
    ----------
    survival : float array, shape = (n, k): predicted at each of ``at``; nobody has the event at 0, so there it is 0.
    at : float array, shape = (k,), positive and ascending.
    """
    time, event = require_survival(time, event)
    at = np.asarray(at, dtype=np.float64)
    if not len(at) or at[0] <= 0 or (np.diff(at) <= 0).any():
        raise StatisticsError("times must be positive and ascend", value=at.tolist())
    chance = censoring(time, event)
    scores = [_brier(time, event, np.asarray(survival)[:, j], float(t), chance) for j, t in enumerate(at)]
    edges = np.concatenate([[0.0], at])
    width = np.diff(edges)
    weight = (width + np.append(width[1:], 0.0)) / 2 / at[-1]
    return Influenced(
        float(weight @ [s.value for s in scores]), np.tensordot(weight, [s.influence for s in scores], axes=1)
    )


def expected_over_observed(
    time: NDArray[Any], event: NDArray[Any], risk: NDArray[Any], patient: Ints, horizon: float
) -> Estimate:
    """Return mean predicted risk by ``horizon`` over the observed one, patient-clustered, on the log scale."""
    time, event = require_survival(time, event)
    risk = np.asarray(risk, dtype=np.float64)
    observed = 1 - float(kaplan_meier(time, event, np.array([horizon])).survival[0])
    if not 0 < observed < 1 or not risk.mean() > 0:
        raise StatisticsError("nobody, or everybody, has the event by the horizon", value=horizon)
    ratio = float(risk.mean()) / observed
    # d observed = -S d log S
    influence = ratio * (
        (risk / risk.mean() - 1) / len(risk) + (1 - observed) * log_survival_influence(time, event, horizon) / observed
    )
    events = float(len(np.unique(patient[event & (time <= horizon)])))
    return few_events_estimate(ratio, clustered_variance(influence, patient), events, "log")


@dataclass(frozen=True)
class HorizonCalibration:
    """Predicted against observed risk by a horizon, in groups 0..k-1.

    Attributes
    ----------
    predicted : float array, shape = (k,): mean predicted risk; NaN in an empty group.
    observed : float array, shape = (k, 4): 1 - Kaplan-Meier: value, se, low, high, clustered by patient.
    """

    predicted: Floats
    observed: Floats


def calibration_at_horizon(
    time: NDArray[Any],
    event: NDArray[Any],
    risk: NDArray[Any],
    patient: Ints,
    horizon: float,
    group: Ints,
    n_groups: int,
) -> HorizonCalibration:
    """Return predicted and observed risk of each group; all arrays of shape = (n,), ``group`` 0..n_groups-1."""
    time, event = require_survival(time, event)
    risk = np.asarray(risk, dtype=np.float64)
    predicted, observed = np.full(n_groups, np.nan), np.full((n_groups, 4), np.nan)
    for k in range(n_groups):
        inside = group == k
        if inside.any():
            predicted[k] = risk[inside].mean()
            observed[k] = observed_risk(time[inside], event[inside], patient[inside], horizon)
    return HorizonCalibration(predicted, observed)


def observed_risk(time: NDArray[Any], event: NDArray[Any], patient: Ints, horizon: float) -> Floats:
    """Return 1 - Kaplan-Meier at ``horizon``: value, se, low, high; NaN where nobody is followed that far."""
    if np.max(time) < horizon:
        return np.full(4, np.nan)
    curve = kaplan_meier(time, event, np.array([horizon]), patient=patient)
    s, log_se = float(curve.survival[0]), float(curve.log_se[0])
    return np.array([1 - s, s * log_se, 1 - float(curve.high[0]), 1 - float(curve.low[0])])


def calibration_slope(time: NDArray[Any], event: NDArray[Any], score: NDArray[Any], patient: Ints) -> Estimate:
    """Return the log hazard ratio of a linear predictor, 1 where its spread is right; patient-clustered.

    Raises
    ------
    StatisticsError : the predictor does not vary, or separates those with the event.
    """
    time, event = require_survival(time, event)
    score = np.asarray(score, dtype=np.float64)
    rows = prepare(score[:, None] - score.mean(), time, event)
    fit = newton_fit(lambda beta: stratified_sums(rows, beta), ["linear predictor"], len(score), max_rounds=50)
    fit.require_converged()
    terms = residual_terms(risk_sums(rows, fit.beta), "efron")
    meat = score_meat(score_residuals(rows, fit.beta, terms), patient[rows.row])
    variance = float((fit.covariance @ meat @ fit.covariance)[0, 0])
    return few_events_estimate(float(fit.beta[0]), variance, float(len(np.unique(patient[event]))), "identity")
