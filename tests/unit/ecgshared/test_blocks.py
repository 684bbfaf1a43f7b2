"""Blocks of a study: what they stand for is what a person would have written by hand, to the hash."""

from __future__ import annotations

import pytest
import yaml

from ecgshared.config import ConfigError, validate
from ecgshared.study.study import Study

MODEL = {"blocks": 1, "width": 8, "groups": 2, "hidden": 8}


def train(name, **changes):
    step = {"id": name, "stage": "train", "uses": ["cohorts"], "heads": ["death"], "model": MODEL, "rounds": 1}
    return step | changes


FEDPROX = {"strategy": {"name": "fedprox"}, "local": {"prox_mu": 0.1}}


def content(steps, **changes):
    return {
        "name": "t",
        "sites": {"train": ["a", "b", "c"], "zero_shot": ["d"]},
        "endpoints": {"death": {"kind": "time_to_event", "event": "death", "horizon_years": 1}},
        "populations": {"old": {"where": {"age": {"above": 60}}}},
        "steps": [{"id": "cohorts", "stage": "describe"}, *steps],
    } | changes


def study(steps, **changes):
    return validate(Study, content(steps, **changes), where="study.yaml")


def contrast(name, scores, block, **changes):
    step = {"id": name, "stage": "contrast", "uses": [s.split(".")[0] for s in scores], "scores": scores}
    return step | {"outcomes": ["death"], "block": block} | changes


def test_recipes_beside_each_other_are_one_contrast_step():
    steps = [train("avg"), train("prox", **FEDPROX)]
    blocks = {"recipes": {"steps": ["avg", "prox"], "population": "old", "label": "two recipes"}}
    by_hand = contrast("recipes", ["avg.death", "prox.death"], "recipes", population="old", label="two recipes")
    assert study(steps, compare=blocks).sha256 == study([*steps, by_hand]).sha256


def test_each_hospital_alone_is_a_train_step_at_one_site():
    found = study([train("avg")], compare={"alone": {"steps": ["avg"], "each_alone": True}})
    by_hand = [train(f"avg_alone_{s}", sites=[s], label=f"avg, {s} alone", block="alone") for s in "abc"]
    scores = ["avg.death", *(f"avg_alone_{s}.death" for s in "abc")]
    assert found.sha256 == study([train("avg"), *by_hand, contrast("alone", scores, "alone")]).sha256
    assert found.members(found.step("avg_alone_b")) == ("b",)
    assert found.members(found.step("alone")) == ("a", "b", "c", "d")


def test_one_left_out_in_turn_is_judged_where_it_was_left_out():
    found = study([train("avg")], leave_one_out={"unseen": {"step": "avg"}})
    by_hand = [
        train(f"avg_without_{s}", sites=[o for o in "abc" if o != s], label=f"avg, without {s}", block="unseen")
        for s in "abc"
    ]
    judged = [
        contrast(
            f"unseen_{s}",
            ["avg.death", f"avg_without_{s}.death"],
            "unseen",
            sites=[s],
            label=f"unseen: {s} left out",
        )
        for s in "abc"
    ]
    assert found.sha256 == study([train("avg"), *by_hand, *judged]).sha256


def test_several_heads_are_a_contrast_each_and_a_copy_is_made_once():
    endpoints = {name: {"kind": "time_to_event", "event": name, "horizon_years": 1} for name in ("death", "scd")}
    step = train("avg", heads=["death", "scd"])
    blocks = {"one": {"steps": ["avg"], "each_alone": True}, "two": {"steps": ["avg"], "each_alone": True}}
    found = study([step], endpoints=endpoints, compare=blocks)
    assert [s.id for s in found.steps][2:] == [
        *(f"avg_alone_{s}" for s in "abc"),
        *("one_death", "one_scd", "two_death", "two_scd"),
    ]


def test_what_is_written_down_and_read_again_is_the_same_study():
    found = study([train("avg")], compare={"alone": {"steps": ["avg"], "each_alone": True}})
    again = yaml.safe_load(yaml.safe_dump(found.model_dump(mode="json", by_alias=True)))
    assert validate(Study, again, where="again").sha256 == found.sha256
    assert "compare" not in again


def test_a_calibrated_risk_is_compared_as_such():
    score = {"id": "score", "stage": "calibrate", "uses": ["avg"], "target": "death"}
    found = study([train("avg"), score], compare={"b": {"steps": ["score", "avg"]}})
    assert found.step("b").scores == ("score", "avg.death")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compare": {"b": {"steps": ["avg", "prx"]}}}, "compare.b: 'prx' is no train step.*; did you mean 'prox'"),
        ({"compare": {"b": {"steps": ["avg"]}}}, "names one step, and nothing to compare it with"),
        ({"compare": {"b": {"stps": ["avg"]}}}, "did you mean 'steps'"),
        ({"compare": {"b": {"steps": ["avg", "prox"], "heads": ["dth"]}}}, "did you mean|allowed"),
        ({"compare": {"avg": {"steps": ["avg", "prox"]}}}, "would make a step 'avg', which the study has already"),
        ({"compare": {"b": {"steps": ["cohorts", "avg"]}}}, "'cohorts' is no train step"),
        ({"leave_one_out": {"b": {"step": "one"}}}, "'one' is trained by fewer than 2 hospitals"),
        ({"leave_one_out": {"b" * 39: {"step": "avg"}}}, "of more than 40 characters"),
        ({"leave_one_out": {"b": {"step": "avg", "population": "ol"}}}, "did you mean 'old'"),
        ({"compare": ["avg"]}, "compare: must name blocks"),
    ],
)
def test_a_block_that_cannot_be_is_told_by_name(changes, says):
    with pytest.raises(ConfigError, match=says):
        study([train("avg"), train("prox", **FEDPROX), train("one", sites=["a"])], **changes)
