"""biomarker, at the site: the end of QRS of every ECG measured, and the sums of its regressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from client.dataset.measured import MeasuredBeats
from client.rows.context import SiteContext
from client.rows.risk import received, rows_under
from client.stages import regress
from ecgshared.arrays import Floats, Ints
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import group_size
from ecgshared.stages.biomarker import (
    AXIS,
    CONTROLS,
    FEATURES,
    LEFT_AXIS_DEG,
    NO_WAVE,
    REASONS,
    Config,
    Measured,
)
from ecgshared.wire.protocol import Answer, Evidence, Request

Phase = Callable[[SiteContext, Request], Answer]


def measured(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``measured``."""
    step = _step(site)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    values = _values(site, rows)
    reason = _reason(values)
    patient = site.data.patient[rows]
    by_reason = [reason == i for i in range(len(REASONS))]
    known = site.data.patients_known
    people = [group_size(patient, inside=inside).patients if known else 0 for inside in (reason < 0, *by_reason)]
    return Answer(
        Measured(
            ecgs=np.array([float((reason < 0).sum())]),
            left_out=np.array([float(inside.sum()) for inside in by_reason]),
        ),
        {"ecgs": Evidence(np.array(people[:1])), "left_out": Evidence(np.array(people[1:]))},
    )


def _phase(handler: Phase) -> Phase:
    """Return a handler of stage regress, of the block asked for and with what is measured among its columns."""

    def answer(site: SiteContext, request: Request) -> Answer:
        step = _step(site)
        block = int(received(request, "block", (1,))[0])
        if not 0 <= block < step.blocks:
            raise Refused(RefusalCode.BAD_REQUEST, "no such block", value=block, allowed=f"0..{step.blocks - 1}")
        return handler(_as_regression(site, step, block), request)

    return answer


PHASES: dict[str, Phase] = {
    "measured": measured,
    "cohort": _phase(regress.cohort),
    "sums": _phase(regress.sums),
    "errors": _phase(regress.errors),
    "own": _phase(regress.own),
}


def _as_regression(site: SiteContext, step: Config, block: int) -> SiteContext:
    """Return the site under the regress step of a block: an ECG that lacks any measurement lacks all.

    So the regressions of all blocks are of the same ECGs, and no two sums differ by a few people.
    """
    n = len(site.data)
    rows = site.data.rows("lockbox")
    values = _values(site, rows)
    whole = _reason(values) < 0
    limits = site.settings.limits
    people = group_size(site.data.patient[rows], inside=whole).patients
    if not limits.withhold_nothing and people < 2 * step.numbers_sent():
        # Blocks are counted together: each of them alone would be let through.
        whole = np.zeros_like(whole)
    columns = dict(site.data.columns)
    axis = values[:, CONTROLS.index("qrs_axis_deg")]
    left = ((axis > LEFT_AXIS_DEG[0]) & (axis < LEFT_AXIS_DEG[1])).astype(np.float64)
    for name, column in zip((*CONTROLS, *FEATURES, AXIS), (*values[:, :-1].T, left), strict=True):
        columns[name] = np.full(n, np.nan)
        columns[name][rows[whole]] = column[whole]
    return replace(site, step=step.regression(block), data=replace(site.data, columns=columns))


def _values(site: SiteContext, rows: Ints) -> Floats:
    return MeasuredBeats(site.data).of(rows)


def _reason(values: Floats) -> Ints:
    """Return the number of the reason why each ECG is left out, -1 where it is not."""
    reason = values[:, -1].astype(np.int64)
    # Whatever the controls of a step: two steps of other controls are of the same ECGs as well.
    lacking = ~np.isfinite(values[:, : len(CONTROLS)]).all(axis=1)
    reason[(reason < 0) & lacking] = REASONS.index(NO_WAVE)
    return reason


def _step(site: SiteContext) -> Config:
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step measures no beats", value=site.step.stage)
    return site.step
