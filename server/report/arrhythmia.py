"""How ventricular arrhythmia is shown: rates by percentile of the risk, the high-risk group, and how it is coded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecgshared.stages.results.arrhythmia import Incidence, Point, Result
from server.report.forest import ForestRow, forest
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.overlap import rate_span
from server.report.sections import Block, Cell, Folded, Panels, Section, Series, Table, Text

_WORDS = {
    "scd": "sudden death",
    "composite": "sudden death or VF/VT",
    "added": "VF/VT on top of sudden death",
    "vfvt": "VF/VT alone",
}
_DRAWN = ("composite", "vfvt")


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """One section a step."""
    blocks: list[Block] = [
        Text(
            f"VF/VT: {labels.endpoint(r.vfvt)}; "
            + (f"sudden death: {labels.endpoint(r.scd)}. " if r.scd else "sudden death is no part of it. ")
            + "VF/VT alone is of ECGs whose patients did not die of something else before it could be seen "
            "(death-censored). Intervals are clustered by patient."
        )
    ]
    lines = [
        # A group of one hospital is that hospital.
        *(
            (labels.pooled(g), found)
            for g, found in r.pooled.items()
            if sum(v.group == g for v in r.sites.values()) > 1
        ),
        *((labels.site(site), found.outcomes) for site, found in r.sites.items()),
    ]
    if lines:
        blocks += _figures(lines)
        blocks.append(_table(r, lines))
        blocks += _coding(r, labels)
        blocks.append(Folded("Rates at every cut", [_all(name, outcomes) for name, outcomes in lines]))
    if unknown := [s for s in r.absent if s not in r.sites and not labels.offers(s, r.vfvt)]:
        blocks.append(Text(f"VF/VT is not known at {', '.join(map(labels.site, unknown))}."))
    if gone := {s: why for s, why in r.absent.items() if s not in r.sites and s not in unknown}:
        words = (f"{labels.site(s)} ({in_words(why.values())})" for s, why in gone.items())
        blocks.append(Text(f"Hospitals that tell of none of it: {', '.join(words)}."))
    return [Section(f"{labels.step(step)}: ventricular arrhythmia", blocks)]


def _percentile(point: Point) -> float | None:
    return None if point.share is None else 100 * (1 - point.share)


def _figures(lines: Sequence[tuple[str, Mapping[str, Incidence]]]) -> list[Panels]:
    found = []
    for title, least in (("by percentile of the risk", 0.0), ("above the 90th percentile", 90.0)):
        panels = [(name, _series(outcomes, least)) for name, outcomes in lines]
        panels = [(name, series) for name, series in panels if any(s.x for s in series)]
        if panels:
            found.append(
                Panels(
                    f"Ventricular arrhythmia in the high-risk group, {title}",
                    [Series(_WORDS[outcome], (), ()) for outcome in _DRAWN],
                    "percentile of the risk from which the group begins",
                    "rate",
                    caption="Blue: sudden death or VF/VT; orange: VF/VT alone. Bands: 95% intervals. Points stand at "
                    "cuts that hospitals answered. Dots: the group above the absolute cut-off, and that of the "
                    "share it had in the training hospitals.",
                    panels=panels,
                )
            )
    return found


def _series(outcomes: Mapping[str, Incidence], least: float) -> list[Series]:
    series = []
    for outcome in _DRAWN:
        points = [p for p in outcomes[outcome].points if (_percentile(p) or 0.0) >= least]
        points = sorted(points, key=lambda p: _percentile(p) or 0.0)
        # Of everybody alone there is no curve; an outcome without one keeps its colour.
        if len(points) < 2 - (least > 0):
            series.append(Series(_WORDS[outcome], (), ()))
            continue
        series.append(
            Series(
                _WORDS[outcome],
                [_percentile(p) for p in points],
                [p.rate.value for p in points],
                [p.rate.low for p in points],
                [p.rate.high for p in points],
            )
        )
        marks = [p for p in (outcomes[outcome].at_cutoff, outcomes[outcome].same_share) if p is not None]
        marks = [p for p in marks if (_percentile(p) or 0.0) >= least]
        if marks:
            x, y = [_percentile(p) for p in marks], [p.rate.value for p in marks]
            series.append(Series(f"{_WORDS[outcome]}, high-risk group", x, y, style="points", emphasis=True))
    return series


def _table(r: Result, lines: Sequence[tuple[str, Mapping[str, Incidence]]]) -> Table:
    rows: list[list[Cell]] = []
    for name, outcomes in lines:
        for outcome, words in _WORDS.items():
            found = outcomes[outcome]
            if found.ecgs is None or (outcome != "vfvt" and r.scd is None):
                continue
            base = found.points[-1].rate if found.points else None
            rows.append(
                [
                    name,
                    words,
                    found.ecgs,
                    found.events,
                    None if base is None else rate_span(base),
                    *_cells(found.at_cutoff),
                    *_cells(found.same_share),
                ]
            )
    carried = "" if r.cutoff is None else f"Absolute cut-off: risk {100 * r.cutoff:.2f}%. "
    same = "" if r.share is None else f"{100 * r.share:.1f}% of the training hospitals' ECGs lie at or above it."
    return Table(
        "The high-risk group",
        ["", "outcome", "ECGs", "followed by it", "rate, all", "share", "rate (95% CI)", "share", "rate (95% CI)"],
        rows,
        note=carried + same,
        groups=[("", 5), ("above the absolute cut-off", 2), ("the same share as in training", 2)],
    )


def _cells(point: Point | None) -> list[Cell]:
    if point is None:
        return [None, None]
    return [None if point.share is None else f"{100 * point.share:.1f}%", rate_span(point.rate)]


def _coding(r: Result, labels: Labels) -> list[Block]:
    c = r.coding
    if c.reason:
        return [Text(f"How VF/VT is written down cannot be compared: {c.reason}.")]
    rows = [
        ForestRow(labels.site(s), v.odds_ratio.value, v.odds_ratio.low, v.odds_ratio.high, weight=v.events, site=s)
        for s, v in c.sites.items()
    ]
    told = [
        f"{labels.site(s)} P {'< 0.001' if v.p < 0.001 else f'= {v.p:.3f}'}"
        for s, v in c.sites.items()
        if v.p is not None
    ]
    return [
        forest(
            "VF/VT written down at the same predicted risk, against the training hospitals",
            rows,
            "odds ratio (95% interval)",
            reference=1.0,
            log=True,
            caption="Logistic model of VF/VT on the logit of the predicted risk, an intercept for each hospital beside "
            f"one of {', '.join(map(labels.site, c.reference))}; errors clustered by patient. {'; '.join(told)}",
        )
    ]


def _all(name: str, outcomes: Mapping[str, Incidence]) -> Table:
    rows: list[list[Cell]] = []
    for outcome, found in outcomes.items():
        for p in found.points:
            share = None if p.share is None else f"{100 * p.share:.2f}%"
            rows.append([_WORDS[outcome], f"{100 * (p.cutoff or 0):.3g}%", share, p.ecgs, p.events, rate_span(p.rate)])
    return Table(name, ["outcome", "risk from", "share", "ECGs", "followed by it", "rate (95% CI)"], rows)
