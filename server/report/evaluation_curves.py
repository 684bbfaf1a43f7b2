"""The curves of an evaluation: ROC, event rate and share of events by the share flagged, calibration, net benefit."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.stages.results.base import EstimateResult, Number
from ecgshared.stages.results.evaluate import (
    BoundedRateAtShare,
    CalibrationGroup,
    PooledCalibrationGroup,
    RateAtShare,
    RocCurve,
)
from server.report.decisions import DecisionCurve, decision_panels
from server.report.evaluation_tables import Pooled, Sites, span
from server.report.labels import Labels
from server.report.sections import Figure, Panel, Panels, Series, told
from server.report.top_groups import Line, against, captured, rate_lines, top_tenth


def curves(step: str, head: str, pooled: Pooled, sites: Sites, labels: Labels) -> list[Figure]:
    """Draw ROC, rates by share, and calibration; a figure without a released point is left out."""
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
    rates: list[Panel] = [
        *((labels.pooled(g), [_rates("pooled", p.ppv)]) for g, p in pooled.items()),
        *((labels.site(s), [_rates(s, v.ppv)]) for s, v in sites.items()),
    ]
    rates, silent = told(rates)
    across = rate_lines(step, head, labels)
    if rates:
        figures.append(
            Panels(
                "Event rate among the ECGs at highest risk",
                (),
                "share of ECGs",
                "event rate (PPV)",
                x_log=True,
                reference=tuple(line.rate for line in across) or None,
                caption=f"Bands: 95% intervals. Points stand at cuts that hospitals answered.{against(across)}{silent}",
                panels=rates,
            )
        )
    lines: list[Line] = [
        *((labels.pooled(g), "", p.ppv) for g, p in pooled.items()),
        *((labels.site(s), s, v.ppv) for s, v in sites.items()),
    ]
    figures += [one for one in (top_tenth(lines, across), captured(lines)) if one is not None]
    calibration: list[Panel] = [
        *((labels.pooled(g), [_pooled_groups(p.calibration_curve)]) for g, p in pooled.items()),
        *((labels.site(s), [_groups(s, v.calibration_curve)]) for s, v in sites.items()),
    ]
    calibration, silent = told(calibration)
    if calibration:
        figures.append(
            Panels(
                "Calibration",
                (),
                "mean predicted risk",
                "observed rate",
                reference="diagonal",
                caption="Groups of predicted risk between cuts that a hospital (pooled: every hospital) answered; "
                f"bars: 95% intervals.{silent}",
                panels=calibration,
            )
        )
    return figures


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


def decisions(pooled: Pooled, sites: Sites, labels: Labels) -> list[Figure]:
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
