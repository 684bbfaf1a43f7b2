"""``ecgfed survival fit`` as a user meets it: right numbers, and for each wrong input one clear message."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cox_oracle import CONVERGED, heavy_ties, lifelines_fit, untied
from lifelines import CoxPHFitter

from ecgshared.cli import main
from ecgshared.stats.meta_analysis import meta_analysis

NAMES = ["age", "male", "marker", "visits"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for site in heavy_ties(n=600, sites=3):
        frame = pd.DataFrame(site.x, columns=NAMES).assign(months=site.time, died=site.event)
        frame["stage"] = np.array(["I", "II", "III"])[(site.x[:, 3] % 3).astype(int)]
        paths.append(tmp_path / f"hospital_{site.name}.csv")
        frame.to_csv(paths[-1], index=False)
    return paths


@pytest.fixture
def ecgfed(monkeypatch, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ecgfed", "survival", "fit", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "140")
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def given(files: list[Path], covariates: str = "age,male,marker", **more: object) -> list[object]:
    words: list[object] = [word for path in files for word in ("--site", path)]
    options = {"time": "months", "event": "died", "covariates": covariates, **more}
    return words + [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def as_json(told: tuple[int, str, str]) -> dict:
    code, out, err = told
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("mode", ["exact", "stratified"])
def test_json_equals_lifelines_on_pooled_rows(ecgfed, files, mode):
    facts = as_json(ecgfed(*given(files, ",".join(NAMES), mode=mode), "--json"))
    oracle = lifelines_fit(heavy_ties(n=600, sites=3), stratified=mode == "stratified")
    rows = facts["covariates"]
    assert [row["covariate"] for row in rows] == NAMES
    np.testing.assert_allclose([row["log_hazard_ratio"] for row in rows], oracle.params_, atol=1e-8)
    np.testing.assert_allclose([row["standard_error"] for row in rows], oracle.standard_errors_, atol=1e-6)
    np.testing.assert_allclose([row["p"] for row in rows], oracle.summary["p"], atol=1e-8)
    np.testing.assert_allclose(
        [[row["hazard_ratio_low"], row["hazard_ratio_high"]] for row in rows],
        oracle.summary[["exp(coef) lower 95%", "exp(coef) upper 95%"]],
        rtol=1e-7,
    )
    assert facts["log_likelihood"] == pytest.approx(oracle.log_likelihood_, abs=1e-8)
    assert [site["site"] for site in facts["sites"]] == ["hospital_0", "hospital_1", "hospital_2"]
    assert sum(site["rows"] for site in facts["sites"]) == 600


def test_local_fits_are_one_a_site_by_lifelines(ecgfed, files):
    facts = as_json(ecgfed(*given(files, mode="local"), "--json"))
    assert "lifelines" in facts["engine"]
    for site, path in zip(facts["sites"], files, strict=True):
        frame = pd.read_csv(path)[["age", "male", "marker", "months", "died"]]
        oracle = CoxPHFitter().fit(frame, "months", "died", fit_options=CONVERGED)
        found = [row["log_hazard_ratio"] for row in site["covariates"]]
        np.testing.assert_allclose(found, oracle.params_, atol=1e-6)
    for j, row in enumerate(facts["random_effects"]):
        own = [site["covariates"][j] for site in facts["sites"]]
        values, errors = ([r[key] for r in own] for key in ("log_hazard_ratio", "standard_error"))
        expected = meta_analysis(values, errors)
        assert row["log_hazard_ratio"] == pytest.approx(expected.random.value, abs=1e-12)
        assert np.log(row["hazard_ratio_high"]) == pytest.approx(expected.random.high, abs=1e-9)
        assert row["sites"] == ["hospital_0", "hospital_1", "hospital_2"]


def test_clusters_make_errors_robust(ecgfed, tmp_path):
    sites, paths = untied(), []
    for site in sites:
        paths.append(tmp_path / f"{site.name}.csv")
        frame = pd.DataFrame(site.x, columns=["a", "b"]).assign(months=site.time, died=site.event)
        frame.assign(person=[f"p{c}" for c in site.cluster]).to_csv(paths[-1], index=False, float_format="%.17g")
    facts = as_json(ecgfed(*given(paths, "a,b", cluster="person", mode="exact"), "--json"))
    oracle = lifelines_fit(sites, cluster_col="cluster")
    np.testing.assert_allclose(
        [row["standard_error"] for row in facts["covariates"]], oracle.standard_errors_, atol=1e-6
    )
    assert facts["robust"]
    assert all(row["patients"] < row["rows"] for row in facts["sites"])


def test_strata_and_categorical_columns(ecgfed, files):
    facts = as_json(ecgfed(*given(files, "age,stage", categorical="stage", strata="male", mode="exact"), "--json"))
    frame = pd.concat([pd.read_csv(path) for path in files], ignore_index=True)
    dummies = pd.get_dummies(frame["stage"], drop_first=True, dtype=float)
    oracle = CoxPHFitter().fit(
        frame[["age", "male", "months", "died"]].join(dummies),
        "months",
        "died",
        strata=["male"],
        fit_options=CONVERGED,
    )
    assert [row["covariate"] for row in facts["covariates"]] == ["age", "stage[II]", "stage[III]"]
    np.testing.assert_allclose(
        [row["log_hazard_ratio"] for row in facts["covariates"]], oracle.params_[["age", "II", "III"]], atol=1e-8
    )
    assert "stage: reference level 'I'" in facts["notes"]


@pytest.mark.parametrize(
    "more",
    [{}, {"mode": "exact", "penalizer": 0.1, "l1_ratio": 1}, {"mode": "local"}, {"grid": 4, "mode": "exact"}],
    ids=["plain", "lasso", "local", "grid"],
)
def test_the_table_shows_counts_ratios_and_intervals(ecgfed, files, more):
    code, out, _ = ecgfed(*given(files, **more))
    assert code == 0
    for word in ("hospital_0", "events", "age", "log HR", "95% interval", "to"):
        assert word in out


def test_a_coarse_grid_may_be_a_width_or_its_ends(ecgfed, files):
    width = as_json(ecgfed(*given(files, mode="exact", grid="4"), "--json"))
    ends = as_json(ecgfed(*given(files, mode="exact", grid="4,8,12"), "--json"))
    fine = as_json(ecgfed(*given(files, mode="exact"), "--json"))
    assert width["grid"] == ends["grid"] == [4, 8, 12]
    assert width["log_likelihood"] == ends["log_likelihood"] != fine["log_likelihood"]


def test_rows_with_gaps_are_refused_or_dropped_and_counted(ecgfed, files):
    frame = pd.read_csv(files[0], dtype=str)
    frame.loc[[3, 7], "age"] = np.nan
    frame.loc[[7, 9], "died"] = np.nan
    frame.to_csv(files[0], index=False)
    code, _, err = ecgfed(*given(files))
    assert code == 2
    assert "died: 2, age: 2 of" in err
    assert "--missing drop" in err
    facts = as_json(ecgfed(*given(files, missing="drop"), "--json"))
    assert facts["sites"][0]["dropped"] == 3
    assert facts["sites"][0]["rows"] == len(frame) - 3
    assert "hospital_0: 3 rows with missing values left out" in facts["notes"]


def spoil(path: Path, column: str, row: int, value: object) -> None:
    frame = pd.read_csv(path, dtype=str)
    frame.loc[row, column] = value
    frame.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("months", "-3", ["hospital_1.csv, line 7", "negative time", "-3.0", "0 or above"]),
        ("months", "soon", ["hospital_1.csv, line 7", "'soon' in 1 of"]),
        ("died", "2", ["hospital_1.csv, line 7", "'died' is not an event", "2.0", "several outcomes"]),
        ("died", "dead", ["hospital_1.csv, line 7", "'dead'", "1 where the event happened"]),
        ("age", "old", ["hospital_1.csv, line 7", "column 'age'", "'old'", "--categorical age"]),
        ("age", "inf", ["hospital_1.csv, line 7", "'inf'", "finite"]),
        ("age", "1,5", ["hospital_1.csv, line 7", "'1,5'"]),
    ],
)
def test_a_bad_cell_is_named_by_file_and_line(ecgfed, files, column, value, words):
    spoil(files[1], column, 5, value)
    code, _, err = ecgfed(*given(files))
    assert code == 2
    for word in words:
        assert word in err
    assert "Traceback" not in err


def change(path: Path, how) -> None:
    how(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("how", "covariates", "words"),
    [
        (lambda f: f, "agee,male", ["no such column", "'agee'", "did you mean 'age'?"]),
        (lambda f: f, "AGE", ["did you mean 'age'?"]),
        (lambda f: f, "age,age", ["more than once", "'age'"]),
        (lambda f: f, "age,months", ["more than once", "'months'"]),
        (lambda f: f, "age,stage", ["column 'stage'", "words", "--categorical stage"]),
        (lambda f: f, ",", ["no covariates"]),
        (lambda f: f.assign(flat=1), "age,flat", ["same in every row", "'flat'"]),
        (lambda f: f.assign(twin=3 - 2 * f["age"]), "age,male,twin", ["collinear", "'age, twin'"]),
        (lambda f: f.assign(died=0), "age", ["nobody has the event", "--event"]),
        (
            lambda f: f.assign(months=np.arange(len(f)), sure=-np.arange(len(f)), died=1),
            "sure",
            ["no finite coef", "sure"],
        ),
        (lambda f: f.iloc[:0], "age", ["no rows"]),
        (lambda f: f.assign(age=np.nan), "age", ["missing"]),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_tables_and_names_end_with_status_2(ecgfed, files, how, covariates, words):
    for path in files:
        change(path, how)
    code, _, err = ecgfed(*given(files, covariates))
    assert code == 2
    for word in words:
        assert word in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "exakt"}, ["'exact', 'stratified', 'local'"]),
        ({"penalizer": -1}, ["penalizer", "0 or above"]),
        ({"penalizer": 1, "l1_ratio": 2}, ["l1_ratio"]),
        ({"l1_ratio": 0.5}, ["--penalizer above 0"]),
        ({"mode": "local", "ties": "breslow"}, ["Efron"]),
        ({"grid": "weekly"}, ["--grid", "weekly"]),
        ({"grid": "3,2"}, ["ascending"]),
        ({"grid": "1e-9"}, ["million intervals"]),
        ({"grid": "0.1,0.2"}, ["within the time grid"]),
        ({"categorical": "stage"}, ["not among the covariates"]),
        ({"strata": "ward"}, ["no such column", "ward"]),
    ],
)
def test_bad_options_end_with_status_2(ecgfed, files, more, words):
    code, _, err = ecgfed(*given(files, **more))
    assert code == 2
    for word in words:
        assert word in err


def test_files_that_are_no_tables(ecgfed, files, tmp_path):
    semicolons, empty, ragged, binary = (tmp_path / name for name in ("s.csv", "e.csv", "r.csv", "b.csv"))
    semicolons.write_text("age;months;died\n1;2;1\n")
    empty.write_text("")
    ragged.write_text("age,months,died\n1,2,1,9\n2,3,0,9\n")
    binary.write_bytes(b"\xff\xfe\x00\x01" * 50)
    for path, word in (
        (semicolons, "another mark"),
        (empty, "empty"),
        (ragged, "cannot be read as a table"),
        (binary, "cannot be read as a table"),
        (tmp_path, "cannot be read as a table"),
        (tmp_path / "hospital_0.cvs", "did you mean 'hospital_0.csv'?"),
        (files[0], "given twice"),
    ):
        code, _, err = ecgfed(*given([*files, path], "age"))
        assert (code, word in err) == (2, True), (path, err)


def test_a_site_without_events_is_said_and_fitted_around(ecgfed, files):
    change(files[2], lambda f: f.assign(died=0))
    for mode in ("exact", "stratified"):
        assert "hospital_2: no events" in as_json(ecgfed(*given(files, mode=mode), "--json"))["notes"]
    local = as_json(ecgfed(*given(files, mode="local"), "--json"))["sites"]
    assert "nobody has the event" in local[2]["error"]
    assert "covariates" in local[0]


def test_a_name_with_a_comma_stands_in_quotes(ecgfed, files):
    for path in files:
        change(path, lambda f: f.rename(columns={"marker": "marker, mg"}))
    facts = as_json(ecgfed(*given(files, 'age,"marker, mg"'), "--json"))
    assert [row["covariate"] for row in facts["covariates"]] == ["age", "marker, mg"]


def test_words_of_truth_and_a_byte_order_mark_are_read(ecgfed, files):
    text = files[0].read_text()
    assert "True" in text
    files[0].write_text(text.replace("True", " TRUE").replace("False", "false"), encoding="utf-8-sig")
    assert sum(site["events"] for site in as_json(ecgfed(*given(files), "--json"))["sites"]) == sum(
        int(pd.read_csv(path)["died"].astype(str).str.strip().str.lower().eq("true").sum()) for path in files
    )


def test_sites_that_differ_only_in_their_hazard_pass_the_test_of_proportional_hazards(ecgfed, tmp_path):
    """Ranked within sites, a long follow-up at one and a short one at another would look like a change with time."""
    rng, paths = np.random.default_rng(4), []
    for name, n, rate in (("large", 900, 1.0), ("a", 120, 0.2), ("b", 120, 3.0)):
        x = (rng.random(n) < 0.5).astype(float)
        time = rng.exponential(1 / (rate * np.exp(0.7 * x)))
        frame = pd.DataFrame({"x": x, "months": np.minimum(time, 2.0), "died": (time <= 2.0).astype(int)})
        paths.append(tmp_path / f"{name}.csv")
        frame.to_csv(paths[-1], index=False)
    tested = as_json(ecgfed(*given(paths, "x"), "--json"))["proportional_hazards"]
    assert [line["covariate"] for line in tested["lines"]] == ["x", "GLOBAL"]
    assert tested["lines"][0]["p"] > 0.05
    code, out, _ = ecgfed(*given(paths, "x", ph_transform="km"))
    assert code == 0
    assert "GLOBAL" in out
