"""How well predicted survival agrees with what happened: AUC by a horizon, Brier score, calibration.

Who is censored before the horizon has an unknown outcome; the others are weighted by the inverse chance of being
seen (:mod:`ecgshared.stats.censoring`). AUC: cumulative cases against dynamic controls, Uno et al. 2007 (doi
10.1198/016214507000000149), Hung & Chiang 2010. Brier score: Graf et al. 1999. Observed risk: Aalen-Johansen.
Who has died of something else is without the event, and known to be.
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
from ecgshared.stats.competing import cumulative_incidence, incidence_influence, require_causes
from ecgshared.stats.concordance import Influenced, clustered_variance
from ecgshared.stats.cox import prepare, risk_sums, stratified_sums
from ecgshared.stats.cox_fit import newton_fit
from ecgshared.stats.cox_residuals import residual_terms, score_meat, score_residuals
from ecgshared.stats.few_events import few_events_estimate
from ecgshared.stats.influence import Estimate


def without_at(time: Floats, cause: NDArray[Any], horizon: float) -> NDArray[np.bool_]:
    """Say who is known to be without the event at ``horizon``, shape = (n,).

    Followed past it, or censored on its day: on one day events come before censorings, as everywhere here, so that a
    follow-up that is cut at the horizon leaves every status there known. Or dead before, of something else.
    """
    cause = np.asarray(cause)
    return np.asarray((time > horizon) | ((time == horizon) & (cause != 1)) | (cause == 2), dtype=np.bool_)


@dataclass(frozen=True)
class _Known:
    """Who has a known status at a horizon, and the chance to have it: shapes (n,); arrays of what is known.

    ``case``, ``control``: bool, shape = (n,). ``at``: float array, shape = (n,): up to where each had to be followed.
    ``chance``: of being followed until just before that.
    """

    case: NDArray[np.bool_]
    control: NDArray[np.bool_]
    at: Floats
    chance: Floats


def _known(time: Floats, cause: Ints, horizon: float, curve: Censoring) -> _Known:
    case, control = (cause == 1) & (time <= horizon), without_at(time, cause, horizon)
    at = np.minimum(time, horizon)
    return _Known(case, control, at, np.where(case | control, curve.before(at), 1.0))


def cumulative_auc(time: NDArray[Any], cause: NDArray[Any], risk: NDArray[Any], horizon: float) -> Influenced:
    """Return the chance that an ECG with the event by ``horizon`` has a higher risk than one without it then.

    Parameters
    ----------
    time, risk : shape = (n,). cause : shape = (n,): 0 censored, 1 the event, 2 a death that forestalls it. Who died so
        is without the event at the horizon (Blanche, Dartigues & Jacqmin-Gadda 2013, doi 10.1002/sim.5958).
    horizon : in the unit of ``time``.

    Raises
    ------
    StatisticsError : no event by the horizon, or nobody known to be without it then.
    """
    time, cause = require_causes(time, cause)
    risk = np.asarray(risk, dtype=np.float64)
    curve = censoring(time, cause > 0)
    known = _known(time, cause, horizon, curve)
    case, control = known.case, known.control
    if not case.any() or not control.any():
        raise StatisticsError("an AUC needs events by the horizon and people followed to it", value=horizon)
    weight, other = 1.0 / known.chance[case], 1.0 / known.chance[control]
    beaten = _share_below(risk[control], other, risk[case])
    value = float(weight @ beaten) / float(weight.sum())
    above = 1 - _share_below(risk[case], weight, risk[control])
    influence = np.zeros(len(time))
    influence[case] = weight * (beaten - value) / weight.sum()
    influence[control] = other * (above - value) / other.sum()
    inside = case | control
    return Influenced(value, influence + curve.influence(-influence[inside], known.at[inside], before=True))


def _share_below(others: Floats, weight: Floats, mine: Floats) -> Floats:
    """Return the share of the others' weight that lies below each of ``mine``; equal ones count half."""
    order = np.argsort(others, kind="stable")
    summed = np.concatenate([[0.0], np.cumsum(weight[order])])
    low, high = (summed[np.searchsorted(others[order], mine, side=side)] for side in ("left", "right"))
    return np.asarray((low + high) / 2 / summed[-1], dtype=np.float64)


def brier_score(time: NDArray[Any], cause: NDArray[Any], survival: NDArray[Any], horizon: float) -> Influenced:
    """Return the weighted mean squared difference of predicted and true status at ``horizon``.

    Parameters
    ----------
    cause : as :func:`cumulative_auc`. survival : float array, shape = (n,): predicted chance not to have had the event
        by ``horizon``.

    Raises
    ------
    StatisticsError : everybody is censored before the horizon, so that nobody is known to be without the event then.
    """
    time, cause = require_causes(time, cause)
    return _brier(time, cause, np.asarray(survival, dtype=np.float64), horizon, censoring(time, cause > 0))


def _brier(time: Floats, cause: Ints, survival: Floats, horizon: float, curve: Censoring) -> Influenced:
    known = _known(time, cause, horizon, curve)
    if not ((time > horizon) | ((time == horizon) & (cause == 0))).any():
        raise StatisticsError("a Brier score needs people followed to the horizon", value=horizon)
    inside = known.case | known.control
    missed = np.where(known.case, survival, 1 - survival) ** 2
    term = np.where(inside, missed / known.chance, 0.0)
    value = float(term.mean())
    through = curve.influence(-term[inside] / len(time), known.at[inside], before=True)
    return Influenced(value, (term - value) / len(time) + through)


def integrated_brier(time: NDArray[Any], cause: NDArray[Any], survival: NDArray[Any], at: NDArray[Any]) -> Influenced:
    """Return the Brier score averaged over time from 0 to the last of ``at``, by the trapezoidal rule.

    Parameters
    ----------
    survival : float array, shape = (n, k): predicted at each of ``at``; nobody has the event at 0, so there it is 0.
    at : float array, shape = (k,), positive and ascending.
    """
    time, cause = require_causes(time, cause)
    at = np.asarray(at, dtype=np.float64)
    if not len(at) or at[0] <= 0 or (np.diff(at) <= 0).any():
        raise StatisticsError("times must be positive and ascend", value=at.tolist())
    chance = censoring(time, cause > 0)
    scores = [_brier(time, cause, np.asarray(survival)[:, j], float(t), chance) for j, t in enumerate(at)]
    edges = np.concatenate([[0.0], at])
    width = np.diff(edges)
    weight = (width + np.append(width[1:], 0.0)) / 2 / at[-1]
    return Influenced(
        float(weight @ [s.value for s in scores]), np.tensordot(weight, [s.influence for s in scores], axes=1)
    )


def expected_over_observed(
    time: NDArray[Any], cause: NDArray[Any], risk: NDArray[Any], patient: Ints, horizon: float
) -> Estimate:
    """Return mean predicted risk by ``horizon`` over the observed one, patient-clustered, on the log scale."""
    time, cause = require_causes(time, cause)
    risk = np.asarray(risk, dtype=np.float64)
    seen = cumulative_incidence(time, cause, np.array([horizon]))
    observed = float(seen.risk[0])
    if not 0 < observed < 1 or not risk.mean() > 0:
        raise StatisticsError("nobody, or everybody, has the event by the horizon", value=horizon)
    ratio = float(risk.mean()) / observed
    through = incidence_influence(time, cause, horizon)
    influence = ratio * ((risk / risk.mean() - 1) / len(risk) - through / observed)
    events = float(len(np.unique(patient[(cause == 1) & (time <= horizon)])))
    return few_events_estimate(ratio, clustered_variance(influence, patient), events, "log")


@dataclass(frozen=True)
class HorizonCalibration:
    """Predicted against observed risk by a horizon, in groups 0..k-1.

    Attributes
    ----------
    predicted : float array, shape = (k,): mean predicted risk; NaN in an empty group.
    observed : float array, shape = (k, 4): cumulative incidence: value, se, low, high, clustered by patient.
    """

    predicted: Floats
    observed: Floats


def calibration_at_horizon(
    time: NDArray[Any],
    cause: NDArray[Any],
    risk: NDArray[Any],
    patient: Ints,
    horizon: float,
    group: Ints,
    n_groups: int,
) -> HorizonCalibration:
    """Return predicted and observed risk of each group; all arrays of shape = (n,), ``group`` 0..n_groups-1."""
    time, cause = require_causes(time, cause)
    risk = np.asarray(risk, dtype=np.float64)
    predicted, observed = np.full(n_groups, np.nan), np.full((n_groups, 4), np.nan)
    for k in range(n_groups):
        inside = group == k
        if inside.any():
            predicted[k] = risk[inside].mean()
            observed[k] = observed_risk(time[inside], cause[inside], patient[inside], horizon)
    return HorizonCalibration(predicted, observed)


def observed_risk(time: NDArray[Any], cause: NDArray[Any], patient: Ints, horizon: float) -> Floats:
    """Return the cumulative incidence at ``horizon``: value, se, low, high; NaN where nobody is followed that far."""
    if np.max(time) < horizon:
        return np.full(4, np.nan)
    seen = cumulative_incidence(time, cause, np.array([horizon]), patient=patient)
    return np.array([seen.risk[0], seen.se[0], seen.low[0], seen.high[0]])


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
