"""Fine and Gray's sums of one survival model at this site, with a baseline and a curve of censoring of its own.

They are of the same shapes as those of the stratified Cox model, and the same group stands behind them: who has had a
competing event stays in the risk set with a weight of no more than a Cox model's, so that the rules which hold for its
sums (enough patients, none who carries most of the weight) hold for these.
"""

from __future__ import annotations

import numpy as np

from client.rows.followed import FollowedRows
from client.rows.question import ModelQuestion
from ecgshared.arrays import Floats
from ecgshared.stats.competing import EVENT
from ecgshared.stats.cox import CoxSums, Ties
from ecgshared.stats.cox_fit import CoxFit, newton_fit
from ecgshared.stats.cox_residuals import score_meat
from ecgshared.stats.fine_gray import (
    CensoringCurve,
    SubdistributionRows,
    censoring_residuals,
    fine_gray_residuals,
    fine_gray_sums,
    subdistribution_rows,
    terms_of,
)


def sums(asked: ModelQuestion) -> CoxSums:
    """Return log-likelihood, gradient and Hessian at the coefficients asked about."""
    part, _ = _rows(asked.x, asked.followed)
    return fine_gray_sums([part], asked.coef, asked.step.ties)


def meat(x: Floats, followed: FollowedRows, beta: Floats, ties: Ties) -> Floats:
    """Return the meat of Fine and Gray's own errors, which know that censoring was estimated; shape = (p, p)."""
    part, curve = _rows(x, followed)
    terms = terms_of([part], beta, ties)
    scores = fine_gray_residuals(part, beta, terms, len(followed))
    (moved,) = censoring_residuals([part], [followed.years], [followed.cause], curve, beta, [terms])
    return score_meat(scores + moved, followed.patient)


def own_fit(asked: ModelQuestion) -> CoxFit:
    """Fit at this site alone, with robust errors where it converges."""
    part, _ = _rows(asked.x, asked.followed)
    ties, p = asked.step.ties, asked.x.shape[1]
    return newton_fit(
        lambda beta: fine_gray_sums([part], beta, ties),
        [str(j) for j in range(p)],
        len(asked.x),
        tolerance=asked.step.tolerance,
        max_rounds=50,
    )


def _rows(x: Floats, followed: FollowedRows) -> tuple[SubdistributionRows, CensoringCurve]:
    curve = CensoringCurve.of(followed.years, followed.cause)
    grid = np.unique(followed.years[followed.cause == EVENT])
    return subdistribution_rows(x, followed.years, followed.cause, curve, grid), curve
