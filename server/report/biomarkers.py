"""How the end of QRS is shown: aVL close up, coefficients alone and beside controls, hospitals, leads, the axis."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.ecg.leads import LEADS
from ecgshared.stages.results.biomarker import BiomarkerModel, Result, Zoom
from ecgshared.stages.results.regress import CoefficientResult, FitResult
from server.report.forest import Forest, ForestRow, forest
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Cell, Figure, Key, Section, Series, Table, Text

_CONTROLS = {
    "rate_bpm": "heart rate",
    "pr_ms": "PR",
    "qrs_ms": "QRS duration",
    "qt_ms": "QT",
    "p_axis_deg": "P axis",
    "qrs_axis_deg": "QRS axis",
    "t_axis_deg": "T axis",
    "left_axis": "left axis deviation",
}
_ORDERS = {"d1": "mean |d1|", "d2": "mean |d2|"}


def biomarker_sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section."""
    outcome = labels.endpoint(r.outcome)
    blocks: list[Block] = [*_keys(step, r, labels), Text(_about(r, outcome))]
    blocks += _zoomed(r.zoom)
    blocks.append(_table(r, outcome))
    blocks += [made for model in r.avl if (made := _forest(model, labels, outcome)) is not None]
    if r.leads:
        blocks.append(_leads(r, outcome))
    blocks.append(_who(r, labels))
    return [Section(f"{labels.step(step)}: the end of QRS", blocks)]


def _about(r: Result, outcome: str) -> str:
    return (
        "On each ECG's median beat, scaled to [0, 1], the mean absolute first and second differences of aVL from its "
        "R peak to the end of QRS, at 500 samples a second and below 40 Hz; less is slurred. Linear regressions of "
        f"{outcome} on the ECGs no training saw, in percentage points per standard deviation, errors clustered by "
        "patient; 95% intervals by Student's t, with as many degrees of freedom as patients decide a coefficient, less "
        "one."
    )


def words(term: str) -> str:
    """Return what a term is called."""
    if term in _CONTROLS:
        return _CONTROLS[term]
    lead, _, order = term.partition("_")
    name = next((known for known in LEADS if known.lower() == lead), lead)
    return f"{_ORDERS.get(order, order)} of {name}"


def _keys(step: str, r: Result, labels: Labels) -> list[Key]:
    found = []
    for model in r.avl:
        if not model.name.endswith("_alone"):
            continue
        c = model.pooled.coefficients.get(model.terms[0])
        found.append(
            Key(
                f"End of QRS in aVL, {words(model.terms[0])}, per SD",
                None if c is None or c.value is None else f"{100 * c.value:+.2f} points",
                f"{_interval(c)}; of {labels.endpoint(r.outcome)}",
                labels.about(step),
            )
        )
    return found


def _interval(c: CoefficientResult | None) -> str:
    if c is None or c.low is None or c.high is None:
        return "no interval"
    return f"95% CI {100 * c.low:+.2f} to {100 * c.high:+.2f}"


def _zoomed(zooms: Sequence[Zoom]) -> list[Block]:
    if not zooms:
        return []
    beats, changes = [], []
    for i, z in enumerate(zooms[:2]):
        beats.append(Series(z.label, z.ms, z.scaled, emphasis=bool(i)))
        if z.peak_ms is not None and z.end_ms is not None:
            box = [z.peak_ms, z.peak_ms, z.end_ms, z.end_ms, z.peak_ms]
            beats.append(Series(f"R peak to QRS end, {z.label}", box, [0.0, 1.0, 1.0, 0.0, 0.0], muted=True))
        inside = [z.peak_ms is not None and z.end_ms is not None and z.peak_ms <= t <= z.end_ms for t in z.ms]
        for name, values in (("|d1|", z.d1), ("|d2|", z.d2)):
            shown = [v if kept else None for v, kept in zip(values, inside, strict=True)]
            changes.append(Series(f"{name}, {z.label}", z.ms, shown, emphasis=bool(i) and name == "|d1|"))
            ends = [k for k, v in enumerate(shown) if v is not None]
            if ends:
                at = [ends[0], ends[-1]]
                changes.append(
                    Series(f"ends of {name}, {z.label}", [z.ms[k] for k in at], [shown[k] for k in at], style="points")
                )
    said = "; ".join(
        f"{z.label}: mean |d1| {z.mean_d1:.4f}, mean |d2| {z.mean_d2:.4f}"
        for z in zooms
        if z.mean_d1 is not None and z.mean_d2 is not None
    )
    return [
        Figure("aVL close up", beats, "ms from the R peak of lead I", "scaled to [0, 1]", caption=f"{said}."),
        Figure(
            "How aVL changes from its R peak to the end of QRS",
            changes,
            "ms from the R peak of lead I",
            "a sample at 500 Hz",
            caption="Absolute first and second differences, with their ends.",
        ),
    ]


def _table(r: Result, outcome: str) -> Table:
    models = [*r.avl, *([r.axis] if r.axis is not None else [])]
    terms = list(dict.fromkeys(term for model in models for term in model.terms))
    rows: list[list[Cell]] = [
        [words(term), *(_cell(model.pooled, term) if term in model.terms else "-" for model in models)]
        for term in terms
    ]
    rows.append(["ECGs", *(model.pooled.ecgs for model in models)])
    rows.append(["patients", *(model.pooled.patients for model in models)])
    rows.append([f"ECGs with {outcome}", *(model.pooled.events for model in models)])
    rows.append(["R²", *(model.pooled.r2 for model in models)])
    reasons = "; ".join(sorted({m.pooled.reason for m in models if m.pooled.reason}))
    return Table(
        f"{outcome[:1].upper()}{outcome[1:]} on the end of QRS in aVL, and on left axis deviation",
        ["", *(f"({i})" for i in range(1, len(models) + 1))],
        rows,
        note="Percentage points per SD with 95% intervals and P; of left axis deviation (QRS axis from -90 to -30 "
        "degrees), of having it." + (f" Without coefficients: {reasons}." if reasons else ""),
    )


def _cell(fit: FitResult, term: str) -> Cell:
    c = fit.coefficients.get(term)
    if c is None or c.value is None:
        return None
    p = "" if c.p is None else ", P < 0.001" if c.p < 0.001 else f", P = {c.p:.3f}"
    if c.low is None or c.high is None:
        return f"{100 * c.value:+.2f} (no interval)"
    return f"{100 * c.value:+.2f} ({100 * c.low:+.2f} to {100 * c.high:+.2f}){p}"


def _forest(model: BiomarkerModel, labels: Labels, outcome: str) -> Forest | None:
    term = model.terms[0]
    rows = [
        _row(labels.site(site), fit.coefficients[term]) for site, fit in model.sites.items() if term in fit.coefficients
    ]
    pooled = model.pooled.coefficients.get(term)
    if not rows or pooled is None:
        return None
    beside = "alone" if len(model.terms) == 1 else "beside rate, intervals and axes"
    return forest(
        f"{words(term)[:1].upper()}{words(term)[1:]}, {beside}: {outcome}",
        [*rows, _row("all hospitals' sums", pooled, pooled=True)],
        "percentage points per SD (95% interval)",
        reference=0.0,
        log=False,
        caption="Each hospital's own fit, and all of them.",
    )


def _row(label: str, c: CoefficientResult, *, pooled: bool = False) -> ForestRow:
    value, low, high = (None if v is None else 100 * v for v in (c.value, c.low, c.high))
    weight = c.se**-2 if c.se and not pooled else None
    return ForestRow(label, value, low, high, weight=weight, pooled=pooled)


def _leads(r: Result, outcome: str) -> Table:
    by_term = {model.terms[0]: model.pooled for model in r.leads}
    rows: list[list[Cell]] = []
    for lead in LEADS:
        terms = [f"{lead.lower()}_{order}" for order in _ORDERS]
        rows.append([lead, *(_cell(by_term[term], term) if term in by_term else None for term in terms)])
    return Table(
        f"Every lead by itself: {outcome}",
        ["lead", *_ORDERS.values()],
        rows,
        note="Each coefficient from a regression of its own, percentage points per SD.",
    )


def _who(r: Result, labels: Labels) -> Table:
    reasons = list(dict.fromkeys(reason for s in r.sites.values() for reason in s.left_out))
    rows: list[list[Cell]] = [
        [labels.site(site), s.ecgs, *(s.left_out[reason] for reason in reasons), s.reason or "-"]
        for site, s in r.sites.items()
    ]
    for site, why in r.absent.items():
        if site not in r.sites:
            rows.append([labels.site(site), *["-"] * (1 + len(reasons)), in_words(why.values())])
    return Table(
        "Whose ECGs were measured",
        ["hospital", "measured", *(f"left out: {reason}" for reason in reasons), "takes no part, and why"],
        rows,
    )
