"""How an evaluation is shown: headlines, one table a group, forest, ROC, PPV and calibration plots, subgroups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ecgshared.stages.results.base import EstimateResult, Group, Number
from ecgshared.stages.results.evaluate import (
    BoundedNumber,
    BoundedRateAtShare,
    CalibrationGroup,
    PooledCalibrationGroup,
    PooledHead,
    RateAtShare,
    Result,
    RocCurve,
    SiteHead,
)
from ecgshared.stats.meta_analysis import meta_analysis
from server.report.decisions import DecisionCurve, decision_panels
from server.report.forest import Forest, ForestRow, forest
from server.report.labels import Labels
from server.report.sections import Block, Cell, Figure, Folded, Key, Panels, Section, Series, Table, Text
from server.report.top_groups import Line, captured, top_tenth, trial_rate

Pooled = Mapping[Group, PooledHead]
Sites = Mapping[str, SiteHead]


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section an endpoint."""
    return [
        Section(f"{labels.step(step)}: {labels.endpoint(head)}", _blocks(step, r, head, labels)) for head in r.heads
    ]


def _blocks(step: str, r: Result, head: str, labels: Labels) -> list[Block]:
    pooled = {group: by_head[head] for group, by_head in r.pooled.items()}
    sites = {s: v.heads[head] for s, v in r.sites.items()}
    blocks: list[Block] = [_key(step, r, group, head, p, labels) for group, p in pooled.items()]
    series = [s for s, v in r.sites.items() if v.group == "case_control"]
    blocks += [_key_of_series(step, r, s, head, sites[s], labels) for s in series]
    # A group of one hospital is that hospital, and has no figures beside its own.
    pooled = {group: p for group, p in pooled.items() if len(p.sites) != 1}
    blocks += [
        Text(
            f"Score: {labels.score(r.score)}. 95% intervals are clustered by patient where a hospital knows its "
            "patients; bounds hold what all scores, put together, would give. Training hospitals and hospitals that "
            "never trained are never pooled together."
        ),
        *_tables(pooled, sites, labels, series),
        *_chosen(pooled, labels),
        *_forests(r, head, pooled, sites, labels),
        *_curves(step, pooled, sites, labels),
        *_decisions(pooled, sites, labels),
    ]
    at_cut = [v.threshold for v in sites.values() if v.threshold is not None]
    if at_cut and r.threshold is None and all(t.share.value is None for t in at_cut):
        blocks.append(Text("No cut-off was fixed, so there is nothing to say of a high-risk group."))
    elif at_cut:
        blocks.append(_threshold_table(r.threshold, pooled, sites, labels))
    blocks += [*_weighted(pooled, sites, labels), *_compared(pooled, sites, labels), *_subgroups(pooled, sites, labels)]
    if series:
        blocks.append(
            Text(
                f"{', '.join(map(labels.site, series))}: a case-control series. How often the event is follows from "
                "how it was drawn: AUCs and their differences are told, and no rate, precision, calibration or "
                "threshold; it is pooled with nobody."
            )
        )
    ecg_level = [labels.site(s) for s, v in r.sites.items() if v.interval_unit == "ECG"]
    if ecg_level:
        blocks.append(
            Text(f"{', '.join(ecg_level)}: no patient identifiers; intervals are of ECGs, and none is of patients.")
        )
    return blocks


def _key(step: str, r: Result, group: Group, head: str, p: PooledHead, labels: Labels) -> Key:
    auc, bounds = group_auc(r, head, p), p.auc
    notes = []
    if auc.low is not None and auc.high is not None:
        notes.append(f"95% CI {auc.low:.3f} to {auc.high:.3f} by {p.interval_unit}")
    if bounds.bound_low is not None and bounds.bound_high is not None and len(p.sites) > 1:
        notes.append(f"bounds {bounds.bound_low:.3f} to {bounds.bound_high:.3f}")
    if auc.value is None and p.auc_within_sites is not None and p.auc_within_sites.value is not None:
        notes.append(f"pairs within a hospital: {span(p.auc_within_sites)}")
    if p.few_events and auc.value is not None:
        notes.append("few events: no interval")
    if p.events is not None:
        notes.append(f"{p.events:.0f} of {p.ecgs:.0f} ECGs with the event")
    if len(p.sites) == 1:
        notes.append(f"of {labels.site(p.sites[0])} alone")
    return Key(
        f"AUC, {labels.endpoint(head)}, {labels.group(group)}",
        auc.value,
        "; ".join(notes),
        labels.about(step, r.score),
    )


def _key_of_series(step: str, r: Result, site: str, head: str, v: SiteHead, labels: Labels) -> Key:
    notes = [f"95% CI {v.auc.low:.3f} to {v.auc.high:.3f}"] if v.auc.low is not None and v.auc.high is not None else []
    if v.events is not None and v.ecgs is not None:
        notes.append(f"{v.events:.0f} ECGs of cases, {v.ecgs - v.events:.0f} of controls")
    return Key(
        f"AUC, {labels.endpoint(head)}, {labels.site(site)}, case-control series",
        v.auc.value,
        "; ".join(notes),
        labels.about(step, r.score),
    )


def group_auc(r: Result, head: str, p: PooledHead) -> EstimateResult:
    """Return the AUC of a group: of one hospital alone its own, which needs no bounds."""
    return r.sites[p.sites[0]].heads[head].auc if len(p.sites) == 1 and p.sites[0] in r.sites else p.auc


def _tables(pooled: Pooled, sites: Sites, labels: Labels, series: Sequence[str]) -> list[Table]:
    discrimination: list[list[Cell]] = []
    calibration: list[list[Cell]] = []
    lines: list[tuple[str, PooledHead | SiteHead]] = [(labels.pooled(g), p) for g, p in pooled.items()]
    for name, v in [*lines, *((labels.site(s), v) for s, v in sites.items())]:
        patients: list[Cell] = [v.patients, v.event_patients] if isinstance(v, SiteHead) else ["-", "-"]
        brier = v.brier.value if isinstance(v.brier, EstimateResult) else v.brier
        precision = v.average_precision
        area = span(precision) if isinstance(precision, EstimateResult) else _bounded(precision)
        if name in map(labels.site, series):
            discrimination.append([name, v.ecgs, v.events, *patients, "-", span(v.auc), "-"])
            continue
        discrimination.append([name, v.ecgs, v.events, *patients, v.base_rate, span(v.auc), area])
        line = (v.calibration_slope, v.calibration_intercept, v.expected_over_observed)
        calibration.append([name, *map(span, line), brier])
    return [
        Table(
            "Discrimination",
            ["", "all", "with the event", "all", "with the event", "event rate", "AUC (95% CI)", "AUPRC"],
            discrimination,
            groups=[("", 1), ("ECGs", 2), ("patients", 2), ("", 3)],
        ),
        Table("Calibration", ["", "slope", "intercept", "expected/observed", "Brier score"], calibration),
    ]


def _bounded(number: BoundedNumber | None) -> Cell:
    """A value, or its bounds where they lie too far apart for one: that is not the same as withheld."""
    if number is None or number.value is not None or number.bound_low is None or number.bound_high is None:
        return None if number is None else number.value
    return f"{number.bound_low:.3f} to {number.bound_high:.3f} (bounds)"


def _chosen(pooled: Pooled, labels: Labels) -> list[Text]:
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


def _forests(r: Result, head: str, pooled: Pooled, sites: Sites, labels: Labels) -> list[Forest]:
    """One forest plot of the sites' AUCs, groups apart; none where no site tells its own."""
    rows: list[ForestRow] = []
    notes: list[str] = []
    for group in dict.fromkeys((*r.pooled, *(v.group for v in r.sites.values()))):
        members = {s: sites[s] for s, v in r.sites.items() if v.group == group}
        rows += [
            ForestRow(labels.site(s), v.auc.value, v.auc.low, v.auc.high, weight=v.events, site=s)
            for s, v in members.items()
        ]
        if (p := pooled.get(group)) is not None and p.sites:
            rows.append(ForestRow(labels.pooled(group), p.auc.value, p.auc.low, p.auc.high, pooled=True))
            found, note = _together(members, labels)
            rows += found
            notes += [f"{labels.pooled(group).capitalize()}: {note}"] if note else []
    if all(row.value is None for row in rows):
        return []
    caption = (
        "Squares grow with a hospital's events; the diamond is the AUC over all its ECGs. "
        "Random effects and the prediction interval (dashes: where the AUC of another such hospital is to be "
        f"expected) are computed from the hospitals' own AUCs on the logit scale. {' '.join(notes)}"
    )
    title = f"AUC by hospital, {labels.endpoint(head)}"
    return [forest(title, rows, "AUC", reference=0.5, caption=caption.strip())]


def _together(members: Sites, labels: Labels) -> tuple[list[ForestRow], str]:
    """Random effects over hospitals with a usable AUC, and how far they differ; nothing where there are not two.

    Hospitals with few events, whose own AUC has no interval, are in it: to leave them out would choose by luck, and the
    intervals hold with them (five to nine events at each of three to five hospitals: 97 to 99%,
    ``tests/benchmarks/test_meta_coverage.py``).
    """
    usable = {
        site: (v.auc.value, v.auc.se)
        for site, v in members.items()
        if v.auc.value is not None and v.auc.se is not None and 0 < v.auc.value < 1 and v.auc.se > 0
    }
    if len(usable) < 2:
        return [], ""
    auc, se = np.array(list(usable.values())).T
    found = meta_analysis(np.log(auc / (1 - auc)), se / (auc * (1 - auc)))
    value, low, high = (_expit(x) for x in (found.random.value, found.random.low, found.random.high))
    rows = [ForestRow("random effects", value, low, high, pooled=True)]
    below, above = found.prediction
    if math.isfinite(below) and math.isfinite(above):
        rows.append(ForestRow("prediction interval", value, _expit(below), _expit(above), interval_only=True))
    bare = [labels.site(site) for site in usable if members[site].auc.low is None]
    few = f", {' and '.join(bare)} among them with too few events for an interval of their own" if bare else ""
    return rows, f"I2 {100 * found.i2:.0f}%, tau2 {found.tau2:.3f} over {len(usable)} hospitals{few}."


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _curves(step: str, pooled: Pooled, sites: Sites, labels: Labels) -> list[Figure]:
    drawn = [*_pooled_roc(pooled, labels), *(_roc(s, v.roc, v.auc, labels) for s, v in sites.items() if v.roc)]
    # The corners are on every curve: between them alone a line would be a curve that nobody released.
    roc = [one for one in drawn if any(0 < x < 1 or 0 < y < 1 for x, y in _known(one))]
    bare = [one.label for one in drawn if one not in roc]
    figures: list[Figure] = []
    if roc:
        figures.append(
            Figure(
                "ROC",
                roc,
                "false positive rate",
                "true positive rate",
                x_range=(0, 1),
                y_range=(0, 1),
                reference="diagonal",
                square=True,
                caption="Points stand at cuts that hospitals answered, nothing between; a pooled band is the bound "
                "that the others leave, no interval." + (f" No cut answered: {'; '.join(bare)}." if bare else ""),
            )
        )
    rates = [
        *((labels.pooled(g), [_rates("pooled", p.ppv)]) for g, p in pooled.items()),
        *((labels.site(s), [_rates(s, v.ppv)]) for s, v in sites.items()),
    ]
    if any(one.x for _, series in rates for one in series):
        figures.append(
            Panels(
                "Event rate among the ECGs at highest risk",
                (),
                "share of ECGs",
                "event rate (PPV)",
                x_log=True,
                caption="Bands: 95% intervals. Points stand at cuts that hospitals answered.",
                panels=rates,
            )
        )
    lines: list[Line] = [
        *((labels.pooled(g), "", p.ppv) for g, p in pooled.items()),
        *((labels.site(s), s, v.ppv) for s, v in sites.items()),
    ]
    figures += [one for one in (top_tenth(lines, trial_rate(step, labels)), captured(lines)) if one is not None]
    calibration = [
        *((labels.pooled(g), [_pooled_groups(p.calibration_curve)]) for g, p in pooled.items()),
        *((labels.site(s), [_groups(s, v.calibration_curve)]) for s, v in sites.items()),
    ]
    if any(one.x for _, series in calibration for one in series):
        figures.append(
            Panels(
                "Calibration",
                (),
                "mean predicted risk",
                "observed rate",
                reference="diagonal",
                caption="Groups of predicted risk between cuts that a hospital (pooled: every hospital) answered; "
                "bars: 95% intervals.",
                panels=calibration,
            )
        )
    return figures


def _decisions(pooled: Pooled, sites: Sites, labels: Labels) -> list[Figure]:
    """The decision curves; none where the result has no net benefit."""
    curves = [
        *(DecisionCurve(labels.pooled(g), "", p.base_rate, _benefits(p.ppv)) for g, p in pooled.items()),
        *(DecisionCurve(labels.site(s), s, v.base_rate, _benefits(v.ppv)) for s, v in sites.items()),
    ]
    found = decision_panels(curves)
    return [] if found is None else [found]


def _benefits(rows: Sequence[RateAtShare]) -> list[tuple[Number, Number, Number, Number]]:
    bounded = [(row, row if isinstance(row, BoundedRateAtShare) else None) for row in rows]
    return [
        (row.cutoff, row.net_benefit, both.net_benefit_low if both else None, both.net_benefit_high if both else None)
        for row, both in bounded
    ]


def _threshold_table(cutoff: Number, pooled: Pooled, sites: Sites, labels: Labels) -> Table:
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


def _weighted(pooled: Pooled, sites: Sites, labels: Labels) -> list[Table]:
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


def _compared(pooled: Pooled, sites: Sites, labels: Labels) -> list[Table]:
    """This score beside others on the same ECGs; none where the step names no other."""
    lines: list[tuple[str, PooledHead | SiteHead]] = [(labels.pooled(g), p) for g, p in pooled.items()]
    rows: list[list[Cell]] = [
        [name, labels.score(other), c.ecgs, c.events, c.auc, c.other_auc, span(c.difference), c.p]
        for name, v in [*lines, *((labels.site(s), v) for s, v in sites.items())]
        for other, c in v.compared.items()
    ]
    columns = ["", "other score", "ECGs", "with the event", "AUC", "its AUC", "difference (95% CI)", "p"]
    note = "Paired: both scores on the same ECGs; pooled over pairs within a hospital."
    return [Table("Beside other scores", columns, rows, note=note)] if rows else []


def _subgroups(pooled: Pooled, sites: Sites, labels: Labels) -> list[Block]:
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


def _pooled_roc(pooled: Pooled, labels: Labels) -> list[Series]:
    return [
        Series(_with_auc(labels.pooled(g), p.auc), c.fpr, c.tpr, c.tpr_low, c.tpr_high, emphasis=True)
        for g, p in pooled.items()
        if (c := p.roc) is not None
    ]


def _roc(site: str, curve: RocCurve, auc: EstimateResult, labels: Labels) -> Series:
    return Series(_with_auc(labels.site(site), auc), curve.fpr, curve.tpr, site=site)


def _known(curve: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if x is not None and y is not None]


def _with_auc(name: str, auc: EstimateResult) -> str:
    words = span(auc)
    return f"{name}, AUC {words}" if words else name


def _rates(site: str, rows: Sequence[RateAtShare]) -> Series:
    known = [row for row in rows if row.share is not None and row.rate.value is not None]
    return Series(
        "pooled" if site == "pooled" else site,
        [row.share for row in known],
        [row.rate.value for row in known],
        [row.rate.low for row in known],
        [row.rate.high for row in known],
        emphasis=site == "pooled",
        site="" if site == "pooled" else site,
    )


def _groups(site: str, rows: Sequence[CalibrationGroup]) -> Series:
    known = [row for row in rows if row.mean_predicted is not None and row.observed.value is not None]
    return Series(
        site,
        [row.mean_predicted for row in known],
        [row.observed.value for row in known],
        [row.observed.low for row in known],
        [row.observed.high for row in known],
        style="points",
        site=site,
    )


def _pooled_groups(rows: Sequence[PooledCalibrationGroup]) -> Series:
    return Series(
        "pooled",
        [row.mean_predicted for row in rows],
        [row.observed for row in rows],
        [row.low for row in rows],
        [row.high for row in rows],
        style="points",
        emphasis=True,
    )


def span(estimate: EstimateResult, digits: int = 3) -> str | None:
    """Return "0.812 (0.790 to 0.833)"; without an interval the value alone, None where withheld."""
    if estimate.value is None:
        return None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
