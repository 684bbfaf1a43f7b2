"""A score judged with everybody who is followed, weighted by the chance to be: nothing here leaves but the answer.

A label is missing where the data end before its horizon; then who had the event before that is thrown away too. Here
each is kept for as long as he is followed. AUC and Brier score weigh those whose status at the horizon is known by the
inverse of the chance to be followed until then, Kaplan-Meier of censoring at this site; the event rate is Aalen and
Johansen's cumulative incidence, which is the same weighting. All assume that who is lost early is like who is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from client.rows.context import SiteContext
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import GroupSize
from ecgshared.stages.evaluate import WEIGHTED, Weighted
from ecgshared.stats.competing import incidence_influence
from ecgshared.stats.concordance import clustered_variance
from ecgshared.stats.influence import UNDEFINED, Estimate, by_patient
from ecgshared.stats.small_samples import few_events
from ecgshared.stats.survival_performance import (
    brier_score,
    cumulative_auc,
    expected_over_observed,
    observed_risk,
    without_at,
)
from ecgshared.study.endpoints import TimeToEventEndpoint
from ecgshared.wire.protocol import Answer, Evidence


@dataclass(frozen=True)
class Followed:
    """ECGs with a risk and a time; shape = (n,) each.

    ``cause``: 0 censored, 1 the event, 2 a death that forestalls it. ``labelled``: has a label whatever the weights.
    """

    risk: Floats
    years: Floats
    cause: Ints
    patient: Ints
    labelled: Bools
    horizon: float

    def of(self, inside: Bools) -> Followed:
        """Return some of them."""
        return Followed(
            self.risk[inside],
            self.years[inside],
            self.cause[inside],
            self.patient[inside],
            self.labelled[inside],
            self.horizon,
        )

    @property
    def case(self) -> Bools:
        """Who has the event by the horizon."""
        return np.asarray((self.cause == 1) & (self.years <= self.horizon), dtype=np.bool_)

    @property
    def free(self) -> Bools:
        """Who is known to be without it then."""
        return without_at(self.years, self.cause, self.horizon)

    def size(self) -> GroupSize:
        """Return the smallest group that a figure of them could tell of, beside the same figure of the labelled.

        Those followed are the labelled, some who had the event or died before the data ended, and the rest: each of
        these groups that is not empty counts.
        """
        known = self.case | self.free
        early = known & ~self.labelled
        people = [self._patients(np.ones(len(self.years), dtype=bool))]
        people += [n for part in (early, ~known) if (n := self._patients(part))]
        with_status = [self._patients(self.case), self._patients(self.free)]
        with_status += [n for part in (early & self.case, early & self.free) if (n := self._patients(part))]
        return GroupSize(min(people), min(with_status))

    def _patients(self, inside: Bools) -> int:
        return len(np.unique(self.patient[inside]))


def followed(site: SiteContext, rows: Ints, risk: Floats, head: str) -> Followed | None:
    """Gather who is followed for an endpoint; None where it is no event by a horizon, from the ECG on."""
    endpoint = site.study.endpoints[head]
    if not isinstance(endpoint, TimeToEventEndpoint) or not isinstance(endpoint.event, str):
        return None
    if endpoint.after_years or endpoint.among_deaths:
        return None
    times = site.data.event_times[endpoint.event].take(rows)
    labelled = np.isfinite(site.data.labels[rows, site.data.heads.index(head)])
    everybody = Followed(risk, times.years, times.cause, site.data.patient[rows], labelled, endpoint.horizon_years)
    return everybody.of(np.isfinite(risk) & np.isfinite(times.years))


def weighted_answer(
    heads: Sequence[Followed | None], risk_cuts: Sequence[float | None], patients_known: bool
) -> Answer:
    """Compute the weighted figures of every head; ``risk_cuts`` are each one's threshold as a risk, None where none."""
    n = len(heads)
    counts, figures, moments = np.full((n, 4), np.nan), np.full((n, len(WEIGHTED), 4), np.nan), np.full((n, 4), np.nan)
    patients, events = np.zeros((n, len(WEIGHTED)), dtype=np.int64), np.zeros((n, len(WEIGHTED)), dtype=np.int64)
    for h, (rows, risk_cut) in enumerate(zip(heads, risk_cuts, strict=True)):
        if rows is None or not len(rows.years):
            continue
        counts[h] = _counts(rows, patients_known)
        figures[h] = [estimate.as_array() for estimate in _figures(rows, risk_cut)]
        moments[h] = _moments(rows)
        whole = rows.size()
        patients[h], events[h] = whole.patients, whole.events
        if risk_cut is not None:
            # The whole and one side give the other.
            sides = [rows.of(side).size() for side in (rows.risk >= risk_cut, rows.risk < risk_cut)]
            patients[h, -1], events[h, -1] = min(s.patients for s in sides), min(s.events for s in sides)
    whole_of = Evidence(patients[:, 0], events[:, 0])
    return Answer(
        Weighted(counts, figures, moments),
        {"counts": whole_of, "figures": Evidence(patients, events), "moments": whole_of},
    )


def _counts(rows: Followed, patients_known: bool) -> Floats:
    everybody, with_event = (float(len(np.unique(p))) for p in (rows.patient, rows.patient[rows.case]))
    known = (everybody, with_event) if patients_known else (np.nan, np.nan)
    return np.array([len(rows.years), known[0], rows.case.sum(), known[1]], dtype=np.float64)


def _figures(rows: Followed, risk_cut: float | None) -> list[Estimate]:
    time, cause, risk, who, horizon = rows.years, rows.cause, rows.risk, rows.patient, rows.horizon
    with_event, without = (len(np.unique(who[part])) for part in (rows.case, rows.free))
    events = float(min(with_event, without))
    found = {
        "auc": _defined(lambda: cumulative_auc(time, cause, risk, horizon).estimate(who, events=events)),
        "event_rate": _rate(rows),
        "expected_over_observed": _defined(lambda: expected_over_observed(time, cause, risk, who, horizon)),
        "brier": _defined(lambda: brier_score(time, cause, 1 - risk, horizon).estimate(who, events=events)),
        "ppv": UNDEFINED if risk_cut is None else _rate(rows.of(risk >= risk_cut)),
    }
    return [found[name] for name in WEIGHTED]


def _rate(rows: Followed) -> Estimate:
    """Cumulative incidence by the horizon; no interval with few events."""
    if not len(rows.years):
        return UNDEFINED
    found = Estimate(*observed_risk(rows.years, rows.cause, rows.patient, rows.horizon))
    few = few_events(*(float(len(np.unique(rows.patient[part]))) for part in (rows.case, rows.free)))
    return Estimate(found.value, found.se, np.nan, np.nan) if few else found


def _moments(rows: Followed) -> Floats:
    """Mean predicted risk, and variances and covariance of it and the event rate."""
    if np.max(rows.years) < rows.horizon:
        return np.full(4, np.nan)
    predicted = (rows.risk - rows.risk.mean()) / len(rows.risk)
    observed = incidence_influence(rows.years, rows.cause, rows.horizon)
    each = by_patient(np.column_stack([predicted, observed]), rows.patient)
    return np.array(
        [
            rows.risk.mean(),
            clustered_variance(predicted, rows.patient),
            clustered_variance(observed, rows.patient),
            float(each[:, 0] @ each[:, 1]),
        ]
    )


def _defined(compute: Callable[[], Estimate]) -> Estimate:
    try:
        return compute()
    except StatisticsError:
        return UNDEFINED
