"""How saliency is shown: shares by lead and phase of the beat, and the course along the mean beat, lead by lead."""

from __future__ import annotations

from ecgshared.stages.results.saliency import Map, Result
from ecgshared.stages.saliency import BEAT_PHASES
from server.report.labels import Labels
from server.report.sections import Block, Cell, Folded, Panels, Section, Series, Table, Text

_METHODS = {"gradient_x_input": "gradient times input", "integrated_gradients": "integrated gradients"}


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """One section a step."""
    blocks: list[Block] = [
        Text(
            f"Output explained: the logit of {labels.score(r.head)}; by {_METHODS.get(r.method, r.method)}, one ECG a "
            "patient, each ECG's shares adding up to one. Means over patients. It shows where the net looks, not what "
            f"it sees there."
        )
    ]
    for group, found in r.pooled.items():
        name = labels.pooled(group) if sum(m.group == group for m in r.sites.values()) > 1 else _sites(found, labels)
        if found.patients is None:
            continue
        blocks += [_table(f"Share of the attribution, {name}", found), _course(r, name, found)]
    if len(r.sites) > len(r.pooled):
        own = [(labels.site(site), m) for site, m in r.sites.items() if m.patients is not None]
        blocks.append(Folded("By hospital", [_table(name, m) for name, m in own]))
    silent = [labels.site(site) for site, m in r.sites.items() if m.patients is None]
    silent += [labels.site(site) for site in r.absent if site not in r.sites]
    if silent:
        blocks.append(Text(f"Too few patients, or no answer: {', '.join(silent)}."))
    return [Section(f"{labels.step(step)}: saliency", blocks)]


def _sites(found: Map, labels: Labels) -> str:
    return ", ".join(map(labels.site, found.sites))


def _table(title: str, found: Map) -> Table:
    rows: list[list[Cell]] = []
    for lead, phases in found.share.items():
        every = [value for value in phases.values() if value is not None]
        rows.append(
            [lead, *(_percent(phases[p], found.error[lead][p]) for p in BEAT_PHASES), _percent(sum(every), None)]
        )
    totals = [sum(row[p] or 0.0 for row in found.share.values()) for p in BEAT_PHASES]
    rows.append(["all leads", *(_percent(total, None) for total in totals), _percent(sum(totals), None)])
    patients = "" if found.patients is None else f"{found.patients:.0f} patients. "
    return Table(
        title,
        ["lead", *(p if p != "between" else "between beats" for p in BEAT_PHASES), "all"],
        rows,
        note=f"{patients}Percent of the attribution's size (standard error).",
    )


def _percent(value: float | None, error: float | None) -> Cell:
    if value is None:
        return None
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f} ({100 * error:.2f})"


def _course(r: Result, name: str, found: Map) -> Panels:
    """Mean beat, and where along it the output comes from, on one scale: the course's peak over all leads is 1 mV."""
    peak = max((value or 0.0 for line in found.course.values() for value in line), default=0.0) or 1.0
    panels = [
        (
            lead,
            [
                Series("mean beat, mV", list(r.times_s), list(found.beat[lead]), muted=True),
                Series("attribution", list(r.times_s), [None if v is None else v / peak for v in found.course[lead]]),
            ],
        )
        for lead in found.course
    ]
    return Panels(
        f"Along the mean beat, {name}",
        [Series("mean beat, mV", (), (), muted=True), Series("attribution", (), ())],
        "seconds from the middle of QRS",
        "mV; attribution, its largest value 1",
        caption="Grey: the mean beat over patients. Coloured: the mean size of the attribution there.",
        panels=panels,
    )
