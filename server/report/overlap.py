"""How an overlap is shown: circles of the high-risk ECG and the marker, a table of groups, and rates compared."""

from __future__ import annotations

from ecgshared.stages.overlap import GROUPS
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.overlap import AtCut, GroupOverlap, Overlap, Result
from ecgshared.study.terms import Term
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Cell, Folded, Section, Table, Text
from server.report.venn import Venn, percent

_SIGNS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """One section: groups of hospitals, then each hospital."""
    title = f"{labels.step(step)}: overlap with {marker_words(r, labels)}"
    if r.cutoff is None:
        return [Section(title, [Text("No cut-off was fixed, so nobody is at high risk, and nothing overlaps.")])]
    blocks: list[Block] = [
        Text(
            f"High-risk ECG: a predicted risk of {100 * r.cutoff:.2f}% or more. Rates: {labels.endpoint(r.outcome)}, "
            "of ECGs, intervals clustered by patient. Those never measured stand among the normal where "
            "it says “normal or unknown”, and apart below."
        )
    ]
    bare = [labels.site(s) for s, found in r.sites.items() if _unmeasured(found.overlap)]
    pooled = {group: overlap for group, overlap in r.pooled.items() if not _unmeasured(overlap)}
    lines = [(labels.pooled(group), overlap) for group, overlap in pooled.items()]
    blocks += [figure for name, overlap in lines if (figure := _circles(name, overlap.fixed, r, labels)) is not None]
    blocks += [_table(f"Groups, {name}", overlap, r, labels) for name, overlap in lines]
    sites = [(labels.site(s), found.overlap) for s, found in r.sites.items() if labels.site(s) not in bare]
    several = [line for line, group in zip(lines, pooled, strict=True) if _members(r, group) > 1]
    if compared := _compared([*several, *sites], r, labels):
        blocks.append(compared)
    if sites:
        blocks.append(Folded("Groups by hospital", [_table(name, overlap, r, labels) for name, overlap in sites]))
    if bare:
        blocks.append(Text(f"The marker is known of nobody at {', '.join(bare)}: nothing overlaps there."))
    if gone := {labels.site(s): in_words(why.values()) for s, why in r.absent.items() if s not in r.sites}:
        blocks.append(Text(f"No answer: {', '.join(f'{site} ({why})' for site, why in gone.items())}."))
    return [Section(title, blocks)]


def _unmeasured(overlap: Overlap) -> bool:
    """Say whether the marker is known of nobody: a table without the column, not one too small to tell."""
    return overlap.fixed.groups["measured"].ecgs == 0


def _members(r: Result, group: str) -> int:
    return sum(found.group == group for found in r.sites.values())


def marker_words(r: Result, labels: Labels) -> str:
    """Return the marker in words: its label in the study, or its column and bound."""
    if r.label:
        return r.label
    factor = Term.read(r.marker).factors[0]
    name = labels.column(factor.column)
    name = name[:1].lower() + name[1:]
    if not factor.sign:
        return name
    bound = f"{100 * factor.bound:g}%" if factor.column == "lvef" else f"{factor.bound:g}"
    return f"{name.split(', ')[0]} {_SIGNS[factor.sign]} {bound}"


def _names(r: Result, labels: Labels) -> dict[str, str]:
    marker = marker_words(r, labels)
    return {
        "all": "All",
        "high": "High-risk ECG",
        "marker": marker[:1].upper() + marker[1:],
        "measured": "Marker measured",
        "normal": "Marker measured, normal",
        "unknown": "Marker not known",
        "both": "Both",
        "marker_only": "Marker alone",
        "high_only": "High-risk ECG, marker normal or unknown",
        "high_normal": "High-risk ECG, marker measured and normal",
        "high_unknown": "High-risk ECG, marker not known",
        "neither": "Neither",
    }


def _circles(name: str, at: AtCut, r: Result, labels: Labels) -> Venn | None:
    g = at.groups
    high, marker, both = (g[group].share for group in ("high", "marker", "both"))
    if not high or not marker or both is None:
        return None
    words = _names(r, labels)
    return Venn(
        f"{words['high']} and {marker_words(r, labels)}, {name}",
        (),
        "",
        "",
        caption="Areas are shares of the ECGs. "
        f"{_of_high(g)} Among those with a measured marker: {percent(g['measured'].share)} of all.",
        names=(
            f"{words['high']}: {percent(high)}{_rate(g['high'])}",
            f"{words['marker']}: {percent(marker)}{_rate(g['marker'])}",
        ),
        shares=(high, marker, both),
        texts=(_lines(g["high_only"]), _lines(g["both"]), _lines(g["marker_only"])),
        around=(f"neither: {percent(g['neither'].share)}{_rate(g['neither'])}",),
    )


def _of_high(g: dict[str, GroupOverlap]) -> str:
    both, high = g["both"].ecgs, g["high"].ecgs
    if both is None or not high or g["both"].sites != g["high"].sites:
        return ""
    return f"Of the high-risk ECGs {percent(both / high)} were known to have the marker."


def _lines(g: GroupOverlap) -> tuple[str, ...]:
    return (percent(g.share), f"rate {percent(g.rate.value)}")


def _rate(g: GroupOverlap) -> str:
    return f", rate {percent(g.rate.value)}"


def _table(title: str, overlap: Overlap, r: Result, labels: Labels) -> Table:
    words = _names(r, labels)
    rows: list[list[Cell]] = []
    for name in GROUPS:
        g = overlap.fixed.groups[name]
        other = None if overlap.matched is None else overlap.matched.groups[name]
        again = name not in ("all", "marker", "measured", "normal", "unknown") and other is not None
        rows.append(
            [
                words[name],
                g.ecgs,
                None if g.share is None else percent(g.share),
                g.events,
                "–" if g.ecgs == 0 else rate_span(g.rate),
                *(
                    [
                        None if other.share is None else percent(other.share),
                        "–" if other.ecgs == 0 else rate_span(other.rate),
                    ]
                    if again and other is not None
                    else ["-", "-"]
                ),
            ]
        )
    fewer = sorted(
        {
            labels.site(s)
            for g in overlap.fixed.groups.values()
            for s in set(overlap.fixed.groups["all"].sites) - set(g.rate_sites)
        }
    )
    note = f"Not all groups are of all hospitals: {', '.join(fewer)} withheld some. " if fewer else ""
    if overlap.matched is not None and overlap.matched.cutoff is not None:
        note += (
            f"Matched: high risk from {100 * overlap.matched.cutoff:.2f}% on, about as many ECGs as have the marker."
        )
    return Table(
        title,
        ["", "ECGs", "share", "with the event", "rate (95% CI)", "share", "rate (95% CI)"],
        rows,
        note=note,
        groups=[("", 1), ("at the fixed cut", 4), ("matched in size", 2)],
    )


def _compared(lines: list[tuple[str, Overlap]], r: Result, labels: Labels) -> Table | None:
    words = _names(r, labels)
    rows: list[list[Cell]] = [
        [
            name,
            f"{words[d.first]} less {words[d.second][:1].lower()}{words[d.second][1:]}{how}",
            _points(d.difference),
            "few events" if d.p is None else d.p,
        ]
        for name, overlap in lines
        for how, at in (("", overlap.fixed), (", matched in size", overlap.matched))
        if at is not None
        for d in at.differences
        if d.difference.value is not None
    ]
    note = "The groups may share ECGs and patients. P by Student's t, degrees of freedom as many as patients decide it."
    return (
        Table("Rates compared", ["", "groups", "difference, percentage points (95% CI)", "P"], rows, note=note)
        if rows
        else None
    )


def rate_span(e: EstimateResult) -> str | None:
    """Return "7.0% (4.9 to 9.5)"; without an interval the value alone, None where withheld."""
    if e.value is None:
        return None
    if e.low is None or e.high is None:
        return percent(e.value)
    return f"{100 * e.value:.1f}% ({100 * e.low:.1f} to {100 * e.high:.1f})"


def _points(e: EstimateResult) -> str | None:
    if e.value is None:
        return None
    if e.low is None or e.high is None:
        return f"{100 * e.value:.1f}"
    return f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})"
