"""threshold, at the coordinator: pooled rates above every candidate cut, their clustered limits, the largest group."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecgshared.errors import RunError, StatisticsError
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.threshold import (
    Config,
    EdgeVariance,
    Histogram,
    Result,
    at_edges,
    largest_group,
    target_of,
)
from ecgshared.stats.histogram import N_BINS, ScoreHistogram, edge_risk, pool
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, histogram_of, inside_bins, number, numbers, quorum
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Figure, Key, Section, Series, Table, Text
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Fix the cut-off; where no group qualifies, fall back to ``top_share``, else to none."""
    if not isinstance(step, Config):
        raise TypeError("a threshold step's configuration was expected")
    absent: dict[str, Any] = {}
    replies = context.ask("histogram", quorum=quorum(context, context.sites))
    absences(replies, absent, "histogram")
    counts: dict[str, Histogram] = dict(replies.by_site)
    histograms: dict[str, ScoreHistogram] = {}
    for site, reply in counts.items():
        try:
            histogram = histogram_of(reply.lower, reply.upper, reply.cases, reply.controls)
        except StatisticsError:
            absent.setdefault(site, {})["histogram"] = "not-a-histogram"
            continue
        if len(histogram.lower) and inside_bins(histogram):
            histograms[site] = histogram
    if not histograms:
        raise RunError(
            "no site may release a histogram of validation scores",
            where=step.id,
            value=", ".join(context.sites),
            remedy="more validation patients, or fix the threshold on another endpoint",
        )
    curves = pool(list(histograms.values()))
    rate = np.nan_to_num(curves.rate_above().value)
    members = tuple(histograms)
    answers = context.ask("variance", arrays={"rate_above": rate}, sites=members, quorum=quorum(context, members))
    absences(answers, absent, "variance")
    variances: dict[str, EdgeVariance] = dict(answers.by_site)
    if set(variances) < set(members):
        # A rate pooled over more sites than its variance would look too sure: use one set of sites for both.
        curves = pool([histograms[s] for s in variances])
        rate = np.nan_to_num(curves.rate_above().value)
    cuts = np.unique(np.concatenate([histograms[s].lower for s in variances]))
    share, bounds = curves.share_above(), curves.rate_above()
    n = curves.n_cases + curves.n_controls
    square_sum = sum(at_edges(v.edge, v.square_sum, cuts, N_BINS) for v in variances.values())
    patients = sum(at_edges(v.edge, v.patients_above, cuts, N_BINS) for v in variances.values())
    choice = largest_group(
        share.value[cuts] * n,
        rate[cuts],
        np.asarray(square_sum),
        np.asarray(patients),
        min_rate=step.min_rate if step.min_rate is not None else 1.0,
        confidence=step.confidence,
    )
    rule, index = "min_rate", choice.index
    if index is None and step.top_share is not None:
        rule, index = "top_share", int(np.argmin(np.abs(share.value[cuts] - step.top_share)))
    cut = N_BINS if index is None else int(cuts[index])
    known = all(counts[s].patients_known for s in variances)
    result = {
        "target": target_of(step, context.study),
        "rule": "none" if index is None else rule,
        "min_rate": step.min_rate,
        "top_share": step.top_share,
        "qualified": None if step.min_rate is None else choice.index is not None,
        "cutoff": None if index is None else number(edge_risk(cut)),
        "share_above": None if index is None else number(share.value[cut]),
        "rate": None if index is None else est(choice.estimates[index]),
        "rate_bounds": None if index is None else [number(bounds.low[cut]), number(bounds.high[cut])],
        "ecgs": number(n),
        "events": number(curves.n_cases),
        "candidates": {
            "cutoff": numbers(edge_risk(cuts)),
            "share": numbers(share.value[cuts]),
            "rate": numbers(rate[cuts]),
            "low": numbers([e.low for e in choice.estimates]),
            "high": numbers([e.high for e in choice.estimates]),
        },
        "interval_unit": "patient" if known else "ECG",
        "sites": {
            s: {"ecgs": number(c.counts[0]), "patients": number(c.counts[1]), "events": number(c.counts[2])}
            for s, c in counts.items()
        },
        "withheld": [s for s in counts if s not in variances],
        "absent": absent,
    }
    cutoff = np.array([np.inf if index is None else float(edge_risk(cut))])
    arrays = {"cut_bin": np.array([float(cut)]), "cutoff": cutoff}
    return Artefact(step.id, "threshold", Result.model_validate(result), arrays)


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
            caption=f"Band: 95% interval clustered by {r.interval_unit}.",
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
    if r.rule == "min_rate":
        return f"The largest top group whose lower 95% limit of the event rate exceeds {r.min_rate:.3g}."
    tried = f"No group's lower 95% limit exceeds {r.min_rate:.3g}. " if r.min_rate is not None else ""
    if r.rule == "top_share":
        return f"{tried}The cut-off leaves the top {r.top_share:.3g} of ECGs above it, as near as the bins allow."
    return f"{tried}There is no high-risk group, and later steps report none."


def _span(estimate: EstimateResult) -> str:
    if estimate.value is None:
        return "withheld"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
