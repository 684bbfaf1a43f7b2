"""Columns of a study's own: what their declaration refuses, and who may name them."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.config import ConfigError, validate
from ecgshared.study.declared import DeclaredColumn, as_numbers, with_absent
from ecgshared.study.endpoints import label_cells
from ecgshared.study.study import Study

COLUMNS = {
    "acc_score": {"kind": "number", "range": [0, 100], "unit": "%", "label": "AHA/ACC risk score"},
    "beta_blocker": {"kind": "flag"},
    "smoking": {"kind": "category", "levels": ["never", "former", "current"]},
    "visit": {"kind": "date"},
    "stroke": {"kind": "event"},
}
STEPS = [{"id": "cohorts", "stage": "describe"}]


def study(columns=None, **changes):
    fields = {
        "name": "t",
        "sites": {"train": ["a"]},
        "columns": COLUMNS if columns is None else columns,
        "endpoints": {"male": {"kind": "binary", "column": "male"}},
        "steps": STEPS,
    }
    return validate(Study, fields | changes, where="study.yaml")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"kind": "number"}, "needs a range"),
        ({"kind": "number", "range": [1, 1]}, "range must ascend"),
        ({"kind": "number", "range": [0, float("inf")]}, "range must ascend"),
        ({"kind": "flag", "range": [0, 1]}, "a flag has no range"),
        ({"kind": "flag", "unit": "mg"}, "a flag has no unit"),
        ({"kind": "date", "levels": ["a", "b"]}, "a date has no levels"),
        ({"kind": "category"}, "needs levels"),
        ({"kind": "category", "levels": ["yes", "Yes "]}, "two or more different words"),
        ({"kind": "numbr", "range": [0, 1]}, "kind"),
        ({"kind": "flag", "lable": "x"}, "did you mean 'label'"),
    ],
)
def test_a_declaration_that_says_too_little_or_too_much_is_refused(content, says):
    with pytest.raises(ConfigError, match=says):
        validate(DeclaredColumn, content, where="here")


@pytest.mark.parametrize("name", ["lvef", "male", "defibrillator", "risk", "high_risk", "days_to_index", "mi"])
def test_names_that_every_study_knows_are_taken(name):
    with pytest.raises(ConfigError, match=f"{name}: the name is taken"):
        study({name: {"kind": "flag"}})


def test_covariates_populations_terms_and_comparators_name_them():
    regress = {
        "id": "r",
        "stage": "regress",
        "outcome": "male",
        "models": [{"name": "m", "terms": ["acc_score>=20", "beta_blocker", "age"]}],
    }
    made = study(
        covariates=["acc_score"],
        populations={
            "smokers": {"where": {"smoking": {"one_of": ["current"]}, "days_to_visit": {"at_least": 2}}},
            "high": {"where": {"acc_score": {"at_least": 20}, "beta_blocker": True, "visit": "known"}},
        },
        steps=[*STEPS, regress],
    )
    assert made.numbers == ("age", "male", "acc_score", "beta_blocker")
    with pytest.raises(ConfigError, match=r"'acc_scor' of term 'acc_scor>=20' is no column.*did you mean acc_score"):
        study(steps=[regress | {"models": [{"name": "m", "terms": ["acc_scor>=20"]}]}])
    with pytest.raises(ConfigError, match="'smoking' is no covariate"):
        study(covariates=["smoking"])
    with pytest.raises(ConfigError, match="bounds are for numbers; this is a category"):
        study(populations={"p": {"where": {"smoking": {"below": 2}}}})
    with pytest.raises(ConfigError, match="no such column; did you mean beta_blocker"):
        study(populations={"p": {"where": {"beta_blockr": True}}})


def test_a_study_without_columns_of_its_own_has_the_hash_it_had():
    assert "columns" not in study({}).model_dump(mode="json")
    assert study({}).sha256 != study().sha256


def test_absent_columns_are_not_known_of_anybody_and_categories_are_places():
    declared = study().columns
    every = with_absent({"smoking": np.array(["current", "", "never"])}, declared, 3)
    assert set(every) == set(declared)
    assert np.isnan(every["acc_score"]).all()
    assert np.isnat(every["stroke"]).all()
    np.testing.assert_array_equal(as_numbers(declared["smoking"], every["smoking"]), [2, np.nan, 0])


def test_a_continuous_endpoint_is_the_number_within_its_range_and_no_stage_counts_it():
    made = study(
        endpoints={
            "years": {"kind": "continuous", "column": "age", "range": [18, 98], "unit": "years"},
            "score": {"kind": "continuous", "column": "acc_score", "range": [0, 100]},
        }
    )
    years = made.endpoints["years"]
    cells = label_cells({"age": np.array([17.9, 18, 58, 98, 98.1, np.nan])}, years)
    np.testing.assert_array_equal(cells, np.array([np.nan, 18, 58, 98, np.nan, np.nan], dtype=np.float32))
    np.testing.assert_allclose(years.standardise(cells)[1:4], [-1, 0, 1])
    np.testing.assert_allclose(years.restore(years.standardise(cells))[1:4], [18, 58, 98])
    assert np.isnan(label_cells({"age": np.array([40.0])}, made.endpoints["score"])).all()
    for stage, key in (("calibrate", "target"), ("regress", "outcome")):
        step = {"id": "s", "stage": stage, key: "years"}
        step |= {"models": [{"name": "m", "terms": ["age"]}]} if stage == "regress" else {"inputs": ["age"]}
        with pytest.raises(ConfigError, match="'years' is a continuous endpoint"):
            study(endpoints={"years": years.model_dump()}, steps=[*STEPS, step])
    with pytest.raises(ConfigError, match="'lvf' is no number of the study; did you mean lvef"):
        study(endpoints={"ef": {"kind": "continuous", "column": "lvf", "range": [0, 1]}})
    with pytest.raises(ConfigError, match="range must ascend"):
        study(endpoints={"ef": {"kind": "continuous", "column": "lvef", "range": [1, 0]}})


def test_a_net_reads_declared_numbers_and_no_column_that_the_study_lacks():
    def with_conditions(*names):
        model = {"name": "cvae", "conditions": ["age", *names]}
        step = {"id": "beats", "stage": "train", "uses": ["cohorts"], "heads": [], "model": model, "rounds": 1}
        return study(covariates=["acc_score"], steps=[*STEPS, step])

    assert with_conditions("acc_score").steps[1].model.side_inputs == ("age", "acc_score")
    with pytest.raises(ConfigError, match="the model needs shoe_size; add to the study's covariates"):
        with_conditions("shoe_size")
