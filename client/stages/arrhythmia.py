"""arrhythmia, at the site: sudden death, VF/VT and either above shared cuts of the score, and VF/VT on the risk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from client.rows.allowance import spend, spend_score
from client.rows.bands import open_outcomes, told_cuts
from client.rows.binned import sketches
from client.rows.context import SiteContext
from client.rows.cut_sets import open_cuts
from client.rows.groups import events_of
from client.rows.risk import Scored, label_column, received, rows_under, score_rows
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stages.arrhythmia import (
    COUNTED,
    LINES,
    MAX_CUTS,
    OUTCOMES,
    CodingSums,
    Config,
    Curve,
    Errors,
    Scale,
    fixed,
)
from ecgshared.stages.calibrate import effective_patients, sums_evidence
from ecgshared.stats.calibration import logistic_sums, score_meat
from ecgshared.stats.influence import UNDEFINED, clustered_ratio, ratio_square_sum
from ecgshared.stats.score_scale import HIGHEST, LOWEST, score_of
from ecgshared.wire.protocol import Answer, Evidence, Request


@dataclass(frozen=True)
class ArrhythmiaRows:
    """ECGs with a risk and at least one outcome known.

    Attributes
    ----------
    score : float array, shape = (n,), logit of the risk. risk, patient : shape = (n,).
    outcomes : of :data:`COUNTED`, what may be told of the whole; shape = (n,) each, NaN where not known.
    rows : row numbers in the cohort, shape = (n,); empty where it does not matter.
    """

    score: Floats
    risk: Floats
    patient: Ints
    outcomes: dict[str, Floats]
    rows: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def of(self, outcome: str) -> tuple[Floats, Bools]:
        """Return an outcome of :data:`OUTCOMES` and where it is known; nowhere where it may not be told."""
        nowhere = np.full(len(self.patient), np.nan)
        if outcome == "added":
            y = self.outcomes.get("composite", nowhere) - self.outcomes.get("scd", nowhere)
        else:
            y = self.outcomes.get(outcome, nowhere)
        return np.nan_to_num(y), np.asarray(np.isfinite(y), dtype=np.bool_)

    def whole(self) -> Scored:
        """Return the ECGs with VF/VT (else sudden death) as the event, for sketches."""
        name = next(iter(self.outcomes), "vfvt")
        y, known = self.of(name)
        blank = np.full(int(known.sum()), np.nan, dtype=np.float32)
        return Scored(self.risk[known], y[known].astype(np.int64), self.patient[known], blank, blank, 0, 0)


def composite(scd: Floats, vfvt: Floats) -> Floats:
    """Return sudden death or VF/VT where sudden death is known; VF/VT not known (death-censored, say) adds nothing."""
    return np.where(np.isnan(scd), np.nan, np.maximum(scd, np.nan_to_num(vfvt)))


def scale(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``scale``."""
    columns, patients = sketches([_rows(site, request).whole()], site.settings.limits)
    return Answer(Scale(**columns), dict.fromkeys(columns, Evidence(patients)))


def curve(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``curve``: above one set of cuts."""
    cuts = _cuts(request)
    spend(site, request, "curve", cap=1, of=["cuts"])
    rows = _rows(site, request)
    told = _told(site, request, rows, cuts)
    return curve_answer(rows, cuts, site.settings.limits, patients_known=site.data.patients_known, told=told)


def errors(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``errors``: at the pooled rates of the cuts asked for, everybody's last."""
    cuts = _cuts(request)
    rates = received(request, "rates", (len(cuts) + 1, len(OUTCOMES)))
    spend(site, request, "curve", cap=1, of=["cuts"])
    spend(site, request, "errors", cap=1, of=["cuts", "rates"])
    rows = _rows(site, request)
    return errors_answer(rows, cuts, rates, site.settings.limits, told=_told(site, request, rows, cuts))


def coding(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``coding``: of VF/VT on the risk, so many times as a fit asks for."""
    coef = received(request, "coef", (2,))
    spend(site, request, "coding", cap=LINES, of=["coef"])
    rows = _rows(site, request)
    y, known = rows.of("vfvt")
    design, y, patient = np.column_stack([np.ones(known.sum()), rows.score[known]]), y[known], rows.patient[known]
    sums, size = logistic_sums(design, y, coef), group_size(patient, y)
    effective = effective_patients(design, y, patient, coef) if len(y) else 0.0
    meat = score_meat(design, y, patient, coef) if len(y) else np.zeros((2, 2))
    fields = ("gradient", "hessian", "log_likelihood", "meat")
    return Answer(
        CodingSums(sums.gradient, sums.hessian, np.array([sums.log_likelihood]), meat),
        dict.fromkeys(fields, sums_evidence(size.patients, size.events, 2, effective)),
    )


PHASES = {"scale": scale, "curve": curve, "errors": errors, "coding": coding}


def curve_answer(
    rows: ArrhythmiaRows,
    cuts: tuple[float, ...],
    limits: DisclosureLimits,
    *,
    patients_known: bool,
    told: Floats | None = None,
) -> Answer:
    """Count each outcome above every cut that may be told; ``told`` : those, None where no other step told of any."""
    told = told_cuts(rows.score, rows.outcomes, rows.patient, limits, cuts) if told is None else told
    shape = (len(told), len(COUNTED))
    numbers = {name: np.zeros(shape) for name in ("ecgs", "patients", "events", "event_patients")}
    rate = np.full((len(told), len(OUTCOMES), 4), np.nan)
    of_rate = np.zeros(rate.shape[:2], dtype=np.int64), np.zeros(rate.shape[:2], dtype=np.int64)
    people, rarer = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for i, (cut, top) in enumerate(zip(told, [HIGHEST, *told][: len(told)], strict=True)):
        above, between = rows.score >= cut, (rows.score >= cut) & (rows.score < top)
        for o, name in enumerate(COUNTED):
            y, known = rows.of(name)
            who, ill = rows.patient[above & known], rows.patient[above & known & (y == 1)]
            numbers["ecgs"][i, o], numbers["events"][i, o] = len(who), len(ill)
            numbers["patients"][i, o] = len(np.unique(who)) if patients_known else np.nan
            numbers["event_patients"][i, o] = len(np.unique(ill)) if patients_known else np.nan
            if name in rows.outcomes:
                # What the cuts on either side leave is the group that must be fit to tell of.
                size = group_size(rows.patient, y, np.asarray(between & known, dtype=np.bool_))
                people[i, o], rarer[i, o] = size.patients, size.events
        for o, name in enumerate(OUTCOMES):
            y, known = rows.of(name)
            inside = (above & known).astype(np.float64)
            if inside.any():
                rate[i, o] = clustered_ratio(inside * y, inside, rows.patient).as_array()
            else:
                rate[i, o] = UNDEFINED.as_array()
            # What VF/VT adds is told where both that it is made of are.
            parts = [COUNTED.index(part) for part in (("scd", "composite") if name == "added" else (name,))]
            of_rate[0][i, o], of_rate[1][i, o] = people[i, parts].min(), rarer[i, parts].min()
    counted = Evidence(people, rarer)
    least = Evidence(people.max(axis=1), rarer.max(axis=1)) if len(told) else Evidence(np.zeros(0), np.zeros(0))
    return Answer(
        Curve(cut=told, rate=rate, **numbers),
        {"cut": least, "rate": Evidence(*of_rate), **dict.fromkeys(numbers, counted)},
    )


def errors_answer(
    rows: ArrhythmiaRows,
    cuts: tuple[float, ...],
    rates: Floats,
    limits: DisclosureLimits,
    *,
    told: Floats | None = None,
) -> Answer:
    """Sum squared influences on the pooled rates above each cut that may be told, as in :func:`curve_answer`."""
    told = told_cuts(rows.score, rows.outcomes, rows.patient, limits, cuts) if told is None else told
    places = {cut: i for i, cut in enumerate((*cuts, LOWEST))}
    squares, people = np.zeros((len(told), len(OUTCOMES))), np.zeros((len(told), len(OUTCOMES)), dtype=np.int64)
    for i, cut in enumerate(told):
        for o, name in enumerate(OUTCOMES):
            y, known = rows.of(name)
            inside = ((rows.score >= cut) & known).astype(np.float64)
            squares[i, o] = ratio_square_sum(inside * y, inside, rows.patient, float(rates[places[float(cut)], o]))
            people[i, o] = len(np.unique(rows.patient[inside > 0]))
    return Answer(Errors(told, squares), {"cut": Evidence(people.max(axis=1, initial=0)), "squares": Evidence(people)})


def _told(site: SiteContext, request: Request, rows: ArrhythmiaRows, cuts: tuple[float, ...]) -> Floats:
    """Return the cuts that may be told by themselves and beside those of other steps, descending, the whole last."""
    step = site.step
    assert isinstance(step, Config)
    told = told_cuts(rows.score, rows.outcomes, rows.patient, site.settings.limits, cuts)
    named = {"vfvt": events_of(site.study, step.vfvt), "composite": "event composite"}
    named |= {} if step.scd is None else {"scd": events_of(site.study, step.scd)}
    parts = {f"known: {named[name]}": ~np.isnan(y) for name, y in rows.outcomes.items()}
    parts |= {named[name]: y == 1 for name, y in rows.outcomes.items()}
    inner = told[told > LOWEST]
    is_open = open_cuts(site, request, rows.rows, rows.score, inner.tolist(), parts)
    return np.concatenate([inner[is_open], told[told == LOWEST]])


def _cuts(request: Request) -> tuple[float, ...]:
    asked = np.asarray(request.arrays.get("cuts", np.zeros(0)))
    if asked.ndim != 1 or not 0 < len(asked) <= MAX_CUTS:
        raise Refused(RefusalCode.BAD_REQUEST, "cuts are missing or too many", value=asked.shape, allowed=f"{MAX_CUTS}")
    return tuple(float(cut) for cut in received(request, "cuts", (len(asked),)))


def _rows(site: SiteContext, request: Request) -> ArrhythmiaRows:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step tells of no arrhythmia", value=step.stage)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, fixed(step, site.study), rows)
    spend_score(site, request)
    vfvt = label_column(site, step.vfvt)[rows].astype(np.float64)
    scd = np.full(len(rows), np.nan) if step.scd is None else label_column(site, step.scd)[rows].astype(np.float64)
    keep = np.isfinite(risk) & (np.isfinite(vfvt) | np.isfinite(scd))
    columns: Mapping[str, Floats] = {"vfvt": vfvt[keep], "scd": scd[keep], "composite": composite(scd, vfvt)[keep]}
    patient = site.data.patient[rows[keep]]
    known = {name: y for name, y in columns.items() if np.isfinite(y).any()}
    return ArrhythmiaRows(
        score_of(risk[keep]), risk[keep], patient, open_outcomes(known, patient, site.settings.limits), rows[keep]
    )
