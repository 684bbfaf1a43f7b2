"""How an evaluation is shown: headlines, one table a group, ROC, PPV and calibration plots, subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecgshared.stages.results.base import EstimateResult, Group
from ecgshared.stages.results.evaluate import (
    CalibrationGroup,
    PooledCalibrationGroup,
    PooledHead,
    RateAtShare,
    Result,
    RocCurve,
    SiteHead,
)
from server.report.sections import Block, Cell, Figure, Key, Section, Series, Table, Text

_GROUPS: dict[Group, str] = {"training": "lockboxes of the training sites", "zero_shot": "zero-shot sites"}


def sections(step: str, r: Result) -> list[Section]:
    """Return one section an endpoint."""
    return [Section(f"Evaluation: {step}, {head}", _blocks(r, head)) for head in r.heads]


def _blocks(r: Result, head: str) -> list[Block]:
    pooled = {group: by_head[head] for group, by_head in r.pooled.items()}
    sites = {s: v.heads[head] for s, v in r.sites.items()}
    blocks: list[Block] = [_key(group, head, p) for group, p in pooled.items()]
    blocks += [
        Text(
            f"Score: {r.score}. 95% intervals are clustered by patient where a site knows its patients; bounds hold "
            "the value that unmerged scores would give. Training sites and zero-shot sites are never pooled together."
        ),
        _table(pooled, sites),
        Figure(
            "ROC",
            [*_pooled_roc(pooled), *(_roc(s, v.roc) for s, v in sites.items() if v.roc)],
            "false positive rate",
            "true positive rate",
            x_range=(0, 1),
            y_range=(0, 1),
            reference="diagonal",
            caption="A site's curve at the edges of its merged bins; the pooled band is the bound, not an interval.",
        ),
        Figure(
            "Event rate among the ECGs at highest risk",
            [
                *(_ppv(f"pooled, {_GROUPS[g]}", p.ppv) for g, p in pooled.items()),
                *(_ppv(s, v.ppv) for s, v in sites.items()),
            ],
            "share of ECGs",
            "event rate (PPV)",
            x_log=True,
            caption="Bands: 95% intervals. Shares are those of the nearest edge of the merged bins.",
        ),
        Figure(
            "Calibration",
            [
                *(_pooled_calibration(g, p.calibration_curve) for g, p in pooled.items()),
                *(_calibration(s, v.calibration_curve) for s, v in sites.items()),
            ],
            "mean predicted risk",
            "observed rate",
            reference="diagonal",
            caption="Groups of predicted risk, joined until each meets the site's limits.",
        ),
    ]
    if any(v.threshold for v in sites.values()):
        blocks.append(_threshold_table(r.threshold, pooled, sites))
    blocks.append(_subgroup_table(pooled, sites))
    ecg_level = [s for s, v in r.sites.items() if v.interval_unit == "ECG"]
    if ecg_level:
        blocks.append(
            Text(f"{', '.join(ecg_level)}: no patient identifiers; intervals are of ECGs, and none is of patients.")
        )
    return blocks


def _key(group: Group, head: str, p: PooledHead) -> Key:
    auc = p.auc
    notes = []
    if auc.low is not None and auc.high is not None:
        notes.append(f"95% CI {auc.low:.3f} to {auc.high:.3f} by {p.interval_unit}")
    if auc.bound_low is not None:
        notes.append(f"bounds {auc.bound_low:.3f} to {auc.bound_high:.3f}")
    if p.events is not None:
        notes.append(f"{p.events:.0f} of {p.ecgs:.0f} ECGs with the event")
    return Key(f"AUC, {head}, {_GROUPS[group]}", auc.value, "; ".join(notes))


def _table(pooled: Mapping[Group, PooledHead], sites: Mapping[str, SiteHead]) -> Table:
    rows: list[list[Cell]] = []
    lines: list[tuple[str, PooledHead | SiteHead]] = [(f"pooled, {_GROUPS[g]}", p) for g, p in pooled.items()]
    for name, v in [*lines, *sites.items()]:
        brier = v.brier.value if isinstance(v.brier, EstimateResult) else v.brier
        rows.append(
            [
                name,
                v.ecgs,
                v.patients if isinstance(v, SiteHead) else "-",
                v.events,
                v.base_rate,
                span(v.auc),
                span(v.calibration_slope),
                span(v.calibration_intercept),
                span(v.expected_over_observed),
                brier,
            ]
        )
    columns = ["", "ECGs", "patients", "events", "base rate", "AUC", "slope", "intercept", "expected/observed", "Brier"]
    return Table("Discrimination and calibration", columns, rows, note="Events are ECGs with the event.")


def _threshold_table(cutoff: float | None, pooled: Mapping[Group, PooledHead], sites: Mapping[str, SiteHead]) -> Table:
    rows: list[list[Cell]] = []
    for group, p in pooled.items():
        at = p.threshold
        cells: list[Cell] = [None] * 3 if at is None else [at.share, span(at.ppv), span(at.sensitivity)]
        rows.append([f"pooled, {_GROUPS[group]}", *cells, "-"])
    for site, v in sites.items():
        if (t := v.threshold) is not None:
            rows.append([site, *(span(e) for e in (t.share, t.ppv, t.sensitivity, t.specificity))])
    title = "At the fixed threshold" if cutoff is None else f"At the fixed threshold, risk {cutoff:.4g}"
    return Table(title, ["", "share above", "PPV", "sensitivity", "specificity"], rows)


def _subgroup_table(pooled: Mapping[Group, PooledHead], sites: Mapping[str, SiteHead]) -> Table:
    rows: list[list[Cell]] = [
        [f"pooled, {_GROUPS[g]}", name, "-", "-", span(auc)]
        for g, p in pooled.items()
        for name, auc in p.subgroups.items()
        if auc.value is not None
    ]
    rows += [
        [site, name, cell.ecgs, cell.events, span(cell.auc)]
        for site, v in sites.items()
        for name, cell in v.subgroups.items()
    ]
    return Table(
        "AUC in subgroups",
        ["", "subgroup", "ECGs", "events", "AUC"],
        rows,
        note="Pooled: inverse-variance mean of the sites' AUCs on the logit scale.",
    )


def _pooled_roc(pooled: Mapping[Group, PooledHead]) -> list[Series]:
    return [
        Series(f"pooled, {_GROUPS[g]}", c.fpr, c.tpr, c.tpr_low, c.tpr_high, emphasis=True)
        for g, p in pooled.items()
        if (c := p.roc) is not None
    ]


def _roc(site: str, curve: RocCurve) -> Series:
    return Series(site, curve.fpr, curve.tpr)


def _ppv(label: str, rows: Sequence[RateAtShare]) -> Series:
    known = [row for row in rows if row.share is not None and row.rate.value is not None]
    return Series(
        label,
        [row.share for row in known],
        [row.rate.value for row in known],
        [row.rate.low for row in known],
        [row.rate.high for row in known],
        emphasis=label.startswith("pooled"),
    )


def _calibration(site: str, rows: Sequence[CalibrationGroup]) -> Series:
    known = [row for row in rows if row.mean_predicted is not None and row.observed.value is not None]
    return Series(
        site,
        [row.mean_predicted for row in known],
        [row.observed.value for row in known],
        [row.observed.low for row in known],
        [row.observed.high for row in known],
        style="points",
    )


def _pooled_calibration(group: Group, rows: Sequence[PooledCalibrationGroup]) -> Series:
    return Series(
        f"pooled, {_GROUPS[group]}",
        [row.mean_predicted for row in rows],
        [row.observed for row in rows],
        style="points",
        emphasis=True,
    )


def span(estimate: EstimateResult) -> str | None:
    """Return "0.812 (0.790 to 0.833)"; without an interval the value alone, None where withheld."""
    if estimate.value is None:
        return None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
