"""The risk of this site's ECGs under the score a step names, with outcome and patient. Nothing here leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.logits import feature_matrix
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.study.score import risk_from_inputs, risk_score
from ecgshared.wire.protocol import Request


@dataclass(frozen=True)
class Scored:
    """ECGs with a risk and a known outcome; each array has shape = (n,).

    ``left_out`` are the ECGs that lack either, ``left_out_patients`` the distinct patients behind them. ``rows`` are
    their row numbers in the cohort, where that is known; ``columns`` what subgroups are made by beside age and sex.
    """

    risk: NDArray[np.float64]
    y: NDArray[np.int64]
    patient: NDArray[np.int64]
    age: NDArray[np.float32]
    male: NDArray[np.float32]
    left_out: int
    left_out_patients: int
    rows: NDArray[np.int64] | None = None
    columns: Mapping[str, Floats] = field(default_factory=dict)


def rows_under(site: SiteContext, rows: NDArray[np.int64], max_age: float | None) -> NDArray[np.int64]:
    """Return the rows at a known age under ``max_age`` years; all where it is None."""
    return rows if max_age is None else rows[site.data.age[rows] < max_age]


def received(request: Request, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a finite array of the request; refuse where it is missing or misshapen."""
    array = request.arrays.get(name)
    if array is None or np.shape(array) != shape or not np.isfinite(np.asarray(array, dtype=np.float64)).all():
        raise Refused(
            RefusalCode.BAD_REQUEST,
            f"array {name!r} is missing, not finite, or of the wrong shape",
            value=None if array is None else np.shape(array),
            allowed=str(shape),
        )
    return np.asarray(array, dtype=np.float64)


def label_column(site: SiteContext, head: str) -> NDArray[np.float32]:
    """Return the labels of one endpoint, shape = (all rows,)."""
    return site.data.labels[:, site.data.heads.index(head)]


def score_rows(site: SiteContext, request: Request, step: Any, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the risk of ``rows`` under the step's score, shape = (len(rows),); NaN where an input is unknown."""
    if not len(rows):
        return np.zeros(0)
    score = risk_score(step, site.study)
    coef = None
    if score.calibrate is not None:
        coef = received(request, f"{score.calibrate}.coef", (len(score.inputs) + 1,))
    return risk_from_inputs(feature_matrix(site, score.inputs, request.arrays, rows), coef)


def with_outcome(site: SiteContext, rows: NDArray[np.int64], risk: NDArray[np.float64], head: str) -> Scored:
    """Join risk and outcome of ``rows``; ECGs that lack either are counted and left out."""
    y = label_column(site, head)[rows]
    keep = np.isfinite(risk) & np.isfinite(y)
    kept = rows[keep]
    return Scored(
        risk=risk[keep],
        y=y[keep].astype(np.int64),
        patient=site.data.patient[kept],
        age=site.data.age[kept],
        male=site.data.male[kept],
        left_out=int((~keep).sum()),
        left_out_patients=len(np.unique(site.data.patient[rows[~keep]])),
        rows=kept,
    )
