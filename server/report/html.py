"""The report: one HTML file that needs nothing else, made from a run folder, complete or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ecgshared.service.files import write_atomically
from ecgshared.study.registry import STAGES, room
from server.report import cells
from server.report.accounts import departures, facts, graph_rows, happenings, presence
from server.report.curves import learning_curves
from server.report.figures import figure_svg
from server.report.folder import Run, read_run
from server.report.forest import Forest, forest_svg
from server.report.generic import generic_sections
from server.report.glossary import GLOSSARY, REASONS
from server.report.graph import NODE_HEIGHT, NODE_WIDTH, layout
from server.report.results import StepResult, typed_result
from server.report.sections import Figure, Flow, FlowRow, Key, Section, Table, Text
from server.rounds.step_context import Artefact

REPORT_NAME = "report.html"
_HERE = Path(__file__).parent
_LOG = logging.getLogger(__name__)

LayOut = Callable[[str, StepResult], list[Section]]


@dataclass(frozen=True)
class StepView:
    """One step's part of the report. ``sections`` is None where the step has no result yet."""

    id: str
    stage: str
    sections: tuple[dict[str, Any], ...] | None


def render(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    Raises
    ------
    RunError : the folder is no run, or one of its files does not fit its format.
    ConfigError : its ``study.yaml`` is absent or no YAML.
    """
    path = run_folder / REPORT_NAME
    write_atomically(path, page(read_run(run_folder)).encode())
    return path


def page(run: Run, lay_out: LayOut | None = None) -> str:
    """Return the whole report as HTML; ``lay_out`` takes the place of :func:`stage_sections`."""
    lay_out = stage_sections if lay_out is None else lay_out
    painter = _Painter(run.results.run.sites)
    keys: list[Key] = []
    steps = []
    for step in run.plan:
        result = run.results.steps.get(step.id)
        sections: list[Section] = [] if result is None else lay_out(step.id, result)
        keys += [block for section in sections for block in section.blocks if isinstance(block, Key)]
        # A finished train step draws its own; one in progress has its history.
        sections += learning_curves(run.history, step.id) if result is None else []
        views = tuple(view for section in sections if (view := _section(section, painter))["blocks"])
        steps.append(StepView(step.id, step.stage, None if result is None and not views else views))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(bytes=cells.byte_count, duration=cells.duration, show=cells.show)
    return environment.get_template("report.html").render(
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        run=run,
        info=run.results.run,
        about=run.about,
        facts=facts(run),
        keys=[(key, cells.show(key.value)) for key in keys],
        graph=layout(run.plan, run.results.steps),
        node=(NODE_WIDTH, NODE_HEIGHT),
        step_rows=graph_rows(run),
        steps=steps,
        presence=presence(run),
        happenings=happenings(run),
        departures=departures(run),
        reasons=REASONS,
        glossary=GLOSSARY,
    )


def stage_sections(step: str, result: StepResult) -> list[Section]:
    """Return what a stage says of its result; a plain table where it cannot be asked."""
    if result.stage not in STAGES:
        return generic_sections(
            result.stage,
            dict(result.result),
            "This version of ecgfed has no such stage; its result as it is:",
        )
    try:
        artefact = Artefact(step, result.stage, typed_result(result))
        return list(room("server", result.stage).report(artefact))
    except Exception as error:  # one stage's fault must not cost the reader the report of all others: it is shown
        _LOG.warning("stage %s could not lay out step %s (%s)", result.stage, step, type(error).__name__)
        _LOG.debug("why", exc_info=error)
        why = f"The stage could not lay out this result ({type(error).__name__}); here it is as it was stored:"
        return generic_sections(result.stage, dict(result.result), why)


class _Painter:
    """Draws figures; numbers them through the page, so that their identifiers never meet."""

    def __init__(self, sites: Sequence[str]) -> None:
        self._sites, self._count = tuple(sites), 0

    def draw(self, figure: Figure) -> Markup:
        self._count += 1
        # matplotlib escapes what it writes; the text of labels never reaches the page any other way.
        prefix = f"f{self._count}"
        if isinstance(figure, Forest):
            return Markup(forest_svg(figure, sites=self._sites, prefix=prefix))
        return Markup(figure_svg(figure, sites=self._sites, prefix=prefix))


def _section(section: Section, painter: _Painter) -> dict[str, Any]:
    """Return a section as the template takes it: neighbouring figures in one grid, no headline numbers."""
    views: list[dict[str, Any]] = []
    for block in section.blocks:
        if isinstance(block, Key):
            continue
        view = _block(block, painter)
        if view["kind"] == "figures" and views and views[-1]["kind"] == "figures":
            views[-1]["items"] += view["items"]
        else:
            views.append(view)
    return {"title": section.title, "blocks": views}


def _block(block: Text | Table | Flow | Figure, painter: _Painter) -> dict[str, Any]:
    match block:
        case Text():
            return {"kind": "text", "text": block.text}
        case Figure():
            return {"kind": "figures", "items": [{"figure": block, "svg": painter.draw(block)}]}
        case Table():
            rows = cells.show_rows(block.rows)
            right = cells.numeric_columns(rows, len(block.columns))
            return {"kind": "table", "table": block, "rows": rows, "right": right}
        case Flow():
            return {"kind": "flow", "flow": block, "rows": flow_rows(block)}
    raise TypeError(f"a section holds a {type(block).__name__}, which the report does not know")


@dataclass(frozen=True)
class FlowCell:
    """One site at one rule: how many are left, how many went, and the share left in percent."""

    remaining: cells.Shown
    excluded: cells.Shown | None
    share: float


def flow_rows(flow: Flow) -> list[tuple[str, list[FlowCell]]]:
    """Return the cells of an exclusion flow by rule."""
    rows = []
    for r, row in enumerate(flow.rows):
        line = []
        for c in range(len(flow.columns)):
            start, left = flow.rows[0].remaining[c], row.remaining[c]
            share = 100 * left / start if start and left is not None else 0.0
            line.append(FlowCell(cells.show(left), None if r == 0 else _excluded(flow.rows[r - 1], row, c), share))
        rows.append((row.label, line))
    return rows


def _excluded(before: FlowRow, row: FlowRow, column: int) -> cells.Shown:
    if row.excluded is not None:
        gone = row.excluded[column]
    else:
        earlier, now = before.remaining[column], row.remaining[column]
        gone = None if earlier is None or now is None else earlier - now
    if gone is None:
        return cells.show(None)
    return cells.Shown(f"−{gone:,}" if gone else "0", "number")
