"""threshold, at the site: a merged histogram of validation scores, then squared influences at its own edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stages.threshold import Config, EdgeVariance, Histogram, target_of
from ecgshared.stats.histogram import N_BINS, bin_of_risk, score_histogram
from ecgshared.stats.influence import top_group_square_sum
from ecgshared.wire.protocol import Answer, Evidence, Request


def histogram(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``histogram``."""
    return histogram_answer(_scored(site, request), site.settings.limits, patients_known=site.data.patients_known)


def variance(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``variance``."""
    return variance_answer(
        _scored(site, request), site.settings.limits, rate_above=received(request, "rate_above", (N_BINS + 1,))
    )


PHASES = {"histogram": histogram, "variance": variance}


def histogram_answer(scored: Scored, limits: DisclosureLimits, *, patients_known: bool) -> Answer:
    """Count cases and controls by merged bin."""
    counts, groups = score_histogram(bin_of_risk(scored.risk), scored.y, scored.patient, limits)
    size = group_size(scored.patient, scored.y)
    evidence = Evidence(groups.patients, groups.events)
    patients = float(size.patients) if patients_known else np.nan
    return Answer(
        Histogram(
            lower=counts.lower.astype(np.float64),
            upper=counts.upper.astype(np.float64),
            cases=counts.cases,
            controls=counts.controls,
            counts=np.array([len(scored.y), patients, scored.y.sum()], dtype=np.float64),
            patients_known=int(patients_known),
        ),
        {
            **dict.fromkeys(("lower", "upper", "cases", "controls"), evidence),
            "counts": Evidence(np.array(size.patients), np.array(size.events)),
        },
    )


def variance_answer(scored: Scored, limits: DisclosureLimits, *, rate_above: NDArray[np.float64]) -> Answer:
    """Sum squared influences on the rate above each of the site's own edges, the cut taken as fixed."""
    bins = bin_of_risk(scored.risk)
    _, groups = score_histogram(bins, scored.y, scored.patient, limits)
    edges = groups.lower
    squares, patients, events = np.zeros(len(edges)), np.zeros(len(edges)), np.zeros(len(edges))
    for i, edge in enumerate(edges):
        above, rate = bins >= edge, float(rate_above[edge])
        size = group_size(scored.patient, scored.y, above)
        patients[i], events[i] = size.patients, size.events
        squares[i] = top_group_square_sum(
            above[above], scored.y[above], scored.patient[above], rate=rate, marginal_rate=rate, share=1.0
        )
    evidence = Evidence(patients, events)
    return Answer(
        EdgeVariance(edges.astype(np.float64), squares, patients),
        {"edge": evidence, "square_sum": evidence, "patients_above": evidence},
    )


def _scored(site: SiteContext, request: Request) -> Scored:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step fixes no threshold", value=step.stage)
    rows = rows_under(site, site.data.rows("validation"), step.max_age)
    return with_outcome(site, rows, score_rows(site, request, step, rows), target_of(step, site.study))
