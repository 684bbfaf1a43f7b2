"""The rows of a regression at this site: terms, outcomes and patients of the ECGs that have all, and what is closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from client.rows.allowance import spend_score
from client.rows.context import SiteContext
from client.rows.cut_sets import open_cuts, open_group, outcome_parts
from client.rows.risk import label_column, rows_under, score_rows
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.cross_tables import Closed, closed_columns, levels_hidden, merged_levels
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stages.regress import Config, score_of
from ecgshared.wire.protocol import Request


@dataclass(frozen=True)
class RegressionRows:
    """ECGs with every term and outcome.

    Attributes
    ----------
    x : float array, shape = (n, q), the step's terms; 0 in a column of which nothing is known here.
    y : int array, shape = (n, O). patient : shape = (n,); left_out : patients of the ECGs left out, one an ECG.
    levels : by calendar unit, int array, shape = (n,); neighbours merged to the site's limits.
    free, pairs : what may be summed, see :meth:`ecgshared.privacy.cross_tables.Closed.open`.
    effects : which of the step's sets of fixed effects may be absorbed.
    reason : why the site takes no part; "" where it does.
    """

    x: Floats
    y: Ints
    patient: Ints
    left_out: Ints
    levels: dict[str, Ints]
    closed: Closed
    free: Bools
    pairs: Bools
    effects: tuple[bool, ...]
    reason: str

    def absorbed(self, effects: tuple[str, ...]) -> list[Ints]:
        """Return the levels to absorb: the calendar's, or the site's one intercept; none without fixed effects."""
        levels = [self.levels[name] for name in effects if name != "site"]
        return levels or ([np.zeros(len(self.y), dtype=np.int64)] if effects else [])


def regression_rows(site: SiteContext, request: Request) -> RegressionRows:
    """Return the rows of the step at this site, and what may be told of them."""
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step fits no regression", value=step.stage)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    columns = _columns(site, request, step, rows)
    spend_score(site, request)
    terms = step.terms
    factors = {f.text: f for term in terms for f in term.factors}
    known_here = {name: bool(np.isfinite(columns[name]).any()) for name in columns}
    values = {}
    for text, factor in factors.items():
        value = factor.of(columns)
        if factor.column in step.as_no and known_here[factor.column]:
            value = np.nan_to_num(value, nan=0.0)
        values[text] = value
    x = np.stack([np.prod([values[f.text] for f in term.factors], axis=0) for term in terms], axis=1)
    unknown = [j for j, term in enumerate(terms) if not all(known_here[name] for name in term.columns)]
    # A column that the hospital does not have closes its terms, not the site.
    x[:, unknown] = 0.0
    y = np.stack([label_column(site, outcome)[rows] for outcome in step.outcome], axis=1).astype(np.float64)
    levels = {name: site.data.columns[name][rows] for name in step.levels}
    keep = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    for level in levels.values():
        keep &= np.isfinite(level)
    bounded = {f.text: (f.column, values[f.text][keep] == 1) for f in factors.values() if f.sign}
    high = columns["high_risk"][keep] if "high_risk" in columns else None
    _require_open(site, request, step, rows[keep], y[keep], high, bounded)
    patient = site.data.patient[rows]
    return judged(
        x[keep],
        y[keep].astype(np.int64),
        patient[keep],
        patient[~keep],
        {name: level[keep].astype(np.int64) for name, level in levels.items()},
        {text: value[keep] for text, value in values.items() if known_here[factors[text].column]},
        unknown,
        step,
        site.settings.limits,
        patients_known=site.data.patients_known,
    )


def _require_open(
    site: SiteContext,
    request: Request,
    step: Config,
    rows: Ints,
    y: Floats,
    high: Floats | None,
    bounded: dict[str, tuple[str, Bools]],
) -> None:
    """Refuse where those at high risk, or beyond a column's bound, differ by a few from those of another step."""
    parts = {"everybody": np.ones(len(rows), dtype=np.bool_)}
    parts |= outcome_parts(site.study, dict(zip(step.outcome, y.T, strict=True)))
    if high is not None and not open_cuts(site, request, rows, high, [1.0], parts, any_score=True).all():
        raise Refused(RefusalCode.TOO_FEW, "who is at high risk differs by a few from another step's")
    for text, (column, beyond) in bounded.items():
        within = {f"{topic} within bounds of {column}": part & beyond for topic, part in parts.items()}
        if not open_group(site, rows, within, text):
            raise Refused(RefusalCode.TOO_FEW, "a bound differs by a few patients from another step's", value=text)


def judged(
    x: Floats,
    y: Ints,
    patient: Ints,
    left_out: Ints,
    levels: dict[str, Ints],
    factors: dict[str, Floats],
    unknown: list[int],
    step: Config,
    limits: DisclosureLimits,
    *,
    patients_known: bool,
) -> RegressionRows:
    """Say of complete rows what may be told, and whether the site takes part at all."""
    size = group_size(patient)
    parts = [[f.text for f in term.factors] for term in step.terms]
    closed = closed_columns(x, parts, factors, y, patient, limits, unknown)
    free, pairs = closed.open(x.shape[1], y.shape[1])
    reason = ""
    if not patients_known:
        reason = "no patient ids, so that errors cannot be clustered"
    elif size.patients < limits.min_patients:
        reason = "too few patients"
    elif not limits.withhold_nothing and size.patients < 2 * step.numbers_sent():
        reason = "too few patients for so many sums"
    elif not free.any():
        reason = "every term is closed"
    merged = {name: merged_levels(level, patient, limits.min_patients) for name, level in levels.items()}
    effects = tuple(
        limits.withhold_nothing or _hidden([merged[name] for name in one if name != "site"], x.shape[1], y.shape[1])
        for one in step.effects
    )
    if reason:
        free, pairs = np.zeros_like(free), np.zeros_like(pairs)
    return RegressionRows(x, y, patient, left_out, merged, closed, free, pairs, effects, reason)


def _hidden(levels: list[Ints], columns: int, outcomes: int) -> bool:
    if not levels:
        return True
    parameters = sum(len(np.unique(level)) - 1 for level in levels) + 1
    return levels_hidden(parameters, columns, outcomes)


def _columns(site: SiteContext, request: Request, step: Config, rows: Ints) -> dict[str, Floats]:
    data, study = site.data, site.study
    found: dict[str, NDArray[Any]] = {"age": data.age, "male": data.male, **data.covariates, **data.columns}
    named = {name for term in step.terms for name in term.columns}
    columns = {name: np.asarray(found[name][rows], dtype=np.float64) for name in named if name in found}
    if score_of(step, study) is not None:
        columns["risk"] = score_rows(site, request, step, rows)
        columns["log_odds"] = logit(np.clip(columns["risk"], 1e-12, 1 - 1e-12))
    if "high_risk" in named:
        threshold = study.used(step, "threshold")
        assert threshold is not None
        cutoff = np.asarray(request.arrays.get(f"{threshold.id}.cutoff", np.full(1, np.nan)), dtype=np.float64)
        if cutoff.shape != (1,) or np.isnan(cutoff[0]):
            raise Refused(RefusalCode.BAD_REQUEST, "the cut-off is missing or no number", value=cutoff.shape)
        risk = score_rows(site, request, threshold, rows)
        columns["high_risk"] = np.where(np.isnan(risk), np.nan, (risk >= cutoff[0]).astype(np.float64))
    return columns
