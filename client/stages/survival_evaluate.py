"""survival_evaluate, at the site: its own figures of every frozen model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.curve import told_curve
from client.rows.cut_sets import open_times
from client.rows.followed import FollowedRows, followed_rows
from client.rows.risk import received
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, GroupSize, group_size, release_partition
from ecgshared.stages.survival import Config as FitConfig
from ecgshared.stages.survival import cox_limits, model_columns
from ecgshared.stages.survival_evaluate import (
    COMPARED,
    FIGURES,
    QUESTIONS,
    Config,
    LocalResults,
    curve_times,
    fit_step,
)
from ecgshared.stats.concordance import Influenced, harrell, uno
from ecgshared.stats.influence import UNDEFINED, Estimate
from ecgshared.stats.kaplan_meier import log_rank
from ecgshared.stats.survival_performance import (
    brier_score,
    calibration_at_horizon,
    calibration_slope,
    cumulative_auc,
    expected_over_observed,
    integrated_brier,
    observed_risk,
    without_at,
)
from ecgshared.wire.protocol import Answer, Evidence, Request


@dataclass(frozen=True)
class Predicted:
    """One frozen model on this site's rows.

    Attributes
    ----------
    score : float array, shape = (n,): the linear predictor. group : int array, shape = (n,), 0..n_groups-1.
    survival : float array, shape = (n, k), at the times ``at``, shape = (k,); k may be 0.
    """

    score: Floats
    group: NDArray[np.int64]
    survival: Floats
    at: Floats

    def reaches(self, horizon: float) -> bool:
        """Whether the last of the times is the horizon, so that a risk by then is known."""
        return bool(len(self.at)) and float(self.at[-1]) == horizon


def local(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``local``."""
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step evaluates no survival model", value=step.stage)
    fit = fit_step(step, site.study)
    spend(site, request, request.phase, cap=QUESTIONS)
    followed = followed_rows(site, fit, request.arrays, site.data.rows("lockbox"))
    models = [predicted(site, request, fit, name, followed) for name in fit.inputs_of]
    times = curve_times(step, fit)
    answer = local_answer(followed, models, fit, times, site.settings.limits, site.data.patients_known)
    curves = answer.payload.curves.copy()
    for i, model in enumerate(models):
        for k in range(fit.risk_groups):
            mine = model.group == k
            at = np.where(np.isfinite(curves[i, k, :, 0]), times, np.nan)
            told = open_times(site, followed.rows[mine], followed.years[mine], followed.observed[mine], fit.event, at)
            curves[i, k, ~told] = np.nan
    return replace(answer, payload=replace(answer.payload, curves=curves))


PHASES = {"local": local}


def predicted(site: SiteContext, request: Request, fit: FitConfig, model: str, followed: FollowedRows) -> Predicted:
    """Apply a frozen model."""
    columns = model_columns(fit, site.study, model)
    p = (len(columns),)
    coef, mean = (received(request, f"{fit.id}.{model}.{name}", p) for name in ("coef", "mean"))
    years, log_hazard, cuts = (
        np.asarray(request.arrays[f"{fit.id}.{model}.{name}"], dtype=np.float64)
        for name in ("years", "log_hazard", "cuts")
    )
    if years.shape != log_hazard.shape or years.ndim != 1 or cuts.ndim != 1 or len(cuts) >= fit.risk_groups:
        raise Refused(RefusalCode.BAD_REQUEST, "baseline or cuts of a model are misshapen", value=model)
    if not (np.isfinite(years).all() and np.isfinite(log_hazard).all() and (np.diff(years, prepend=0) > 0).all()):
        raise Refused(RefusalCode.BAD_REQUEST, "the baseline of a model is not finite or its times do not ascend")
    if not np.isin(years, fit.baseline_years).all() or not (np.diff(cuts) > 0).all():
        raise Refused(RefusalCode.BAD_REQUEST, "times or cuts of a model are not those of the study")
    score = (followed.x[:, columns] - mean) @ coef
    hazard = np.exp(np.clip(score[:, None] + log_hazard, -60.0, 60.0))
    return Predicted(score, np.searchsorted(cuts, score, side="right"), np.exp(-hazard), years)


def local_answer(
    rows: FollowedRows,
    models: list[Predicted],
    fit: FitConfig,
    times: Floats,
    limits: DisclosureLimits,
    patients_known: bool,
) -> Answer:
    """Compute the site's figures; what may not leave is withheld by the gate, cell by cell."""
    m, g, horizon = len(models), fit.risk_groups, fit.horizon_years
    whole, at_horizon = group_size(rows.patient, rows.observed), _by_horizon(rows, horizon)
    reason = rows.reason or ("" if limits.allow(whole.patients, whole.events).all() else "too few patients or events")
    patients, events = (
        (float(len(np.unique(rows.patient))), float(len(np.unique(rows.patient[rows.observed]))))
        if patients_known
        else (np.nan, np.nan)
    )
    figures, differences = np.full((m, len(FIGURES), 4), np.nan), np.full((m, len(COMPARED), 4), np.nan)
    counts, risks = np.full((m, g, 2), np.nan), np.full((m, g, 5), np.nan)
    curves = np.full((m, g, len(times), 3), np.nan)
    excess, covariance = np.full((m, g), np.nan), np.full((m, g, g), np.nan)
    group_patients, group_events = np.zeros((m, g), dtype=np.int64), np.zeros((m, g), dtype=np.int64)
    risk_events = np.zeros((m, g), dtype=np.int64)
    ranked = np.zeros(m, dtype=np.int64)
    first: dict[str, Influenced] = {}
    for i, model in enumerate(models):
        if not len(rows):
            break
        found = _influenced(rows, model, horizon)
        figures[i] = _figures(rows, model, found, horizon)
        for j, name in enumerate(COMPARED):
            if name in found and name in (first or found):
                difference = found[name] - (first or found)[name]
                known = _events_behind(rows, name, horizon)
                differences[i, j] = difference.estimate(rows.patient, "identity", events=known).as_array()
        first = first or found
        sizes = [group_size(rows.patient, rows.observed, model.group == k) for k in range(g)]
        shown = release_partition(np.array([s.patients for s in sizes]), None, limits)
        if any(_differ_by_few(model.group, other.group, rows.patient, g, limits) for other in models[:i]):
            shown[:] = False
        tested = log_rank(rows.years, rows.observed, model.group, g)
        excess[i], covariance[i] = tested.observed - tested.expected, tested.covariance
        # The test tells of each group: it leaves where every group that is not empty may be shown.
        ranked[i] = whole.patients if all(shown[k] or not s.patients for k, s in enumerate(sizes)) else 0
        risk = 1 - model.survival[:, -1] if model.reaches(horizon) else np.full(len(rows), np.nan)
        calibrated = calibration_at_horizon(
            rows.years, rows.cause, risk, rows.patient, horizon, model.group, fit.risk_groups
        )
        for k, size in enumerate(sizes):
            inside = model.group == k
            if not shown[k]:
                continue
            group_patients[i, k], group_events[i, k] = size.patients, size.events
            mine = _Group(rows.years[inside], rows.observed[inside], rows.cause[inside], rows.patient[inside])
            risk_events[i, k] = _by_horizon(mine, horizon).events
            counts[i, k] = [inside.sum(), mine.observed.sum()]
            risks[i, k, 0], risks[i, k, 1:] = calibrated.predicted[k], calibrated.observed[k]
            curves[i, k] = told_curve(
                mine.years, mine.observed, mine.cause, mine.patient, times, limits, cox_limits(limits).min_leavers
            )
    all_of = Evidence(np.array(whole.patients), np.array(whole.events))
    by_horizon = Evidence(np.array(at_horizon.patients), np.array(at_horizon.events))
    horizon_figures = np.array([name in ("harrell", "uno", "slope") for name in FIGURES])
    figure_events = np.broadcast_to(np.where(horizon_figures, whole.events, at_horizon.events), (m, len(FIGURES)))
    compared = np.array([at_horizon.events if name == "auc" else whole.events for name in COMPARED])
    time_shape = (m, g, len(times))
    return Answer(
        LocalResults(
            reason=reason,
            patients_known=int(patients_known),
            counts=np.array([len(rows), patients, rows.observed.sum(), events], dtype=np.float64),
            left_out=np.array([len(rows.without_time), len(rows.without_input)], dtype=np.float64),
            missing=rows.missing.astype(np.float64),
            observed=observed_risk(rows.years, rows.cause, rows.patient, horizon)
            if len(rows)
            else UNDEFINED.as_array(),
            figures=figures,
            differences=differences,
            group_counts=counts,
            group_risks=risks,
            curves=curves,
            excess=excess,
            covariance=covariance,
        ),
        {
            "counts": all_of,
            "left_out": Evidence(np.array([len(np.unique(rows.without_time)), len(np.unique(rows.without_input))])),
            "missing": Evidence(rows.missing_patients),
            "observed": by_horizon,
            "figures": Evidence(np.full((m, len(FIGURES)), whole.patients), np.array(figure_events)),
            "differences": Evidence(
                np.full((m, len(COMPARED)), whole.patients), np.broadcast_to(compared, (m, len(COMPARED)))
            ),
            "group_counts": Evidence(group_patients, group_events),
            "group_risks": Evidence(group_patients, risk_events),
            "curves": Evidence(
                np.broadcast_to(group_patients[:, :, None], time_shape),
                np.broadcast_to(group_events[:, :, None], time_shape),
            ),
            **dict.fromkeys(("excess", "covariance"), Evidence(ranked, np.full(m, whole.events))),
        },
    )


def _differ_by_few(
    one: NDArray[np.int64], other: NDArray[np.int64], patient: NDArray[np.int64], n: int, limits: DisclosureLimits
) -> bool:
    """Whether subtracting a group of one model from one of another would leave a few patients."""
    if limits.withhold_nothing:
        return False
    for k in range(n):
        for j in range(n):
            a, b = one == k, other == j
            # Groups with little in common tell nothing when subtracted.
            if 2 * (a & b).sum() <= max(a.sum(), b.sum()):
                continue
            left = [len(np.unique(patient[part])) for part in (a & ~b, b & ~a)]
            if any(0 < few < limits.min_patients for few in left):
                return True
    return False


@dataclass(frozen=True)
class _Group:
    years: Floats
    observed: NDArray[np.bool_]
    cause: NDArray[np.int64]
    patient: NDArray[np.int64]


def _by_horizon(rows: _Group | FollowedRows, horizon: float) -> GroupSize:
    """Patients, and the lesser of those known to have the event by the horizon and of those known to be without it."""
    case = len(np.unique(rows.patient[rows.observed & (rows.years <= horizon)]))
    free = len(np.unique(rows.patient[without_at(rows.years, rows.cause, horizon)]))
    return GroupSize(len(np.unique(rows.patient)), min(case, free))


def _events_behind(rows: FollowedRows, figure: str, horizon: float) -> int:
    """Patients whose events a figure hangs on: of all pairs, of pairs up to the horizon, of a status at the horizon."""
    if figure == "harrell":
        return len(np.unique(rows.patient[rows.observed]))
    if figure == "uno":
        return len(np.unique(rows.patient[rows.observed & (rows.years < horizon)]))
    return _by_horizon(rows, horizon).events


def _influenced(rows: FollowedRows, model: Predicted, horizon: float) -> dict[str, Influenced]:
    """The figures with influences; one that is undefined for so few is left out."""
    time, event = rows.years, rows.observed
    wanted: dict[str, Callable[[], Influenced]] = {
        "harrell": lambda: harrell(time, event, model.score),
        "uno": lambda: uno(time, event, model.score, until=horizon),
        "auc": lambda: cumulative_auc(time, rows.cause, model.score, horizon),
    }
    if model.reaches(horizon):
        wanted["brier"] = lambda: brier_score(time, rows.cause, model.survival[:, -1], horizon)
        wanted["integrated_brier"] = lambda: integrated_brier(time, rows.cause, model.survival, model.at)
    found = {}
    for name, compute in wanted.items():
        try:
            found[name] = compute()
        except StatisticsError:
            continue
    return found


def _figures(rows: FollowedRows, model: Predicted, found: dict[str, Influenced], horizon: float) -> Floats:
    estimates: dict[str, Estimate] = {
        name: value.estimate(rows.patient, events=_events_behind(rows, name, horizon)) for name, value in found.items()
    }
    if model.reaches(horizon):
        risk = 1 - model.survival[:, -1]
        estimates["expected_over_observed"] = _defined(
            lambda: expected_over_observed(rows.years, rows.cause, risk, rows.patient, horizon)
        )
    estimates["slope"] = _defined(lambda: calibration_slope(rows.years, rows.observed, model.score, rows.patient))
    return np.array([estimates.get(name, UNDEFINED).as_array() for name in FIGURES])


def _defined(compute: Callable[[], Estimate]) -> Estimate:
    """An estimate, or UNDEFINED where these data have none: few patients are normal, not an error."""
    try:
        return compute()
    except StatisticsError:
        return UNDEFINED
