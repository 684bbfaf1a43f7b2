"""summed_survival, at the site: its part of sums that are told of all hospitals together alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.followed import FollowedRows, followed_rows
from client.rows.question import ModelQuestion, on_grid, read_question
from client.stages.survival import hessian_part, newton, residuals
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import group_size
from ecgshared.stages.summed_survival import Config, LifeTable, Who
from ecgshared.stages.survival import IntervalSums
from ecgshared.stats.cox import RiskSums, risk_sums
from ecgshared.stats.influence import by_patient
from ecgshared.wire.protocol import Answer, Evidence, Request, Together

_NOTHING_CARRIED = np.zeros((0, 2))
_MOST_LOG_HAZARD = 30.0


def who(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``who``."""
    step, followed = _followed(site, request)
    spend(site, request, request.phase, cap=step.questions(request.phase))
    x, size = followed.x, group_size(followed.patient, followed.observed)
    with_event = len(np.unique(followed.patient[followed.observed]))
    counts = np.array([len(x), size.patients, followed.observed.sum(), with_event], dtype=np.float64)
    own = Evidence(np.array(size.patients), np.array(size.events))
    return Answer(
        Who(counts, x.sum(axis=0), (x**2).sum(axis=0)),
        dict.fromkeys(("counts", "total", "squares"), own),
        _whole(followed, least=2 * x.shape[1]),
    )


def life_table(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``life_table``."""
    step, followed = _followed(site, request)
    grid = np.atleast_1d(np.asarray(request.arrays.get("grid", np.zeros(0)), dtype=np.float64))
    if not len(grid) or not np.isin(grid, step.grid_edges).all() or (np.diff(grid) <= 0).any():
        raise Refused(RefusalCode.BAD_REQUEST, "the time grid is no part of the study's", value=grid.shape)
    spend(site, request, request.phase, cap=step.questions(request.phase))
    counts, together = _by_interval(followed, grid)
    size = group_size(followed.patient, followed.observed)
    return Answer(LifeTable(counts), {"counts": Evidence(np.array(size.patients), np.array(size.events))}, together)


def risk(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``risk``: the sums on one scale for all sites, so that they add."""
    asked = on_grid(read_question(site, request))
    assert asked.grid is not None
    sums = risk_sums(asked.rows, asked.coef, asked.step.ties)
    scale = np.exp(np.clip(sums.shift, -_MOST_LOG_HAZARD, _MOST_LOG_HAZARD))
    weighed = ("leaving_w", "leaving_wx", "dying_w", "dying_wx")
    payload = IntervalSums(
        shift=np.zeros(1),
        leavers=sums.leavers.astype(np.float64),
        deaths=sums.deaths.astype(np.float64),
        dying_weight=sums.dying_weight,
        death_x=sums.death_x,
        **{name: getattr(sums, name) * scale for name in weighed},
    )
    _, by_interval = _by_interval(asked.followed, asked.grid)
    together = replace(_carried(asked), patients=by_interval.patients, events=by_interval.events)
    return Answer(payload, dict.fromkeys(RiskSums.__dataclass_fields__, asked.evidence), together)


def _added(handler: Callable[[SiteContext, Request], Answer]) -> Callable[[SiteContext, Request], Answer]:
    """Return a handler of ``survival`` whose answer says what is held against the limits of all sites together."""

    def answer(site: SiteContext, request: Request) -> Answer:
        return replace(handler(site, request), together=_carried(read_question(site, request)))

    return answer


PHASES = {
    "who": who,
    "life_table": life_table,
    "newton": _added(newton),
    "risk": risk,
    "curvature": _added(hessian_part),
    "residuals": _added(residuals),
}


def _followed(site: SiteContext, request: Request) -> tuple[Config, FollowedRows]:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step fits no survival model", value=step.stage)
    if not site.data.patients_known:
        raise Refused(RefusalCode.TOO_FEW, "without patient ids the patients of all sites cannot be counted")
    followed = followed_rows(site, step, request.arrays, site.data.rows(*step.splits))
    if followed.reason:
        raise Refused(RefusalCode.TOO_FEW, f"this site takes no part: {followed.reason}")
    return step, followed


def _whole(followed: FollowedRows, least: int) -> Together:
    patients = np.array([len(np.unique(followed.patient))])
    with_event = np.unique(followed.patient[followed.observed])
    without = len(np.unique(followed.patient)) - len(with_event)
    return Together(patients, np.array([len(with_event), without]), _NOTHING_CARRIED, least)


def _carried(asked: ModelQuestion) -> Together:
    """The patients' weights in the risk set, on one scale for all sites (Kish 1965)."""
    eta = np.clip(asked.x @ asked.coef, -_MOST_LOG_HAZARD, _MOST_LOG_HAZARD)
    weights = by_patient(np.exp(eta), asked.followed.patient) if len(eta) else np.zeros(0)
    return replace(
        _whole(asked.followed, least=2 * len(asked.coef)), carried=np.array([[weights.sum(), weights @ weights]])
    )


def _by_interval(followed: FollowedRows, grid: Floats) -> tuple[Floats, Together]:
    """Who leaves, and who has the event, in each interval, and the patients behind these and those who stay."""
    k = len(grid)
    interval = np.searchsorted(grid, followed.years, side="left")
    inside, event = interval < k, followed.observed & (interval < k)
    counts = np.stack(
        [np.bincount(interval[inside], minlength=k), np.bincount(interval[event], minlength=k)], axis=1
    ).astype(np.float64)

    def people(mask: np.ndarray) -> int:
        return len(np.unique(followed.patient[mask]))

    leavers = [people(interval == j) for j in range(k)]
    deaths = [people(event & (interval == j)) for j in range(k)]
    return counts, Together(np.array(leavers), np.array(deaths), _NOTHING_CARRIED)
