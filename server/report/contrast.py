"""How scores beside each other are shown: AUCs, forest plots of paired differences, and the placebo."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.stages.results.contrast import Contrasted, Pair, Result
from server.report.evaluation_tables import p_of, span
from server.report.forest import Forest, ForestRow, forest
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Cell, Key, Section, Table, Text


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """One section a step."""
    lines: list[tuple[str, Contrasted, bool]] = [
        *((labels.pooled(group), found, True) for group, found in r.pooled.items() if _several(r, group)),
        *((labels.site(site), found, False) for site, found in r.sites.items()),
    ]
    blocks: list[Block] = []
    if r.placebo is not None:
        blocks += [_key(step, name, found, r, labels) for name, found, _ in lines if _has_placebo(found, r)]
    blocks.append(
        Text(
            f"Score: {labels.score(r.score)}. Differences are of AUCs on the same ECGs, clustered by patient; over "
            f"hospitals, of pairs within a hospital."
        )
    )
    if r.placebo is not None:
        blocks += _placebo(lines, r, labels)
    for outcome in r.outcomes:
        if r.others:
            blocks.append(_table(lines, outcome, labels))
            blocks += _forests(lines, outcome, r, labels)
            blocks += _as_risks(lines, outcome, labels)
    if gone := {s: why for s, why in r.absent.items() if s not in r.sites}:
        words = (f"{labels.site(s)} ({in_words(why.values())})" for s, why in gone.items())
        blocks.append(Text(f"No answer: {', '.join(words)}."))
    return [Section(f"{labels.step(step)}: scores contrasted", blocks)]


def _several(r: Result, group: str) -> bool:
    return sum(found.group == group for found in r.sites.values()) > 1


def _has_placebo(found: Contrasted, r: Result) -> bool:
    return r.score in found.placebo and found.placebo[r.score].difference.value is not None


def _key(step: str, name: str, found: Contrasted, r: Result, labels: Labels) -> Key:
    one = found.placebo[r.score]
    notes = [f"AUC {span(one.auc)}, placebo {span(one.placebo_auc)}", _p(one.p)]
    if one.difference.low is not None and one.difference.high is not None:
        notes.insert(0, f"95% CI {one.difference.low:.3f} to {one.difference.high:.3f}")
    title = f"AUC for {labels.endpoint(r.outcomes[0])} less that for {labels.endpoint(r.placebo or '')}, {name}"
    return Key(title, one.difference.value, "; ".join(n for n in notes if n), labels.about(step, r.score))


def _p(p: float | None) -> str:
    return "" if p is None else "P < 0.001" if p < 0.001 else f"P = {p:.3f}"


def _placebo(lines: Sequence[tuple[str, Contrasted, bool]], r: Result, labels: Labels) -> list[Block]:
    rows: list[list[Cell]] = [
        [
            name,
            *(labels.score(score), p.ecgs, p.events, p.placebo_events),
            *(span(p.auc), span(p.placebo_auc), span(p.difference), p_of(p.p, p.difference)),
        ]
        for name, found, _ in lines
        for score, p in found.placebo.items()
        if p.ecgs is not None
    ]
    if not rows:
        return [
            Text(f"No hospital may tell of {labels.endpoint(r.placebo or '')} beside {labels.endpoint(r.outcomes[0])}.")
        ]
    first, other = labels.endpoint(r.outcomes[0]), labels.endpoint(r.placebo or "")
    return [
        Table(
            f"Placebo: {first} and {other}, against the same controls",
            ["", "score", "ECGs", f"with {first}", f"with {other}", "AUC", "placebo AUC", "difference (95% CI)", "p"],
            rows,
            note="A score that knows of the first alone tells the second from controls by chance.",
        )
    ]


def _table(lines: Sequence[tuple[str, Contrasted, bool]], outcome: str, labels: Labels) -> Table:
    rows: list[list[Cell]] = [
        [
            name,
            *(labels.score(other), pair.ecgs, pair.events),
            *(span(pair.auc), span(pair.other_auc), span(pair.difference), p_of(pair.p, pair.difference)),
        ]
        for name, found, _ in lines
        for other, pair in found.pairs.get(outcome, {}).items()
    ]
    return Table(
        f"Beside other scores: {labels.endpoint(outcome)}",
        ["", "other score", "ECGs", "with the event", "AUC", "its AUC", "difference (95% CI)", "p"],
        rows,
        note="Each line is of the ECGs that have both scores.",
    )


def _as_risks(lines: Sequence[tuple[str, Contrasted, bool]], outcome: str, labels: Labels) -> list[Table]:
    rows: list[list[Cell]] = [
        [name, labels.score(other), *risk_figures(pair)]
        for name, found, _ in lines
        for other, pair in found.pairs.get(outcome, {}).items()
        if pair.risks is not None
    ]
    if not rows:
        return []
    return [
        Table(
            f"As risks: {labels.endpoint(outcome)}",
            ["", "other score", *RISK_COLUMNS],
            rows,
            note="Of risks alone, on the ECGs that have both; Brier less its Brier, by patient: below zero where the "
            "first is closer. Over several hospitals means over ECGs; a slope is a hospital's own.",
        )
    ]


RISK_COLUMNS = ["Brier", "its Brier", "difference (95% CI)", "p", "calibration slope", "its slope"]


def risk_figures(pair: Pair) -> list[Cell]:
    """Return the cells of :data:`RISK_COLUMNS`; empty ones where there are no risks."""
    if (r := pair.risks) is None:
        return [None] * len(RISK_COLUMNS)
    slopes = ["" if slope is None else span(slope) for slope in (r.slope, r.other_slope)]
    return [
        *(span(b, 4) for b in (r.brier, r.other_brier, r.brier_difference)),
        p_of(r.brier_p, r.brier_difference),
        *slopes,
    ]


def _forests(lines: Sequence[tuple[str, Contrasted, bool]], outcome: str, r: Result, labels: Labels) -> list[Forest]:
    """One plot a hospital or group with a difference, the other scores as rows."""
    found = []
    for name, contrasted, together in lines:
        rows = [
            ForestRow(labels.score(other), p.difference.value, p.difference.low, p.difference.high, pooled=together)
            for other, p in contrasted.pairs.get(outcome, {}).items()
            if p.difference.value is not None
        ]
        if len(rows) > 1:
            title = f"AUC of {labels.score(r.score)} less another's, {labels.endpoint(outcome)}, {name}"
            found.append(forest(title, rows, "difference of AUC (95% interval)", reference=0.0))
    return found
