"""What a report says of hospitals that are silent, and why: not known is not withheld, and a code is no reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from federated_stages import CALIBRATE, Federation, site_data, study, typed

from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.results.arrhythmia import Incidence, Point
from ecgshared.stages.results.arrhythmia import Result as Arrhythmia
from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.train import Result as Trained
from ecgshared.stages.results.train import ValidationRound
from server.report.arrhythmia import _series
from server.report.arrhythmia import sections as arrhythmia_sections
from server.report.evaluation import sections
from server.report.evaluation_tables import p_of
from server.report.figures import PALETTE
from server.report.forest import Forest
from server.report.glossary import in_words
from server.report.labels import NO_LABELS, Labels
from server.report.overlap import sections as overlap_sections
from server.report.panels import _limits, panels_svg
from server.report.sections import Folded, Key, Panels, Series, Table, Text
from server.report.summary import summarise
from server.report.training import _curves

STEPS = [
    {"id": "cohorts", "stage": "describe"},
    CALIBRATE,
    {"id": "judged", "stage": "evaluate", "label": "Judged", "uses": ["score"], "population": "younger"},
    {"id": "everybody", "stage": "evaluate", "uses": ["score"]},
]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Results of two training hospitals and of one, c, that never trained."""
    made = {name: site_data(seed, 300) for name, seed in (("a", 1), ("b", 2), ("c", 3))}
    data = {name: replace(one, populations={"younger": one.age < 80}) for name, one in made.items()}
    chosen = study(STEPS, populations={"younger": {"where": {"age": {"below": 80}}, "label": "under 80"}})
    steps = {step: typed(stored).result for step, stored in Federation(chosen, data, DisclosureLimits()).run().items()}
    return {"study": chosen, **steps}


def of_kind(parts: Any, kind: type) -> list[Any]:
    return [block for part in parts for block in part.blocks if isinstance(block, kind)]


def unknown_at_c(found: dict[str, Any]) -> dict[str, Any]:
    """The same results, with a hospital c whose table does not know the event."""
    sites = found["cohorts"].sites
    silent = sites["c"].model_copy(update={"heads_offered": ()})
    return {
        "cohorts": found["cohorts"].model_copy(update={"sites": {**sites, "c": silent}}),
        "judged": found["judged"],
        "everybody": found["everybody"],
    }


def test_a_hospital_that_does_not_know_an_outcome_is_named_and_withholds_nothing(found: dict[str, Any]) -> None:
    parts = sections("judged", found["judged"], Labels(found["study"], unknown_at_c(found)))
    assert not [key for key in of_kind(parts, Key) if "never trained" in key.label]
    assert "c" not in {row[0] for table in of_kind(parts, Table) for row in table.rows}
    (plot,) = of_kind(parts, Forest)
    assert {row.site for row in plot.rows if row.site} == {"a", "b"}
    assert "Whether it followed is not known at c." in of_kind(parts, Text)[0].text


def test_where_no_step_has_asked_every_hospital_is_taken_to_know(found: dict[str, Any]) -> None:
    for labels in (Labels(found["study"]), Labels(found["study"], {"cohorts": found["cohorts"]})):
        parts = sections("judged", found["judged"], labels)
        assert "c" in {row[0] for table in of_kind(parts, Table) for row in table.rows}
        assert not any("not known at" in text.text for text in of_kind(parts, Text))


def test_the_table_of_hospitals_is_of_the_evaluation_that_most_tell(found: dict[str, Any]) -> None:
    told = unknown_at_c(found)
    dumb = {s: v.heads["event"].model_copy(update={"ecgs": None}) for s, v in told["everybody"].sites.items()}
    sites = {s: v.model_copy(update={"heads": {"event": dumb[s]}}) for s, v in told["everybody"].sites.items()}
    told["everybody"] = told["everybody"].model_copy(update={"sites": sites})
    summary = summarise(found["study"], told, Labels(found["study"], told))
    assert summary.hospitals is not None
    assert summary.hospitals.note.endswith("Judged: step Judged, event, under 80.")
    rows = {row[0]: row for row in summary.hospitals.rows}
    assert rows["c"][4] == "not offered"
    assert rows["a"][4] == found["judged"].sites["a"].heads["event"].ecgs
    # Beside figures of the younger, those of all say whose they are.
    assert any("everybody eligible: " in text for text in summary.paragraphs)


def test_a_drawing_of_one_panel_or_two_is_as_wide_as_half_a_page_so_that_its_letters_stay_small() -> None:
    def width(panels: int) -> float:
        shown = [(f"s{i}", [Series(f"s{i}", [0.1, 1.0], [0.9, 0.1])]) for i in range(panels)]
        svg = panels_svg(
            Panels("Rates", (), "percentile of the risk from which the group begins", "rate", panels=shown)
        )
        found = re.search(r'viewBox="0 0 ([\d.]+) ', svg)
        assert found is not None
        return float(found[1]) / 72

    assert width(1) == pytest.approx(width(2), abs=0.1)
    assert 5.4 < width(1) < 5.8


def test_a_line_that_the_caption_names_lies_inside_the_drawing() -> None:
    panels = [("a", [Series("a", [0.1, 1.0], [0.30, 0.20], [0.25, 0.15], [0.35, 0.25])])]
    for reference, inside in (((0.049, 0.6), True), (None, False)):
        limits = _limits(Panels("Rates", (), "share", "rate", reference=reference, panels=panels), ())
        assert limits is not None
        assert bool(limits.y[0] < 0.049 and limits.y[1] > 0.6) is inside


def test_an_outcome_keeps_its_colour_where_the_other_is_not_known() -> None:
    rate = EstimateResult(value=0.2, se=0.01, low=0.1, high=0.3)
    points = [
        Point(cutoff=0.1, share=share, ecgs=100.0, events=20.0, rate=rate, sites=("us",)) for share in (1.0, 0.5, 0.05)
    ]
    blank = dict.fromkeys(("ecgs", "patients", "events", "event_patients", "at_cutoff", "same_share"))
    none, some = (Incidence.model_validate({**blank, "points": p}) for p in ((), points))
    svg = panels_svg(Panels("Rates", (), "x", "y", panels=[("us", _series({"composite": none, "vfvt": some}, 0.0))]))
    assert PALETTE[1].lower() in svg.lower()
    assert PALETTE[0].lower() not in svg.lower()


def test_why_a_hospital_is_absent_is_said_in_words() -> None:
    assert in_words(["too-few", "too-few"]) == "too few patients or events for any answer"
    assert in_words(["a reason of its own"]) == "a reason of its own"


def test_a_round_whose_loss_is_withheld_is_a_gap_in_the_learning_curve_and_named_below_it() -> None:
    rounds = [
        ValidationRound(round=i, loss=loss, auc={"event": auc}, sites={})
        for i, (loss, auc) in enumerate([(0.7, 0.5), (0.4, None), (None, 0.6), (None, 0.7), (0.6, 0.7)])
    ]
    told = {"heads": ("event",), "judged": ("event",), "kept_round": 1, "rounds": 4, "planned_rounds": 9}
    result = Trained.model_construct(**told, validation=tuple(rounds), stopped_early=True)
    loss, auc = _curves(result, NO_LABELS)
    assert list(loss.series[0].y) == [0.7, 0.4, None, None, 0.6]
    assert list(auc.series[0].y) == [0.5, None, 0.6, 0.7, 0.7]
    assert "The loss of 2 rounds is withheld" in loss.caption
    whole = result.model_copy(update={"validation": (rounds[0], rounds[1], rounds[4])})
    assert "withheld" not in _curves(whole, NO_LABELS)[0].caption


def test_a_hospital_that_gave_no_answer_is_named_with_the_reason(found: dict[str, Any]) -> None:
    fewer = {site: v for site, v in found["judged"].sites.items() if site != "b"}
    silent = found["judged"].model_copy(update={"sites": fewer, "absent": {"b": {"local": "too-few"}}})
    texts = [text.text for text in of_kind(sections("judged", silent, Labels(found["study"])), Text)]
    assert "No answer: b (too few patients or events for any answer)." in texts


def test_a_p_that_few_events_leave_out_is_not_said_to_be_withheld() -> None:
    alone = EstimateResult(value=0.1, se=0.05, low=None, high=None)
    assert p_of(None, alone) == "few events"
    assert p_of(None, alone.model_copy(update={"value": None})) is None
    assert p_of(0.03, alone) == 0.03


def test_the_loss_of_the_untrained_net_does_not_hide_an_overfit() -> None:
    rounds = [ValidationRound(round=i, loss=loss, auc={}, sites={}) for i, loss in enumerate((1.1, 0.20, 0.21, 0.24))]
    told = {"heads": ("event",), "judged": ("event",), "kept_round": 1, "rounds": 3, "planned_rounds": 3}
    (loss,) = _curves(Trained.model_construct(**told, validation=tuple(rounds), stopped_early=False), NO_LABELS)
    assert loss.y_range is not None
    assert 0.15 < loss.y_range[0] < 0.20
    assert 0.24 < loss.y_range[1] < 0.30
    assert "untrained net, 1.100, lies above" in loss.caption


def test_where_a_marker_is_known_of_nobody_nothing_is_said_to_be_withheld() -> None:
    data = {name: site_data(seed, 300) for name, seed in (("a", 1), ("b", 2), ("c", 3))}
    nobody = np.full(len(data["c"]), np.nan, dtype=np.float32)
    data["c"] = replace(data["c"], covariates={**data["c"].covariates, "lvef": nobody})
    steps = [
        {"id": "score", "stage": "calibrate", "target": "event", "inputs": ["age", "bmi"]},
        {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": None, "top_share": 0.2},
        {"id": "circles", "stage": "overlap", "uses": ["cut"]},
    ]
    chosen = study(steps)
    result = typed(Federation(chosen, data, DisclosureLimits()).run()["circles"]).result
    parts = overlap_sections("circles", result, Labels(chosen))
    assert "The marker is known of nobody at c: nothing overlaps there." in [t.text for t in of_kind(parts, Text)]
    assert [table.title for table in of_kind(parts, Table) if table.title.startswith("Groups")] == [
        "Groups, pooled, training"
    ]
    (folded,) = of_kind(parts, Folded)
    assert [table.title for table in folded.blocks] == ["a", "b"]


def test_a_hospital_without_the_outcome_of_an_arrhythmia_step_does_not_know_it(found: dict[str, Any]) -> None:
    told = unknown_at_c(found)
    reasons = {"a": {"scale": "too-few"}, "c": {"scale": "too-few"}}
    result = Arrhythmia.model_construct(
        scd=None, vfvt="event", cutoff=0.1, share=0.1, sites={}, pooled={}, coding=None, absent=reasons
    )
    parts = arrhythmia_sections("rhythm", result, Labels(found["study"], told))
    assert not of_kind(parts, Table)
    texts = [text.text for text in of_kind(parts, Text)]
    assert "VF/VT is not known at c." in texts
    assert "Hospitals that tell of none of it: a (too few patients or events for any answer)." in texts
