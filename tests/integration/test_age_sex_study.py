"""Age and sex through the apps in process: figures as pooled, the gap in a Cox model, one model beside another."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error

from client.answer import Site
from client.rows.logits import feature_matrix
from ecgshared.errors import ConfigError
from ecgshared.study.study import load_study
from ecgshared.wire.protocol import Request
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

ENDPOINTS = {
    "male": {"kind": "binary", "column": "male"},
    "years": {"kind": "continuous", "column": "age", "range": [20, 100], "unit": "years"},
    "death_2y": {"kind": "time_to_event", "event": "death", "horizon_years": 2},
}
MODEL = {"blocks": 1, "width": 8, "groups": 2, "hidden": 8, "dropout": 0.0, "covariates": []}
TRAIN = {"heads": ["male", "years"], "model": MODEL, "rounds": 3, "optimiser": {"name": "adam", "lr": 0.01}}
AGES = {"id": "ages", "stage": "age_sex", "uses": ["net", "old"], "age": "net.years", "sex": "net.male"}
AGAINST = {"against": {"age": "old.years", "sex": "old.male"}}
COX = {
    "id": "gaps",
    "stage": "survival",
    "uses": ["ages"],
    "event": "death",
    "horizon_years": 2,
    "models": [{"name": "age", "inputs": ["age"]}, {"name": "gap", "inputs": ["age", "ages.gap"]}],
    "penalizer": 0.1,
}
SITES = ("north", "coast", "valley", "island")


@pytest.fixture(scope="module")
def judged(hospitals, tmp_path_factory):
    """A run of two nets, their figures, and a Cox model with the gap."""
    from federation import SmallFederation

    small = SmallFederation(hospitals, tmp_path_factory.mktemp("ages"))
    (small.folder / "twin").mkdir()
    net, old = (small.train(id=name, **TRAIN) for name in ("net", "old"))
    old["rounds"] = 1
    steps = [{"id": "cohorts", "stage": "describe"}, net, old, AGES | AGAINST, COX]
    study, sites = small.study(endpoints=ENDPOINTS, steps=steps), small.sites()
    return study, sites, simulate(study, sites, small.folder / "run")


def folder(run):
    found = RunFolder.reopen(run)
    found.close()
    return found


def truth(judged, site):
    """Age, sex, predicted age and probability of the people that the step judged at a site."""
    study_file, sites, run = judged
    study = load_study(study_file)
    arrays = {f"{s}.{n}": a for s in ("net", "old", "cohorts") for n, a in folder(run).artefact(s).arrays.items()}
    request = Request(study.sha256, "again", "ages", "judge", 0, arrays)
    context = Site(next(f for f in sites if f.stem == site)).context(study, request, ledger=None)
    rows = context.data.rows("lockbox")
    names = ("net.years", "net.male", "old.years")
    told = {name: feature_matrix(context, (name,), arrays, rows)[:, 0] for name in names}
    return context.data.age[rows].astype(float), context.data.male[rows], told


def test_figures_are_those_of_the_pooled_ecgs(judged):
    result = folder(judged[2]).artefact("ages").result
    each = {site: truth(judged, site) for site in SITES}
    for group, names in (("training", SITES[:3]), ("zero_shot", SITES[3:])):
        age = np.concatenate([each[s][0] for s in names])
        male = np.concatenate([each[s][1] for s in names])
        told = {name: np.concatenate([each[s][2][name] for s in names]) for name in each["north"][2]}
        pooled = result.pooled[group]
        error = np.abs(told["net.years"] - age)
        assert pooled.age["all"].mae.value == pytest.approx(mean_absolute_error(age, told["net.years"]), abs=1e-9)
        assert pooled.age["men"].mae.value == pytest.approx(error[male == 1].mean(), abs=1e-9)
        assert pooled.sex["all"].accuracy.value == pytest.approx(accuracy_score(male, told["net.male"] >= 0), abs=1e-9)
        worse = np.abs(told["old.years"] - age)
        assert pooled.age_difference.value == pytest.approx((error - worse).mean(), abs=1e-9)
        assert pooled.age_difference.low < pooled.age_difference.value < pooled.age_difference.high
        mean_age, men = folder(judged[2]).artefact("net").arrays["standardise"][:2, 0]
        assert pooled.age_chance.value == pytest.approx((error - np.abs(mean_age - age)).mean(), abs=1e-9)
        right = (told["net.male"] >= 0) == male
        assert pooled.sex_chance.value == pytest.approx((right - (male == (men >= 0.5)) * 1.0).mean(), abs=1e-9)
        assert pooled.sex_chance.low < pooled.sex_chance.value < pooled.sex_chance.high
        assert pooled.age["all"].r.value == pytest.approx(np.corrcoef(told["net.years"], age)[0, 1], abs=1e-9)
        decades = sum(pooled.age[name].ecgs for name in pooled.age if name[0] in "u4567 8")
        assert decades == pooled.age["all"].ecgs


def test_the_gap_enters_a_cox_model(judged):
    found = folder(judged[2])
    gap = found.artefact("ages").result.gap
    assert gap.sites == ("north", "coast", "valley")
    line = found.artefact("ages").arrays["line"]
    assert line.tolist() == [gap.intercept, gap.slope]
    models = found.artefact("gaps").result.models
    assert set(models["gap"].coefficients) == {"age", "ages.gap"}
    assert np.isfinite(models["gap"].coefficients["ages.gap"].coef)


def test_the_report_and_a_prediction_speak_of_it(judged):
    from ecgfed._predict import load

    page = render(judged[2]).read_text(encoding="utf-8")
    assert "age and sex from the ECG" in page
    assert "This model less old.years, old.male" in page
    half = folder(judged[2]).artefact("ages").result.conformal["net.years"]
    model = load(judged[2], "net")
    number = next(o for o in model(np.zeros((12, 400), dtype=np.float32), {}) if o.kind == "number")
    assert number.high - number.value == pytest.approx(half)


def test_small_groups_and_what_would_give_them_away_are_withheld(judged, hospitals, tmp_path):
    from federation import SmallFederation

    (tmp_path / "twin").mkdir()
    small = SmallFederation(hospitals, tmp_path)
    steps = [
        {"id": "cohorts", "stage": "describe"},
        *(small.train(id=n, **TRAIN | {"rounds": 1}) for n in ("net", "old")),
    ]
    study = small.study(endpoints=ENDPOINTS, steps=[*steps, AGES | AGAINST])
    run = simulate(study, small.sites(limits={"min_patients": 10, "min_events": 5}), tmp_path / "run")
    result = folder(run).artefact("ages").result
    for name in SITES:
        for group in result.sites[name].age.values():
            assert group.patients >= 24
        told = [result.sites[name].age[d].ecgs for d in result.sites[name].age if d[0] in "u45678"]
        rest = result.sites[name].age["all"].ecgs - sum(told) if told else 10
        assert rest == 0 or rest >= 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": "net.male"}, "tells no age; heads of age that it uses: net.years, old.years"),
        ({"sex": "net.years"}, "is no head of being male; allowed: net.male, old.male"),
        ({"age": "bmi"}, "tells no age"),
    ],
)
def test_what_tells_no_age_is_named(federation, changes, message):
    net, old = (federation.train(id=name, **TRAIN) for name in ("net", "old"))
    steps = [{"id": "cohorts", "stage": "describe"}, net, old, AGES | changes]
    with pytest.raises(ConfigError, match=message):
        load_study(federation.study(endpoints=ENDPOINTS, steps=steps))
