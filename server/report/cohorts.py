"""How cohorts are shown: Table 1 as variables by hospital, exclusions as a CONSORT diagram, devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ecgshared.stages.results.base import MeanSd, Number
from ecgshared.stages.results.describe import BySplit, Result, SiteDescription
from server.report.labels import Labels
from server.report.sections import Block, Cell, Consort, ConsortBox, Flow, FlowRow, Folded, Section, Table, Text

_DECIMALS = {"age": 1, "bmi": 1, "lvef": 2}
"""One precision a variable; shares have one decimal of a percent."""
SITES_A_TABLE = 3

Sites = Mapping[str, SiteDescription]


def cohort_sections(r: Result, labels: Labels) -> list[Section]:
    """Return cohorts with Table 1, and the flow of exclusions."""
    primary = labels.primary if labels.primary in r.heads else r.heads[0]
    others = [head for head in r.heads if head != primary]
    blocks: list[Block] = [_numbers(r, labels), *table_one(r, primary, labels)]
    blocks += [
        Folded(f"Table 1 by {labels.endpoint(head)}", table_one(r, head, labels, everybody=False)) for head in others
    ]
    blocks.append(Folded("Devices and sampling rates", [_devices(r.sites, labels)]))
    flows: list[Block] = []
    for names, rules in _by_rules(r.sites):
        sites = {name: r.sites[name] for name in names}
        diagram = consort(sites, rules, labels)
        flows += [diagram] if diagram is not None else [Text(_NO_DIAGRAM)]
        flows.append(Folded(f"As tables: {', '.join(map(labels.site, names))}", _flow_tables(sites, rules, labels)))
    unknown = [labels.site(site) for site, s in r.sites.items() if not s.patients_known]
    if unknown:
        flows.append(
            Text(
                f"{', '.join(unknown)}: no patient identifiers; each ECG counts as a patient, and nothing is "
                "claimed of patients."
            )
        )
    opened = [f"{labels.site(site)} {s.lockbox_openings}" for site, s in r.sites.items() if s.lockbox_openings]
    if opened:
        blocks.append(
            Text(
                f"Lockboxes that earlier runs, of this study or of others, have opened before, and how often: "
                f"{', '.join(opened)}. What was chosen in the light of those looks is not judged by an untouched "
                "lockbox any more."
            )
        )
    series = [labels.site(site) for site, s in r.sites.items() if s.design == "case_control"]
    if series:
        blocks.append(
            Text(
                f"{', '.join(series)}: a case-control series by the hospital's own word; its share of events was "
                "chosen when it was drawn, and it is in no total."
            )
        )
    return [Section("Cohorts", blocks), Section("Flow of exclusions", flows)]


_NO_DIAGRAM = (
    "No diagram of these hospitals: none may tell how many ECGs and patients it began and ended with. What they "
    "may tell "
    "stands in the tables."
)


def total(by_split: BySplit) -> float | None:
    """Return the sum over the splits that are told; None where none is."""
    known = [n for n in by_split.values() if n is not None]
    return sum(known) if known else None


def cohort_size(s: SiteDescription) -> tuple[Number, Number]:
    """Return (patients, ECGs) of a hospital's cohort, the lockbox among them; None where it may not tell.

    The last line of the flow has them. The counts by split do not: a hospital that trains opens its lockbox for the
    final evaluation alone.
    """
    return (s.flow[-1].patients, s.flow[-1].ecgs) if s.flow else (total(s.patients), total(s.ecgs))


def _numbers(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = []
    # A study of labels alone follows nobody: that is no withholding.
    followed = any(s.follow_up_years.mean is not None for s in r.sites.values())
    for site, s in r.sites.items():
        median = s.follow_up_quartiles[1] if len(s.follow_up_quartiles) == 3 else None
        described: list[Cell] = [
            total(s.patients),
            total(s.ecgs),
            *([s.follow_up_years.mean, median] if followed else []),
        ]
        row: list[Cell] = [labels.site(site), *cohort_size(s), *described]
        for head in r.heads:
            row += [total(s.events[head]), total(s.labelled[head])] if head in s.heads_offered else ["not offered", "-"]
        rows.append(row)
    return Table(
        "Patients, ECGs and events",
        [
            "hospital",
            *("patients", "ECGs"),
            *("patients", "ECGs", *(("follow-up, mean years", "median") if followed else ())),
            *["with the event", "labelled"] * len(r.heads),
        ],
        rows,
        note=(
            "Described: the opened lockboxes of training hospitals, and everybody at the others. "
            if r.of_lockbox
            else "A training hospital opens its lockbox for the final evaluation alone: its patients are in the cohort "
            "and not among those described. "
        )
        + "Events and labels are of ECGs.",
        groups=[
            ("", 1),
            ("cohort", 2),
            ("described here", 4 if followed else 2),
            *((labels.endpoint(head), 2) for head in r.heads),
        ],
    )


def table_one(r: Result, head: str, labels: Labels, *, everybody: bool = True) -> list[Table]:
    """Return Table 1: a row a variable, and for each hospital everybody, those with and those without the event.

    Three hospitals stand side by side; more make several tables of about the same width.
    """
    sites, of = r.sites, "of the lockboxes" if r.of_lockbox else "without the lockboxes"
    variables = list(dict.fromkeys(name for s in sites.values() for group in s.table1.values() for name in group))
    tables = math.ceil(len(sites) / SITES_A_TABLE) or 1
    size = math.ceil(len(sites) / tables) or 1
    names = list(sites)
    groups = {"all": "all"} if everybody else {}
    groups |= {f"{head}: event": "event", f"{head}: no event": "no event"}
    found = []
    for first in range(0, len(names), size):
        part = {name: sites[name] for name in names[first : first + size]}
        rows: list[list[Cell]] = [["ECGs", *(n for s in part.values() for n in _sizes(s, head, everybody))]]
        rows += [
            [
                f"{_column(variable, labels)}{', %' if variable in r.yes_no else ', mean (SD)'}",
                *(
                    _shown(s.table1.get(g, {}).get(variable), _DECIMALS.get(variable, 1), share=variable in r.yes_no)
                    # Nobody withholds what is of an endpoint that a hospital does not know.
                    if g == "all" or head in s.heads_offered
                    else "-"
                    for s in part.values()
                    for g in groups
                ),
            ]
            for variable in variables
            if any(_told(s, variable, groups) for s in sites.values())
        ]
        more = "" if first == 0 else ", continued"
        found.append(
            Table(
                f"Table 1: ECGs with and without {labels.endpoint(head)}{more}",
                ["", *list(groups.values()) * len(part)],
                rows,
                note=f"Means (SD) and shares over ECGs, not over patients; {of} of training hospitals. "
                "With and without the event: of ECGs whose label is known.",
                groups=[("", 1), *((labels.site(name), len(groups)) for name in part)],
            )
        )
    return found


def _told(s: SiteDescription, variable: str, groups: Iterable[str]) -> bool:
    return any((cell := s.table1.get(g, {}).get(variable)) is not None and cell.mean is not None for g in groups)


def _sizes(s: SiteDescription, head: str, everybody: bool) -> list[Cell]:
    events, labelled = total(s.events[head]), total(s.labelled[head])
    free = None if events is None or labelled is None else labelled - events
    parts: list[Cell] = [events, free] if head in s.heads_offered else ["not offered", "not offered"]
    return [total(s.ecgs), *parts] if everybody else parts


def _column(variable: str, labels: Labels) -> str:
    return {"defibrillator": "Defibrillator", "lvef_measured": "Ejection fraction measured"}.get(
        variable, labels.column(variable)
    )


def _shown(cell: MeanSd | None, digits: int, *, share: bool) -> str | None:
    if cell is None or cell.mean is None or cell.sd is None:
        return None
    return f"{100 * cell.mean:.1f}" if share else f"{cell.mean:.{digits}f} ({cell.sd:.{digits}f})"


def _devices(sites: Sites, labels: Labels) -> Table:
    rows: list[list[Cell]] = [
        [labels.site(site), name if kind == "device" else f"{name} Hz", n]
        for site, s in sites.items()
        for kind, found in (("device", s.devices), ("rate", s.rates_hz))
        for name, n in found.items()
    ]
    return Table("Devices and sampling rates", ["hospital", "device or rate", "ECGs"], rows)


def _by_rules(sites: Sites) -> list[tuple[list[str], tuple[str, ...]]]:
    """Hospitals by the rules of their flow: those with the same ones share a diagram."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, s in sites.items():
        groups.setdefault(tuple(line.reason for line in s.flow), []).append(name)
    return [(names, rules) for rules, names in groups.items() if rules]


def _flow_tables(sites: Sites, rules: Sequence[str], labels: Labels) -> list[Flow]:
    columns = [labels.site(name) for name in sites]
    note = "A line is withheld where it leaves, or takes out, fewer patients than a site may speak of."
    ecgs = [FlowRow(rule, [_whole(s.flow[i].ecgs) for s in sites.values()]) for i, rule in enumerate(rules)]
    patients = [FlowRow(rule, [_whole(s.flow[i].patients) for s in sites.values()]) for i, rule in enumerate(rules)]
    return [
        Flow("From table to cohort, ECGs", columns, ecgs, unit="ECGs", note=note),
        Flow("From table to cohort, patients", columns, patients, unit="patients", note=note),
    ]


def consort(sites: Sites, rules: Sequence[str], labels: Labels) -> Consort | None:
    """Return the diagram over hospitals with the same rules; None where none may tell its first and last line.

    Who may not is left out and named. A line that a hospital withholds has no total: its rule is told together with
    those after it, up to the next line that every hospital tells. Rules that took nobody away are named below.
    """
    silent = [name for name, s in sites.items() if not (_known({name: s}, 0) and _known({name: s}, len(rules) - 1))]
    sites = {name: s for name, s in sites.items() if name not in silent}
    if not sites:
        return None
    boxes = [ConsortBox(_upper(rules[0]), _counts(sites, 0), _each(sites, 0, labels))]
    before, waiting, idle = 0, list[str](), list[str]()
    for i in range(1, len(rules)):
        waiting.append(rules[i])
        if not _known(sites, i):
            continue
        if _in_all(sites, i) == _in_all(sites, before):
            idle += waiting
        else:
            boxes.append(
                ConsortBox(
                    "Remaining",
                    _counts(sites, i),
                    _each(sites, i, labels),
                    tuple(waiting),
                    _counts(sites, i, before),
                    _each(sites, i, labels, before),
                )
            )
        before, waiting = i, []
    last = boxes[-1]
    boxes[-1] = ConsortBox("Analysed" if len(boxes) > 1 else last.title, *list(vars(last).values())[1:])
    ends = [(labels.site(name), _end(name, s, labels)) for name, s in sites.items()]
    notes = [f"Rules that excluded nobody: {'; '.join(idle)}."] if idle else []
    if silent:
        names = ", ".join(map(labels.site, silent))
        notes.append(f"Not in the diagram, for they may not tell how many they began or ended with: {names}.")
    names = ", ".join(map(labels.site, sites))
    return Consort(f"From tables to cohorts: {names}", (), "", "", caption=" ".join(notes), boxes=boxes, ends=ends)


_PARTS = {"training": "training hospital", "zero_shot": "only evaluated", "case_control": "case-control series"}


def _end(name: str, s: SiteDescription, labels: Labels) -> list[str]:
    trains = labels.study is not None and name in labels.study.sites.train
    lines = [] if labels.study is None else [_PARTS[labels.study.sites.group_of(name)]]
    patients, ecgs = cohort_size(s)
    lines.append(f"{_n(patients)} patients, {_n(ecgs)} ECGs")
    train, validation = s.patients.get("train"), s.patients.get("validation")
    if trains:
        lines += [f"train: {_n(train)} patients", f"validation: {_n(validation)} patients"]
    if trains and patients is not None and train is not None and validation is not None:
        lines.append(f"lockbox: {_n(patients - train - validation)} patients")
    return lines


def _n(value: Number) -> str:
    return "withheld" if value is None else f"{value:,.0f}"


def _known(sites: Sites, i: int) -> bool:
    return all(s.flow[i].ecgs is not None and s.flow[i].patients is not None for s in sites.values())


def _in_all(sites: Sites, i: int) -> tuple[float, float]:
    return sum(s.flow[i].ecgs or 0 for s in sites.values()), sum(s.flow[i].patients or 0 for s in sites.values())


def _counts(sites: Sites, i: int, before: int | None = None) -> str:
    ecgs, patients = _in_all(sites, i)
    if before is not None:
        then = _in_all(sites, before)
        # A patient who keeps another ECG is no excluded patient.
        return f"{then[0] - ecgs:,.0f} ECGs, {then[1] - patients:,.0f} patients with none left"
    return f"{ecgs:,.0f} ECGs of {patients:,.0f} patients"


def _each(sites: Sites, i: int, labels: Labels, before: int | None = None) -> list[str]:
    """ECGs by hospital; of one hospital alone nothing is left to say."""
    if len(sites) == 1:
        return []
    found = []
    for name, s in sites.items():
        here = s.flow[i].ecgs or 0
        then = here if before is None else (s.flow[before].ecgs or 0) - here
        found.append(f"{labels.site(name)} {then if before is not None else here:,.0f}")
    return found


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _whole(value: Number) -> int | None:
    return None if value is None else round(value)
