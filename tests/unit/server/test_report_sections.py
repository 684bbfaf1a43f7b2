"""What the report says, section by section: nothing that was not released, everything in words, all of it to take."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from federated_stages import CALIBRATE, UNGATED, Federation, site_data, study, typed

from ecgshared.errors import ConfigError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.results.base import EstimateResult, MeanSd
from ecgshared.stages.results.describe import FlowLine, SiteDescription
from ecgshared.stages.results.describe import Result as Described
from ecgshared.stages.results.evaluate import Result as Evaluated
from ecgshared.study.registry import STAGES, shared_room
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import phases
from server.report.auc_forest import together
from server.report.cohorts import consort, table_one
from server.report.consort import consort_svg
from server.report.decisions import DecisionCurve, decision_panels
from server.report.evaluation import group_auc, sections
from server.report.figures import figure_svg
from server.report.files import Attachments, flow_csv, standalone_svg, table_csv
from server.report.folder import read_run
from server.report.forest import Forest
from server.report.html import compose, render
from server.report.labels import NO_LABELS, Labels
from server.report.methods import methods
from server.report.panels import panels_svg
from server.report.privacy import statement
from server.report.results import RunInfo, StepPlan
from server.report.sections import Figure, Flow, FlowRow, Folded, Key, Panels, Series, Table, Text
from server.report.summary import summarise
from server.report.survival import missing
from server.report.tripod import checklist
from server.rounds.run_folder import RunFolder

DEMO = Path(__file__).parents[3] / "simulations" / "scenarios" / "demo_study.yaml"
HOSTILE = "<script>alert('x')</script>&\"$a$"
STEPS = [
    {"id": "cohorts", "stage": "describe"},
    CALIBRATE,
    {"id": "abroad", "stage": "evaluate", "label": "Judged abroad", "uses": ["score"]},
]
LABELLED = {
    "event": {"kind": "binary", "column": "event", "label": "the event, in words"},
    "sex": {"kind": "binary", "column": "male"},
}
INFO = RunInfo(
    run="r",
    study="test",
    study_sha256="ab" * 32,
    status="done",
    started="2026-11-21T06:00:00Z",
    versions={"ecgfed": "1"},
)


def federation(limits: DisclosureLimits, **keys: Any) -> dict[str, Any]:
    """Typed results of two training hospitals, one of them small, and of one that never trained."""
    flow = (("rows of the site's table", 900, 300), ("age not known", 900, 300))
    data = {
        name: replace(site_data(seed, n, **more), flow=flow)
        for name, seed, n, more in (("a", 1, 300, {}), ("b", 2, 14, {}), ("c", 3, 400, {"shift": 0.3}))
    }
    chosen = study(STEPS, endpoints=LABELLED, labels={"c": "St. Cecilia's", "bmi": "Girth"}, **keys)
    found = Federation(chosen, data, limits).run()
    return {"study": chosen, **{step: typed(stored) for step, stored in found.items()}}


@pytest.fixture(scope="module")
def gated() -> dict[str, Any]:
    return federation(DisclosureLimits())


@pytest.fixture(scope="module")
def free() -> dict[str, Any]:
    return federation(UNGATED)


def blocks(parts: Any, kind: type) -> list[Any]:
    """Blocks of one kind, folded ones among them."""
    every = [block for part in parts for block in part.blocks]
    every += [inner for block in every if isinstance(block, Folded) for inner in block.blocks]
    return [block for block in every if isinstance(block, kind)]


# Words ----------------------------------------------------------------------------------------------------------------


def test_the_studys_labels_come_first_and_words_are_made_where_it_has_none() -> None:
    demo = Labels(load_study(DEMO))
    assert demo.endpoint("scd_2y") == "sudden cardiac death within 2 years"
    assert demo.endpoint("scd_1y") == "sudden cardiac death within 1 year"
    assert demo.endpoint("no_such") == "no_such"
    assert demo.column("risk.scd_2y") == "sudden cardiac death within 2 years, logit by risk"
    assert demo.primary == "scd_2y"
    assert demo.models("judged") == "risk, resnet1d"
    mine = Labels(study(STEPS, endpoints=LABELLED, labels={"c": "St. Cecilia's", "bmi": "Girth"}))
    assert mine.endpoint("event") == "the event, in words"
    assert (mine.site("c"), mine.site("a"), mine.column("bmi"), mine.step("abroad")) == (
        "St. Cecilia's",
        "a",
        "Girth",
        "Judged abroad",
    )
    assert NO_LABELS.endpoint("scd_2y") == "scd_2y"


def test_a_label_is_part_of_a_study_only_where_there_is_one() -> None:
    plain, labelled = study(STEPS), study(STEPS, endpoints=LABELLED)
    assert "label" not in plain.model_dump(mode="json")["endpoints"]["event"]
    assert "labels" not in plain.model_dump(mode="json")
    assert "label" not in plain.model_dump(mode="json")["steps"][0]
    assert labelled.model_dump(mode="json")["endpoints"]["event"]["label"] == "the event, in words"
    assert plain.sha256 != labelled.sha256


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"labels": {"bmj": "Girth"}}, "did you mean bmi"),
        ({"labels": {"bmi": "two\nlines"}}, "printable"),
        ({"endpoints": {"event": {"kind": "binary", "column": "event", "label": ""}}}, "label"),
    ],
)
def test_a_label_of_nothing_or_of_no_words_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        study([{"id": "cohorts", "stage": "describe"}], **keys)


# Cohorts --------------------------------------------------------------------------------------------------------------


def described(ecgs: float | None, patients: float | None, flow: list[tuple[str, Any, Any]], **changes: Any) -> Any:
    pair = MeanSd(mean=61.234, sd=9.876)
    none = MeanSd(mean=None, sd=None)
    groups = {"all": pair, "scd: event": none, "scd: no event": pair}
    return SiteDescription(
        heads_offered=("scd",),
        patients_known=True,
        patients={"train": patients, "validation": 20.0, "lockbox": None},
        ecgs={"train": ecgs, "validation": 20.0, "lockbox": None},
        labelled={"scd": {"train": 100.0, "validation": 20.0, "lockbox": None}},
        events={"scd": {"train": 12.0, "validation": None, "lockbox": None}},
        table1={g: {"age": p, "male": MeanSd(mean=0.4567, sd=0.5)} for g, p in groups.items()},
        follow_up_years=pair,
        devices={},
        rates_hz={},
        flow=tuple(FlowLine(reason=r, ecgs=e, patients=p) for r, e, p in flow),
        **changes,
    )


def cohorts(sites: dict[str, Any]) -> Described:
    return Described(heads=("scd",), sites=sites, absent={}, pooled=None)


WHOLE = [("rows", 200.0, 150.0), ("too old", 180.0, 140.0), ("opted out", 180.0, 140.0)]


def test_table_1_has_variables_downwards_and_hospitals_across_in_one_precision() -> None:
    sites = {f"s{i}": described(100.0, 80.0, WHOLE) for i in range(7)}
    tables = table_one(cohorts(sites), "scd", NO_LABELS)
    assert [[name for name, _ in t.groups][1:] for t in tables] == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]
    rows = {row[0]: list(row[1:4]) for row in tables[0].rows}
    assert rows["Age, years, mean (SD)"] == ["61.2 (9.9)", None, "61.2 (9.9)"]
    assert rows["Male, %"] == ["45.7", "45.7", "45.7"]
    assert rows["ECGs"] == [120.0, 12.0, 108.0]
    assert all(len(row) == len(t.columns) == sum(n for _, n in t.groups) for t in tables for row in t.rows)


def test_an_endpoint_that_a_hospital_does_not_offer_is_said() -> None:
    site = described(100.0, 80.0, WHOLE).model_copy(update={"heads_offered": ()})
    (table,) = table_one(cohorts({"a": site}), "scd", NO_LABELS)
    assert list(table.rows[0]) == ["ECGs", 120.0, "not offered", "not offered"]
    assert {tuple(row[2:]) for row in table.rows[1:]} == {("-", "-")}


def test_the_consort_diagram_adds_up_and_tells_withheld_lines_with_the_next() -> None:
    a = described(
        100.0, 80.0, [("rows", 200.0, 150.0), ("old", None, None), ("young", 170.0, 130.0), ("lost", 170.0, 130.0)]
    )
    b = described(100.0, 80.0, [("rows", 50.0, 40.0), ("old", 45.0, 36.0), ("young", 45.0, 36.0), ("lost", 45.0, 36.0)])
    diagram = consort({"a": a, "b": b}, ["rows", "old", "young", "lost"], NO_LABELS)
    assert diagram is not None
    assert [box.title for box in diagram.boxes] == ["Rows", "Analysed"]
    assert diagram.boxes[0].counts == "250 ECGs of 190 patients"
    assert list(diagram.boxes[1].reasons) == ["old", "young"]
    assert diagram.boxes[1].excluded == "35 ECGs, 24 patients with none left"
    assert list(diagram.boxes[1].excluded_sites) == ["a 30", "b 5"]
    assert "lost" in diagram.caption
    svg = consort_svg(diagram)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    for told in ("250 ECGs of 190 patients", "Excluded: 35 ECGs", "old, or young"):
        assert told in svg


def test_a_hospital_that_may_not_tell_its_size_is_left_out_of_the_diagram_and_named() -> None:
    silent = described(None, None, [("rows", 30.0, 25.0), ("too old", None, None), ("opted out", None, None)])
    sites = {"a": described(100.0, 80.0, WHOLE), "b": silent}
    rules = [line.reason for line in silent.flow]
    diagram = consort(sites, rules, NO_LABELS)
    assert diagram is not None
    assert diagram.boxes[-1].counts == "180 ECGs of 140 patients"
    assert [name for name, _ in diagram.ends] == ["a"]
    assert "how many they began or ended with: b" in diagram.caption
    assert consort({"b": silent}, rules, NO_LABELS) is None


def test_a_diagram_escapes_what_others_name() -> None:
    diagram = consort({HOSTILE: described(100.0, 80.0, [(HOSTILE, 200.0, 150.0)])}, [HOSTILE], NO_LABELS)
    assert diagram is not None
    svg = consort_svg(diagram)
    assert "<script" not in svg
    ElementTree.fromstring(svg)


def test_the_summary_counts_the_lockbox_from_the_flow_and_says_at_least_where_one_is_silent(gated: Any) -> None:
    result = gated["cohorts"].result
    known = summarise(gated["study"], {"cohorts": result}, Labels(gated["study"]))
    assert "3 hospitals, 900 patients, 2,700 ECGs" in known.paragraphs[0]
    sites = {**result.sites, "b": result.sites["b"].model_copy(update={"flow": ()})}
    sites["b"] = sites["b"].model_copy(update={"ecgs": {"train": None}, "patients": {"train": None}})
    less = summarise(gated["study"], {"cohorts": result.model_copy(update={"sites": sites})}, Labels(gated["study"]))
    assert "at least 600 patients, at least 1,800 ECGs" in less.paragraphs[0]
    assert summarise(None, {}, NO_LABELS).hospitals is None
    assert summarise(None, {}, NO_LABELS).paragraphs == ()


# Evaluations ----------------------------------------------------------------------------------------------------------


def test_a_group_of_one_hospital_shows_that_hospitals_figures_and_nothing_else(gated: Any) -> None:
    result, labels = gated["abroad"].result, Labels(gated["study"])
    own = result.sites["c"].heads["event"]
    pooled = result.pooled["zero_shot"]["event"]
    assert pooled.sites == ("c",)
    assert group_auc(result, "event", pooled) == own.auc
    parts = sections("abroad", result, labels)
    key = next(k for k in blocks(parts, Key) if "never trained" in k.label)
    assert key.value == own.auc.value
    assert f"{own.auc.low:.3f} to {own.auc.high:.3f}" in key.note
    assert "of St. Cecilia's alone" in key.note
    rows = [row[0] for table in blocks(parts, Table) for row in table.rows]
    assert "pooled, zero-shot" not in rows
    lines = [s.label for f in blocks(parts, Figure) for s in f.series]
    assert not any(line.startswith("pooled, zero-shot") for line in lines)


def test_cards_name_step_and_model_and_speak_in_the_studys_words(gated: Any) -> None:
    labels = Labels(gated["study"])
    for key in blocks(sections("abroad", gated["abroad"].result, labels), Key):
        assert key.label.startswith("AUC, the event, in words")
        assert key.about == "step Judged abroad · risk of score"


def test_a_hospital_that_withheld_is_named_below_the_panels_and_has_no_curve(gated: Any) -> None:
    result, labels = gated["abroad"].result, Labels(gated["study"])
    assert result.sites["b"].heads["event"].auc.value is None
    parts = sections("abroad", result, labels)
    panels = blocks(parts, Panels)
    assert panels
    for figure in panels:
        assert "b" not in [heading for heading, _ in figure.panels]
        # Those made of the rates that were told are of hospitals that told some.
        if figure.title in ("Event rate among the ECGs at highest risk", "Calibration", "Decision curve"):
            assert re.search(r"Not told: (.*; )?b[;.]", figure.caption)
        assert "every value is withheld" not in panels_svg(figure, sites=("a", "b", "c"))
    roc = next(f for f in blocks(parts, Figure) if f.title == "ROC")
    assert "b" not in [s.site for s in roc.series]
    (plot,) = blocks(parts, Forest)
    assert [row.value for row in plot.rows if row.site == "b"] == [None]


def test_there_is_no_figure_where_nothing_was_released(gated: Any) -> None:
    dump = gated["abroad"].result.model_dump()

    def blanked(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: blanked(v, k) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return () if value and not isinstance(value[0], str) else value
        return None if isinstance(value, float) else value

    dump["sites"], dump["pooled"] = blanked(dump["sites"]), {}
    for site in dump["sites"].values():
        site["heads"]["event"]["roc"] = None
    parts = sections("abroad", Evaluated.model_validate(dump), NO_LABELS)
    assert blocks(parts, Figure) == []
    assert blocks(parts, Key) == []
    assert blocks(parts, Table)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([0.03], []),
        ([0.03, 0.0], []),
        ([0.03, 0.04], ["random effects"]),
        ([0.03, 0.04, None], ["random effects"]),
        ([0.03, 0.04, 0.05], ["random effects", "prediction interval"]),
    ],
)
def test_hospitals_are_put_together_from_two_on_and_another_is_predicted_from_three_on(
    free: Any, errors: list[float | None], told: list[str]
) -> None:
    head = free["abroad"].result.sites["c"].heads["event"]
    aucs = [
        EstimateResult(value=v, se=se, low=None, high=None) for v, se in zip((0.7, 0.8, 0.85), errors, strict=False)
    ]
    rows, _ = together({f"s{i}": head.model_copy(update={"auc": auc}) for i, auc in enumerate(aucs)}, NO_LABELS)
    assert [row.label for row in rows] == told
    for row in rows:
        assert row.low is not None
        assert row.high is not None
        assert 0 < row.low < 0.75 < row.high < 1
    if len(rows) == 2:
        assert rows[1].low < rows[0].low
        assert rows[1].high > rows[0].high


def test_the_roc_is_square_and_its_legend_holds_the_auc(free: Any) -> None:
    result, labels = free["abroad"].result, Labels(free["study"])
    roc = next(f for f in blocks(sections("abroad", result, labels), Figure) if f.title == "ROC")
    auc = result.sites["c"].heads["event"].auc
    assert f"St. Cecilia's, AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" in [s.label for s in roc.series]
    found = re.search(
        r'id="f-axes_1".*?<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)',
        figure_svg(roc),
        re.S,
    )
    assert found is not None
    x0, _, x1, y1, _, y2 = map(float, found.groups())
    assert abs(x1 - x0) == pytest.approx(abs(y1 - y2), rel=0.01)


def test_a_roc_of_corners_alone_is_no_curve_and_its_hospital_is_named(free: Any) -> None:
    dump = free["abroad"].result.model_dump()
    dump["sites"]["c"]["heads"]["event"]["roc"] = {"fpr": (0.0, 1.0), "tpr": (0.0, 1.0)}
    labels = Labels(free["study"])
    figures = blocks(sections("abroad", Evaluated.model_validate(dump), labels), Figure)
    roc = next(f for f in figures if f.title == "ROC")
    assert not any("Cecilia" in one.label for one in roc.series)
    assert "No cut answered: St. Cecilia's, AUC" in roc.caption


def test_without_a_cut_off_it_says_so_instead_of_withheld(free: Any) -> None:
    dump = free["abroad"].result.model_dump()
    nothing = EstimateResult(value=None, se=None, low=None, high=None).model_dump()
    for site in dump["sites"].values():
        site["heads"]["event"]["threshold"] = dict.fromkeys(("share", "ppv", "sensitivity", "specificity"), nothing)
    dump["threshold"] = None
    parts = sections("abroad", Evaluated.model_validate(dump), NO_LABELS)
    assert not [table for table in blocks(parts, Table) if table.title.startswith("At the fixed threshold")]
    assert any("No cut-off was fixed" in text.text for text in blocks(parts, Text))


def test_a_decision_curve_is_net_benefit_beside_acting_on_everybody() -> None:
    risk = np.linspace(0.005, 0.995, 400)
    event = np.random.default_rng(1).random(400) < risk
    at = (0.1, 0.3, 0.6)
    benefit = [float((event & (risk >= t)).mean() - (~event & (risk >= t)).mean() * t / (1 - t)) for t in at]
    rate = float(event.mean())
    points = [(t, b, None, None) for t, b in zip(at, benefit, strict=True)]
    figure = decision_panels(
        [
            DecisionCurve("a", "a", rate, [*points[::-1], (None, 0.1, None, None), (0.2, None, None, None)]),
            DecisionCurve("b", "b", None, []),
        ]
    )
    assert figure is not None
    score, everybody = figure.panels[0][1]
    assert (list(score.x), list(score.y)) == (list(at), benefit)
    # Acting on everybody at a threshold equals the formula with every ECG flagged; at 0 it is the event rate.
    assert everybody.x[0] == 0.0
    assert everybody.y[0] == pytest.approx(rate)
    drawn = dict(zip(everybody.x, everybody.y, strict=True))
    assert drawn[0.6 * 10 / 60] == pytest.approx(event.mean() - (~event).mean() * 0.1 / 0.9)
    assert min(y for y in everybody.y if y is not None) >= -0.02
    assert [(heading, len(series[0].x)) for heading, series in figure.panels] == [("a", 3)]
    assert figure.caption.endswith("Not told: b.")
    assert decision_panels([DecisionCurve("b", "b", 0.1, [(0.1, None, None, None)])]) is None


def test_seven_hospitals_stand_in_two_rows_of_panels_on_common_axes() -> None:
    panels = [(f"s{i}", [Series(f"s{i}", [0.01 * (i + 1), 1.0], [0.9, 0.1], site=f"s{i}")]) for i in range(7)]
    svg = panels_svg(Panels("Rates", (), "share", "rate", x_log=True, panels=panels), sites=[f"s{i}" for i in range(7)])
    tree = ElementTree.fromstring(svg)
    assert len([g for g in tree.iter() if re.fullmatch(r"f-axes_\d+", g.get("id", ""))]) == 7
    assert panels_svg(Panels("Rates", (), "x", "y", panels=[("a", [Series("a", [], [])])])).count("withheld") == 1


# Methods, checklist, privacy ------------------------------------------------------------------------------------------


def test_methods_say_what_the_study_file_says() -> None:
    text = dict(methods(load_study(DEMO), INFO, Labels(load_study(DEMO))))
    assert "north, coast and valley" in text["Data and design"]
    assert "for external evaluation only: island" in text["Data and design"]
    assert "60% for training, 20% for validation and 20% for the lockbox" in text["Data and design"]
    assert "people aged under 90 years, of known sex, without a defibrillator at the ECG" in text["Participants"]
    assert "100 Hz" in text["ECGs"]
    assert "sudden cardiac death within 2 years" in text["Outcomes"]
    assert "20 rounds of fedavg (1 epoch" in text["Models and analysis"]
    assert "ecgfed 1" in text["Software"]


def test_the_checklist_says_what_lacks_and_leads_only_where_the_study_answers() -> None:
    demo = load_study(DEMO)
    done = checklist(demo, {}, {"cohorts": "describe", "risk": "train", "score": "calibrate", "judged": "evaluate"})
    items = {item.number: item for item in done}
    assert len(items) == len(done) == 52
    assert items["23a"].anchor == "step-judged"
    assert items["12f"].status == "here"
    assert items["15"].status == "missing"
    assert items["15"].note == "no threshold step"
    assert items["17"].status == "missing"
    assert all(item.note for item in done if item.status != "here")
    assert all(item.anchor for item in done if item.status != "missing")
    bare = {item.number: item for item in checklist(None, {}, {})}
    assert bare["6b"].status == bare["23a"].status == "missing"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_in_words_what_leaves_in_each_of_its_phases(stage: str) -> None:
    room = shared_room(stage)
    assert set(room.LEAVES) == set(phases(stage))
    assert all(len(words) > 20 and not words.endswith(".") for words in room.LEAVES.values())
    assert room.PROTECTED.endswith(".")


def test_the_privacy_statement_names_every_step_and_one_whose_stage_says_nothing() -> None:
    plan = [StepPlan(id=f"s_{stage}", stage=stage) for stage in STAGES] + [StepPlan(id="new", stage="of_tomorrow")]
    found = statement(plan, {}, NO_LABELS)
    assert [p.id for p in found] == [step.id for step in plan]
    assert all(p.declared for p in found[:-1])
    assert not found[-1].declared
    assert "no statement" in found[-1].protected


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_table_as_csv_has_full_numbers_and_nothing_that_a_spreadsheet_runs() -> None:
    table = Table(
        "t",
        ["site", "n", "auc"],
        [["=1+1", 1234.0, 0.8123456789], ["-cmd", None, "-0.12 (-0.2 to 0.1)"], ["@x", True, "-"]],
        groups=[("", 1), ("all", 2)],
    )
    rows = list(csv.reader(io.StringIO(table_csv(table))))
    assert rows[0] == ["site", "all: n", "all: auc"]
    assert rows[1] == ["'=1+1", "1234", "0.8123456789"]
    assert rows[2] == ["'-cmd", "withheld", "-0.12 (-0.2 to 0.1)"]
    assert rows[3] == ["'@x", "True", "-"]
    flow = flow_csv(Flow("f", ["a"], [FlowRow("rows", [12]), FlowRow("old", [None])]))
    assert list(csv.reader(io.StringIO(flow))) == [["ECGs left after", "a"], ["rows", "12"], ["old", "withheld"]]


def test_files_stay_in_their_folder_and_old_ones_go(tmp_path: Path) -> None:
    kept = Attachments()
    first, address = kept.add("../../etc", "Pass/word", "csv", "a,b\n")
    second, _ = kept.add("../../etc", "Pass/word", "csv", "c\n")
    assert re.fullmatch(r"[a-z0-9_-]+\.csv", first)
    assert first != second
    assert address == "data:text/csv;charset=utf-8,a%2Cb%0A"
    folder = tmp_path / "report_files"
    folder.mkdir()
    (folder / "old.svg").write_text("")
    (folder / "mine.txt").write_text("kept")
    kept.write(tmp_path)
    assert {path.name for path in folder.iterdir()} == {first, second, "mine.txt"}


def test_a_figure_as_a_file_is_a_whole_svg(free: Any) -> None:
    roc = next(f for f in blocks(sections("abroad", free["abroad"].result, NO_LABELS), Figure) if f.title == "ROC")
    whole = standalone_svg(figure_svg(roc))
    assert whole.startswith("<?xml")
    assert ElementTree.fromstring(whole.split("\n", 1)[1]).tag == "{http://www.w3.org/2000/svg}svg"


# The page -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(gated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of the gated federation, whose study has a hostile label."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    chosen = gated["study"].model_dump(mode="json", by_alias=True)
    chosen["endpoints"]["sex"]["label"] = HOSTILE
    chosen["labels"]["a"] = HOSTILE
    file = folder.parent / "study.yaml"
    file.write_text(yaml.safe_dump(chosen))
    opened = RunFolder.create(folder, file, backend="inprocess")
    for step in ("cohorts", "score", "abroad"):
        opened.save_artefact(gated[step])
    opened.update(status="done", ended="2026-11-21T06:05:00Z")
    opened.close()
    return folder


def test_the_page_begins_with_hospitals_patients_and_how_good(run: Path) -> None:
    html = render(run).read_text(encoding="utf-8")
    assert html.index('id="summary"') < html.index('id="methods"') < html.index('id="step-cohorts"')
    assert html.index("3 hospitals, 900 patients") < html.index('id="methods"')
    assert "AUC for the event, in words, hospitals that never trained (St. Cecilia&#39;s alone)" in html
    assert "Judged abroad" in html


def test_labels_are_escaped_everywhere(run: Path) -> None:
    html = render(run).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_every_table_and_figure_of_the_page_lies_beside_it_and_in_it(run: Path) -> None:
    made = compose(read_run(run))
    render(run)
    files = {path.name for path in (run / "report_files").iterdir()}
    assert files == set(made.attachments.files)
    named = re.findall(r'download="([^"]+)"', made.html)
    assert sorted(named) == sorted(files)
    assert {name.rsplit(".", 1)[1] for name in files} == {"csv", "svg"}
    # Table of the hospitals, and all that the steps show.
    assert len(files) == made.html.count('class="take"')


def test_the_checklists_links_lead_somewhere(run: Path) -> None:
    html = render(run).read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= ids


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """<body style="margin:0"><iframe id="page" src="{page}" width="{width}" height="900"></iframe><script>
document.getElementById("page").onload = function () {{
  document.title = this.contentDocument.documentElement.scrollWidth + " of " + this.clientWidth; }};
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_the_page_without_scrolling_sideways(run: Path, tmp_path: Path, width: int) -> None:
    page = tmp_path / "measure.html"
    page.write_text(MEASURE.format(page=render(run).as_uri(), width=width))
    told = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = re.search(r"<title>(\d+) of (\d+)</title>", told)
    assert found is not None
    assert int(found[1]) <= int(found[2])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_it_prints_to_pages(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.pdf"
    subprocess.run(
        [
            str(CHROMIUM),
            *("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--print-to-pdf={out}", render(run).as_uri()),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    pages = len(re.findall(rb"/Type\s*/Page\b", out.read_bytes()))
    assert 4 <= pages <= 20


def test_a_withheld_count_of_what_is_missing_is_not_said_to_be_none():
    assert missing({"age": 0.0}) == "-"
    assert missing({"age": None, "lvef": None}) == "withheld"
    assert missing({"age": None, "lvef": 12.0}) == "lvef 12; others withheld"


def test_the_tables_of_book_keeping_can_be_taken_too(run: Path) -> None:
    render(run)
    steps = list(csv.DictReader((run / "report_files" / "run-steps.csv").read_text().splitlines()))
    assert [row["step"] for row in steps] == ["cohorts", "score", "abroad"]
    assert all(row["state"] == "done" and row["requests"].isdigit() for row in steps)
    items = list(csv.DictReader((run / "report_files" / "run-tripod.csv").read_text().splitlines()))
    assert len(items) > 20
    assert {row["status"] for row in items} <= {"here", "partly", "missing"}
    # Nothing left in this run's record, so there is no table of it to take.
    assert not (run / "report_files" / "run-messages.csv").exists()
