"""``ecgfed survival`` on files, against R: numbers of tests/oracles/survival.json, whose script stands beside it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from survival_tables import SITES, by_site, patients, start_stop

from ecgshared.cli import main

R = json.loads((Path(__file__).parents[2] / "oracles" / "survival.json").read_text(encoding="utf-8"))
COVARIATES = "age,bmi,sex,stage"
AT = "200,600,1200"


@pytest.fixture
def ecgfed(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ecgfed", "survival", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "160")
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return by_site(patients(), tmp_path)


@pytest.fixture
def moves(tmp_path: Path) -> list[Path]:
    return by_site(start_stop(), tmp_path)


def words_of(command: str, paths: list[Path], **options: object) -> list[object]:
    words: list[object] = [command, *(word for path in paths for word in ("--site", path))]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, value]
    return words


def told(result: tuple[int, str, str]) -> dict:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def cox(ecgfed, paths, **options):
    given = {"time": "time", "event": "status", "cause": 1, "covariates": COVARIATES, "categorical": "sex,stage"}
    given |= {"mode": "exact", "json": True, **options}
    return told(ecgfed(*words_of("fit", paths, **{k: v for k, v in given.items() if v is not None})))


def column(facts: dict, name: str) -> list[float]:
    return [row[name] for row in facts["covariates"]]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("exact", {}),
        ("stratified", {"mode": "stratified"}),
        ("breslow", {"mode": "stratified", "ties": "breslow"}),
        ("truncated", {"entry": "entry"}),
        ("weighted", {"weight": "weight"}),
        ("cause2", {"cause": 2}),
    ],
)
def test_a_fit_says_what_r_says(ecgfed, files, kind, options):
    facts = cox(ecgfed, files, ph_transform="km", **options)
    np.testing.assert_allclose(column(facts, "log_hazard_ratio"), R[f"{kind}.coef"], rtol=1e-6)
    np.testing.assert_allclose(column(facts, "standard_error"), R[f"{kind}.se"], rtol=1e-6)
    likelihood, score, _ = R[f"{kind}.tests"]
    assert facts["tests"]["likelihood_ratio"]["chi_squared"] == pytest.approx(likelihood, rel=1e-6)
    assert facts["tests"]["score"]["chi_squared"] == pytest.approx(score, rel=1e-6)
    assert facts["tests"]["wald"]["chi_squared"] == pytest.approx(R[f"{kind}.wald"][0], rel=1e-6)
    tested = [line["chi_squared"] for line in facts["proportional_hazards"]["lines"]]
    np.testing.assert_allclose(tested, R[f"{kind}.zph.km"], rtol=1e-6)
    assert facts["concordance"]["value"] == pytest.approx(R[f"{kind}.concordance"][0], abs=1e-9)
    assert facts["concordance"]["standard_error"] == pytest.approx(R[f"{kind}.concordance"][1], rel=0.01)
    assert facts["terms"]["stage"]["degrees"] == 2


def test_start_stop_rows_of_patients_who_change_the_hospital(ecgfed, moves):
    options = {"time": "stop", "entry": "start", "event": "death", "cause": None, "covariates": "age,marker"}
    options |= {"categorical": None, "cluster": "id", "patients_shared": True}
    facts = cox(ecgfed, moves, **options)
    np.testing.assert_allclose(column(facts, "log_hazard_ratio"), R["start_stop.coef"], rtol=1e-6)
    np.testing.assert_allclose(column(facts, "standard_error"), R["clustered.se"], rtol=1e-6)
    apart = cox(ecgfed, moves, **options | {"patients_shared": None})
    assert any("stand at several sites" in note for note in apart["notes"])
    assert column(apart, "standard_error") != column(facts, "standard_error")


def test_ids_that_differ_by_zeros_or_case_are_two_patients_and_named(ecgfed, moves):
    options = {"time": "stop", "entry": "start", "event": "death", "cause": None, "covariates": "age,marker"}
    options |= {"categorical": None, "cluster": "id"}
    plain = cox(ecgfed, moves, **options)
    frame = pd.read_csv(moves[0], dtype=str)
    twins = frame["id"].drop_duplicates().iloc[:2].tolist()
    frame["id"] = frame["id"].replace({twins[0]: "p7", twins[1]: "P07"}) + ""
    frame.loc[frame["id"].str.isdigit(), "id"] += ".0"
    frame.loc[frame["id"] == "P07", "id"] = "P7"
    frame.to_csv(moves[0], index=False)
    found = cox(ecgfed, moves, **options)
    assert column(found, "standard_error") == column(plain, "standard_error")
    assert any("differ from another by zeros, case or blanks only (P7, p7)" in note for note in found["notes"])


def test_overlapping_rows_of_one_patient_are_refused(ecgfed, moves):
    frame = pd.read_csv(moves[0])
    frame.loc[frame.index[1:3], ["id", "start", "stop"]] = [[9999, 0, 50], [9999, 40, 90]]
    frame.to_csv(moves[0], index=False)
    words = {"time": "stop", "entry": "start", "event": "death", "covariates": "age", "cluster": "id"}
    code, _, err = ecgfed(*words_of("fit", moves, **words))
    assert code == 2
    assert "overlap" in err
    assert "north.csv" in err


def test_weighted_rows_with_robust_errors(ecgfed, files):
    facts = cox(ecgfed, files, covariates="age,bmi", categorical=None, weight="weight", cluster="id")
    np.testing.assert_allclose(column(facts, "standard_error"), R["weighted_robust.se"], rtol=1e-6)


def test_interactions_and_reference_levels(ecgfed, files):
    facts = cox(ecgfed, files, covariates="age,sex,bmi", categorical="sex", interaction="age:sex")
    assert column(facts, "covariate") == ["age", "sex[M]", "bmi", "age x sex[M]"]
    np.testing.assert_allclose(column(facts, "log_hazard_ratio"), R["interaction.coef"], rtol=1e-6)
    np.testing.assert_allclose(column(facts, "standard_error"), R["interaction.se"], rtol=1e-6)
    other = cox(ecgfed, files, reference="stage=3,sex=M")
    assert column(other, "covariate") == ["age", "bmi", "sex[F]", "stage[1]", "stage[2]"]
    plain = cox(ecgfed, files)
    assert other["log_likelihood"] == pytest.approx(plain["log_likelihood"], abs=1e-9)
    assert column(other, "log_hazard_ratio")[3] == pytest.approx(-column(plain, "log_hazard_ratio")[4], abs=1e-9)


def test_a_natural_spline_is_that_of_r(ecgfed, files, tmp_path):
    model, rows = tmp_path / "model.json", tmp_path / "new.csv"
    options = {"covariates": "age,bmi", "categorical": None}
    facts = cox(ecgfed, files, spline="age=50,62,75,88", save=model, **options)
    assert facts["log_likelihood"] == pytest.approx(R["spline.loglik"][1], abs=1e-7)
    bmi = facts["covariates"][-1]
    np.testing.assert_allclose([bmi["log_hazard_ratio"], bmi["standard_error"]], R["spline.bmi"], rtol=1e-6)
    plain = cox(ecgfed, files, **options)
    gained = 2 * (facts["log_likelihood"] - plain["log_likelihood"])
    assert gained == pytest.approx(R["spline.nonlinear"][0], rel=1e-6)
    assert facts["terms"]["age, nonlinear"]["degrees"] == 2
    rows.write_text("age,bmi\n45,27\n60,27\n70,27\n80,27\n95,27\n")
    code, out, _ = ecgfed("predict", "--model", model, "--rows", rows, "--at", "100")
    assert code == 0
    eta = pd.read_csv(io.StringIO(out))["linear_predictor"].to_numpy()
    np.testing.assert_allclose(eta - eta[1], R["spline.curve"], atol=1e-7)
    counted = cox(ecgfed, files, spline="age=4", **options)
    assert any(note.startswith("age: knots at") for note in counted["notes"])


def test_times_that_differ_by_rounding_are_tied_as_in_r(ecgfed, files):
    frame = pd.concat([pd.read_csv(path).assign(site=path.stem) for path in files])
    order = patients()["id"].to_numpy()
    frame = frame.set_index("id").loc[order].reset_index()
    died = frame["status"] == 1
    frame["time"] = frame["time"].astype(float)
    frame.loc[died, "time"] += np.resize([0, 2e-10, -2e-10], int(died.sum()))
    for path in files:
        mine = frame[frame["site"] == path.stem].drop(columns="site")
        mine.to_csv(path, index=False, float_format="%.17g")
    facts = cox(ecgfed, files, covariates="age,bmi", categorical=None)
    np.testing.assert_allclose(column(facts, "log_hazard_ratio"), R["near_ties.coef"], rtol=1e-6)
    assert facts["log_likelihood"] == pytest.approx(R["near_ties.loglik"][1], abs=1e-7)
    assert any("rounding only" in note for note in facts["notes"])


def test_levels_spelt_differently_are_one_and_are_listed_by_site(ecgfed, files):
    plain = cox(ecgfed, files, strata="stage", covariates="age,sex", categorical="sex", mode="stratified")
    frame = pd.read_csv(files[1], dtype=str)
    frame["stage"] = frame["stage"] + ".0"
    frame["sex"] = " " + frame["sex"].str.lower() + " "
    frame.to_csv(files[1], index=False)
    facts = cox(ecgfed, files, strata="stage", covariates="age,sex", categorical="sex", mode="stratified")
    assert column(facts, "log_hazard_ratio") == column(plain, "log_hazard_ratio")
    assert facts["levels"] == plain["levels"]
    assert list(facts["levels"]["stage"]) == ["1", "2", "3"]
    assert set(facts["levels"]["sex"]["M"]) == set(SITES)
    assert sum(facts["levels"]["sex"]["M"].values()) == (patients()["sex"] == "M").sum()
    said = [note for note in facts["notes"] if "is spelt" in note]
    assert len(said) == 5
    assert any("'M'" in note and "'m" in note and "south" in note for note in said)
    code, out, _ = ecgfed(
        *words_of("fit", files, time="time", event="status", cause=1, covariates="stage", categorical="stage")
    )
    assert code == 0
    assert "Rows by level" in out


def test_a_saved_model_predicts_survival_with_its_error(ecgfed, files, tmp_path):
    model, rows = tmp_path / "model.json", tmp_path / "new.csv"
    cox(ecgfed, files, save=model)
    rows.write_text("age,bmi,sex,stage\n60,25,f,1.0\n80,30,M,3\n")
    code, out, _ = ecgfed("predict", "--model", model, "--rows", rows, "--at", AT)
    assert code == 0
    found = pd.read_csv(io.StringIO(out))
    times = AT.split(",")
    survival = found[[f"survival_{t}" for t in times]].to_numpy()
    np.testing.assert_allclose(survival.ravel(), R["predict.survival"], rtol=1e-6)
    np.testing.assert_allclose(found[[f"se_{t}" for t in times]].to_numpy().ravel(), R["predict.se"], rtol=1e-6)
    assert (found["low_600"] < found["survival_600"]).all()
    assert json.loads(model.read_text())["format_version"] == 1
    code, out, _ = ecgfed("predict", "--model", model, "--rows", rows, "--at", "9999")
    assert pd.read_csv(io.StringIO(out))["survival_9999"].isna().all()


def test_a_model_with_a_baseline_for_each_site_asks_for_one(ecgfed, files, tmp_path):
    model, rows, out = tmp_path / "model.json", tmp_path / "new.csv", tmp_path / "predicted.csv"
    cox(ecgfed, files, mode="stratified", save=model)
    rows.write_text("age,bmi,sex,stage\n60,25,F,1\n")
    code, _, err = ecgfed("predict", "--model", model, "--rows", rows, "--at", "200,600")
    assert code == 2
    assert "--baseline" in err
    expected = np.array(R["predict.stratified"]).reshape(4, 2)
    for i, site in enumerate(SITES):
        words = ["predict", "--model", model, "--rows", rows, "--at", "200,600", "--baseline", site, "--out", out]
        assert ecgfed(*words)[0] == 0
        np.testing.assert_allclose(
            pd.read_csv(out)[["survival_200", "survival_600"]].to_numpy()[0], expected[i], rtol=1e-6
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {**m, "format_version": 2}, ["cannot be used", "format_version 1"]),
        (lambda m: {**m, "coefficients": m["coefficients"][:2]}, ["differ in length"]),
        (lambda m: {**m, "names": m["names"][::-1]}, ["does not give the columns"]),
        (lambda m: [], ["cannot be used"]),
    ],
)
def test_a_broken_model_is_refused(ecgfed, files, tmp_path, change, words):
    model, rows = tmp_path / "model.json", tmp_path / "new.csv"
    cox(ecgfed, files, save=model)
    rows.write_text("age,bmi,sex,stage\n60,25,F,1\n")
    model.write_text(json.dumps(change(json.loads(model.read_text()))))
    code, _, err = ecgfed("predict", "--model", model, "--rows", rows, "--at", "200")
    assert code == 2
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age,bmi,sex,stage\n60,25,X,1\n", ["a level that the model does not know", "line 2", "'X'"]),
        ("age,bmi,sex\n60,25,F\n", ["no such column", "stage"]),
        ("age,bmi,sex,stage\n60,,F,1\n", ["missing"]),
    ],
)
def test_new_rows_that_do_not_fit_the_model_are_refused(ecgfed, files, tmp_path, text, words):
    model, rows = tmp_path / "model.json", tmp_path / "new.csv"
    cox(ecgfed, files, save=model)
    rows.write_text(text)
    code, _, err = ecgfed("predict", "--model", model, "--rows", rows, "--at", "200")
    assert code == 2
    assert all(word in err for word in words), err


def km(ecgfed, paths, **options):
    given = {"time": "time", "event": "dead", "by": "sex", "at": AT, "json": True, **options}
    return told(ecgfed(*words_of("km", paths, **{k: v for k, v in given.items() if v is not None})))


@pytest.fixture
def dead(tmp_path: Path) -> list[Path]:
    return by_site(patients().assign(dead=lambda f: (f["status"] > 0).astype(int)), tmp_path)


def read(facts: dict, name: str) -> list[float]:
    return [row[name] for group in facts["groups"] for row in group["at"]]


def test_kaplan_meier_and_restricted_means_equal_r(ecgfed, dead):
    facts = km(ecgfed, dead, rmst=1200)
    for name, mine in (("survival", "value"), ("se", "standard_error"), ("low", "low"), ("high", "high")):
        expected = R[f"km.{name}"]
        found = np.array(read(facts, mine))
        # R's error is that of the survival curve.
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert read(facts, "at_risk") == R["km.at_risk"]
    medians = [[group[name] for name in ("median", "median_low", "median_high")] for group in facts["groups"]]
    np.testing.assert_allclose(np.array(medians).T.ravel(), R["km.median"])
    means = [row["mean"] for row in facts["restricted_means"]]
    np.testing.assert_allclose([m["value"] for m in means] + [m["standard_error"] for m in means], R["rmst"], rtol=1e-6)
    difference = facts["restricted_means"][1]["difference"]
    assert difference["value"] == pytest.approx(R["rmst"][1] - R["rmst"][0], rel=1e-6)
    assert difference["standard_error"] == pytest.approx(np.hypot(*R["rmst"][2:]), rel=1e-6)


def test_curves_with_late_entries_and_weights_equal_r(ecgfed, dead):
    late = km(ecgfed, dead, entry="entry")
    np.testing.assert_allclose(read(late, "value"), R["km_truncated.survival"], rtol=1e-6)
    np.testing.assert_allclose(read(late, "standard_error"), R["km_truncated.se"], rtol=1e-6)
    np.testing.assert_allclose(read(km(ecgfed, dead, weight="weight"), "value"), R["km_weighted.survival"], rtol=1e-6)


def test_cumulative_incidence_equals_r(ecgfed, files):
    facts = km(ecgfed, files, event="status", cause=1)
    np.testing.assert_allclose(read(facts, "value"), R["aj.cardiac"], rtol=1e-6)
    np.testing.assert_allclose(read(facts, "value"), R["cuminc.estimate"], rtol=1e-6)
    np.testing.assert_allclose(read(facts, "standard_error"), R["aj.se"], rtol=1e-6)
    # Aalen's variance, of cmprsk, is another one; with these numbers it lies within two percent.
    np.testing.assert_allclose(np.square(read(facts, "standard_error")), R["cuminc.variance"], rtol=0.03)
    other = km(ecgfed, files, event="status", cause=2)
    np.testing.assert_allclose(read(other, "value"), R["aj.other"], rtol=1e-6)
    late = km(ecgfed, files, event="status", cause=1, by=None, entry="entry")
    np.testing.assert_allclose(read(late, "value"), R["aj_truncated.cardiac"], rtol=1e-6)
    code, _, err = ecgfed(*words_of("km", files, time="time", event="status", cause=1, rmst=500))
    assert code == 2
    assert "restricted mean" in err


def test_the_log_rank_test_pooled_and_within_sites_equals_r(ecgfed, dead):
    given = {"time": "time", "event": "dead", "by": "stage", "json": True}
    pooled = told(ecgfed(*words_of("logrank", dead, **given, pooled=True)))
    assert pooled["chi_squared"] == pytest.approx(R["logrank"][0], rel=1e-6)
    np.testing.assert_allclose([g["expected"] for g in pooled["groups"]], R["logrank.expected"], rtol=1e-6)
    within = told(ecgfed(*words_of("logrank", dead, **given)))
    assert within["chi_squared"] == pytest.approx(R["logrank.stratified"][0], rel=1e-6)
    assert (within["degrees"], within["within"]) == (2, ["site"])
    both = told(ecgfed(*words_of("logrank", dead, **given, strata="sex")))
    assert both["within"] == ["site", "sex"]
    code, out, _ = ecgfed(*words_of("logrank", dead, time="time", event="dead", by="stage"))
    assert code == 0
    assert "within each site" in out
    # All levels are compared with what all of them would have: none is the reference.
    assert "reference level" not in out
    assert not [note for note in within["notes"] if "reference level" in note]


def test_grays_test_pooled_and_within_sites_equals_cmprsk(ecgfed, files):
    given = {"time": "time", "event": "status", "json": True}
    for number, cause in enumerate((1, 2)):
        pooled = told(ecgfed(*words_of("gray", files, **given, by="sex", cause=cause, pooled=True)))
        assert pooled["chi_squared"] == pytest.approx(R["gray"][number], rel=1e-9)
        assert (pooled["test"], pooled["degrees"], pooled["within"]) == ("gray", 1, [])
        within = told(ecgfed(*words_of("gray", files, **given, by="stage", cause=cause)))
        assert within["chi_squared"] == pytest.approx(R["gray.strata"][number], rel=1e-9)
        assert (within["degrees"], within["within"]) == (2, ["site"])
    code, out, _ = ecgfed(*words_of("gray", files, time="time", event="status", by="sex", cause=1))
    assert code == 0
    assert "Gray's test of cumulative incidence" in out
    code, _, err = ecgfed(*words_of("gray", files, time="time", event="status", by="sex"))
    assert code == 2
    assert "cause" in err


def test_fine_and_gray_equals_cmprsk(ecgfed, files):
    facts = cox(ecgfed, files, fine_gray=True)
    np.testing.assert_allclose(column(facts, "log_hazard_ratio"), R["finegray.coef"], rtol=1e-6)
    # cmprsk counts those who have an event on the day of a censoring otherwise: five digits.
    np.testing.assert_allclose(column(facts, "standard_error"), R["finegray.se"], rtol=1e-5)
    assert facts["log_likelihood"] == pytest.approx(R["finegray.loglik"][0], rel=1e-9)
    assert sum(site["competing"] for site in facts["sites"]) == (patients()["status"] == 2).sum()
    groups = cox(ecgfed, files, fine_gray=True, censoring="site")
    np.testing.assert_allclose(column(groups, "log_hazard_ratio"), R["finegray_groups.coef"], rtol=1e-6)
    np.testing.assert_allclose(column(groups, "standard_error"), R["finegray_groups.se"], rtol=2e-3)
    # R's finegray() weighs ties of events and censorings in another way: four digits.
    efron = cox(ecgfed, files, fine_gray=True, ties="efron")
    np.testing.assert_allclose(column(efron, "log_hazard_ratio"), R["finegray_efron.coef"], atol=3e-5)
    stratified = cox(ecgfed, files, fine_gray=True, ties="efron", censoring="site", mode="stratified")
    np.testing.assert_allclose(column(stratified, "log_hazard_ratio"), R["finegray_stratified.coef"], atol=4e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fine_gray": True, "cause": None, "event": "dead"}, ["--cause"]),
        ({"fine_gray": True, "entry": "entry"}, ["--fine-gray takes no"]),
        ({"spline": "age=2"}, ["--spline", "3 to 7"]),
        ({"spline": "age=50,40,60"}, ["--spline"]),
        ({"spline": "height=4"}, ["spline", "height"]),
        ({"interaction": "age"}, ["--interaction"]),
        ({"interaction": "age:height"}, ["interaction", "height"]),
        ({"reference": "stage"}, ["--reference"]),
        ({"reference": "stage=9"}, ["no such level", "1, 2, 3"]),
        ({"reference": "age=60"}, ["categorical"]),
        ({"entry": "time2"}, ["no such column"]),
        ({"entry": "time"}, ["more than once"]),
        ({"weight": "status"}, ["more than once"]),
        ({"patients_shared": True}, ["--cluster"]),
        ({"forest": "forest.jpg"}, ["SVG or PNG"]),
        ({"mode": "local", "save": "model.json"}, ["local"]),
    ],
)
def test_options_that_make_no_sense_end_with_status_2(ecgfed, dead, options, words):
    given = {"time": "time", "event": "status", "cause": 1, "covariates": COVARIATES, "categorical": "sex,stage"}
    given = {k: v for k, v in {**given, **options}.items() if v is not None}
    code, _, err = ecgfed(*words_of("fit", dead, **given))
    assert code == 2
    assert all(word in err for word in words), err
    assert "Traceback" not in err


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_pictures_are_drawn(ecgfed, dead, tmp_path, ending):
    forest, residuals, curves = (tmp_path / f"{name}.{ending}" for name in ("forest", "residuals", "curves"))
    cox(ecgfed, dead, forest=forest, ph_plot=residuals, mode="stratified")
    km(ecgfed, dead, plot=curves)
    for path in (forest, residuals, curves):
        if ending == "svg":
            text = " ".join(ElementTree.parse(path).getroot().itertext())
            assert {"forest": "age", "residuals": "bmi", "curves": "free of the event"}[path.stem] in text
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["save", "forest", "ph_plot"])
def test_a_place_where_no_file_can_be_is_refused(ecgfed, files, tmp_path, option):
    given = {"time": "time", "event": "status", "cause": 1, "covariates": "age", "mode": "exact"}
    code, _, err = ecgfed(*words_of("fit", files, **given, **{option: tmp_path / "nowhere" / "x.svg"}))
    assert code == 2
    assert "cannot be written" in err
