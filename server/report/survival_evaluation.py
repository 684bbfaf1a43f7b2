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
from server.report.evaluation_tables import span
from server.report.forest import Forest, ForestRow, forest
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Cell, Figure, Key, Panel, Panels, Section, Series, Table, Text, told
from server.report.survival import missing

_POOLED_FIGURES = {
    "harrell": "Harrell's C",
    "slope": "calibration slope",
    "expected_over_observed": "expected/observed",
}
_Line = tuple[str, PooledSurvival | SiteSurvival, Mapping[str, ModelFigures]]
_RISK = {2: ("lower half", "upper half"), 3: ("lowest tertile", "middle tertile", "highest tertile")}


def evaluation_sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Concordance and its differences, survival by risk group, calibration."""
    blocks: list[Block] = _keys(step, r, labels)
    blocks += [
        Text(
            f"Frozen models of step {r.fit}, event {labels.event(r.event)}, horizon {r.horizon_years:g} years. "
            "Harrell's C counts all pairs within a site; Uno's C weights them by the chance of being seen, up to the "
            "horizon. Pooled concordance is the mean of the sites' own, weighted by their events. Differences are to "
            f"the model {r.reference!r}, on the same ECGs. 95% intervals are clustered by patient where a site "
            "knows its patients, and a figure that hangs on fewer than ten patients with the event has none. "
            "Training sites and zero-shot sites are never pooled together."
        ),
        _discrimination(r, labels),
        _accuracy(r, labels),
        _agreement(r, labels),
    ]
    blocks += [_differences(r, name, labels) for name in r.models if name != r.reference]
    for group, pooled in r.pooled.items():
        blocks += [_curves(r, group, name, pooled.models[name], labels) for name in r.models]
    for name in r.models:
        blocks += _calibration(r, name, labels)
    blocks.append(_still_followed(r, labels))
    blocks.append(_left_out(r, labels))
    return [Section(f"{labels.step(step)}: survival judged", blocks)]


def _keys(step: str, r: Result, labels: Labels) -> list[Block]:
    keys: list[Block] = []
    for group, pooled in r.pooled.items():
        for name, m in pooled.models.items():
            note = _interval(m.harrell)
            difference = m.difference.harrell
            if name != r.reference and difference.value is not None:
                note += f"; {difference.value:+.3f} ({_interval(difference)}) on {r.reference}"
            if pooled.events is not None:
                note += f"; {pooled.events:.0f} events"
            label = f"Harrell's C, {labels.event(r.event)}, {name}, {labels.group(group)}"
            keys.append(Key(label, m.harrell.value, note, labels.about(step)))
    return keys


def _told(e: EstimateResult) -> str | None:
    """A figure as tables show it; one that hangs on few events is marked."""
    few = e.value is not None and e.se is not None and e.low is None
    return f"{span(e)} (few events)" if few else span(e)


def _interval(e: EstimateResult) -> str:
    if e.low is None or e.high is None:
        return "no interval" if e.se is None else "few events, no interval"
    return f"95% CI {e.low:.3f} to {e.high:.3f}"


def _lines(r: Result, labels: Labels) -> list[_Line]:
    """(label, counts, models) of pooled groups, then sites that took part."""
    lines: list[_Line] = [(labels.pooled(g), p, p.models) for g, p in r.pooled.items()]
    return lines + [(labels.site(site), s, s.models) for site, s in r.sites.items() if not s.reason]


def _discrimination(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = []
    for label, counts, models in _lines(r, labels):
        for name, m in models.items():
            difference = "-" if name == r.reference else _told(m.difference.harrell)
            difference_uno = "-" if name == r.reference else _told(m.difference.uno)
            rows.append(
                [
                    label,
                    name,
                    counts.ecgs,
                    counts.events,
                    _told(m.harrell),
                    difference,
                    _told(m.uno),
                    difference_uno,
                    _told(m.auc),
                ]
            )
    columns = ["", "model", "ECGs", "events", "Harrell's C", "difference", "Uno's C", "difference", "AUC at horizon"]
    return Table(
        "Discrimination",
        columns,
        rows,
        note="AUC: those with the event by the horizon against those free of it. Training: the sites' lockboxes.",
    )


def _accuracy(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = []
    for label, _, models in _lines(r, labels):
        for name, m in models.items():
            rows.append(
                [
                    label,
                    name,
                    _told(m.slope),
                    _told(m.expected_over_observed),
                    _told(m.brier),
                    _told(m.integrated_brier),
                ]
            )
    columns = ["", "model", "calibration slope", "expected/observed", "Brier at horizon", "integrated Brier"]
    note = (
        "Slope: the log hazard ratio of the linear predictor, 1 where its spread is right. Observed: the cumulative "
        "incidence by the horizon (Aalen-Johansen), in which who dies of something else does not have the event."
        "  Brier scores are weighted for censoring; the integrated one is the mean over the time to the "
        "horizon."
    )
    return Table("Calibration and accuracy", columns, rows, note=note)


def _agreement(r: Result, labels: Labels) -> Table:
    """How far sites differ, what another site may expect, and which sites a pooled figure leaves out."""
    rows: list[list[Cell]] = []
    for group, pooled in r.pooled.items():
        for name, m in pooled.models.items():
            for figure, words in _POOLED_FIGURES.items():
                h = m.heterogeneity[figure]
                low, high = h.prediction
                another = "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
                out = "; ".join(f"{labels.site(site)}: {why}" for site, why in m.not_pooled.get(figure, {}).items())
                rows.append([labels.pooled(group), name, words, h.sites, span(h.random), another, h.i2, out or "-"])
    columns = ["", "model", "figure", "sites", "random effects", "another site", "I2", "left out"]
    note = (
        "Random effects: the mean over sites that truly differ, with Hartung and Knapp's interval. Another site: 95% "
        "prediction interval for the true value at a further site, from three sites on."
    )
    return Table("How far sites differ", columns, rows, note=note)


def _differences(r: Result, name: str, labels: Labels) -> Forest:
    rows = []
    for site, s in r.sites.items():
        if not s.reason:
            e = s.models[name].difference.harrell
            rows.append(ForestRow(labels.site(site), e.value, e.low, e.high, weight=s.events, site=site))
    for group, pooled in r.pooled.items():
        e = pooled.models[name].difference.harrell
        rows.append(ForestRow(labels.pooled(group), e.value, e.low, e.high, pooled=True))
    return forest(
        f"Harrell's C: {name} less {r.reference}",
        rows,
        "difference in concordance",
        reference=0.0,
        caption="The same patients under both models. Squares grow with a site's events.",
    )


def _curves(r: Result, group: str, name: str, pooled: PooledModel, labels: Labels) -> Figure:
    series = []
    for label, g in zip(_risk_names(pooled), pooled.groups, strict=True):
        c = g.curve
        counted = ""
        if g.ecgs is not None and g.events is not None:
            counted = f", {g.ecgs:.0f} ECGs, {g.events:.0f} events"
        start = 0.0 if any(v is not None for v in c.survival) else None
        # A low survival is a high incidence: the bounds change places.
        series.append(
            Series(
                f"{label}{counted}",
                [0.0, *r.times],
                [start, *map(_had, c.survival)],
                low=[start, *map(_had, c.high)],
                high=[start, *map(_had, c.low)],
            )
        )
    test = pooled.log_rank
    words = (
        "No site may tell enough for a log-rank test."
        if test.p is None
        else f"Log-rank test by site: chi-squared {test.chi2:.2f} on {test.degrees}, p {_p(test.p)}."
    )
    return Figure(
        f"Cumulative incidence by risk group, {name}, {labels.group(group)}",
        series,
        "years after the ECG",
        "have had the event",
        caption="Groups were cut at quantiles of the training patients. The mean of the hospitals' cumulative "
        "incidences (Aalen-Johansen: who dies of something else has not had the event), weighted by their ECGs; each "
        "is read where enough patients leave between two times, with straight lines of the logarithm of what is left "
        "in between. Withheld "
        f"where a site's group has too few events to tell. {words}",
    )


def _had(free: float | None) -> float | None:
    return None if free is None else 1 - free


def _still_followed(r: Result, labels: Labels) -> Table:
    times = r.times
    every = max(1, len(times) // 4)
    shown = range(every - 1, len(times), every)
    rows: list[list[Cell]] = [
        [labels.group(group), name, label, g.ecgs, *(g.curve.at_risk[t] for t in shown)]
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


def _calibration(r: Result, name: str, labels: Labels) -> list[Figure]:
    """One panel a hospital on common axes; no figure where none tells of two groups."""
    panels: list[Panel] = []
    for site, s in r.sites.items():
        if s.reason:
            continue
        groups = [g for g in s.models[name].groups if g.predicted is not None and g.observed.value is not None]
        points = Series(
            labels.site(site),
            [g.predicted for g in groups],
            [g.observed.value for g in groups],
            low=[g.observed.low for g in groups],
            high=[g.observed.high for g in groups],
            style="points",
            site=site,
        )
        panels.append((labels.site(site), [points]))
    panels, silent = told(panels)
    if not panels:
        return []
    return [
        Panels(
            f"Calibration at {r.horizon_years:g} years, {name}",
            (),
            "mean predicted risk",
            "observed risk",
            reference="diagonal",
            caption=f"By risk group. Observed: cumulative incidence by the horizon, with its 95% interval.{silent}",
            panels=panels,
        )
    ]


def _left_out(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = [
        [
            labels.site(site),
            s.reason or "-",
            s.left_out["time unknown"],
            s.left_out["input missing"],
            missing(s.missing),
        ]
        for site, s in r.sites.items()
    ]
    rows += [[site, in_words(why.values()), "-", "-", "-"] for site, why in r.absent.items() if site not in r.sites]
    return Table("Who was left out", ["hospital", "why not", "time unknown", "input missing", "missing"], rows)
