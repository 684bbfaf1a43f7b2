"""How judged survival models are shown: concordance and its differences, survival by risk group, calibration."""

from __future__ import annotations

from collections.abc import Mapping

from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.survival_evaluate import (
    ModelFigures,
    PooledModel,
    PooledSurvival,
    Result,
    SiteSurvival,
)
from server.report.evaluation import span
from server.report.forest import Forest, ForestRow, forest
from server.report.sections import Block, Cell, Figure, Key, Section, Series, Table, Text
from server.report.survival import EVENTS, missing

_GROUPS = {"training": "lockboxes of the training sites", "zero_shot": "zero-shot sites"}
_SHORT = {"training": "pooled, training", "zero_shot": "pooled, zero-shot"}
_Line = tuple[str, PooledSurvival | SiteSurvival, Mapping[str, ModelFigures]]
_RISK = {2: ("lower half", "upper half"), 3: ("lowest tertile", "middle tertile", "highest tertile")}


def evaluation_sections(step: str, r: Result) -> list[Section]:
    """Concordance and its differences, survival by risk group, calibration."""
    blocks: list[Block] = _keys(r)
    blocks += [
        Text(
            f"Frozen models of step {r.fit}, event {EVENTS[r.event]}, horizon {r.horizon_years:g} years. "
            "Harrell's C counts all pairs within a site; Uno's C weights them by the chance of being seen, up to the "
            "horizon. Pooled concordance is the mean of the sites' own, weighted by their events. Differences are to "
            f"the model {r.reference!r}, on the same ECGs. 95% intervals are clustered by patient where a site "
            "knows its patients. Training sites and zero-shot sites are never pooled together."
        ),
        _discrimination(r),
        _accuracy(r),
    ]
    blocks += [_differences(r, name) for name in r.models if name != r.reference]
    for group, pooled in r.pooled.items():
        blocks += [_curves(r, group, name, pooled.models[name]) for name in r.models]
    blocks += [_calibration(r, name) for name in r.models]
    blocks.append(_still_followed(r))
    blocks.append(_left_out(r))
    return [Section(f"Survival judged: {step}", blocks)]


def _keys(r: Result) -> list[Block]:
    keys: list[Block] = []
    for group, pooled in r.pooled.items():
        for name, m in pooled.models.items():
            note = _interval(m.harrell)
            difference = m.difference.harrell
            if name != r.reference and difference.value is not None:
                note += f"; {difference.value:+.3f} ({_interval(difference)}) on {r.reference}"
            if pooled.events is not None:
                note += f"; {pooled.events:.0f} events"
            keys.append(Key(f"Harrell's C, {EVENTS[r.event]}, {name}, {_GROUPS[group]}", m.harrell.value, note))
    return keys


def _interval(e: EstimateResult) -> str:
    return "no interval" if e.low is None or e.high is None else f"95% CI {e.low:.3f} to {e.high:.3f}"


def _lines(r: Result) -> list[_Line]:
    """(label, counts, models) of pooled groups, then sites that took part."""
    lines: list[_Line] = [(_SHORT[g], p, p.models) for g, p in r.pooled.items()]
    return lines + [(site, s, s.models) for site, s in r.sites.items() if not s.reason]


def _discrimination(r: Result) -> Table:
    rows: list[list[Cell]] = []
    for label, counts, models in _lines(r):
        for name, m in models.items():
            difference = "-" if name == r.reference else span(m.difference.harrell)
            difference_uno = "-" if name == r.reference else span(m.difference.uno)
            rows.append(
                [
                    label,
                    name,
                    counts.ecgs,
                    counts.events,
                    span(m.harrell),
                    difference,
                    span(m.uno),
                    difference_uno,
                    span(m.auc),
                ]
            )
    columns = ["", "model", "ECGs", "events", "Harrell's C", "difference", "Uno's C", "difference", "AUC at horizon"]
    return Table(
        "Discrimination",
        columns,
        rows,
        note="AUC: those with the event by the horizon against those free of it. Training: the sites' lockboxes.",
    )


def _accuracy(r: Result) -> Table:
    rows: list[list[Cell]] = []
    for label, _, models in _lines(r):
        for name, m in models.items():
            rows.append(
                [
                    label,
                    name,
                    span(m.slope),
                    span(m.expected_over_observed),
                    span(m.brier),
                    span(m.integrated_brier),
                ]
            )
    columns = ["", "model", "calibration slope", "expected/observed", "Brier at horizon", "integrated Brier"]
    note = (
        "Slope: the log hazard ratio of the linear predictor, 1 where its spread is right. Observed: 1 - Kaplan-Meier "
        "at the horizon. Brier scores are weighted for censoring; the integrated one is the mean over the time to the "
        "horizon."
    )
    return Table("Calibration and accuracy", columns, rows, note=note)


def _differences(r: Result, name: str) -> Forest:
    rows = []
    for site, s in r.sites.items():
        if not s.reason:
            e = s.models[name].difference.harrell
            rows.append(ForestRow(site, e.value, e.low, e.high, weight=s.events))
    for group, pooled in r.pooled.items():
        e = pooled.models[name].difference.harrell
        rows.append(ForestRow(_SHORT[group], e.value, e.low, e.high, pooled=True))
    return forest(
        f"Harrell's C: {name} less {r.reference}",
        rows,
        "difference in concordance",
        reference=0.0,
        caption="The same patients under both models. Squares grow with a site's events.",
    )


def _curves(r: Result, group: str, name: str, pooled: PooledModel) -> Figure:
    series = []
    for label, g in zip(_risk_names(pooled), pooled.groups, strict=True):
        c = g.curve
        counted = ""
        if g.ecgs is not None and g.events is not None:
            counted = f", {g.ecgs:.0f} ECGs, {g.events:.0f} events"
        told = any(v is not None for v in c.survival)
        start = 1.0 if told else None
        series.append(
            Series(
                f"{label}{counted}",
                [0.0, *r.times],
                [start, *c.survival],
                low=[start, *c.low],
                high=[start, *c.high],
            )
        )
    test = pooled.log_rank
    words = (
        "No site may tell enough for a log-rank test."
        if test.p is None
        else f"Log-rank test by site: chi-squared {test.chi2:.2f} on {test.degrees}, p {_p(test.p)}."
    )
    return Figure(
        f"Survival by risk group, {name}, {_GROUPS[group]}",
        series,
        "years after the ECG",
        "free of the event",
        caption="Groups were cut at quantiles of the training patients. Sites' Kaplan-Meier curves, read where enough "
        "patients leave between two times, joined by straight lines of log survival and weighted by ECGs. Withheld "
        f"where a site's group has too few events to tell. {words}",
    )


def _still_followed(r: Result) -> Table:
    times = r.times
    every = max(1, len(times) // 4)
    shown = range(every - 1, len(times), every)
    rows: list[list[Cell]] = [
        [_GROUPS[group], name, label, g.ecgs, *(g.curve.at_risk[t] for t in shown)]
        for group, pooled in r.pooled.items()
        for name, model in pooled.models.items()
        for label, g in zip(_risk_names(model), model.groups, strict=True)
    ]
    columns = ["", "model", "risk group", "at the ECG", *(f"{times[t]:g} years" for t in shown)]
    return Table("ECGs still followed", columns, rows, note="Of all sites together; withheld where one may not tell.")


def _risk_names(model: PooledModel) -> tuple[str, ...]:
    n = len(model.groups)
    return _RISK.get(n, tuple(f"risk group {k + 1}" for k in range(n)))


def _p(p: float) -> str:
    return "below 0.0001" if p < 0.0001 else f"{p:.4f}"


def _calibration(r: Result, name: str) -> Figure:
    series = []
    for site, s in r.sites.items():
        if s.reason:
            continue
        told = [g for g in s.models[name].groups if g.predicted is not None and g.observed.value is not None]
        series.append(
            Series(
                site,
                [g.predicted for g in told],
                [g.observed.value for g in told],
                low=[g.observed.low for g in told],
                high=[g.observed.high for g in told],
                style="points",
            )
        )
    return Figure(
        f"Calibration at {r.horizon_years:g} years, {name}",
        series,
        "mean predicted risk",
        "observed risk",
        reference="diagonal",
        caption="By risk group. Observed: 1 - Kaplan-Meier at the horizon, with its 95% interval.",
    )


def _left_out(r: Result) -> Table:
    rows: list[list[Cell]] = [
        [
            site,
            s.reason or "-",
            s.left_out["time unknown"],
            s.left_out["input missing"],
            missing(s.missing),
        ]
        for site, s in r.sites.items()
    ]
    rows += [[site, "; ".join(why.values()), "-", "-", "-"] for site, why in r.absent.items() if site not in r.sites]
    return Table("Who was left out", ["site", "why not", "time unknown", "input missing", "missing"], rows)
