"""private_survival, at the site: one table of counts, charged, noised, and never asked for again."""

from __future__ import annotations

import numpy as np
import torch

from client.rows.context import SiteContext
from client.rows.followed import last_of_each
from client.rows.logits import feature_matrix
from client.rows.risk import rows_under
from ecgshared.arrays import Floats
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy.accounting import PrivacyPlan, plan_statistics
from ecgshared.privacy.distributed_noise import NoiseShares, noised
from ecgshared.privacy.noise import secure_gaussian
from ecgshared.stages.private_survival import Config, Table, shape_of
from ecgshared.stats.noised_survival import counted
from ecgshared.study.secure import secure_sum_in_use
from ecgshared.wire.protocol import Answer, Evidence, Request

_DECIMALS = 3
"""Counts are whole, so that nothing but the noise stands behind the point."""


def table(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``table``."""
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step counts nobody", value=step.stage)
    if not site.data.patients_known:
        raise Refused(RefusalCode.PRIVACY_REQUIRED, "without patient ids privacy per patient cannot be promised")
    if step.event not in site.data.event_times:
        raise Refused(RefusalCode.INTERNAL, "the site's cohort carries no times of this event", value=step.event)
    exact, patients = _counts(site, step)
    plan = _plan(site, step, patients)
    if site.ledger is not None:
        site.ledger.charge(
            study=site.study.sha256,
            study_name=site.study.name,
            run=request.run,
            step=step.id,
            round=request.round,
            steps=1,
            plan=plan,
            cap=site.settings.privacy,
        )
    counts, sd = _noised(site, step, exact, plan)
    group = Evidence(np.array(patients))
    return Answer(
        Table(
            patients=float(patients),
            counts=counts,
            noise_sd=sd,
            epsilon_spent=plan.epsilon,
            delta=plan.delta,
        ),
        {"patients": group, "counts": group},
    )


PHASES = {"table": table}


def _noised(site: SiteContext, step: Config, exact: Floats, plan: PrivacyPlan) -> tuple[Floats, float]:
    """Return the table with noise, and its standard deviation: all of it, or under masks this site's share of it."""
    masks = site.study.secure_sum
    if masks is None or not secure_sum_in_use(site.study, step):
        noise = secure_gaussian(len(exact), std=plan.noise_multiplier, device=torch.device("cpu")).numpy()
        return np.round(exact + noise, _DECIMALS), plan.noise_multiplier
    sites = len(site.study.members(step))
    try:
        # A patient is in one number: the most that one moves the table by is 1.
        shares = NoiseShares.of(
            plan.noise_multiplier, 1.0, threshold=masks.least(sites), colluding=masks.colluding, size=len(exact)
        )
        return noised(exact, shares, sites=sites), shares.share_std
    except PrivacyError as error:
        raise Refused(RefusalCode.PRIVACY_REQUIRED, error.what) from error


def _plan(site: SiteContext, step: Config, patients: int) -> PrivacyPlan:
    cap = site.settings.privacy
    try:
        return plan_statistics(step.privacy, patients=patients, max_epsilon=cap.max_epsilon, max_delta=cap.max_delta)
    except PrivacyError as error:
        raise Refused(RefusalCode.PRIVACY_REQUIRED, error.what) from error


def _counts(site: SiteContext, step: Config) -> tuple[np.ndarray, int]:
    """The table without noise, and the patients in it: each by the most recent ECG that has a time and all inputs."""
    data = site.data
    rows = rows_under(site, data.rows(*step.splits), step.max_age)
    times = data.event_times[step.event].take(rows)
    names = tuple(one.name for one in step.inputs)
    x = feature_matrix(site, names, {}, rows)
    usable = np.isfinite(times.years) & np.isfinite(x).all(axis=1)
    patients = len(np.unique(data.patient[rows]))
    kept = last_of_each(data, rows, usable)
    cell = np.zeros(int(kept.sum()), dtype=np.int64)
    for j, one in enumerate(step.inputs):
        cell = cell * one.groups + np.digitize(x[kept, j], one.cuts)
    interval = np.searchsorted(step.edges, times.years[kept], side="left")
    followed = np.ones(len(cell), dtype=np.bool_)
    found = counted(
        cell, interval, times.observed[kept] & (interval < step.intervals), followed, step.cells, step.intervals
    )
    found[0] = patients - len(cell)
    assert len(found) == shape_of(step)
    return found, patients
