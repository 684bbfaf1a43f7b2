"""The report: one file that needs nothing else, that hides nothing withheld, and that an unfinished run also gets."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure as MplFigure
from typer.testing import CliRunner

from ecgshared.errors import RunError
from server.report import cells
from server.report.curves import learning_curves, split_name
from server.report.figures import _draw, figure_svg, site_colour
from server.report.folder import Release, Round, read_run, spans, summarise_releases
from server.report.graph import NODE_HEIGHT, NODE_WIDTH, layout
from server.report.html import flow_rows, page, render, stage_sections
from server.report.results import SCHEMA_FILE, StepPlan, StepResult
from server.report.sections import Block, Cell, Figure, Flow, FlowRow, Key, Section, Series, Table, Text
from server.report.tensorboard import scalars, write_events

HOSTILE = "<script>alert('x')</script>&\"$a$"
SITES = ["north", "south", "far"]
STUDY = f"""
name: tiny
about: {json.dumps(HOSTILE)}
sites: {{train: [north, south], zero_shot: [far]}}
steps:
  - {{id: counts, stage: tallies}}
  - {{id: risk, stage: nets, uses: [counts]}}
  - {{id: abroad, stage: judgements, uses: [risk, counts]}}
"""
RESULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "counts": ("tallies", {"patients": {"north": 120, "south": None}, "flow": [12, 9, 4]}),
    "risk": ("nets", {"strategy": HOSTILE, "rounds": 3}),
    "abroad": ("judgements", {"auc": [{"site": "far", "auc": 0.8312, "low": None}, {"site": "north", "auc": 0.9}]}),
}


def history() -> list[dict[str, Any]]:
    lines = [line("counts", "counts", 0, SITES)]
    for number in (1, 2, 3):
        absent = {"south": "deadline"} if number > 1 else {}
        metrics = {"train_loss": 1 / number, "validation_loss": None if number == 1 else 2 / number}
        lines.append(line("risk", "fit", number, [s for s in SITES[:2] if s not in absent], absent, metrics))
    return [*lines, line("abroad", "curves", 0, ["north", "south"], {"far": f"malformed: {HOSTILE}"})]


def line(
    step: str,
    phase: str,
    number: int,
    answered: list[str],
    absent: dict[str, str] | None = None,
    metrics: dict[str, float | None] | None = None,
) -> dict[str, Any]:
    return {
        "step": step,
        "phase": phase,
        "round": number,
        "seconds": 1.5,
        "answered": answered,
        "absent": absent or {},
        "bytes_in": dict.fromkeys(answered, 100),
        "bytes_out": dict.fromkeys(answered, 40),
        "metrics": metrics or {},
    }


def releases() -> list[dict[str, Any]]:
    return [
        {
            "site": site,
            "step": asked["step"],
            "phase": asked["phase"],
            "round": asked["round"],
            "kind": "Reply",
            "fields": {
                "sums": {"kind": "sums", "type": "float64", "shape": [3, 2], "withheld": 2 if site == "south" else 0}
            },
            "bytes": 100,
        }
        for asked in history()
        for site in asked["answered"]
    ]


def make_run(folder: Path, *, done: tuple[str, ...] = tuple(RESULTS), asked: bool = True, **info: Any) -> Path:
    (folder / "artefacts").mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(STUDY)
    told = {
        "run": "tiny-20261121-1",
        "study": "tiny",
        "study_sha256": "ab" * 32,
        "status": "done",
        "started": "2026-11-21T06:00:00Z",
        "ended": "2026-11-21T06:02:05Z",
        "versions": {"ecgfed": "0.1.0", "flwr": "1.41.0"},
        "sites": SITES,
        "backend": "inprocess",
    }
    (folder / "run.json").write_text(json.dumps(told | info))
    for step in done:
        stage, result = RESULTS[step]
        content = {"step": step, "stage": stage, "arrays_sha256": "cd" * 32, "result": result}
        (folder / "artefacts" / f"{step}.json").write_text(json.dumps(content))
    if asked:
        (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history()))
        (folder / "releases.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in releases()))
    return folder


class Page(HTMLParser):
    """What the tests ask of a page: its elements, identifiers, references and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.references += re.findall(r"url\(([^)]*)\)", html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.references.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def rich(step: str, result: StepResult) -> list[Section]:
    """Sections of every kind of block, as stages give them."""
    t = [i / 19 for i in range(20)]
    roc = Figure(
        f"ROC {HOSTILE}",
        [
            Series("north", t, [x**0.4 for x in t], [x**0.5 for x in t], [x**0.3 for x in t]),
            Series(HOSTILE, t, t),
            Series("south", t, [None] * 20),
        ],
        "1 − specificity",
        "sensitivity",
        (0, 1),
        (0, 1),
        reference="diagonal",
    )
    points = Figure("Calibration", [Series("far", [0.1, 0.2], [0.1, 0.3], style="points")], "predicted", "observed")
    rows = [FlowRow(HOSTILE, [1200, 80]), FlowRow("age under 80", [900, None]), FlowRow("most recent", [400, 30])]
    blocks: list[Block] = [
        Key(f"AUC of {step}", 0.8312, "95% CI 0.80 to 0.86"),
        Key(f"Slope of {step}", None),
        Text(HOSTILE),
        Table(HOSTILE, ["site", HOSTILE], [["north", 0.91], [HOSTILE, None]], note=HOSTILE),
        Flow("Exclusions", ["north", "south"], rows, note=HOSTILE),
        roc,
        points,
    ]
    return [Section(f"Part {HOSTILE}", blocks)]


def test_the_file_needs_nothing_else(tmp_path: Path) -> None:
    html = page(read_run(make_run(tmp_path)), rich)
    found = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(found.tags)
    assert not found.handlers
    assert "@import" not in html
    assert {r for r in found.references if not r.startswith(("#", "data:text/csv", "data:image/svg"))} == set()
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}


def test_identifiers_are_unique_and_references_lead_somewhere(tmp_path: Path) -> None:
    found = Page(page(read_run(make_run(tmp_path)), rich))
    assert len(found.ids) == len(set(found.ids))
    assert {r.removeprefix("#") for r in found.references if r.startswith("#")} <= set(found.ids)


def test_whatever_is_named_by_others_is_escaped(tmp_path: Path) -> None:
    html = page(read_run(make_run(tmp_path)), rich)
    assert "<script" not in html
    # Text, table, flow, figure, notes, absence, about: each shows it, none runs it.
    assert Page(html).text.count("<script>alert('x')</script>") >= 9


def test_headline_numbers_stand_at_the_top_only(tmp_path: Path) -> None:
    text = Page(page(read_run(make_run(tmp_path)), rich)).text
    assert text.count("AUC of abroad") == 1
    assert text.index("0.831") < text.index("AUC of abroad") < text.index("What ran")


def test_it_says_what_ran(tmp_path: Path) -> None:
    text = Page(render(make_run(tmp_path)).read_text(encoding="utf-8")).text
    for told in ("tiny-20261121-1", "ab" * 32, "flwr 1.41.0", "2 min 05 s", "3 of 3", "fit × 3", "cdcdcdcdcdcd"):
        assert told in text


def test_it_says_who_was_absent_and_why(tmp_path: Path) -> None:
    text = Page(render(make_run(tmp_path)).read_text(encoding="utf-8")).text
    assert "south risk fit 2 to 3 deadline no answer before the deadline" in text
    assert "1 of 3" in text


def test_it_says_what_left_each_site(tmp_path: Path) -> None:
    text = Page(render(make_run(tmp_path)).read_text(encoding="utf-8")).text
    # north answered 5 times, south 3 with two cells withheld each, far once.
    assert "north 5 500 B 0 south 3 300 B 6 far 1 100 B 0" in text
    assert "sums sums float64 3 × 2 south 2" in text


def test_a_stage_this_version_does_not_know_still_shows(tmp_path: Path) -> None:
    text = Page(render(make_run(tmp_path)).read_text(encoding="utf-8")).text
    assert "far 0.831 withheld north 0.900" in text
    assert "patients.south withheld" in text
    assert "12, 9, 4" in text


def test_a_stage_that_cannot_lay_out_its_result_costs_no_other_step() -> None:
    (section,) = stage_sections("counts", StepResult(stage="describe", result={"format": "of another time"}))
    assert isinstance(section.blocks[0], Text)
    assert "could not lay out" in section.blocks[0].text
    assert isinstance(section.blocks[1], Table)
    assert list(section.blocks[1].rows) == [("format", "of another time")]


@pytest.mark.parametrize("status", ["running", "failed", "paused"])
def test_a_run_without_any_result_renders(tmp_path: Path, status: str) -> None:
    folder = make_run(tmp_path, done=(), asked=False, status=status, ended=None)
    text = Page(render(folder).read_text(encoding="utf-8")).text
    assert "No result yet from counts, risk, abroad" in text
    assert "Nothing has left any site yet" in text
    assert "0 of 3" in text


def test_an_unfinished_run_shows_what_it_has(tmp_path: Path) -> None:
    text = Page(render(make_run(tmp_path, done=("counts",), status="running", ended=None)).read_text()).text
    assert "No result yet from risk, abroad" in text
    assert "patients.north 120" in text
    # The curves of a step in progress come from the history.
    assert "Learning curves" in text


def test_a_line_cut_by_a_kill_is_left_out_and_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"step": "ris')
    run = read_run(folder)
    assert len(run.history) == len(history())
    assert "cut off" in Page(page(run)).text


def test_a_broken_line_elsewhere_is_an_error_with_its_number(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    lines = (folder / "releases.jsonl").read_text().splitlines(keepends=True)
    (folder / "releases.jsonl").write_text("".join([lines[0], "{half\n", *lines[1:]]))
    with pytest.raises(RunError, match=r"releases\.jsonl:2"):
        read_run(folder)


def test_a_study_file_changed_after_the_run_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path, done=())
    (folder / "study.yaml").write_text(
        "name: tiny\nsites: {train: [north]}\nendpoints: {male: {kind: binary, column: male}}\n"
        "steps: [{id: counts, stage: describe}]\n"
    )
    run = read_run(folder)
    assert run.study is not None
    assert [f"{run.study.sha256[:12]}" in note and "abababababab" in note for note in run.notes] == [True]


# Numbers as they read


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "withheld"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
        (12034, "12,034"),
        (-3, "−3"),
        (0.81249, "0.812"),
        (4.213, "4.21"),
        (132.44, "132.4"),
        (12034.4, "12,034"),
        (2.14e-6, "2.1e-06"),
        (0.0, "0.000"),
        (True, "yes"),
        ("0.8 to 0.9", "0.8 to 0.9"),
    ],
)
def test_a_number_reads(value: Any, text: str) -> None:
    assert cells.show(value).text == text


def test_a_column_of_floats_shares_its_decimals_and_counts_have_none() -> None:
    rows: list[list[Cell]] = [
        ["north", 0.98, 4211.0, 0.5],
        ["south", 1.021, 43.0, 20000.25],
        ["far", None, None, math.nan],
    ]
    shown = [[cell.text for cell in row] for row in cells.show_rows(rows)]
    assert shown == [
        ["north", "0.980", "4,211", "0.500"],
        ["south", "1.021", "43", "20,000"],
        ["far", "withheld", "withheld", "–"],
    ]
    assert cells.numeric_columns(cells.show_rows(rows), 4) == [False, True, True, True]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (702312, "702 kB"), (1_450_000, "1.4 MB"), (3 * 10**12, "3,000 GB")],
)
def test_bytes_read(size: int, text: str) -> None:
    assert cells.byte_count(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (52.4, "52 s"), (185, "3 min 05 s"), (7810, "2 h 10 min")]
)
def test_a_duration_reads(seconds: float, text: str) -> None:
    assert cells.duration(seconds) == text


# Flow, rounds, releases


def test_an_exclusion_is_the_difference_unless_either_side_is_withheld() -> None:
    flow = Flow(
        "f", ["north", "south"], [FlowRow("all", [100, 50]), FlowRow("a", [80, None]), FlowRow("b", [60, 20], [20, 7])]
    )
    shown = [
        [(cell.remaining.text, cell.excluded and cell.excluded.text, cell.share) for cell in line]
        for _, line in flow_rows(flow)
    ]
    assert shown == [
        [("100", None, 100.0), ("50", None, 100.0)],
        [("80", "−20", 80.0), ("withheld", "withheld", 0.0)],
        [("60", "−20", 60.0), ("20", "−7", 40.0)],
    ]


@given(st.sets(st.integers(0, 60)))
def test_spans_name_exactly_their_rounds(numbers: set[int]) -> None:
    read: list[int] = []
    for part in filter(None, spans(sorted(numbers)).split(", ")):
        first, _, last = part.partition(" to ")
        read += range(int(first), int(last or first) + 1)
    assert read == sorted(numbers)


@given(
    st.lists(
        st.tuples(st.sampled_from(SITES), st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 10**6)), max_size=30
    )
)
def test_the_account_of_releases_loses_nothing(sent: list[tuple[str, str, int, int]]) -> None:
    made = [
        Release.model_validate(
            {
                "site": s,
                "step": p,
                "phase": "x",
                "kind": "K",
                "bytes": b,
                "fields": {"f": {"type": "float64", "withheld": w}},
            }
        )
        for s, p, w, b in sent
    ]
    found = summarise_releases(made)
    assert sum(sum(m.count.values()) for m in found) == len(sent)
    assert sum(sum(m.bytes.values()) for m in found) == sum(b for *_, b in sent)
    assert sum(sum(f.withheld.values()) for m in found for f in m.fields) == sum(w for _, _, w, _ in sent)


@pytest.mark.parametrize(
    ("name", "figure", "label"),
    [
        ("train_loss", "loss", "training"),
        ("validation/loss", "loss", "validation"),
        ("auc/scd_1y", "auc", "scd 1y"),
        ("validation_auc/scd", "auc", "scd, validation"),
        ("constraint", "constraint", ""),
        ("loss", "loss", ""),
    ],
)
def test_metrics_share_a_figure_by_name(name: str, figure: str, label: str) -> None:
    assert split_name(name) == (figure, label)


def test_learning_curves_take_the_later_of_a_repeated_round() -> None:
    lines = [
        Round(step="risk", phase="fit", round=r, metrics={"loss": v})
        for r, v in ((1, 3.0), (2, 9.0), (2, 2.0), (3, None))
    ]
    (section,) = learning_curves([*lines, Round(step="other", phase="fit", round=4, metrics={"loss": 0.0})], "risk")
    (figure,) = section.blocks
    assert isinstance(figure, Figure)
    assert list(figure.series[0].x) == [1, 2, 3]
    np.testing.assert_array_equal(figure.series[0].y, [3.0, 2.0, math.nan])
    assert learning_curves(lines[:1], "risk") == []


# Figures


def test_a_site_has_one_colour_in_all_figures() -> None:
    for one in SITES:
        others = [Series("men", [0, 1], [0, 1]), Series("women", [0, 1], [0, 1])]
        svg = figure_svg(Figure("t", [*others, Series(f"{one}: men", [0, 1], [1, 0])], "x", "y"), sites=SITES).lower()
        # The curve and its sample in the legend, and nothing else in that colour.
        assert svg.count(f"fill: none; stroke: {site_colour(one, SITES).lower()}") == 2


def test_a_withheld_series_is_named() -> None:
    svg = figure_svg(Figure("t", [Series("north", [0, 1], [None, None])], "x", "y"))
    assert "north (withheld)" in svg
    assert "every value is withheld" in svg


def test_labels_are_plain_text_and_a_log_axis_reads_as_numbers() -> None:
    svg = figure_svg(
        Figure("t", [Series("$a_1$ <b>", [0.0, 0.001, 1], [1, 2, 3])], "time, years", "risk, %", x_log=True)
    )
    words = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"$a_1$ <b>", "time, years", "risk, %", "0.01"} <= set(words)


def test_drawing_is_repeatable_and_changes_no_setting_of_matplotlib() -> None:
    before = dict(matplotlib.rcParams)
    figure = Figure(
        "t", [Series("a", [1, 2, 3], [1, 2, 1], [0, 1, 0], [2, 3, 2], style="step")], "x", "y", reference=1.5
    )
    assert figure_svg(figure) == figure_svg(figure)
    assert dict(matplotlib.rcParams) == before


numbers = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.tuples(numbers, numbers), max_size=5), max_size=3),
    st.sampled_from(["line", "step", "points"]),
    st.booleans(),
    st.sampled_from([None, "diagonal", 0.2]),
)
@example([[(1.0, None), (0.0, 0.0)]], "line", True, None)
def test_any_series_is_drawn_without_a_warning(
    every: list[list[tuple[Any, Any]]], style: str, x_log: bool, reference: Any
) -> None:
    series = [Series(f"s{i}", [x for x, _ in s], [y for _, y in s], style=style) for i, s in enumerate(every)]
    svg = figure_svg(Figure("t", series, "x", "y", x_log=x_log, reference=reference), sites=SITES)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


# The graph of steps


@st.composite
def plans(draw: st.DrawFn) -> list[StepPlan]:
    count = draw(st.integers(1, 9))
    return [
        StepPlan(
            id=f"s{i}",
            stage="x",
            uses=tuple(f"s{u}" for u in sorted(draw(st.sets(st.integers(0, i - 1))))) if i else (),
        )
        for i in range(count)
    ]


@given(plans())
def test_steps_never_overlap_and_stand_right_of_what_they_use(plan: list[StepPlan]) -> None:
    graph = layout(plan, ())
    nodes = {node.id: node for node in graph.nodes}
    for step in plan:
        assert all(nodes[used].x + NODE_WIDTH < nodes[step.id].x for used in step.uses)
        assert 0 <= nodes[step.id].x <= graph.width - NODE_WIDTH
        assert 0 <= nodes[step.id].y <= graph.height - NODE_HEIGHT
    for a in graph.nodes:
        for b in graph.nodes:
            assert a is b or abs(a.x - b.x) >= NODE_WIDTH or abs(a.y - b.y) >= NODE_HEIGHT


@given(plans())
def test_arrows_left_out_are_implied_by_others(plan: list[StepPlan]) -> None:
    from server.report.graph import _reduced

    reduced = _reduced(plan)

    def reached(edges: dict[str, tuple[str, ...]], start: str) -> set[str]:
        return {name for used in edges[start] for name in {used, *reached(edges, used)}}

    full = {step.id: step.uses for step in plan}
    assert all(reached(full, step.id) == reached(reduced, step.id) for step in plan)


# TensorBoard and the command


def test_event_files_hold_the_history_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    folder = make_run(tmp_path)
    assert write_events(folder) == write_events(folder) == folder / "tensorboard"
    (file,) = (folder / "tensorboard").iterdir()
    read = [
        (value.tag, event.step, event.wall_time, value.tensor.float_val[0])
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert read == [(tag, step, time, pytest.approx(value)) for tag, step, time, value in scalars(read_run(folder))]
    losses = [(step, value) for tag, step, _, value in read if tag == "risk/fit/validation_loss"]
    # The withheld first round is no point.
    assert losses == [(2, pytest.approx(1.0)), (3, pytest.approx(2 / 3))]


def test_the_command_rebuilds_all_three(tmp_path: Path) -> None:
    from server.report.cli import app

    folder = make_run(tmp_path)
    done = CliRunner().invoke(app, [str(folder)])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(folder / name) for name in ("report.html", "results.json", "tensorboard")]
    assert all((folder / name).exists() for name in ("report.html", "results.json", "tensorboard"))


def test_the_command_prints_the_schema() -> None:
    from server.report.cli import app

    assert CliRunner().invoke(app, ["--schema"]).stdout == SCHEMA_FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["nowhere"], []])
def test_the_command_without_a_run_says_what_to_do(tmp_path: Path, arguments: list[str]) -> None:
    from server.report.cli import app

    done = CliRunner().invoke(app, [str(tmp_path / name) for name in arguments])
    assert isinstance(done.exception, RunError)
    assert done.exception.remedy


def test_the_command_loads_nothing_heavy() -> None:
    code = "import sys, server.report.cli; sys.exit(bool({'torch', 'numpy', 'matplotlib', 'flwr'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_points_moved_aside_stay_inside_the_frame() -> None:
    """Two series of points at the same x are drawn side by side; the frame must still hold their y values."""
    series = [Series(name, [0.1, 0.2], [0.3, 0.9], [0.2, 0.8], [0.4, 1.0], style="points") for name in ("a", "b")]
    axes = MplFigure().subplots()
    _draw(axes, Figure("Calibration", series, "x", "y", reference="diagonal"), ())
    low, high = axes.get_ylim()
    assert low < 0.2
    assert high > 1.0
