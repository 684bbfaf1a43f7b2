"""describe, at the coordinator: one question to every site, then totals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.stages.describe import Config, Result, SiteCounts, moments, training_totals, variables_of, yes_no_of
from ecgshared.stages.results.base import MeanSd
from ecgshared.stages.results.describe import BySplit, FlowLine, PooledDescription, SiteDescription
from ecgshared.wire.protocol import SPLITS, StepConfig
from server.pooling.combine import number, numbers
from server.report.cohorts import cohort_sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask every site for its counts; a site that does not answer is left out of the totals."""
    replies = context.ask("counts")
    counts: dict[str, SiteCounts] = dict(replies.by_site)
    heads = list(context.study.endpoints)
    training = [counts[site] for site in context.study.sites.train if site in counts]
    of_lockbox = isinstance(step, Config) and step.lockbox
    totals = training_totals(training) if training and not of_lockbox else None
    variables = variables_of(context.study)
    arrays: dict[str, NDArray[Any]] = {}
    if totals is not None:
        arrays = {
            "head_counts": totals.head_counts,
            "site_weights": _of_all(totals.site_weights, context, counts),
            "standardise": totals.standardise,
            "head_counts_train_validation": totals.head_counts_train_validation,
            "site_weights_train_validation": _of_all(totals.site_weights_train_validation, context, counts),
        }
    result = Result(
        heads=tuple(heads),
        of_lockbox=of_lockbox,
        yes_no=yes_no_of(context.study),
        sites={site: _site_result(c, heads, variables) for site, c in counts.items()},
        absent=dict(replies.absent),
        # Counts of a case-control series are those its authors drew.
        pooled=_pooled([c for site, c in counts.items() if site not in context.study.sites.case_control], heads),
    )
    return Artefact(step.id, "describe", result, arrays)


def _of_all(shares: NDArray[np.float64], context: StepContext, counts: Mapping[str, SiteCounts]) -> NDArray[np.float64]:
    """Return the shares of all training sites in the study's order, 0 where one did not answer."""
    by_site = dict(zip((s for s in context.study.sites.train if s in counts), shares, strict=True))
    return np.array([by_site.get(site, 0.0) for site in context.study.sites.train])


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Counts, Table 1, devices, and the flow of exclusions of every site."""
    return cohort_sections(artefact.result, labels)


def _site_result(c: SiteCounts, heads: list[str], variables: tuple[str, ...]) -> SiteDescription:
    groups = ["all", *(f"{head}{suffix}" for head in heads for suffix in (": event", ": no event"))]
    return SiteDescription(
        heads_offered=tuple(c.heads_offered),
        patients_known=bool(c.patients_known),
        design=c.design,
        lockbox_openings=int(c.lockbox_openings),
        patients=_by_split(c.patients),
        ecgs=_by_split(c.ecgs),
        labelled={h: _by_split(c.labelled[i]) for i, h in enumerate(heads)},
        events={h: _by_split(c.events[i]) for i, h in enumerate(heads)},
        table1={
            group: {variable: _mean_sd(c.table1[g, v]) for v, variable in enumerate(variables)}
            for g, group in enumerate(groups)
        },
        follow_up_years=_mean_sd(c.follow_up),
        follow_up_quartiles=numbers(c.follow_up_quartiles),
        devices={name: number(n) for name, n in zip(c.devices, c.device_ecgs, strict=True)},
        rates_hz={name: number(n) for name, n in zip(c.rates, c.rate_ecgs, strict=True)},
        flow=tuple(
            FlowLine(reason=reason, ecgs=number(e), patients=number(p))
            for reason, e, p in zip(c.flow_reasons, c.flow_ecgs, c.flow_patients, strict=True)
        ),
    )


def _by_split(counts: NDArray[Any]) -> BySplit:
    return {split: number(counts[s]) for s, split in enumerate(SPLITS)}


def _mean_sd(pair: Any) -> MeanSd:
    return MeanSd(mean=number(pair[0]), sd=number(pair[1]))


def _pooled(counts: list[SiteCounts], heads: list[str]) -> PooledDescription | None:
    if not counts:
        return None
    return PooledDescription(
        patients=float(np.nansum([c.patients for c in counts])),
        ecgs=float(np.nansum([c.ecgs for c in counts])),
        labelled={h: float(np.nansum([c.labelled[i] for c in counts])) for i, h in enumerate(heads)},
        events={h: float(np.nansum([c.events[i] for c in counts])) for i, h in enumerate(heads)},
        training_age=_mean_sd(moments(np.nansum([c.age_sums for c in counts], axis=0))),
    )
