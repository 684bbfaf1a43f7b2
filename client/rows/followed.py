"""Who is followed, for how long, and with which inputs: the rows of a survival step at this site. Nothing here leaves.

Complete cases over ALL models of the step, so that models are compared on the same patients. An input that nobody here
has takes the site out of the step, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.rows.context import SiteContext
from client.rows.logits import feature_matrix
from client.rows.risk import rows_under
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.stages.survival import Config, columns_of
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.study.score import calibrate_inputs


@dataclass(frozen=True)
class FollowedRows:
    """ECGs with time, status and all inputs.

    Attributes
    ----------
    x : float array, shape = (n, P): the columns of all models, on their own scale.
    rows : row numbers in the cohort, shape = (n,).
    years, observed, patient : shape = (n,). cause : int array, shape = (n,): 0 censored, 1 the event, 2 a death that
        forestalled it.
    without_time, without_input : patients, shape = (m,), one entry for each ECG left out.
    missing : shape = (P,): ECGs (with a time) that lack the column; ``missing_patients`` the patients behind them.
    reason : why the site cannot take part; "" where it can.
    """

    x: Floats
    rows: NDArray[np.int64]
    years: Floats
    observed: NDArray[np.bool_]
    cause: NDArray[np.int64]
    patient: NDArray[np.int64]
    without_time: NDArray[np.int64]
    without_input: NDArray[np.int64]
    missing: NDArray[np.int64]
    missing_patients: NDArray[np.int64]
    reason: str

    def __len__(self) -> int:
        return len(self.years)


def followed_rows(
    site: SiteContext, step: Config, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> FollowedRows:
    """Gather the rows of a survival step among ``rows``."""
    data = site.data
    rows = rows_under(site, rows, step.max_age)
    if step.event not in data.event_times:
        raise Refused(RefusalCode.INTERNAL, "the site's cohort carries no times of this event", value=step.event)
    times = data.event_times[step.event].take(rows)
    timed = np.isfinite(times.years)
    names = columns_of(step.union, site.study)
    x = np.full((len(rows), len(names)), np.nan)
    if timed.any():
        x[timed] = input_matrix(site, step.union, arrays, rows[timed])
    known = np.isfinite(x)
    complete = timed & known.all(axis=1)
    lacking = [name for j, name in enumerate(names) if timed.any() and not known[timed, j].any()]
    reason = ""
    if not timed.any():
        reason = f"no time of {step.event} is known here" if len(rows) else "no ECG in these splits"
    elif lacking:
        reason = f"lacks {', '.join(lacking)}"[:80]
    elif not complete.any():
        reason = "no ECG has all inputs"
    patient = data.patient[rows]
    keep = last_of_each(data, rows, complete) if step.one_ecg_per_patient else complete
    years, observed, cause = times.years[keep], times.observed[keep], times.cause[keep]
    if step.follow_up_years is not None:
        observed = observed & (years <= step.follow_up_years)
        cause = np.where(years <= step.follow_up_years, cause, 0)
        years = np.minimum(years, step.follow_up_years)
    absent = timed[:, None] & ~known
    return FollowedRows(
        x=x[keep],
        rows=rows[keep],
        years=years,
        observed=observed,
        cause=cause,
        patient=patient[keep],
        without_time=patient[~timed],
        without_input=patient[timed & ~complete],
        missing=absent.sum(axis=0),
        missing_patients=np.array([len(np.unique(patient[column])) for column in absent.T], dtype=np.int64),
        reason=reason,
    )


def last_of_each(data: SiteData, rows: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark each patient's most recent usable ECG."""
    when = rows if data.chronology is None else data.chronology[rows]
    order = np.lexsort((when, data.patient[rows], ~usable))[: int(usable.sum())]
    who = data.patient[rows][order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = who[1:] != who[:-1]
    keep = np.zeros(len(rows), dtype=bool)
    keep[order[last]] = True
    return keep


def input_matrix(
    site: SiteContext, inputs: tuple[str, ...], arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> Floats:
    """Return the columns behind ``inputs`` of ``rows``, shape = (len(rows), P); NaN where unknown."""
    parts = []
    for name in inputs:
        step, _, what = name.partition(".")
        if name == "age_gap":
            parts.append((site.data.covariates["ecg_age"][rows] - site.data.age[rows])[:, None])
        elif what == "gap" and site.study.step(step).stage == "age_sex":
            parts.append(_gap(site, step, arrays, rows))
        elif what == "latents":
            parts.append(_latents(site, step, arrays, rows))
        elif what == "risk" and site.study.step(step).stage == "calibrate":
            parts.append(_calibrated_logit(site, step, arrays, rows))
        else:
            parts.append(feature_matrix(site, (name,), arrays, rows))
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=1)


def _gap(site: SiteContext, step: str, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> Floats:
    """Predicted less true age, less the line that an age_sex step found of it on age; years."""
    line, head = arrays.get(f"{step}.line"), getattr(site.study.step(step), "age", None)
    if line is None or head is None or np.shape(line) != (2,) or not np.isfinite(line).all():
        raise Refused(RefusalCode.BAD_REQUEST, "the line of the age gap is missing", value=step)
    age = site.data.age[rows].astype(np.float64)
    error = feature_matrix(site, (head,), arrays, rows)[:, 0] - age
    return np.asarray(error - line[0] - line[1] * age)[:, None]


def _latents(site: SiteContext, step: str, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> Floats:
    from client.rows.latents import posterior_means

    config = site.study.step(step)
    if not isinstance(config, TrainConfig):
        raise Refused(RefusalCode.BAD_REQUEST, "no such trained step", value=step)
    return np.asarray(posterior_means(site, config, arrays, rows), dtype=np.float64)


def _calibrated_logit(
    site: SiteContext, step: str, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> Floats:
    inputs = calibrate_inputs(site.study.step(step), site.study)
    coef = arrays.get(f"{step}.coef")
    if coef is None or np.shape(coef) != (len(inputs) + 1,) or not np.isfinite(coef).all():
        raise Refused(RefusalCode.BAD_REQUEST, "the coefficients of a calibrated score are missing", value=step)
    logit = coef[0] + feature_matrix(site, inputs, arrays, rows) @ coef[1:]
    return np.asarray(logit, dtype=np.float64)[:, None]
