"""The inset of the riskiest tenth, and the events captured as the cut moves."""

from __future__ import annotations

from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.evaluate import RateAtShare
from ecgshared.stages.results.overlap import AtCut, GroupOverlap, Overlap, Result
from ecgshared.study.study import Study
from server.report.labels import NO_LABELS, Labels
from server.report.panels import panels_svg
from server.report.top_groups import RateLine, captured, rate_lines, top_tenth, trial_rate


def point(share: float | None, rate: float | None, part: float | None = None) -> RateAtShare:
    return RateAtShare(share=share, rate=EstimateResult(value=rate, se=None, low=None, high=None), captured=part)


POINTS = [
    point(0.01, 0.08, 0.1),
    point(0.05, 0.05, 0.35),
    point(0.5, 0.01, 0.9),
    point(1.0, 0.006, 1.0),
    point(None, None),
]


def test_the_inset_runs_from_the_90th_percentile_up_with_the_trials_rate() -> None:
    across = (RateLine(0.049, "the trials"), RateLine(0.031, "a low ejection fraction"))
    figure = top_tenth([("pooled", "", POINTS), ("North", "north", [point(0.5, 0.1)])], across)
    assert figure is not None
    ((heading, (series,)),) = figure.panels
    assert heading == "pooled"
    assert [round(x, 6) for x in series.x if x is not None] == [95.0, 99.0]
    assert list(series.y) == [0.05, 0.08]
    assert figure.reference == (0.049, 0.031)
    assert figure.caption.endswith("Dashed: 4.9%, the trials; 3.1%, a low ejection fraction.")
    assert panels_svg(figure).startswith("<svg")
    assert top_tenth([("North", "north", [point(0.5, 0.1)])]) is None


def test_captured_events_begin_at_none_and_end_at_all() -> None:
    figure = captured([("pooled", "", POINTS), ("withheld", "w", [point(0.1, None, None)])])
    assert figure is not None
    ((_, (series,)),) = figure.panels
    assert list(series.x) == [0.0, 0.01, 0.05, 0.5, 1.0]
    assert list(series.y) == [0.0, 0.1, 0.35, 0.9, 1.0]
    assert captured([("withheld", "w", [point(0.1, None, None)])]) is None


def test_the_rates_are_those_of_the_threshold_and_of_the_overlap_beside_an_evaluation() -> None:
    train = {"id": "net", "stage": "train", "uses": ["cohorts"], "heads": ["event"]}
    study = Study.model_validate(
        {
            "name": "s",
            "sites": {"train": ["a"]},
            "endpoints": {"event": {"kind": "binary", "column": "event"}},
            "covariates": ["lvef"],
            "steps": [
                {"id": "cohorts", "stage": "describe"},
                train,
                {"id": "cut", "stage": "threshold", "uses": ["net"], "score": "net.event", "min_rate": 0.07},
                {"id": "judged", "stage": "evaluate", "uses": ["net", "cut"], "score": "net.event"},
                {"id": "bare", "stage": "evaluate", "uses": ["net"], "score": "net.event"},
                {"id": "circles", "stage": "overlap", "uses": ["cut"], "marker": "lvef<=0.35", "outcome": "event"},
            ],
        }
    )
    assert trial_rate("judged", Labels(study)) == 0.07
    assert trial_rate("bare", Labels(study)) is None
    assert trial_rate("judged", NO_LABELS) is None

    marked = GroupOverlap(
        sites=("a",), ecgs=9, patients=9, share=0.02, rate_sites=("a",), events=1, event_patients=1,
        rate=EstimateResult(value=0.046, se=None, low=None, high=None),
    )  # fmt: skip
    fixed = Overlap(fixed=AtCut(cutoff=0.1, groups={"marker": marked}, differences=()), matched=None)
    words = {"outcome": "event", "marker": "lvef<=0.35", "label": "low LVEF"}
    circles = Result(**words, cutoff=0.1, sites={}, pooled={"training": fixed}, absent={})
    labels = Labels(study, {"circles": circles})
    assert [line.rate for line in rate_lines("judged", "event", labels)] == [0.07, 0.046]
    assert rate_lines("judged", "event", labels)[1].words == "the rate of ECGs with low LVEF"
    assert rate_lines("judged", "other", labels) == (RateLine(0.07, "the rate that the high-risk group had to exceed"),)
    assert rate_lines("bare", "event", labels) == (), "another cut-off is another high-risk group"
