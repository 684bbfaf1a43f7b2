"""A request about one survival model at this site: read, counted, and refused where the site takes no part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.followed import FollowedRows, followed_rows
from client.rows.risk import received
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stages.survival import Config, cox_limits, model_columns
from ecgshared.stats.cox import SurvivalRows, coarsen, prepare, relative_hazard
from ecgshared.stats.cox_disclosure import CoxLimits, require_grid, require_no_dominance, require_site
from ecgshared.stats.influence import by_patient
from ecgshared.study.secure import secure_sum_in_use
from ecgshared.wire.protocol import Evidence, Request


@dataclass(frozen=True)
class ModelQuestion:
    """One model of the step at this site: its rows, sorted once, and the coefficients asked about.

    ``x``: float array, shape = (n, p), standardised as the coordinator said; ``grid`` None in the stratified mode;
    ``together``: the limits are held against the group of all sites, whose sums alone are told.
    """

    step: Config
    followed: FollowedRows
    model: str
    x: Floats
    rows: SurvivalRows
    coef: Floats
    grid: Floats | None
    limits: CoxLimits
    together: bool = False

    @property
    def evidence(self) -> Evidence:
        """The group behind sums at these coefficients: the patients who carry their weight (Kish 1965); nobody where
        one of them carries most of a group's."""
        if self.together:
            return Evidence(np.array(0), np.array(0))
        try:
            require_no_dominance(
                self.rows, self.followed.patient, self.coef, self.limits, by_interval=self.grid is not None
            )
        except Refused:
            return Evidence(np.array(0), np.array(0))
        size = group_size(self.followed.patient, self.followed.observed)
        weight, _ = relative_hazard(self.rows, self.coef)
        carried = by_patient(weight, self.followed.patient[self.rows.row])
        square = float(carried @ carried)
        effective = float(carried.sum()) ** 2 / square if square > 0 else 0.0
        return Evidence(np.array(min(size.patients, int(effective + 1e-9))), np.array(size.events))


def survival_step(site: SiteContext) -> Config:
    """Return the step's configuration; refuse another stage's."""
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step fits no survival model", value=site.step.stage)
    return site.step


def too_small(followed: FollowedRows, step: Config, limits: DisclosureLimits) -> str:
    """Say why the site is too small for this step, without a number; "" where it is not."""
    rules, p = cox_limits(limits), followed.x.shape[1]
    patients = len(np.unique(followed.patient))
    events = len(np.unique(followed.patient[followed.observed]))
    if patients < rules.min_patients:
        return "too few patients"
    if events < rules.min_events:
        return "too few events"
    try:
        require_site(followed.observed, followed.patient, rules, n_covariates=p, rounds=step.rounds_in_all())
    except Refused:
        return "too few patients for so many inputs and rounds"
    return ""


def read_question(site: SiteContext, request: Request, *, coef: bool = True) -> ModelQuestion:
    """Read a request about one model, count it, and refuse where the site cannot take part."""
    step = survival_step(site)
    number = int(received(request, "model", (1,))[0])
    if not 0 <= number < len(step.models):
        raise Refused(RefusalCode.BAD_REQUEST, "no such model", value=number)
    model = step.models[number].name
    columns = model_columns(step, site.study, model)
    p = (len(columns),)
    mean, scale = received(request, "mean", p), received(request, "scale", p)
    beta = received(request, "coef", p) if coef else np.zeros(p)
    if not (scale > 0).all():
        raise Refused(RefusalCode.BAD_REQUEST, "scales must be positive", value=float(scale.min()))
    followed = followed_rows(site, step, request.arrays, site.data.rows(*step.splits))
    rules = cox_limits(site.settings.limits)
    together = secure_sum_in_use(site.study, step) and site.settings.secure_sums.limits_of == "pooled"
    if reason := followed.reason or ("" if together else too_small(followed, step, site.settings.limits)):
        raise Refused(RefusalCode.TOO_FEW, f"this site takes no part: {reason}")
    x = (followed.x[:, columns] - mean) / scale
    grid = None
    years, observed = followed.years, followed.observed
    if "grid" in request.arrays and step.mode == "exact":
        grid = np.asarray(request.arrays["grid"], dtype=np.float64)
        _require_from(grid, step.grid_edges)
        if not together:
            require_grid(
                years,
                observed,
                followed.patient,
                grid,
                rules,
                n_covariates=followed.x.shape[1],
                rounds=step.rounds_in_all(),
            )
        years, observed = coarsen(years, observed, grid)
    spend(site, request, f"{request.phase} {model}", cap=step.questions(request.phase))
    rows = prepare(x, years, observed, grid=grid)
    return ModelQuestion(step, followed, model, x, rows, beta, grid, rules, together)


def _require_from(grid: Floats, edges: Floats) -> None:
    if grid.ndim != 1 or not len(grid) or not np.isin(grid, edges).all() or (np.diff(grid) <= 0).any():
        raise Refused(RefusalCode.BAD_REQUEST, "the time grid is no part of the study's", value=grid.shape)
    if grid[-1] != edges[-1]:
        raise Refused(RefusalCode.BAD_REQUEST, "the time grid does not end where the study's does", value=grid[-1])


def on_grid(asked: ModelQuestion) -> ModelQuestion:
    """Return a question of the exact mode; refuse one without a grid."""
    if asked.grid is None:
        raise Refused(RefusalCode.BAD_REQUEST, "sums by interval are only for the exact mode and its grid")
    return asked
