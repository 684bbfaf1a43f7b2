"""The tables of an evaluation: discrimination and calibration, at the threshold, weighted, compared, subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecgshared.stages.results.base import EstimateResult, Group, Number
from ecgshared.stages.results.evaluate import BoundedNumber, PooledHead, SiteHead
from server.report.labels import Labels
from server.report.sections import Block, Cell, Folded, Table, Text

Pooled = Mapping[Group, PooledHead]
"""What is pooled, by group of hospitals."""
Sites = Mapping[str, SiteHead]
"""Each hospital's own figures."""


def figure_tables(pooled: Pooled, sites: Sites, labels: Labels, series: Sequence[str]) -> list[Table]:
    """Return the tables of discrimination and calibration; ``series``: sites whose rates hang on their design."""
    discrimination: list[list[Cell]] = []
    # Where bounds alone are known of all pairs, those within hospitals stand beside them.
    apart = any(p.auc.value is None and p.auc.bound_low is not None for p in pooled.values())
    calibration: list[list[Cell]] = []
    lines: list[tuple[str, PooledHead | SiteHead]] = [(labels.pooled(g), p) for g, p in pooled.items()]
    for name, v in [*lines, *((labels.site(s), v) for s, v in sites.items())]:
        patients: list[Cell] = [v.patients, v.event_patients] if isinstance(v, SiteHead) else ["-", "-"]
        brier = v.brier.value if isinstance(v.brier, EstimateResult) else v.brier
        precision = v.average_precision
        area = span(precision) if isinstance(precision, EstimateResult) else _bounded(precision)
        if name in map(labels.site, series):
            discrimination.append([name, v.ecgs, v.events, *patients, "-", span(v.auc), *(["-"] if apart else []), "-"])
            continue
        auc = span(v.auc) if isinstance(v, SiteHead) else _pooled_auc(v)
        discrimination.append(
            [name, v.ecgs, v.events, *patients, v.base_rate, auc, *([_within(v)] if apart else []), area]
        )
        line = (v.calibration_slope, v.calibration_intercept, v.expected_over_observed)
        calibration.append([name, *map(span, line), brier])
    return [
        Table(
            "Discrimination",
            [
                *("", "all", "with the event", "all", "with the event", "event rate", "AUC (95% CI)"),
                *(["pairs within hospitals"] if apart else []),
                "AUPRC",
            ],
            discrimination,
            groups=[("", 1), ("ECGs", 2), ("patients", 2), ("", 4 if apart else 3)],
        ),
        Table("Calibration", ["", "slope", "intercept", "expected/observed", "Brier score"], calibration),
    ]


def _pooled_auc(p: PooledHead) -> str | None:
    """The AUC over several hospitals, or its bounds where they lie too far apart for a value."""
    if p.auc.value is not None or p.auc.bound_low is None or p.auc.bound_high is None:
        return span(p.auc)
    return f"{p.auc.bound_low:.3f} to {p.auc.bound_high:.3f} (bounds)"


def _within(v: PooledHead | SiteHead) -> Cell:
    if isinstance(v, SiteHead):
        return "-"
    return None if v.auc_within_sites is None else span(v.auc_within_sites)


def _bounded(number: BoundedNumber | None) -> Cell:
    """A value, or its bounds where they lie too far apart for one: that is not the same as withheld."""
    if number is None or number.value is not None or number.bound_low is None or number.bound_high is None:
        return None if number is None else number.value
    return f"{number.bound_low:.3f} to {number.bound_high:.3f} (bounds)"


def chosen_by_luck(pooled: Pooled, labels: Labels) -> list[Text]:
    """Say why rates of the event have no interval where hospitals with too few events are left out."""
    return [
        Text(
            f"{labels.pooled(group).capitalize()}: {_luck(p, labels)}. Who is pooled has more events than such "
            "hospitals have on average: expected over observed is too low, event rates are too high, and neither has "
            "an interval."
        )
        for group, p in pooled.items()
        if len(p.sites) > 1
        and not p.few_events
        and p.expected_over_observed.value is not None
        and p.expected_over_observed.low is None
    ]


def _luck(p: PooledHead, labels: Labels) -> str:
    if p.withheld:
        return f"{', '.join(map(labels.site, p.withheld))} withheld counts, and the others have few events"
    return "every hospital has few events, and with fewer it would have withheld its counts"


def threshold_table(cutoff: Number, pooled: Pooled, sites: Sites, labels: Labels) -> Table:
    """Return the figures at the fixed threshold; ``cutoff``: its risk, None where it is not told."""
    rows: list[list[Cell]] = []
    for group, p in pooled.items():
        at = p.threshold
        cells: list[Cell] = [None] * 3 if at is None else [at.share, span(at.ppv), span(at.sensitivity)]
        more = (None,) * 3 if at is None else (at.specificity, at.npv, at.accuracy)
        rows.append([labels.pooled(group), *cells, *(None if e is None else span(e) for e in more)])
    for site, v in sites.items():
        if (t := v.threshold) is not None:
            told = (t.share, t.ppv, t.sensitivity, t.specificity, t.npv, t.accuracy)
            rows.append([labels.site(site), *(None if e is None else span(e) for e in told)])
    few = any(p.threshold is not None and len(p.threshold.sites) < len(p.sites) for p in pooled.values())
    note = (
        "A hospital tells only where it has enough events on either side of the threshold. Not all have: those that do "
        "miss more events than the others would, sensitivity is too low, and the pooled figures have no interval where "
        "the events are few."
    )
    title = "At the fixed threshold" if cutoff is None else f"At the fixed threshold, risk {cutoff:.4g}"
    return Table(
        title,
        ["", "share above", "PPV", "sensitivity", "specificity", "NPV", "accuracy"],
        rows,
        note=note if few else "",
    )


def weighted_tables(pooled: Pooled, sites: Sites, labels: Labels) -> list[Table]:
    """The figures weighted for censoring; none where the study does not weight."""
    lines: list[tuple[str, PooledHead | SiteHead]] = [(labels.pooled(g), p) for g, p in pooled.items()]
    rows: list[list[Cell]] = [
        [name, w.ecgs, w.events, *map(span, (w.event_rate, w.auc, w.expected_over_observed, w.brier, w.ppv))]
        for name, v in [*lines, *((labels.site(s), v) for s, v in sites.items())]
        if (w := v.weighted) is not None and w.ecgs is not None
    ]
    columns = ["", "ECGs", "with the event", "event rate", "AUC (95% CI)", "expected/observed", "Brier score", "PPV"]
    note = (
        "Everybody who is followed, weighted by the inverse of the chance to be followed until the end of the horizon "
        "(Kaplan-Meier of censoring at each hospital); rates are cumulative incidences. The pooled AUC is that of "
        "pairs within a hospital."
    )
    return [Table("Weighted for censoring", columns, rows, note=note)] if rows else []


def compared_tables(pooled: Pooled, sites: Sites, labels: Labels) -> list[Table]:
    """This score beside others on the same ECGs; none where the step names no other."""
    lines: list[tuple[str, PooledHead | SiteHead]] = [(labels.pooled(g), p) for g, p in pooled.items()]
    rows: list[list[Cell]] = [
        [name, labels.score(other), c.ecgs, c.events, c.auc, c.other_auc, span(c.difference), p_of(c.p, c.difference)]
        for name, v in [*lines, *((labels.site(s), v) for s, v in sites.items())]
        for other, c in v.compared.items()
    ]
    columns = ["", "other score", "ECGs", "with the event", "AUC", "its AUC", "difference (95% CI)", "p"]
    note = "Paired: both scores on the same ECGs; pooled over pairs within a hospital."
    return [Table("Beside other scores", columns, rows, note=note)] if rows else []


def subgroup_blocks(pooled: Pooled, sites: Sites, labels: Labels) -> list[Block]:
    """Return the AUCs in subgroups: pooled, and each hospital's own folded away."""
    together: list[list[Cell]] = [
        [labels.pooled(g), name, span(auc)]
        for g, p in pooled.items()
        for name, auc in p.subgroups.items()
        if auc.value is not None
    ]
    apart: list[list[Cell]] = [
        [labels.site(site), name, cell.ecgs, cell.events, span(cell.auc)]
        for site, v in sites.items()
        for name, cell in v.subgroups.items()
        if cell.ecgs is not None
    ]
    silent = dict.fromkeys(name for v in sites.values() for name, cell in v.subgroups.items() if cell.ecgs is None)
    note = f"Too few ECGs to tell at one hospital or more: {', '.join(silent)}." if silent else ""
    blocks: list[Block] = []
    if together:
        words = "Inverse-variance mean of the hospitals' AUCs on the logit scale."
        blocks.append(Table("AUC in subgroups", ["", "subgroup", "AUC (95% CI)"], together, note=words))
    if apart:
        columns = ["", "subgroup", "ECGs", "with the event", "AUC (95% CI)"]
        blocks.append(Folded("Subgroups by hospital", [Table("Subgroups by hospital", columns, apart, note=note)]))
    elif note:
        blocks.append(Text(note))
    return blocks


def p_of(p: Number, difference: EstimateResult) -> Cell:
    """Return a P; in words where a difference is told and few events leave it none: that is not withheld."""
    return "few events" if p is None and difference.value is not None else p


def span(estimate: EstimateResult, digits: int = 3) -> str | None:
    """Return "0.812 (0.790 to 0.833)"; without an interval the value alone, None where withheld."""
    if estimate.value is None:
        return None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
