"""The tables of a run's book-keeping, to be taken as CSV: in full, sizes in bytes and times in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from server.report.accounts import Departures, Happenings, Presence
from server.report.folder import Run
from server.report.glossary import explain
from server.report.sections import Cell, Table
from server.report.tripod import Item


def bookkeeping(
    run: Run, present: Presence, happened: Happenings, left: Departures, checklist: Sequence[Item]
) -> dict[str, Table]:
    """Return the tables that have a row, by the name under which the page offers them."""
    answered: list[list[Cell]] = [[item.number, item.what, item.status, item.note] for item in checklist]
    sent: list[list[Cell]] = [list(row) for row in left.by_site if left.messages]
    tables = {
        "steps": _steps(run),
        "absent": _absent(present),
        "events": Table("events", ("when (UTC)", "what", "why"), [[e.at, e.what, e.why] for e in happened.events]),
        "again": _asked_again(happened),
        "left": Table("left", ("site", "messages", "bytes", "cells withheld"), sent),
        "messages": _messages(left),
        "tripod": Table("tripod", ("item", "what", "status", "what lacks"), answered),
    }
    return {name: table for name, table in tables.items() if table.rows}


def _steps(run: Run) -> Table:
    rows: list[list[Cell]] = []
    for step in run.plan:
        lines = [line for line in run.history if line.step == step.id]
        result = run.results.steps.get(step.id)
        rows.append(
            [
                step.id,
                step.stage,
                " ".join(step.uses),
                " ".join(run.members(step)),
                len({(line.phase, line.round) for line in lines}),
                round(sum(line.seconds for line in lines), 3),
                sum(sum(line.bytes_in.values()) for line in lines),
                sum(sum(line.bytes_out.values()) for line in lines),
                "done" if result is not None else "begun" if lines else "not begun",
                "" if result is None else result.arrays_sha256 or "",
            ]
        )
    columns = ("step", "stage", "uses", "sites", "requests", "seconds", "bytes received", "bytes sent", "state")
    return Table("steps", (*columns, "arrays SHA-256"), rows)


def _absent(present: Presence) -> Table:
    rows: list[list[Cell]] = [
        [a.site, a.step, a.phase, a.rounds, a.reason, explain(a.reason)] for a in present.absences
    ]
    return Table("absent", ("site", "step", "phase", "rounds", "reason", "in words"), rows)


def _asked_again(happened: Happenings) -> Table:
    rows: list[list[Cell]] = [
        [one.site, one.step, one.phase, one.rounds, one.times, one.made_good, one.reason] for one in happened.losses
    ]
    return Table("asked again", ("site", "step", "phase", "rounds", "times", "rounds made good", "reason"), rows)


def _messages(left: Departures) -> Table:
    """One row a field, site and phase: what every message carried, and how many cells were withheld."""
    rows: list[list[Cell]] = [
        [m.step, m.phase, m.kind, site, m.count[site], m.bytes[site], f.name, f.kind, f.type, " ".join(f.shapes), n]
        for m in left.messages
        for site in left.sites
        if site in m.count
        for f in m.fields
        for n in [f.withheld.get(site, 0)]
    ]
    columns = ("step", "phase", "message", "site", "messages", "bytes", "field", "kind", "type", "shapes")
    return Table("messages", (*columns, "cells withheld"), rows)
