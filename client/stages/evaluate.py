"""evaluate, at the site: its own exact figures, merged histograms, and influences against pooled curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from ecgshared.arrays import Floats
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits, MergedBins, group_size
from ecgshared.stages.calibrate import effective_patients, sums_evidence
from ecgshared.stages.evaluate import (
    CALIBRATION_GROUPS,
    Config,
    Histograms,
    Influence,
    LocalResults,
    SlopeSums,
    heads_of,
    subgroup_index,
    subgroup_names,
)
from ecgshared.stats.calibration import logistic_sums, score_meat
from ecgshared.stats.histogram import N_BINS, ScoreHistogram, bin_of_risk, logit, score_histogram
from ecgshared.stats.influence import auc_sums, ratio_square_sum, top_group_square_sum
from ecgshared.stats.performance import Performance, performance
from ecgshared.wire.protocol import Answer, Evidence, Request


def local(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``local``."""
    return local_answer(
        _heads(site, request),
        _config(site),
        site.settings.limits,
        cut_bin=_cut_bin(site, request),
        patients_known=site.data.patients_known,
    )


def histogram(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``histogram``."""
    return histogram_answer(_heads(site, request), site.settings.limits, cut_bin=_cut_bin(site, request))


def influence(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``influence``."""
    heads = _heads(site, request)
    return influence_answer(
        heads, pooled_curves(request, len(heads)), site.settings.limits, cut_bin=_cut_bin(site, request)
    )


def slope(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``slope``."""
    heads = _heads(site, request)
    head = int(received(request, "head", (1,))[0])
    if not 0 <= head < len(heads):
        raise Refused(RefusalCode.BAD_REQUEST, "no such head", value=head)
    return slope_answer(heads[head], received(request, "coef", (2,)))


PHASES = {"local": local, "histogram": histogram, "influence": influence, "slope": slope}


def local_answer(
    heads: Sequence[Scored], step: Config, limits: DisclosureLimits, *, cut_bin: int | None, patients_known: bool
) -> Answer:
    """Compute the site's own figures of every head."""
    names = subgroup_names(step)
    found: list[Performance] = []
    for head in heads:
        cells = subgroup_index(step, head.age, head.male)
        found.append(
            performance(
                head.risk,
                head.y,
                head.patient,
                partitions=[(cell, len(n)) for cell, n in zip(cells, names, strict=True)],
                top_shares=step.top_shares,
                calibration_groups=CALIBRATION_GROUPS,
                limits=limits,
                cut_bin=cut_bin,
            )
        )
    whole = Evidence(_stack(p.whole.patients for p in found), _stack(p.whole.events for p in found))
    counts = np.array([p.counts for p in found])
    sub_counts = np.array([p.subgroup_counts.values for p in found])
    if not patients_known:
        counts[..., [1, 3]] = np.nan
        sub_counts[..., [1, 3]] = np.nan
    subgroup = _sized([p.subgroup_counts for p in found])
    return Answer(
        LocalResults(
            counts=counts,
            left_out=np.array([float(head.left_out) for head in heads]),
            mean_predicted=np.array([p.mean_predicted for p in found]),
            auc=np.array([p.auc.as_array() for p in found]),
            brier=np.array([p.brier.as_array() for p in found]),
            intercept=np.array([p.intercept.as_array() for p in found]),
            slope=np.array([p.slope.as_array() for p in found]),
            expected_over_observed=np.array([p.expected_over_observed.as_array() for p in found]),
            top=np.array([p.top.values for p in found]),
            at_threshold=np.array([p.at_threshold.values for p in found]),
            subgroup_counts=sub_counts,
            subgroup_rates=np.array([p.subgroup_rates for p in found]),
            subgroup_auc=np.array([p.subgroup_auc for p in found]),
            calibration=np.array([p.calibration.values for p in found]),
            patients_known=int(patients_known),
        ),
        {
            **dict.fromkeys(
                ("counts", "mean_predicted", "auc", "brier", "intercept", "slope", "expected_over_observed"), whole
            ),
            "left_out": Evidence(_stack(head.left_out_patients for head in heads)),
            "top": _sized([p.top for p in found]),
            "at_threshold": _sized([p.at_threshold for p in found]),
            **dict.fromkeys(("subgroup_counts", "subgroup_rates", "subgroup_auc"), subgroup),
            "calibration": _sized([p.calibration for p in found]),
        },
    )


def histogram_answer(heads: Sequence[Scored], limits: DisclosureLimits, *, cut_bin: int | None) -> Answer:
    """Count every head's cases and controls by merged bin."""
    columns: dict[str, list[Floats]] = {
        name: [] for name in ("head", "lower", "upper", "cases", "controls", "predicted")
    }
    patients, events = [], []
    for h, head in enumerate(heads):
        bins, counts, groups = _binned(head, limits, cut_bin)
        below = np.concatenate([[0.0], np.cumsum(np.bincount(bins, weights=head.risk, minlength=N_BINS))])
        columns["head"].append(np.full(len(groups), float(h)))
        columns["lower"].append(counts.lower.astype(np.float64))
        columns["upper"].append(counts.upper.astype(np.float64))
        columns["cases"].append(counts.cases)
        columns["controls"].append(counts.controls)
        columns["predicted"].append(below[counts.upper] - below[counts.lower])
        patients.append(groups.patients)
        events.append(groups.events)
    evidence = Evidence(np.concatenate(patients), np.concatenate(events))
    payload = Histograms(**{name: np.concatenate(parts) for name, parts in columns.items()})
    return Answer(payload, dict.fromkeys(columns, evidence))


@dataclass(frozen=True)
class Curves:
    """What the coordinator sends of H heads: pooled curves on fine bins (H, B) or fine edges (H, B + 1), scalars
    (H,)."""

    case_placement: Floats
    control_placement: Floats
    auc: Floats
    n_cases: Floats
    n_controls: Floats
    rate_above: Floats
    rate_at: Floats
    share_above: Floats
    expected_over_observed: Floats
    sensitivity: Floats


def pooled_curves(request: Request, n_heads: int) -> Curves:
    """Read the pooled curves of a request; refuse what is misshapen, or no curve at all."""
    bins, edges, scalar = (n_heads, N_BINS), (n_heads, N_BINS + 1), (n_heads,)
    shapes = {"case_placement": bins, "control_placement": bins}
    shapes |= dict.fromkeys(("rate_above", "rate_at", "share_above"), edges)
    fields = Curves.__dataclass_fields__
    curves = Curves(**{name: received(request, name, shapes.get(name, scalar)) for name in fields})
    rates = (curves.case_placement, curves.control_placement, curves.rate_above, curves.rate_at, curves.share_above)
    if any((r < -1e-9).any() or (r > 1 + 1e-9).any() for r in rates) or (curves.n_cases < 0).any():
        raise Refused(RefusalCode.BAD_REQUEST, "a pooled curve leaves [0, 1]")
    return curves


def influence_answer(
    heads: Sequence[Scored], curves: Curves, limits: DisclosureLimits, *, cut_bin: int | None
) -> Answer:
    """Sum squared influences.

    Curves are averaged over each of the site's own merged bins first: a curve that jumps inside one would tell what
    merging hid. Over unmerged bins the average changes nothing.
    """
    auc, in_large, sensitivity = np.zeros((len(heads), 6)), np.zeros(len(heads)), np.zeros(len(heads))
    squares: list[float] = []
    edge_head: list[float] = []
    edges: list[float] = []
    edge_patients: list[float] = []
    edge_events: list[int] = []
    wholes = [group_size(head.patient, head.y) for head in heads]
    for h, head in enumerate(heads):
        bins, _, groups = _binned(head, limits, cut_bin)
        case = head.y.astype(np.float64)
        if not len(groups):
            continue
        if curves.n_cases[h] > 0 and curves.n_controls[h] > 0:
            own = np.searchsorted(groups.lower, bins, side="right") - 1
            auc[h] = auc_sums(
                own,
                head.y,
                head.patient,
                case_placement=_mean_over(groups, curves.case_placement[h]),
                control_placement=_mean_over(groups, curves.control_placement[h]),
                auc=float(curves.auc[h]),
                n_cases=float(curves.n_cases[h]),
                n_controls=float(curves.n_controls[h]),
            ).as_array()
        in_large[h] = ratio_square_sum(head.risk, case, head.patient, float(curves.expected_over_observed[h]))
        if cut_bin is not None and cut_bin in groups.lower:
            flagged = (bins >= cut_bin) * case
            sensitivity[h] = ratio_square_sum(flagged, case, head.patient, float(curves.sensitivity[h]))
        for edge in groups.lower:
            above = bins >= edge
            size = group_size(head.patient, head.y, above)
            edge_head.append(float(h))
            edges.append(float(edge))
            edge_patients.append(float(size.patients))
            edge_events.append(size.events)
            squares.append(
                top_group_square_sum(
                    above,
                    head.y,
                    head.patient,
                    rate=float(curves.rate_above[h, edge]),
                    marginal_rate=float(curves.rate_at[h, edge]),
                    share=float(curves.share_above[h, edge]),
                )
            )
    whole = Evidence(_stack(w.patients for w in wholes), _stack(w.events for w in wholes))
    edge_evidence = Evidence(np.array(edge_patients, dtype=np.int64), np.array(edge_events, dtype=np.int64))
    return Answer(
        Influence(
            auc,
            in_large,
            sensitivity,
            *(np.array(column, dtype=np.float64) for column in (edge_head, edges, squares, edge_patients)),
        ),
        {
            **dict.fromkeys(("auc", "in_large", "sensitivity"), whole),
            **dict.fromkeys(("head", "edge", "edge_square_sum", "edge_patients"), edge_evidence),
        },
    )


def slope_answer(head: Scored, coef: Floats) -> Answer:
    """Sum gradient, Hessian, log-likelihood and clustered meat of the calibration line at ``coef``."""
    design = np.column_stack([np.ones(len(head.risk)), logit(head.risk)])
    sums = logistic_sums(design, head.y, coef)
    size = group_size(head.patient, head.y)
    effective = effective_patients(design, head.y, head.patient, coef) if len(head.y) else 0.0
    evidence = sums_evidence(size.patients, size.events, 2, effective)
    meat = score_meat(design, head.y, head.patient, coef) if len(head.y) else np.zeros((2, 2))
    fields = ("gradient", "hessian", "log_likelihood", "meat")
    return Answer(
        SlopeSums(sums.gradient, sums.hessian, np.array([sums.log_likelihood]), meat), dict.fromkeys(fields, evidence)
    )


def _mean_over(groups: MergedBins, curve: Floats) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    exact = groups.upper - groups.lower == 1
    return np.where(
        exact, curve[groups.lower], (sums[groups.upper] - sums[groups.lower]) / (groups.upper - groups.lower)
    )


def _binned(
    head: Scored, limits: DisclosureLimits, cut_bin: int | None
) -> tuple[NDArray[np.int64], ScoreHistogram, MergedBins]:
    bins = bin_of_risk(head.risk)
    counts, groups = score_histogram(bins, head.y, head.patient, limits, barrier=cut_bin)
    return bins, counts, groups


def _stack(values: Any) -> NDArray[np.int64]:
    return np.array(list(values), dtype=np.int64)


def _sized(parts: Sequence[Any]) -> Evidence:
    return Evidence(np.array([p.patients for p in parts]), np.array([p.events for p in parts]))


def _config(site: SiteContext) -> Config:
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step does not evaluate", value=site.step.stage)
    return site.step


def _heads(site: SiteContext, request: Request) -> list[Scored]:
    step = _config(site)
    rows = rows_under(site, site.data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, step, rows)
    return [with_outcome(site, rows, risk, head) for head in heads_of(step, site.study)]


def _cut_bin(site: SiteContext, request: Request) -> int | None:
    fixed = site.study.used(site.step, "threshold")
    if fixed is None:
        return None
    return int(np.clip(received(request, f"{fixed.id}.cut_bin", (1,))[0], 0, N_BINS))
