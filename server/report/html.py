"""The report: one HTML file that needs nothing else, made from a run folder, complete or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from pydantic import ValidationError

from ecgshared.errors import ConfigError
from ecgshared.privacy.attacked import PROTECTIONS, as_share
from ecgshared.service.files import write_atomically
from ecgshared.stages.results.base import StageResult
from ecgshared.study.registry import STAGES, room
from server.report import cells
from server.report.accounts import departures, facts, graph_rows, happenings, presence
from server.report.blocks import block_sections
from server.report.bookkeeping import bookkeeping
from server.report.consort import consort_svg
from server.report.curves import learning_curves
from server.report.figures import figure_svg
from server.report.files import FOLDER, Attachments, flow_csv, standalone_svg, table_csv
from server.report.folder import Run, read_run
from server.report.forest import Forest, forest_svg
from server.report.generic import generic_sections
from server.report.glossary import GLOSSARY, REASONS
from server.report.graph import NODE_HEIGHT, NODE_WIDTH, layout
from server.report.labels import NO_LABELS, Labels
from server.report.methods import methods
from server.report.panels import panels_svg
from server.report.privacy import attacks, phase_words, statement, tried
from server.report.published import beside_published
from server.report.results import StepResult, typed_result
from server.report.sections import (
    Block,
    Consort,
    Figure,
    Flow,
    FlowRow,
    Folded,
    Key,
    Panels,
    Section,
    Table,
    Text,
)
from server.report.summary import summarise
from server.report.tripod import checklist
from server.report.venn import Venn, venn_svg
from server.rounds.step_context import Artefact

REPORT_NAME = "report.html"
_HERE = Path(__file__).parent
_LOG = logging.getLogger(__name__)

LayOut = Callable[[str, StepResult], list[Section]]


@dataclass(frozen=True)
class StepView:
    """One step's part of the report. ``sections`` is None where the step has no result yet."""

    id: str
    label: str
    whom: str
    stage: str
    sections: tuple[dict[str, Any], ...] | None


@dataclass(frozen=True)
class Page:
    """The report: its HTML, and its tables and figures as files."""

    html: str
    attachments: Attachments


def render(run_folder: Path) -> Path:
    """Write ``report.html`` and the files of its tables and figures into a run folder; return the page's path.

    Raises
    ------
    RunError : the folder is no run, or one of its files does not fit its format.
    ConfigError : its ``study.yaml`` is absent or no YAML.
    """
    path = run_folder / REPORT_NAME
    made = compose(read_run(run_folder))
    made.attachments.write(run_folder)
    write_atomically(path, made.html.encode())
    return path


def page(run: Run, lay_out: LayOut | None = None) -> str:
    """Return the whole report as HTML; ``lay_out`` takes the place of :func:`stage_sections`."""
    return compose(run, lay_out).html


def compose(run: Run, lay_out: LayOut | None = None) -> Page:
    """Return the report with its tables and figures as files beside it."""
    results = typed_results(run)
    labels = Labels(run.study, results)
    lay_out = partial(stage_sections, labels=labels) if lay_out is None else lay_out
    painter = _Painter(run.results.run.sites)
    summary = summarise(run.study, results, labels)
    hospitals = None if summary.hospitals is None else _block(summary.hospitals, painter)
    judged: list[Key] = []
    others: list[Key] = []
    steps = []
    for step in run.plan:
        painter.step = step.id
        result = run.results.steps.get(step.id)
        sections: list[Section] = [] if result is None else lay_out(step.id, result)
        sections += block_sections(step.id, run.study, results, labels)
        keys = judged if step.stage.endswith("evaluate") else others
        keys += [block for section in sections for block in section.blocks if isinstance(block, Key)]
        # A finished train step draws its own; one in progress has its history.
        sections += learning_curves(run.history, step.id) if result is None else []
        views = tuple(view for section in sections if (view := _section(section, painter))["blocks"])
        shown = None if result is None and not views else views
        steps.append(StepView(step.id, labels.step(step.id), labels.whom(step.id), step.stage, shown))
    painter.step = "published"
    if beside := beside_published(run.study, results, labels):
        views = tuple(_section(section, painter) for section in beside)
        steps.append(StepView("published", beside[0].title, "", "published", views))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(bytes=cells.byte_count, duration=cells.duration, show=cells.show)
    items = checklist(run.study, results, {s.id: s.stage for s in run.plan if s.id in run.results.steps})
    present, happened, left = presence(run), happenings(run), departures(run)
    painter.step = "run"
    tables = bookkeeping(run, present, happened, left, items)
    books = {name: painter.save(table.title, "csv", table_csv(table)) for name, table in tables.items()}
    html = environment.get_template("report.html").render(
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        run=run,
        info=run.results.run,
        pending=[step for step in run.results.missing if step not in run.results.run.left_out],
        left_out=[labels.step(step) for step in run.results.missing if step in run.results.run.left_out],
        about=run.about,
        facts=facts(run),
        summary=summary,
        hospitals=hospitals,
        keys=[(key, cells.show(key.value)) for key in (*judged, *others)],
        methods=methods(run.study, run.results.run, labels) if run.study is not None else [],
        checklist=items,
        books=books,
        privacy=statement(run.plan, results, labels),
        attacks=attacks(run.plan),
        tried=tried(run.folder),
        protections=PROTECTIONS,
        as_share=as_share,
        stage_of={step.id: step.stage for step in run.plan},
        phase_words=phase_words,
        labels=labels,
        graph=layout(run.plan, run.results.steps),
        node=(NODE_WIDTH, NODE_HEIGHT),
        step_rows=graph_rows(run),
        steps=steps,
        presence=present,
        happenings=happened,
        departures=left,
        reasons=REASONS,
        glossary=GLOSSARY,
        files=FOLDER if painter.attachments.files else "",
    )
    return Page(html, painter.attachments)


def typed_results(run: Run) -> dict[str, StageResult]:
    """Return the results that this version can read, by step, in the study's order."""
    found = {}
    for step, result in run.results.steps.items():
        try:
            found[step] = typed_result(result)
        except (ConfigError, ValidationError) as error:
            # The step's own section says so, and shows the result as it is stored.
            _LOG.debug("%s is left out of the summary: %s", step, error)
    return found


def stage_sections(step: str, result: StepResult, labels: Labels = NO_LABELS) -> list[Section]:
    """Return what a stage says of its result; a plain table where it cannot be asked."""
    if result.stage not in STAGES:
        return generic_sections(
            result.stage,
            dict(result.result),
            "This version of ecgfed has no such stage; its result as it is:",
        )
    try:
        artefact = Artefact(step, result.stage, typed_result(result))
        report = room("server", result.stage).report
        # A stage that needs none of the study's words takes its artefact alone.
        return list(report(artefact, labels) if "labels" in signature(report).parameters else report(artefact))
    except Exception as error:  # one stage's fault must not cost the reader the report of all others: it is shown
        _LOG.warning("stage %s could not lay out step %s (%s)", result.stage, step, type(error).__name__)
        _LOG.debug("why", exc_info=error)
        why = f"The stage could not lay out this result ({type(error).__name__}); here it is as it was stored:"
        return generic_sections(result.stage, dict(result.result), why)


class _Painter:
    """Draws figures; numbers them through the page, so that their identifiers never meet, and keeps what can be taken.

    ``step`` is the step whose blocks come next.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self._sites, self._count = tuple(sites), 0
        self.attachments = Attachments()
        self.step = ""

    def draw(self, figure: Figure) -> dict[str, Any]:
        self._count += 1
        # matplotlib escapes what it writes; the text of labels never reaches the page any other way.
        prefix = f"f{self._count}"
        match figure:
            case Forest():
                svg = forest_svg(figure, sites=self._sites, prefix=prefix)
            case Panels():
                svg = panels_svg(figure, sites=self._sites, prefix=prefix)
            case Consort():
                svg = consort_svg(figure, prefix=prefix)
            case Venn():
                svg = venn_svg(figure, prefix=prefix)
            case _:
                svg = figure_svg(figure, sites=self._sites, prefix=prefix)
        wide = isinstance(figure, Consort) or (isinstance(figure, Panels) and len(figure.panels) > 2)
        saved = self.save(figure.title, "svg", standalone_svg(svg))
        return {"figure": figure, "svg": Markup(svg), "wide": wide, "saved": saved}

    def save(self, title: str, ending: str, text: str) -> tuple[str, str]:
        return self.attachments.add(self.step, title, ending, text)


def _section(section: Section, painter: _Painter) -> dict[str, Any]:
    """Return a section as the template takes it, without its headline numbers."""
    return {"title": section.title, "blocks": _blocks(section.blocks, painter)}


def _blocks(blocks: Sequence[Block], painter: _Painter) -> list[dict[str, Any]]:
    """Neighbouring figures stand in one grid; a wide one has a line of its own."""
    views: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, Key):
            continue
        view = _block(block, painter)
        if view["kind"] == "figures" and views and views[-1]["kind"] == "figures":
            views[-1]["items"] += view["items"]
        else:
            views.append(view)
    return views


def _block(block: Block, painter: _Painter) -> dict[str, Any]:
    match block:
        case Text():
            return {"kind": "text", "text": block.text}
        case Figure():
            return {"kind": "figures", "items": [painter.draw(block)]}
        case Table():
            rows = cells.show_rows(block.rows)
            right = cells.numeric_columns(rows, len(block.columns))
            saved = painter.save(block.title, "csv", table_csv(block))
            return {"kind": "table", "table": block, "rows": rows, "right": right, "saved": saved}
        case Flow():
            saved = painter.save(block.title, "csv", flow_csv(block))
            return {"kind": "flow", "flow": block, "rows": flow_rows(block), "saved": saved}
        case Folded():
            return {"kind": "folded", "title": block.title, "blocks": _blocks(block.blocks, painter)}
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
