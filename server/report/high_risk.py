"""How a profile of the risk is shown: its spread, high risk beside the others, devices, what is flagged, incidence."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.stages.high_risk import ANY
from ecgshared.stages.results.base import MeanSd, Number
from ecgshared.stages.results.high_risk import Band, Profile, Result, SiteProfile
from ecgshared.study.endpoints import EVENTS
from ecgshared.study.terms import Term
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.overlap import rate_span
from server.report.sections import Block, Cell, Figure, Folded, Panels, Section, Series, Table, Text

_ALSO = {"defibrillator": "Defibrillator", "lvef_measured": "Ejection fraction measured"}
Lines = Sequence[tuple[str, Profile]]


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """One section a step."""
    cut = "No cut-off was fixed: nobody is at high risk."
    if r.cutoff is not None:
        cut = f"High risk: {100 * r.cutoff:.2f}% or more."
    lines: list[tuple[str, Profile]] = [
        *((labels.pooled(group), p) for group, p in r.pooled.items() if _several(r, group)),
        *((labels.site(site), p) for site, p in r.sites.items()),
    ]
    blocks: list[Block] = [Text(f"{cut} Intervals are clustered by patient.")]
    blocks.append(_spread(lines))
    if r.cutoff is not None:
        blocks += _becomes(r, lines)
        knowing = {labels.site(site) for site in r.sites if labels.offers(site, r.outcome)}
        told = [(name, p) for name, p in lines if name in knowing or not isinstance(p, SiteProfile)]
        blocks.append(_flagged(r, told, labels))
        blocks.append(_beside(lines, labels))
    blocks += _devices(lines)
    if gone := {s: why for s, why in r.absent.items() if s not in r.sites}:
        words = (f"{labels.site(s)} ({in_words(why.values())})" for s, why in gone.items())
        blocks.append(Text(f"No answer: {', '.join(words)}."))
    return [Section(f"{labels.step(step)}: who is at high risk", blocks)]


def _several(r: Result, group: str) -> bool:
    return sum(p.group == group for p in r.sites.values()) > 1


def _percent(value: Number, digits: int = 2) -> Cell:
    return None if value is None else f"{100 * value:.{digits}f}%"


def _spread(lines: Lines) -> Table:
    quantiles = list(lines[0][1].distribution.quantiles) if lines else []
    rows: list[list[Cell]] = [
        [
            name,
            *(p.ecgs, _percent(p.distribution.mean), _percent(p.distribution.sd), _percent(p.high_risk_share, 1)),
            *(_percent(v) if isinstance(p, SiteProfile) else "-" for v in p.distribution.quantiles.values()),
        ]
        for name, p in lines
    ]
    return Table(
        "How the predicted risk is spread",
        ["", "ECGs", "mean", "SD", "at high risk", *(f"{q}%" for q in quantiles)],
        rows,
        note="Quantiles are rounded to two digits, and told by hospitals alone.",
        groups=[("", 5), ("quantiles of the risk", len(quantiles))],
    )


def _becomes(r: Result, lines: Lines) -> list[Figure]:
    """Cumulative incidence at high risk and not; nothing where no hospital may tell of either."""
    if r.event is None:
        return []
    times = [0.0, *r.times_years]
    panels, unknown = [], []
    for name, p in lines:
        series = []
        for group, words in (("high", "at high risk"), ("others", "others")):
            i = p.incidence[group]
            start = 0.0 if any(v is not None for v in i.risk) else None
            series.append(
                Series(words, times, [start, *i.risk], [start, *i.low], [start, *i.high], emphasis=group == "high")
            )
        if any(v is not None for one in series for v in one.y):
            panels.append((name, series))
            unknown += [] if any(v is not None for v in series[0].y) else [name]
    if not panels:
        return []
    event = EVENTS.get(r.event, r.event)
    return [
        Panels(
            f"Cumulative incidence of {event}, at high risk and not",
            (),
            "years after the ECG",
            "have had it",
            caption=("" if r.event == "death" else f"Aalen-Johansen: who dies of something else never has {event}. ")
            + "Dark: at high risk. Read where enough patients leave between two times; bands: 95% intervals."
            + (f" Withheld at high risk: {', '.join(unknown)}." if unknown else ""),
            panels=panels,
        )
    ]


_RULES = {"high_risk": "High-risk ECG", ANY: "Any of the markers"}


def _flagged(r: Result, lines: Lines, labels: Labels) -> Table:
    rows: list[list[Cell]] = [
        [
            name,
            _RULES.get(rule) or marker(rule, labels),
            *(_percent(c.flagged_share, 1), c.events, rate_span(c.captured)),
        ]
        for name, p in lines
        for rule, c in p.captured.items()
    ]
    return Table(
        f"What is flagged of all ECGs followed by {labels.endpoint(r.outcome)}",
        ["", "rule", "share of ECGs flagged", "with the event", "share of these flagged (95% CI)"],
        rows,
        note="Of whom a marker is not known, it flags nobody. Whom none flags had no known risk factor.",
    )


def marker(text: str, labels: Labels) -> str:
    """Return a marker in words: "ejection fraction at most 35%"."""
    factor = Term.read(text).factors[0]
    name = _ALSO.get(factor.column, labels.column(factor.column)).split(", ")[0]
    if not factor.sign:
        return name
    signs = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}
    bound = f"{100 * factor.bound:g}%" if factor.column == "lvef" else f"{factor.bound:g}"
    return f"{name} {signs[factor.sign]} {bound}"


def _beside(lines: Lines, labels: Labels) -> Folded:
    tables: list[Text | Table] = []
    for name, p in lines:
        rows: list[list[Cell]] = [
            [_ALSO.get(variable, labels.column(variable)), _mean(v.high), _mean(v.others)]
            for variable, v in p.variables.items()
        ]
        tables.append(Table(name, ["", "at high risk", "others"], rows))
    return Folded("Those at high risk beside the others: means (SD), and shares of yes/no variables", tables)


def _mean(m: MeanSd) -> Cell:
    if m.mean is None or m.sd is None:
        return None
    return f"{m.mean:.3g} ({m.sd:.3g})"


def _devices(lines: Lines) -> list[Block]:
    """Share with a defibrillator by band; nothing where no hospital knows of any."""
    found: list[Block] = []
    for title, of, words in (
        ("Share with a defibrillator by predicted risk", "devices_by_risk", "predicted risk"),
        ("Share with a defibrillator by ejection fraction", "devices_by_lvef", "ejection fraction"),
    ):
        every = [(name, getattr(p, of)) for name, p in lines]
        told = [(name, bands) for name, bands in every if any(b.share_with_device is not None for b in bands)]
        if not told:
            continue
        columns = [_band(b) for b in told[0][1]]
        rows: list[list[Cell]] = [[name, *(_percent(b.share_with_device, 1) for b in bands)] for name, bands in told]
        found.append(Table(title, ["", *columns], rows, groups=[("", 1), (words, len(columns))]))
    return found


def _band(b: Band) -> str:
    if not b.measured:
        return "not measured"
    low, high = (None if v is None else f"{100 * v:g}" for v in (b.low, b.high))
    return f"{low}% and more" if high is None else f"{low} to {high}%"
