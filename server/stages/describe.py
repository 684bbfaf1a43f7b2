"""describe, at the coordinator: one question to every site, then totals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.stages.describe import VARIABLES, YES_NO, Result, SiteCounts, moments, training_totals
from ecgshared.stages.results.base import MeanSd
from ecgshared.stages.results.describe import BySplit, FlowLine, PooledDescription, SiteDescription
from ecgshared.wire.protocol import SPLITS, StepConfig
from server.pooling.combine import number
from server.report.sections import Cell, Flow, FlowRow, Section, Table, Text
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask every site for its counts; a site that does not answer is left out of the totals."""
    replies = context.ask("counts")
    counts: dict[str, SiteCounts] = dict(replies.by_site)
    heads = list(context.study.endpoints)
    training = [counts[site] for site in context.study.sites.train if site in counts]
    totals = training_totals(training) if training else None
    arrays: dict[str, NDArray[Any]] = {}
    if totals is not None:
        by_site = dict(zip((s for s in context.study.sites.train if s in counts), totals.site_weights, strict=True))
        arrays = {
            "head_counts": totals.head_counts,
            "site_weights": np.array([by_site.get(site, 0.0) for site in context.study.sites.train]),
            "standardise": totals.standardise,
        }
    result = Result(
        heads=tuple(heads),
        sites={site: _site_result(c, heads) for site, c in counts.items()},
        absent=dict(replies.absent),
        pooled=_pooled(list(counts.values()), heads),
    )
    return Artefact(step.id, "describe", result, arrays)


def report(artefact: Artefact[Result]) -> list[Section]:
    """Counts, Table 1, devices, and the flow of exclusions of every site."""
    result = artefact.result
    sites, heads = result.sites, result.heads
    numbers: list[list[Cell]] = []
    for site, r in sites.items():
        row: list[Cell] = [site, _total(r.patients), _total(r.ecgs), r.follow_up_years.mean]
        for head in heads:
            offered = head in r.heads_offered
            row += [_total(r.events[head]), _total(r.labelled[head])] if offered else ["not offered", "-"]
        numbers.append(row)
    columns = ["site", "patients", "ECGs", "follow-up, mean years"]
    columns += [text for head in heads for text in (f"{head}: events", f"{head}: labelled ECGs")]
    sections = [
        Section(
            "Cohorts",
            [
                Table(
                    "Patients, ECGs and events",
                    columns,
                    numbers,
                    note="Labels of lockboxes are not counted here.",
                ),
                Table("Table 1: means (SD) and shares over ECGs", *_table1_rows(sites, heads)),
                Table(
                    "Devices and sampling rates",
                    ["site", "device or rate", "ECGs"],
                    [
                        [site, name if kind == "devices" else f"{name} Hz", n]
                        for site, r in sites.items()
                        for kind, found in (("devices", r.devices), ("rates_hz", r.rates_hz))
                        for name, n in found.items()
                    ],
                ),
            ],
        )
    ]
    flows = _flows(sites)
    notes = [site for site, r in sites.items() if not r.patients_known]
    blocks: list[Any] = list(flows)
    if notes:
        blocks.append(
            Text(
                f"{', '.join(notes)}: no patient identifiers; each ECG counts as a patient, and nothing is "
                "claimed of patients."
            )
        )
    sections.append(Section("Flow of exclusions", blocks))
    return sections


def _flows(sites: Mapping[str, SiteDescription]) -> list[Flow]:
    """One flow with sites across where all have the same rules, else one a site."""
    by_rules: dict[tuple[str, ...], list[str]] = {}
    for site, r in sites.items():
        by_rules.setdefault(tuple(line.reason for line in r.flow), []).append(site)
    return [
        Flow(
            f"From table to cohort, {unit}",
            names,
            [
                FlowRow(rule, [_whole(getattr(sites[s].flow[i], unit.lower())) for s in names])
                for i, rule in enumerate(rules)
            ],
            unit=unit,
            note="A line is withheld where it leaves, or takes out, fewer patients than a site may speak of.",
        )
        for rules, names in by_rules.items()
        for unit in ("ECGs", "patients")
    ]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _total(by_split: BySplit) -> float | None:
    known = [n for n in by_split.values() if n is not None]
    return sum(known) if known else None


def _site_result(c: SiteCounts, heads: list[str]) -> SiteDescription:
    groups = ["all", *(f"{head}{suffix}" for head in heads for suffix in (": event", ": no event"))]
    return SiteDescription(
        heads_offered=tuple(c.heads_offered),
        patients_known=bool(c.patients_known),
        patients=_by_split(c.patients),
        ecgs=_by_split(c.ecgs),
        labelled={h: _by_split(c.labelled[i]) for i, h in enumerate(heads)},
        events={h: _by_split(c.events[i]) for i, h in enumerate(heads)},
        table1={
            group: {variable: _mean_sd(c.table1[g, v]) for v, variable in enumerate(VARIABLES)}
            for g, group in enumerate(groups)
        },
        follow_up_years=_mean_sd(c.follow_up),
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


def _table1_rows(sites: Mapping[str, SiteDescription], heads: tuple[str, ...]) -> tuple[list[str], list[list[Cell]]]:
    groups = ["all", *(f"{head}: event" for head in heads[:3]), *(f"{head}: no event" for head in heads[:1])]
    rows: list[list[Cell]] = []
    for site, r in sites.items():
        for variable in VARIABLES:
            cells = [r.table1[group][variable] for group in groups]
            if any(cell.mean is not None for cell in cells):
                rows.append([site, variable, *(_shown(variable, cell) for cell in cells)])
    return ["site", "variable", *groups], rows


def _shown(variable: str, cell: MeanSd) -> str | None:
    mean, sd = cell.mean, cell.sd
    if mean is None or sd is None:
        return None
    return f"{100 * mean:.1f}%" if variable in YES_NO else f"{mean:.3g} ({sd:.3g})"
