"""threshold, at the site: sketches of validation scores, counts at shared cuts, then squared influences there."""

from __future__ import annotations

import numpy as np

from client.rows.allowance import spend, spend_score
from client.rows.binned import Binned, CutQuestion, read_cuts, sketches
from client.rows.context import SiteContext
from client.rows.cut_sets import open_question
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stages.threshold import CANDIDATE_ROOM, Config, CutVariance, Histogram, Scale, target_of
from ecgshared.wire.protocol import Answer, Evidence, Request


def scale(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``scale``."""
    return scale_answer(_scored(site, request), site.settings.limits)


def histogram(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``histogram``; of one score, counts above one set of cuts."""
    scored = _scored(site, request)
    spend(site, request, "histogram", cap=1)
    question = _question(site, request, scored)
    return histogram_answer(scored, site.settings.limits, question, patients_known=site.data.patients_known)


def variance(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``variance``."""
    rates = received(request, "rates", (len(read_cuts(request, 1)[0].cuts) + 2,))
    spend(site, request, "variance", cap=1)
    scored = _scored(site, request)
    return variance_answer(scored, site.settings.limits, _question(site, request, scored), rates)


PHASES = {"scale": scale, "histogram": histogram, "variance": variance}


def scale_answer(scored: Scored, limits: DisclosureLimits) -> Answer:
    """Sketch where the scores of cases and controls lie."""
    columns, patients = sketches([scored], limits)
    return Answer(Scale(**columns), dict.fromkeys(columns, Evidence(patients)))


def histogram_answer(
    scored: Scored, limits: DisclosureLimits, question: CutQuestion, *, patients_known: bool
) -> Answer:
    """Count controls on the site's bins and cases above the cuts it may answer."""
    mine, size = Binned.of(scored, limits, question), group_size(scored.patient, scored.y)
    cases = np.array([scored.y[mine.score >= cut].sum() for cut in mine.cuts], dtype=np.float64)
    patients = float(size.patients) if patients_known else np.nan
    return Answer(
        Histogram(
            lower=mine.bins.lower,
            upper=mine.bins.upper,
            controls=mine.bins.controls,
            cut=mine.cuts,
            cases=cases,
            counts=np.array([len(scored.y), patients, scored.y.sum()], dtype=np.float64),
            patients_known=int(patients_known),
        ),
        {
            **dict.fromkeys(("lower", "upper", "controls"), Evidence(mine.bins.patients)),
            **dict.fromkeys(("cut", "cases"), Evidence(mine.patients, mine.events)),
            "counts": Evidence(np.array(size.patients), np.array(size.events)),
        },
    )


def variance_answer(scored: Scored, limits: DisclosureLimits, question: CutQuestion, rates: Floats) -> Answer:
    """Sum squared influences on the pooled rate above each cut the site answered."""
    mine = Binned.of(scored, limits, question)
    squares, people = mine.squares(scored, question, rates)
    evidence = Evidence(mine.patients, mine.events)
    return Answer(CutVariance(mine.cuts, squares, people), dict.fromkeys(("cut", "square_sum", "patients"), evidence))


def _question(site: SiteContext, request: Request, scored: Scored) -> CutQuestion:
    assert isinstance(site.step, Config)
    asked = read_cuts(request, 1, room=CANDIDATE_ROOM)[0]
    return open_question(site, request, scored, target_of(site.step, site.study), asked)


def _scored(site: SiteContext, request: Request) -> Scored:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step fixes no threshold", value=step.stage)
    rows = rows_under(site, site.data.rows("validation"), step.max_age)
    risk = score_rows(site, request, step, rows)
    spend_score(site, request)
    return with_outcome(site, rows, risk, target_of(step, site.study))
