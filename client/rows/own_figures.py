"""A hospital's own figures of an evaluation, of every head and subgroup, and what stands behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.risk import Scored
from ecgshared.arrays import Bools, Ints
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.dominance import carried, ranked
from ecgshared.stages.evaluate import Config, LocalResults, heads_of, partitions_of
from ecgshared.stats.performance import Performance, performance
from ecgshared.study.study import Study
from ecgshared.study.subgroups import Partition
from ecgshared.wire.protocol import Answer, Evidence


def local_answer(
    heads: Sequence[Scored],
    step: Config,
    limits: DisclosureLimits,
    *,
    cuts: Sequence[float | None],
    patients_known: bool,
    admitted: Bools | None = None,
    study: Study | None = None,
) -> Answer:
    """Compute the site's own figures of every head.

    Parameters
    ----------
    cuts : the threshold, for each head; None where there is none, or nothing may be told of it.
    admitted : which subgroups may be told of beside those of other steps, shape = (heads, subgroups); None: all.
    study : whose columns subgroups are named by; None: sex and age alone.
    """
    groups = partitions_of(step, study)
    found = [_performance(head, groups, limits, cut) for head, cut in zip(heads, cuts, strict=True)]
    whole = Evidence(_stack(p.whole.patients for p in found), _stack(p.whole.events for p in found))
    counts = np.array([p.counts for p in found])
    sub_counts = np.array([p.subgroup_counts.values for p in found])
    if not patients_known:
        counts[..., [1, 3]] = np.nan
        sub_counts[..., [1, 3]] = np.nan
    subgroup = _sized([p.subgroup_counts for p in found])
    if admitted is not None:
        subgroup = where(subgroup, admitted)
    shown = [_carried(head, limits) for head in heads]
    estimates = ("auc", "average_precision", "brier", "intercept", "slope", "expected_over_observed")
    return Answer(
        LocalResults(
            counts=counts,
            left_out=np.array([float(head.left_out) for head in heads]),
            mean_predicted=np.array([p.mean_predicted for p in found]),
            at_threshold=np.array([p.at_threshold.values for p in found]),
            subgroup_counts=sub_counts,
            subgroup_rates=np.array([p.subgroup_rates for p in found]),
            subgroup_auc=np.array([p.subgroup_auc for p in found]),
            patients_known=int(patients_known),
            **{name: np.array([getattr(p, name).as_array() for p in found]) for name in estimates},
        ),
        {
            "counts": whole,
            **{name: where(whole, [name in one for one in shown]) for name in ("mean_predicted", *estimates)},
            "left_out": Evidence(_stack(head.left_out_patients for head in heads)),
            "at_threshold": _sized([p.at_threshold for p in found]),
            "subgroup_counts": subgroup,
            **dict.fromkeys(("subgroup_rates", "subgroup_auc"), _carried_in_groups(heads, groups, limits, subgroup)),
        },
    )


def _performance(head: Scored, groups: Sequence[Partition], limits: DisclosureLimits, cut: float | None) -> Performance:
    partitions = [(_cells(head, group), len(group.names)) for group in groups]
    return performance(head.risk, head.y, head.patient, partitions=partitions, limits=limits, cut=cut)


def _cells(head: Scored, group: Partition) -> Ints:
    own = {"age": head.age.astype(np.float64), "male": head.male.astype(np.float64)}
    return group.cells({**own, **head.columns})


def admitted_subgroups(site: SiteContext, step: Config, heads: Sequence[Scored]) -> Bools:
    """Say which subgroups may be told of: bounds of age moved by a day, in another step, tell of those between."""
    told = []
    for head, name in zip(heads, heads_of(step, site.study), strict=True):
        rows = np.arange(0) if head.rows is None else head.rows
        everybody = np.zeros((1, len(site.data)), dtype=np.bool_)
        everybody[0, rows] = True
        site.cells.admit(f"subgroups by {name}", site.data, everybody, ["all of them"])
        for group in partitions_of(step, site.study):
            cells, names = _cells(head, group), group.names
            inside = np.zeros((len(names), len(site.data)), dtype=np.bool_)
            for g in range(len(names)):
                inside[g, rows[cells == g]] = True
            case = np.zeros(len(site.data), dtype=np.bool_)
            case[rows[head.y == 1]] = True
            told.append(
                site.cells.admit(f"subgroups by {name}", site.data, inside, names)
                & site.cells.admit(f"event in subgroups by {name}", site.data, inside & case, names)
            )
    return np.concatenate(told).reshape(len(heads), -1) if told else np.zeros((len(heads), 0), dtype=np.bool_)


_BY_RANK = ("auc", "average_precision")
_BY_SIZE = ("mean_predicted", "intercept", "slope", "expected_over_observed", "brier")


def _carried(head: Scored, limits: DisclosureLimits) -> tuple[str, ...]:
    """Name the figures that a group carries: not those of a score by which a few stand out."""
    named = _BY_RANK if carried(ranked(head.risk), head.patient, limits) else ()
    return (*named, *(_BY_SIZE if carried(head.risk, head.patient, limits) else ()))


def _carried_in_groups(
    heads: Sequence[Scored], groups: Sequence[Partition], limits: DisclosureLimits, subgroup: Evidence
) -> Evidence:
    """Return the evidence of subgroups' figures: of nobody where a few in one stand out by their score."""
    shown = []
    for head in heads:
        for group in groups:
            cells = _cells(head, group)
            for g in range(len(group.names)):
                inside = cells == g
                risk, who = head.risk[inside], head.patient[inside]
                shown.append(carried(risk, who, limits) and carried(ranked(risk), who, limits))
    return where(subgroup, np.array(shown, dtype=np.bool_).reshape(np.shape(subgroup.patients)))


def where(evidence: Evidence, shown: Any) -> Evidence:
    """Return the evidence, of nobody where a figure may not be shown."""
    return Evidence(np.where(shown, evidence.patients, 0), evidence.events)


def _stack(values: Any) -> NDArray[np.int64]:
    return np.array(list(values), dtype=np.int64)


def _sized(parts: Sequence[Any]) -> Evidence:
    return Evidence(np.array([p.patients for p in parts]), np.array([p.events for p in parts]))
