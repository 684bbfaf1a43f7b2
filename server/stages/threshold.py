"""threshold, at the coordinator: pooled rates above every candidate cut, their clustered limits, the largest group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError, TooFewError
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.threshold import (
    Candidates,
    Config,
    CutVariance,
    Histogram,
    Result,
    Scale,
    candidate_shares,
    largest_group,
    likely_share,
    target_of,
)
from ecgshared.stats.score_scale import HIGHEST, LOWEST, pooled_sketch, quantile_cut, risk_of
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, numbers, quorum
from server.pooling.cuts import PooledCuts, SiteCuts, padded, released_sketches, site_cuts
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Figure, Key, Section, Series, Table, Text
from server.rounds.step_context import Artefact, StepContext

_NEAR_SHARE = 1.5
"""A group by size may be larger or smaller than asked by this factor, or there is none."""


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Fix the cut-off; where no group qualifies, fall back to ``top_share``, else to none."""
    if not isinstance(step, Config):
        raise TypeError("a threshold step's configuration was expected")
    absent: dict[str, Any] = {}
    cuts = padded([_candidate_cuts(step, context, absent)])
    replies = context.ask("histogram", arrays={"cuts": cuts}, quorum=quorum(context, context.sites))
    absences(replies, absent, "histogram")
    counts: dict[str, Histogram] = dict(replies.by_site)
    known = _released(counts, absent)
    if not known:
        raise TooFewError(
            "no site may release a histogram of validation scores",
            where=step.id,
            value=", ".join(context.sites),
            remedy="more validation patients, or fix the threshold on another endpoint",
        )
    tried = _tried(step, context, known, cuts, absent)
    chosen = _choose(step, tried)
    index = chosen.index
    cut = HIGHEST if index is None else float(tried.pooled.cuts[index])
    result = {
        "target": target_of(step, context.study),
        "rule": chosen.rule,
        "min_rate": step.min_rate,
        "top_share": step.top_share,
        "confidence": step.confidence,
        "qualified": None if step.min_rate is None else chosen.qualified,
        "cutoff": None if index is None else float(risk_of(cut)) if cut > LOWEST else 0.0,
        **tried.at(index, step.confidence),
        "ecgs": number(tried.pooled.n_cases + tried.pooled.n_controls),
        "events": number(tried.pooled.n_cases),
        "candidates": tried.candidates_json(step.confidence),
        "interval_unit": "patient" if all(counts[s].patients_known for s in tried.pooled.sites) else "ECG",
        "sites": {
            s: {"ecgs": number(c.counts[0]), "patients": number(c.counts[1]), "events": number(c.counts[2])}
            for s, c in counts.items()
        },
        "withheld": [s for s in counts if s not in tried.pooled.sites],
        "absent": absent,
    }
    cutoff = np.inf if index is None else result["cutoff"]
    arrays = {"cut": np.array([cut]), "cutoff": np.array([cutoff])}
    return Artefact(step.id, "threshold", Result.model_validate(result), arrays)


def _candidate_cuts(step: Config, context: StepContext, absent: dict[str, Any]) -> tuple[float, ...]:
    """Choose cuts from the sites' sketches, before any case is counted."""
    replies = context.ask("scale", quorum=quorum(context, context.sites))
    absences(replies, absent, "scale")
    scales: dict[str, Scale] = dict(replies.by_site)
    sketches = [released_sketches(r.head, r.case, r.mean, r.ecgs, 0) for r in scales.values()]
    everybody = pooled_sketch([part for pair in sketches for part in pair])
    if not len(everybody[0]):
        return ()
    controls, cases = (pooled_sketch([pair[i] for pair in sketches]) for i in (0, 1))
    best = None if step.min_rate is None else likely_share(controls, cases, step.min_rate)
    shares = candidate_shares(best, step.top_share)
    return tuple(dict.fromkeys(quantile_cut(*everybody, share) for share in shares))


def _released(counts: Mapping[str, Histogram], absent: dict[str, Any]) -> dict[str, SiteCuts]:
    known: dict[str, SiteCuts] = {}
    for site, reply in counts.items():
        try:
            found = site_cuts(reply.lower, reply.upper, reply.controls, reply.cut, reply.cases)
        except (StatisticsError, ValueError, IndexError):
            absent.setdefault(site, {})["histogram"] = "not-a-histogram"
            continue
        if found is not None:
            known[site] = found
    return known


@dataclass(frozen=True)
class _Tried:
    """Pooled counts at the candidates, largest group last, and what they estimate."""

    pooled: PooledCuts
    candidates: Candidates

    @property
    def shares(self) -> tuple[Floats, Floats, Floats]:
        """Share of ECGs above each cut: least, likely, largest."""
        n = self.pooled.n_cases + self.pooled.n_controls
        low, high = (c + k for c, k in zip(self.pooled.cases, self.pooled.controls, strict=True))
        return low / n, (low + high) / 2 / n, high / n

    def at(self, index: int | None, confidence: float) -> dict[str, Any]:
        """Return the chosen group's share and rate as JSON; nulls without one."""
        if index is None:
            return {"share_above": None, "share_bounds": None, "rate": None, "rate_bounds": None}
        low, share, high = self.shares
        c = self.candidates
        return {
            "share_above": number(share[index]),
            "share_bounds": [number(low[index]), number(high[index])],
            "rate": est(c.estimates(confidence)[index]),
            "rate_bounds": [number(c.rate_low[index]), number(c.rate_high[index])],
        }

    def candidates_json(self, confidence: float) -> dict[str, Any]:
        """Return all candidates as columns."""
        estimates = self.candidates.estimates(confidence)
        cuts = self.pooled.cuts
        return {
            "cutoff": numbers(np.where(cuts > LOWEST, risk_of(cuts), 0.0)),
            "share": numbers(self.shares[1]),
            "rate": numbers(self.candidates.rate),
            "low": numbers([e.low for e in estimates]),
            "high": numbers([e.high for e in estimates]),
            "bound_low": numbers(self.candidates.rate_low),
            "bound_high": numbers(self.candidates.rate_high),
        }


def _tried(
    step: Config, context: StepContext, known: dict[str, SiteCuts], cuts: Floats, absent: dict[str, Any]
) -> _Tried:
    """Ask for squared influences at the pooled rates; sites that give none take no part in the choice."""
    asked = cuts[0][cuts[0] < HIGHEST]
    pooled = _pooled(known, asked)
    rates = dict(zip(pooled.cuts.tolist(), np.nan_to_num(pooled.rate()[0]).tolist(), strict=True))
    sent = np.array([*(rates.get(c, 0.0) for c in cuts[0].tolist()), 0.0, rates[LOWEST]])
    members = tuple(known)
    answers = context.ask(
        "variance", arrays={"cuts": cuts, "rates": sent}, sites=members, quorum=quorum(context, members)
    )
    absences(answers, absent, "variance")
    variances: dict[str, CutVariance] = dict(answers.by_site)
    if set(variances) < set(members):
        # A rate pooled over more sites than its variance would look too sure: use one set of sites for both.
        pooled = _pooled({s: known[s] for s in variances}, asked)
    low, rate, high = (np.nan_to_num(r) for r in (pooled.rate()[1], pooled.rate()[0], pooled.rate()[2]))
    ecgs = pooled.likely
    squares, people = _squares(pooled, variances, ecgs)
    return _Tried(pooled, Candidates(ecgs, low, rate, high, squares, people))


def _pooled(known: dict[str, SiteCuts], asked: Floats) -> PooledCuts:
    return PooledCuts(known, np.array(sorted({*asked.tolist(), LOWEST}, reverse=True)))


def _squares(pooled: PooledCuts, variances: Mapping[str, CutVariance], ecgs: Floats) -> tuple[Floats, Floats]:
    """Sum squared influences and patients at each cut; sites that did not answer a cut are taken to vary like the rest.

    Where no site answered, each ECG counts as a patient's only one.
    """
    squares, people, behind = np.zeros(len(ecgs)), np.zeros(len(ecgs)), np.zeros(len(ecgs))
    for site, counts in pooled.sites.items():
        reply, one = variances[site], PooledCuts({site: counts}, pooled.cuts)
        for i, cut in enumerate(pooled.cuts):
            here = np.flatnonzero(reply.cut == cut)
            if len(here) and np.isfinite([reply.square_sum[here[0]], reply.patients[here[0]]]).all():
                squares[i] += reply.square_sum[here[0]]
                people[i] += reply.patients[here[0]]
                behind[i] += one.likely[i]
    rate = np.nan_to_num(pooled.rate()[0])
    grown = np.divide(ecgs, behind, out=np.ones(len(ecgs)), where=behind > 0)
    return (
        np.where(behind > 0, squares * grown, ecgs * rate * (1 - rate)),
        np.where(behind > 0, people * grown, ecgs),
    )


@dataclass(frozen=True)
class _Choice:
    index: int | None
    rule: str
    qualified: bool


def _choose(step: Config, tried: _Tried) -> _Choice:
    if step.min_rate is not None:
        index = largest_group(tried.candidates, min_rate=step.min_rate, confidence=step.confidence)
        if index is not None:
            return _Choice(index, "min_rate", True)
    if step.top_share is not None:
        low, share, high = tried.shares
        fit = (low >= step.top_share / _NEAR_SHARE) & (high <= step.top_share * _NEAR_SHARE)
        if fit.any():
            distance = np.where(fit, np.abs(np.log(np.maximum(share, 1e-12) / step.top_share)), np.inf)
            return _Choice(int(np.argmin(distance)), "top_share", False)
    return _Choice(None, "none", False)


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """The cut-off, why it is there, and the candidates it was chosen from."""
    r = artefact.result
    c = r.candidates
    shown = [i for i, share in enumerate(c.share) if c.rate[i] is not None and share]
    share, rate, low, high = ([column[i] for i in shown] for column in (c.share, c.rate, c.low, c.high))

    blocks: list[Any] = [Text(_sentence(r))]
    if r.cutoff is not None and r.share_above is not None and r.rate is not None:
        blocks.append(
            Key(
                f"High-risk cut-off on the risk of {labels.endpoint(r.target)}",
                r.cutoff,
                f"top {100 * r.share_above:.1f}% of validation ECGs, event rate {_span(r.rate)}",
                labels.about(artefact.step),
            )
        )
    blocks += [
        Figure(
            "Event rate above each candidate cut",
            [Series("pooled validation data", share, rate, low, high)],
            "share of ECGs above the cut",
            "event rate",
            x_log=True,
            reference=r.min_rate,
            caption=f"Band: {100 * r.confidence:g}% interval by {r.interval_unit}, from the fewest events to the most.",
        ),
        Table(
            "Validation data",
            ["hospital", "ECGs", "patients", "ECGs with the event"],
            [[labels.site(site), s.ecgs, s.patients, s.events] for site, s in r.sites.items()],
            note=f"Withheld, and not part of the choice: {', '.join(map(labels.site, r.withheld)) or 'none'}.",
        ),
    ]
    return [Section(f"{labels.step(artefact.step)}: high-risk cut-off", blocks)]


def _sentence(r: Result) -> str:
    limit = f"lower {100 * r.confidence:g}% limit"
    candidates = f"{len(r.candidates.cutoff)} candidates"
    if r.rule == "min_rate":
        return (
            f"The largest of {candidates}, top groups fixed before a case was counted, whose {limit} of the event rate "
            f"exceeds {r.min_rate:.3g}."
        )
    tried = f"None of {candidates} has a {limit} above {r.min_rate:.3g}. " if r.min_rate is not None else ""
    share = "" if r.top_share is None else f"{100 * r.top_share:.3g}%"
    if r.rule == "top_share":
        return f"{tried}The cut-off leaves the top {share} of ECGs above it, as near as the sites' edges allow."
    if r.top_share is not None:
        tried += f"No cut that the sites could answer lies near the top {share} of ECGs either. "
    return f"{tried}There is no high-risk group, and later steps report none."


def _span(estimate: EstimateResult) -> str:
    if estimate.value is None:
        return "withheld"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
