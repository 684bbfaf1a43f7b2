"""survival over sites, through the gate, against lifelines on the pooled rows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cox_oracle import slow_zph
from federated_stages import UNGATED, Federation, site_data, study
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index
from pydantic import ValidationError

from client.egress.gate import release
from ecgshared.errors import ConfigError, RefusalCode, Refused, RunError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.results.survival_evaluate import Result
from ecgshared.stats.competing import cumulative_incidence
from ecgshared.stats.cox import coarsen
from ecgshared.study.endpoints import EventTimes
from ecgshared.study.registry import room
from ecgshared.tables.fit import Options
from ecgshared.tables.site_table import SiteTable
from ecgshared.tables.subdistribution import fit_subdistribution
from ecgshared.wire.protocol import Request
from server.report.labels import Labels
from server.report.sections import Figure, Panels, Table
from server.report.survival_evaluation import evaluation_sections

FIT = {
    "id": "cox",
    "stage": "survival",
    "event": "death",
    "models": [
        {"name": "demographics", "inputs": ["age", "male"]},
        {"name": "both", "inputs": ["age", "male", "bmi", "lvef"]},
    ],
    "horizon_years": 2,
    "max_rounds": 20,
}
NAMES = ("age", "male", "bmi", "lvef")
TIGHT = {"precision": 1e-12}


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def followed(seed, patients, *, split=None, shift=0.0, strength=1.0, rate=0.25):
    """A site whose hazard follows age, sex, BMI and LVEF; days of death are whole, so that many are tied."""
    data = site_data(seed, patients, split=split, shift=shift)
    rng = np.random.default_rng(1000 + seed)
    eta = 0.04 * (data.age - 60) + 0.4 * data.male + 0.05 * np.nan_to_num(data.covariates["bmi"] - 27)
    eta = eta - 3.0 * np.nan_to_num(data.covariates["lvef"] - 0.5)
    patient_eta = np.array([eta[data.patient == p].mean() for p in range(data.n_patients)])
    death = rng.exponential(size=data.n_patients) / (rate * np.exp(strength * patient_eta))
    end = rng.uniform(0.5, 5, data.n_patients)
    earlier = rng.integers(0, 400, len(data.patient)) / 365.25
    days = np.floor(365.25 * np.minimum(death, end)[data.patient]) + np.round(365.25 * earlier)
    years = days / 365.25
    years[rng.random(len(years)) < 0.03] = np.nan
    observed = (death < end)[data.patient] & np.isfinite(years)
    return replace(
        data,
        event_times={"death": EventTimes(years, observed)},
        chronology=np.argsort(np.argsort(-earlier, kind="stable")).astype(np.int64),
    )


def three_sites():
    return {"a": followed(1, 300), "b": followed(2, 220, shift=1.0, rate=0.4), "c": followed(3, 250, split="lockbox")}


def usable(data, split, site, *, one=True, needs=NAMES):
    """The rows a survival step takes, as a frame: complete, timed, the most recent of each patient."""
    frame = pd.DataFrame(
        {
            "age": data.age,
            "male": data.male,
            **data.covariates,
            "years": data.event_times["death"].years,
            "event": data.event_times["death"].observed,
            "patient": data.patient,
            "when": data.chronology,
        }
    ).astype(np.float64)
    frame = frame.iloc[data.rows(split)].dropna(subset=[*needs, "years"])
    if one:
        frame = frame.sort_values("when").groupby("patient").tail(1)
    return frame.assign(site=site, patient=frame["patient"] + 1e6 * ord(site))


def pooled(data, *, one=True):
    return pd.concat([usable(data[s], "train", s, one=one) for s in ("a", "b")], ignore_index=True)


def lifelines_fit(frame, names, **keys):
    fitter = CoxPHFitter(penalizer=keys.pop("penalizer", 0.0), l1_ratio=0.0)
    fitter.fit(frame[[*names, "years", "event", *keys.get("strata", [])]], "years", "event", fit_options=TIGHT, **keys)
    return fitter


def zph(frame, names, beta, strata=None):
    """R's cox.zph(transform = "identity") of the pooled rows."""
    x, event = frame[list(names)].to_numpy(float), frame["event"].to_numpy(float) == 1
    years = frame["years"].to_numpy(float)
    return slow_zph(x, years, event, years, beta, strata)


def coefficients(model, what="coef"):
    return [c[what] for c in model["coefficients"].values()]


def test_stratified_equals_lifelines_with_strata_of_sites():
    data = three_sites()
    result = Federation(study([{**FIT, "robust": False}]), data).run()["cox"].result
    frame = pooled(data)
    for model, names in (("demographics", NAMES[:2]), ("both", NAMES)):
        found, fit = result["models"][model], lifelines_fit(frame, names, strata=["site"])
        np.testing.assert_allclose(coefficients(found), fit.params_, atol=1e-8)
        np.testing.assert_allclose(coefficients(found, "se"), fit.standard_errors_, atol=1e-6)
        assert found["log_likelihood"] == pytest.approx(fit.log_likelihood_, abs=1e-8)
        ratio = fit.log_likelihood_ratio_test()
        assert found["tests"]["likelihood_ratio"]["chi2"] == pytest.approx(ratio.test_statistic, rel=1e-7)
        assert found["tests"]["likelihood_ratio"]["degrees"] == len(names)
        beta, information = fit.params_.to_numpy(), np.linalg.inv(fit.variance_matrix_.to_numpy())
        assert found["tests"]["wald"]["chi2"] == pytest.approx(beta @ information @ beta, rel=1e-6)
        assert set(found["tests"]) == {"likelihood_ratio", "score", "wald"}
        assert (found["ecgs"], found["events"]) == (len(frame), frame["event"].sum())
        each, together = zph(frame, names, fit.params_.to_numpy(), strata=frame["site"].to_numpy())
        tested = found["proportional_hazards"]
        np.testing.assert_allclose([h["chi2"] for h in tested.values()], [*each, together], rtol=1e-5)
        assert [*tested] == [*names, "GLOBAL"]
        assert tested["GLOBAL"]["degrees"] == len(names)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_exact_equals_lifelines_on_the_coarsened_pooled_times(ties):
    data = three_sites()
    step = {**FIT, "mode": "exact", "ties": ties, "robust": False, "follow_up_years": 5, "grid_years": 0.25}
    result = Federation(study([step]), data).run()["cox"].result
    assert len(result["grid"]) > 10
    frame = pooled(data)
    frame["years"], frame["event"] = coarsen(frame["years"].clip(upper=5), frame["event"], np.array(result["grid"]))
    if ties == "efron":
        fit = lifelines_fit(frame, NAMES)
        np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)
        np.testing.assert_allclose(coefficients(result["models"]["both"], "se"), fit.standard_errors_, atol=1e-6)
        each, together = zph(frame, NAMES, fit.params_.to_numpy())
        found = [h["chi2"] for h in result["models"]["both"]["proportional_hazards"].values()]
        np.testing.assert_allclose(found, [*each, together], rtol=1e-5)
    else:
        import statsmodels.duration.api as duration

        fit = duration.PHReg(frame["years"], frame[list(NAMES)], status=frame["event"], ties="breslow").fit(tol=1e-12)
        np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params, atol=1e-7)


def with_rivals(data, seed=9):
    """The same sites, at which some of the censored died of something else, the older the likelier."""
    rng = np.random.default_rng(seed)
    out = {}
    for site, d in data.items():
        times = d.event_times["death"]
        other = (rng.random(d.n_patients) < 0.7)[d.patient] & (d.age > 45) & ~times.observed & np.isfinite(times.years)
        out[site] = replace(d, event_times={"death": EventTimes(times.years, times.observed, other)})
    return out


@pytest.mark.parametrize("mode", ["stratified", "local"])
def test_fine_and_grays_model_is_that_of_the_tables(mode):
    """The tables' own fit equals R's finegray with strata (tests/oracles/survival.R)."""
    data = with_rivals(three_sites())
    step = {**FIT, "hazard": "subdistribution", "mode": mode}
    result = Federation(study([step]), data).run()["cox"].result
    tables = []
    for s in ("a", "b"):
        frame = usable(data[s], "train", s)
        rival = usable(replace(data[s], event_times={"death": EventTimes(
            data[s].event_times["death"].years, data[s].event_times["death"].competing)}), "train", s)  # fmt: skip
        cause = np.where(frame["event"] == 1, 1, np.where(rival["event"] == 1, 2, 0))
        who = np.unique(frame["patient"], return_inverse=True)[1]
        blank = np.full(len(frame), "", dtype=object)
        x, years = frame[list(NAMES)].to_numpy(float), frame["years"].to_numpy(float)
        tables.append(SiteTable(s, x, years, cause == 1, who, blank, 0, cause=cause))
        assert (cause == 2).sum() >= 10
    assert result["hazard"] == "subdistribution"
    found = result["models"]["both"]
    options = Options(robust=True)
    own = [fit_subdistribution([t], NAMES, "exact", options, "site").fit for t in tables]
    for s, fit in zip(("a", "b"), own, strict=True):
        for j, name in enumerate(NAMES):
            at = found["forest"][name]["sites"][s]
            assert at["coef"] == pytest.approx(fit.beta[j], abs=1e-7)
            assert at["se"] == pytest.approx(np.sqrt(fit.covariance[j, j]), rel=1e-6)
    if mode == "stratified":
        fit = fit_subdistribution(tables, NAMES, "stratified", options, "site").fit
        np.testing.assert_allclose(coefficients(found), fit.beta, atol=1e-8)
        np.testing.assert_allclose(coefficients(found, "se"), np.sqrt(np.diag(fit.covariance)), rtol=1e-6)
        assert found["log_likelihood"] == pytest.approx(fit.log_likelihood, abs=1e-7)
    assert found["proportional_hazards"] is None
    # The cause-specific fit is another one: who dies of something else is no censoring.
    plain = Federation(study([FIT]), data).run()["cox"].result["models"]["both"]
    assert abs(coefficients(found)[0] - coefficients(plain)[0]) > 1e-3


def test_fine_and_grays_model_takes_no_common_baseline_and_no_other_errors():
    for wrong in ({"mode": "exact"}, {"robust": False}):
        with pytest.raises((ConfigError, ValidationError), match="hazard subdistribution"):
            study([{**FIT, "hazard": "subdistribution", **wrong}])


def test_a_penalty_is_lifelines_penalty():
    data = three_sites()
    result = Federation(study([{**FIT, "robust": False, "penalizer": 0.1}]), data).run()["cox"].result
    fit = lifelines_fit(pooled(data), NAMES, strata=["site"], penalizer=0.1)
    np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)


def test_errors_are_clustered_by_patient_where_several_ecgs_count():
    data = three_sites()
    for site, d in data.items():
        # lifelines' robust errors take no account of ties.
        untied = d.event_times["death"].years + np.arange(len(d)) * 1e-7
        data[site] = replace(d, event_times={"death": EventTimes(untied, d.event_times["death"].observed)})
    result = Federation(study([{**FIT, "one_ecg_per_patient": False}]), data).run()["cox"].result["models"]["both"]
    frame = pooled(data, one=False)
    fit = CoxPHFitter().fit(
        frame[[*NAMES, "years", "event", "site", "patient"]],
        "years",
        "event",
        strata=["site"],
        cluster_col="patient",
        fit_options=TIGHT,
    )
    np.testing.assert_allclose(coefficients(result), fit.params_, atol=1e-8)
    np.testing.assert_allclose(coefficients(result, "se"), fit.standard_errors_, rtol=1e-5)
    assert result["robust"] is True


def test_the_forest_holds_the_fit_of_each_site_alone():
    data = three_sites()
    result = Federation(study([{**FIT, "robust": False}]), data).run()["cox"].result
    for site in ("a", "b"):
        fit = lifelines_fit(usable(data[site], "train", site), NAMES)
        found = [f["sites"][site] for f in result["models"]["both"]["forest"].values()]
        np.testing.assert_allclose([f["coef"] for f in found], fit.params_, atol=1e-8)
        np.testing.assert_allclose([f["se"] for f in found], fit.standard_errors_, atol=1e-6)
    local = Federation(study([{**FIT, "robust": False, "mode": "local"}]), data).run()["cox"].result
    forest = local["models"]["both"]["forest"]
    assert coefficients(local["models"]["both"]) == [f["random"]["value"] for f in forest.values()]
    assert coefficients(local["models"]["both"], "low") == [f["random"]["low"] for f in forest.values()]


EVALUATE = {"id": "judged", "stage": "survival_evaluate", "uses": ["cox"]}


def evaluated(data, **keys):
    federation = Federation(study([{**FIT, "robust": False}, EVALUATE]), data, **keys)
    return federation.run()["judged"].result, federation


def linear_predictor(result, model, frame):
    found = result["models"][model]["coefficients"]
    centred = frame[list(found)] - [result["standardised"][name]["mean"] for name in found]
    return (centred @ [c["coef"] for c in found.values()]).to_numpy()


def test_frozen_models_are_judged_on_lockboxes_and_at_sites_that_never_trained():
    data = three_sites()
    result, federation = evaluated(data)
    fitted = federation.artefacts["cox"].result
    assert {site: s["group"] for site, s in result["sites"].items()} == {
        "a": "training",
        "b": "training",
        "c": "zero_shot",
    }
    for site in "abc":
        frame = usable(data[site], "lockbox", site)
        risk = linear_predictor(fitted, "both", frame)
        found = result["sites"][site]["models"]["both"]
        expected = concordance_index(frame["years"], -risk, frame["event"])
        assert found["harrell"]["value"] == pytest.approx(expected, abs=1e-9)
        assert result["sites"][site]["ecgs"] == len(frame)
    both = [result["sites"][s]["models"]["both"] for s in "ab"]
    events = np.array([result["sites"][s]["events"] for s in "ab"])
    pooled_c = result["pooled"]["training"]["models"]["both"]["harrell"]
    assert pooled_c["value"] == pytest.approx(events @ [m["harrell"]["value"] for m in both] / events.sum())
    share = events / events.sum()
    assert pooled_c["se"] == pytest.approx(np.sqrt(share**2 @ np.square([m["harrell"]["se"] for m in both])))
    difference = result["pooled"]["zero_shot"]["models"]["both"]["difference"]["harrell"]
    alone = result["sites"]["c"]["models"]
    assert difference["value"] == pytest.approx(
        alone["both"]["harrell"]["value"] - alone["demographics"]["harrell"]["value"]
    )
    assert difference["se"] < alone["both"]["harrell"]["se"]


def test_survival_by_risk_group_and_log_rank_equal_lifelines():
    data = three_sites()
    result, federation = evaluated(data)
    fitted = federation.artefacts["cox"].result
    frame = usable(data["c"], "lockbox", "c")
    group = np.searchsorted(fitted["models"]["both"]["cuts"], linear_predictor(fitted, "both", frame), side="right")
    found = result["pooled"]["zero_shot"]["models"]["both"]
    assert [g["ecgs"] for g in found["groups"]] == np.bincount(group).tolist()
    for k, one in enumerate(found["groups"]):
        fit = KaplanMeierFitter().fit(frame["years"][group == k], frame["event"][group == k])
        np.testing.assert_allclose(one["curve"]["survival"], fit.survival_function_at_times(result["times"]))
    expected = multivariate_logrank_test(frame["years"], group, frame["event"])
    assert found["log_rank"]["chi2"] == pytest.approx(expected.test_statistic, rel=1e-10)
    assert found["log_rank"]["degrees"] == 2
    # The cuts are tertiles of the training rows, to a bin.
    train = pooled(data)
    shares = np.bincount(
        np.searchsorted(fitted["models"]["both"]["cuts"], linear_predictor(fitted, "both", train), side="right")
    ) / len(train)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)


def test_the_pooled_baseline_makes_predicted_risk_what_the_sites_saw():
    data = three_sites()
    result = Federation(study([FIT]), data).run()["cox"].result
    frames = [usable(data[s], "train", s) for s in "ab"]
    baseline = result["models"]["both"]["baseline"]
    assert len(baseline["years"]) == 8
    for year, hazard in zip(baseline["years"], baseline["hazard"], strict=True):
        predicted = np.concatenate(
            [1 - np.exp(-hazard * np.exp(linear_predictor(result, "both", f))) for f in frames]
        ).mean()
        seen = [len(f) * (1 - float(KaplanMeierFitter().fit(f["years"], f["event"]).predict(year))) for f in frames]
        assert predicted == pytest.approx(sum(seen) / sum(len(f) for f in frames), abs=2e-5)


@pytest.mark.parametrize("kind", ["constant", "perfect"])
def test_a_site_whose_score_is_constant_or_perfect_is_left_out_with_a_reason(kind):
    data = {**three_sites(), "d": followed(4, 260, split="lockbox")}
    times = data["d"].event_times["death"]
    age = np.full(len(data["d"]), 60.0)
    if kind == "perfect":
        age = 90 - 10 * (np.nan_to_num(times.years) + 0.001 * ~times.observed)
    data["d"] = replace(data["d"], age=age.astype(np.float32))
    step = {**FIT, "models": [{"name": "age", "inputs": ["age"]}]}
    federation = Federation(study([step, EVALUATE], zero_shot=("c", "d")), data)
    result = federation.run()["judged"].result
    alone = {site: result["sites"][site]["models"]["age"]["harrell"] for site in "cd"}
    pooled = result["pooled"]["zero_shot"]["models"]["age"]
    assert federation.artefacts["cox"].result["models"]["age"]["coefficients"]["age"]["coef"] > 0
    assert pooled["heterogeneity"]["harrell"]["sites"] == 1
    if kind == "constant":
        assert alone["d"] == {"value": 0.5, "se": None, "low": None, "high": None}
        assert pooled["not_pooled"]["harrell"] == {"d": "a constant score, which has no error"}
        assert pooled["harrell"]["value"] == pytest.approx(alone["c"]["value"])
    else:
        assert alone["d"]["value"] == alone["d"]["high"] == 1.0
        assert 0.8 < alone["d"]["low"] < 1.0
        assert alone["c"]["value"] < pooled["harrell"]["value"] < pooled["harrell"]["high"] < 1.0


def test_calibration_has_a_panel_a_hospital_and_incidence_begins_at_nothing():
    result, _ = evaluated(three_sites())
    shown = evaluation_sections("judged", Result.model_validate(result), Labels())
    figures = {b.title: b for section in shown for b in section.blocks if isinstance(b, Figure)}
    panels = figures["Calibration at 2 years, both"]
    assert isinstance(panels, Panels)
    for site, (points,) in panels.panels:
        told = [g for g in result["sites"][site]["models"]["both"]["groups"] if g["predicted"] is not None]
        assert list(points.x) == [g["predicted"] for g in told]
        assert len(points.x) >= 2
    drawn = [
        figure for title, figure in figures.items() if title.startswith("Cumulative incidence by risk group, both")
    ]
    assert drawn
    for series in (one for figure in drawn for one in figure.series if any(y is not None for y in one.y)):
        assert series.y[0] == 0.0
        assert all(a <= b for a, b in itertools.pairwise(y for y in series.y if y is not None))
        for y, low, high in zip(series.y, series.low, series.high, strict=True):
            assert y is None or low <= y <= high


def test_a_figure_that_hangs_on_few_events_has_no_interval_and_says_so():
    data = {**three_sites(), "c": followed(3, 70, split="lockbox", rate=0.03)}
    result, _ = evaluated(data)
    found = result["sites"]["c"]
    assert 0 < found["event_patients"] < 10
    harrell = found["models"]["both"]["harrell"]
    assert harrell["se"] > 0
    assert harrell["low"] is None
    shown = evaluation_sections("judged", Result.model_validate(result), Labels())
    cells = [
        cell for section in shown for b in section.blocks if isinstance(b, Table) for row in b.rows for cell in row
    ]
    assert f"{harrell['value']:.3f} (few events)" in cells


def test_observed_risks_are_cumulative_incidences_where_other_deaths_compete():
    data = {}
    for site, d in three_sites().items():
        times, rng = d.event_times["death"], np.random.default_rng(ord(site))
        # Of the deaths, half are not the event.
        other = (rng.random(d.n_patients) < 0.5)[d.patient] & times.observed
        data[site] = replace(d, event_times={"mi": EventTimes(times.years, times.observed & ~other, other)})

    def seen(site, split, at, cause=1):
        frame = usable(replace(data[site], event_times={"death": data[site].event_times["mi"]}), split, site)
        rows = data[site].event_times["mi"].cause[frame.index]
        return frame, rows, float(cumulative_incidence(frame["years"], rows, np.array([at])).risk[0])

    federation = Federation(study([{**FIT, "event": "mi", "robust": False}, EVALUATE]), data)
    judged = federation.run()["judged"].result
    fitted = federation.artefacts["cox"].result
    frames = {s: seen(s, "train", 2.0) for s in "ab"}
    baseline = fitted["models"]["both"]["baseline"]
    assert baseline["years"][-1] == 2.0
    predicted = np.concatenate(
        [
            1 - np.exp(-baseline["hazard"][-1] * np.exp(linear_predictor(fitted, "both", f)))
            for f, _, _ in frames.values()
        ]
    ).mean()
    total = sum(len(f) for f, _, _ in frames.values())
    assert predicted == pytest.approx(sum(len(f) * risk for f, _, risk in frames.values()) / total, abs=2e-5)
    frame, cause, risk = seen("c", "lockbox", 2.0)
    assert judged["sites"]["c"]["observed"]["value"] == pytest.approx(risk, abs=1e-12)
    naive = 1 - float(KaplanMeierFitter().fit(frame["years"], frame["event"]).predict(2.0))
    assert risk < naive - 0.01
    group = np.searchsorted(fitted["models"]["both"]["cuts"], linear_predictor(fitted, "both", frame), side="right")
    for k, one in enumerate(judged["pooled"]["zero_shot"]["models"]["both"]["groups"]):
        mine = cumulative_incidence(frame["years"][group == k], cause[group == k], np.array(judged["times"]))
        np.testing.assert_allclose(one["curve"]["survival"], 1 - mine.risk, atol=1e-12)


def test_no_number_of_a_lockbox_reaches_the_fit():
    data = three_sites()
    before = Federation(study([FIT]), data).run()["cox"].result["models"]
    for site in "ab":
        times = data[site].event_times["death"]
        locked = data[site].rows("lockbox")
        years, observed = times.years.copy(), times.observed.copy()
        years[locked], observed[locked] = 0.001, True
        data[site] = replace(data[site], event_times={"death": EventTimes(years, observed)})
    assert Federation(study([FIT]), data).run()["cox"].result["models"] == before
    assert not study([FIT]).step("cox").opens_lockbox
    assert study([FIT, EVALUATE]).step("judged").opens_lockbox


def test_a_site_that_lacks_an_input_is_left_out_by_name_in_fit_and_evaluation():
    data = three_sites()
    for site in ("b", "c"):
        nothing = np.full_like(data[site].covariates["lvef"], np.nan)
        data[site] = replace(data[site], covariates={**data[site].covariates, "lvef": nothing})
    result, federation = evaluated(data)
    fitted = federation.artefacts["cox"].result
    assert fitted["sites"]["b"]["reason"] == "lacks lvef"
    assert fitted["sites"]["b"]["took_part"] is False
    assert fitted["models"]["both"]["sites"] == ["a"]
    fit = lifelines_fit(usable(data["a"], "train", "a"), NAMES)
    np.testing.assert_allclose(coefficients(fitted["models"]["both"]), fit.params_, atol=1e-8)
    assert result["sites"]["c"]["reason"] == "lacks lvef"
    assert list(result["pooled"]) == ["training"]


def test_missing_values_are_counted_and_the_most_recent_usable_ecg_counts():
    data = three_sites()
    result = Federation(study([FIT]), data).run()["cox"].result["sites"]["a"]
    rows = data["a"].rows("train")
    timed = np.isfinite(data["a"].event_times["death"].years[rows])
    bmi = np.isfinite(data["a"].covariates["bmi"][rows])
    assert result["left_out"] == {"time unknown": (~timed).sum(), "input missing": (timed & ~bmi).sum()}
    assert result["missing"]["bmi"] == (timed & ~bmi).sum()
    assert result["ecgs"] == result["patients"] == len(usable(data["a"], "train", "a"))


def test_under_a_sites_limits_small_sites_and_few_events_take_no_part():
    data = {**three_sites(), "a": followed(1, 900), "b": followed(5, 30, split="train", rate=0.02)}
    federation = Federation(study([FIT, EVALUATE]), data, DisclosureLimits())
    result = federation.run()["cox"].result
    assert result["sites"]["b"]["reason"] == "too few events"
    assert result["sites"]["b"]["events"] is None
    assert result["models"]["both"]["sites"] == ["a"]
    fit = lifelines_fit(usable(data["a"], "train", "a"), NAMES)
    np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)
    judged = federation.artefacts["judged"].result["sites"]["a"]["models"]["both"]
    at_risk = [[n for n in g["curve"]["at_risk"] if n is not None] for g in judged["groups"]]
    assert any(len(curve) > 3 for curve in at_risk)
    for g, curve in zip(judged["groups"], at_risk, strict=True):
        steps = -np.diff([g["ecgs"], *curve])
        assert (steps >= 5).all()
        assert curve[-1] >= 5


def test_too_many_inputs_and_rounds_for_so_few_patients_are_refused_by_the_site():
    data = {**three_sites(), "b": followed(6, 80, split="train", rate=2.0)}
    result = Federation(study([FIT]), {**data, "a": followed(1, 900)}, DisclosureLimits()).run()["cox"].result
    assert result["sites"]["b"]["reason"] == "too few patients for so many inputs and rounds"
    assert result["models"]["both"]["sites"] == ["a"]


def test_a_site_that_dies_mid_fit_leaves_the_fit_of_the_others():
    data = three_sites()
    chosen = study([{**FIT, "robust": False}], federation={"quorum": 1})
    result = Federation(chosen, data, gone={("b", "newton", 1002)}).run()["cox"].result
    assert result["models"]["demographics"]["sites"] == ["a", "b"]
    assert result["models"]["both"]["sites"] == ["a"]
    fit = lifelines_fit(usable(data["a"], "train", "a"), NAMES)
    np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)
    assert result["absent"]["b"]["newton"] == "deadline"


@pytest.mark.parametrize("mode", ["exact", "stratified"])
def test_a_site_that_is_away_while_all_are_takes_part_again(mode):
    """Its moments count again too: the coefficients are those of both sites."""
    step = {**FIT, "robust": False, "mode": mode}
    phase = "newton" if mode == "stratified" else "curvature"
    whole = Federation(study([step]), three_sites()).run()["cox"].result["models"]["both"]
    away = {(site, phase, 1004) for site in "ab"}
    result = Federation(study([step]), three_sites(), away=away).run()["cox"].result
    assert {site: told[phase] for site, told in result["absent"].items()} == dict.fromkeys("ab", "deadline")
    model = result["models"]["both"]
    assert model["sites"] == ["a", "b"]
    assert model["rounds"] == whole["rounds"]
    np.testing.assert_allclose(coefficients(model), coefficients(whole), atol=1e-12)


def test_a_site_that_dies_after_the_fit_leaves_it_without_residuals():
    data = three_sites()
    chosen = study([{**FIT, "mode": "exact", "robust": True}], federation={"quorum": 1})
    whole = Federation(chosen, data).run()["cox"].result["models"]["both"]
    assert whole["robust"] is True
    last = max(round for site, phase, round in rounds_asked(chosen, data) if phase == "risk" and site == "b")
    model = Federation(chosen, data, gone={("b", "risk", last)}).run()["cox"].result["models"]["both"]
    assert model["robust"] is False
    assert model["sites"] == ["a", "b"]
    assert any("no residuals" in note for note in model["notes"])
    np.testing.assert_allclose(coefficients(model), coefficients(whole), atol=1e-12)


def rounds_asked(chosen, data):
    """Return every (site, phase, round) that a run asks."""
    seen = []

    class Never(set):
        def __contains__(self, asked):
            seen.append(asked)
            return False

    Federation(chosen, data, away=Never()).run()
    return seen


def ask(federation, site, phase, *, limits=DisclosureLimits(), run="run", **arrays):
    """Put one question to a site through its gate."""
    federation.limits = limits
    context = replace(federation.context("cox", site), run=run)
    named = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
    request = Request(federation.study.sha256, run, "cox", phase, 0, named)
    answer = room("client", "survival").PHASES[phase](context, request)
    return release(answer, request, stage="survival", settings=context.settings), answer


def question(**changes):
    return {
        "model": [1],
        "coef": [0.1, 0.1, 0.1, 0.1],
        "mean": [60, 0.5, 27, 0.45],
        "scale": [15, 1, 4, 0.15],
    } | changes


def test_different_questions_are_capped_whatever_the_run_is_called_and_the_same_is_free():
    federation = Federation(study([{**FIT, "max_rounds": 3}]), {"a": followed(1, 900)})
    for i in range(4):
        ask(federation, "a", "newton", **question(coef=[0.1 * i, 0, 0, 0]))
    for run in ("run", "another"):
        with pytest.raises(Refused) as caught:
            ask(federation, "a", "newton", run=run, **question(coef=[0.9, 0, 0, 0]))
        assert caught.value.code is RefusalCode.BUDGET_SPENT
        ask(federation, "a", "newton", run=run, **question(coef=[0.1, 0, 0, 0]))
    # Other moments are other weights: they count too, and other models have a count of their own.
    with pytest.raises(Refused):
        ask(federation, "a", "newton", **question(coef=[0.1, 0, 0, 0], scale=[14, 1, 4, 0.15]))
    ask(federation, "a", "newton", **question(model=[0], coef=[0.9, 0], mean=[60, 0.5], scale=[15, 1]))


def test_coefficients_that_put_the_weight_on_a_few_people_release_nothing():
    federation = Federation(study([FIT]), {"a": followed(1, 900)})
    sealed, answer = ask(federation, "a", "newton", **question())
    assert sealed.log_line["fields"]["hessian"]["withheld"] == 0
    assert answer.evidence["hessian"].patients > 50
    sealed, answer = ask(federation, "a", "newton", **question(coef=[40.0, 0, 0, 0]))
    assert answer.evidence["hessian"].patients < 10
    assert sealed.log_line["fields"]["hessian"]["withheld"] == 16


def test_sums_by_interval_leave_only_on_a_grid_that_the_site_can_serve():
    step = {**FIT, "mode": "exact", "follow_up_years": 4, "grid_years": 0.1, "max_rounds": 3}
    federation = Federation(study([step]), {"a": followed(1, 2000, rate=0.3)})
    sealed, _ = ask(federation, "a", "risk", **question(grid=[2.0, 4.0]))
    assert sealed.log_line["fields"]["leaving_wx"]["withheld"] == 0
    edges = federation.study.step("cox").grid_edges
    with pytest.raises(Refused, match="as many numbers as it holds"):
        ask(federation, "a", "risk", **question(grid=edges))
    with pytest.raises(Refused, match="too few patients leave"):
        ask(federation, "a", "risk", **question(grid=[0.1, edges[-1]]))
    with pytest.raises(Refused, match="no part of the study"):
        ask(federation, "a", "risk", **question(grid=[1.987, edges[-1]]))
    with pytest.raises(Refused, match="does not end"):
        ask(federation, "a", "risk", **question(grid=[2.0]))
    with pytest.raises(Refused, match="only for the exact mode"):
        ask(federation, "a", "risk", **question())
    stratified = Federation(study([FIT]), {"a": followed(1, 2000)})
    with pytest.raises(Refused, match="only for the exact mode"):
        ask(stratified, "a", "risk", **question(grid=[2.0, 4.0]))


def test_sums_of_neighbouring_grid_times_are_a_persons_covariates_only_with_the_rules_switched_off():
    """The attack of subtracting risk sets: with one leaver in an interval, at coefficients of 0, it is that person."""
    step = {**FIT, "mode": "exact", "follow_up_years": 4, "grid_years": 0.1, "max_rounds": 3}
    data = followed(1, 900)
    first = usable(data, "train", "a").index[0]
    years = np.maximum(data.event_times["death"].years, 0.2)
    years[first] = 0.05
    data = replace(data, event_times={"death": EventTimes(years, data.event_times["death"].observed)})
    federation = Federation(study([step]), {"a": data})
    zero = question(coef=[0, 0, 0, 0], mean=[0, 0, 0, 0], scale=[1, 1, 1, 1], grid=[0.1, 4.0])
    _, answer = ask(federation, "a", "risk", limits=UNGATED, **zero)
    person = [data.age[first], data.male[first], data.covariates["bmi"][first], data.covariates["lvef"][first]]
    np.testing.assert_allclose(answer.payload.leaving_wx[0], person, rtol=1e-9)
    with pytest.raises(Refused) as caught:
        ask(federation, "a", "risk", **zero)
    assert caught.value.code is RefusalCode.TOO_FEW


def test_a_lasso_leaves_coefficients_at_zero_and_errors_to_the_others():
    result = Federation(study([{**FIT, "penalizer": 0.12, "l1_ratio": 1.0}]), three_sites()).run()["cox"].result
    found = result["models"]["both"]["coefficients"]
    out = {name for name, c in found.items() if c["coef"] == 0}
    assert 0 < len(out) < 4
    assert {name for name, c in found.items() if c["se"] is None} == out
    assert all(c["se"] > 0 for name, c in found.items() if name not in out)
    tested = result["models"]["both"]["proportional_hazards"]
    assert {name for name, h in tested.items() if h["p"] is None} == out


def test_the_order_of_models_is_part_of_the_studys_hash():
    other = {**FIT, "models": FIT["models"][::-1]}
    assert study([FIT]).sha256 != study([other]).sha256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": [{"name": "m", "inputs": ["age", "height"]}]}, "models name height"),
        ({"models": [{"name": "m", "inputs": ["age_gap"]}]}, "models name age_gap"),
        ({"models": [{"name": "m", "inputs": ["age", "age"]}]}, "each input once"),
        ({"models": [{"name": "m", "inputs": ["age"]}, {"name": "m", "inputs": ["male"]}]}, "two have one name"),
        ({"models": [{"name": "a name", "inputs": ["age"]}]}, "name"),
        ({"models": []}, "models"),
        ({"follow_up_years": 1}, "must not lie before"),
        ({"mode": "local", "penalizer": 0.1}, "must be 0"),
        ({"mode": "exact", "grid_years": 0.001}, "more than 200 intervals"),
        ({"event": "stroke"}, "event"),
    ],
)
def test_a_step_that_does_not_fit_its_study_says_why(changes, words):
    with pytest.raises((ConfigError, ValidationError), match=words):
        study([{**FIT, **changes}])
    with pytest.raises((ConfigError, ValidationError), match="must use a survival step"):
        study([{"id": "judged", "stage": "survival_evaluate"}])


def test_nobody_able_to_take_part_is_an_error_that_names_reasons():
    data = {s: followed(i, 12, split="train") for i, s in enumerate("ab")}
    with pytest.raises(RunError, match="no site can take part"):
        Federation(study([FIT]), data, DisclosureLimits()).run()


def test_groups_of_two_models_that_differ_by_a_few_patients_are_told_once():
    """Subtracting them would tell of those few; the second model gives its other figures, and no groups."""
    data = three_sites()
    data["c"] = followed(3, 900, split="lockbox")
    nearly = np.random.default_rng(8).normal(size=len(data["c"].age)).astype(np.float32)
    data["c"] = replace(data["c"], covariates={**data["c"].covariates, "bmi": nearly})
    models = [{"name": "demographics", "inputs": ["age", "male"]}, {"name": "nearly", "inputs": ["age", "male", "bmi"]}]
    step = {**FIT, "models": models, "one_ecg_per_patient": True}
    federation = Federation(study([step, EVALUATE]), {**data, "a": followed(1, 900), "b": followed(2, 900)})
    federation.run()
    federation.limits = DisclosureLimits()
    arrays = dict(federation.artefacts["cox"].arrays)
    arrays["nearly.coef"] = np.append(arrays["demographics.coef"], 1e-3)
    arrays["nearly.mean"] = np.append(arrays["demographics.mean"], 0.0)
    arrays["nearly.cuts"] = arrays["demographics.cuts"]
    request = Request(
        federation.study.sha256, "run", "judged", "local", 0, {f"cox.{name}": array for name, array in arrays.items()}
    )
    answer = room("client", "survival_evaluate").PHASES["local"](federation.context("judged", "c"), request).payload
    assert np.isfinite(answer.group_counts[0]).all()
    assert np.isnan(answer.group_counts[1]).all()
    assert np.isfinite(answer.figures[1, 0]).all()


def test_the_age_gap_is_ecg_age_less_age():
    data = three_sites()
    for site, d in data.items():
        gap = np.random.default_rng(5).normal(0, 6, len(d)).astype(np.float32)
        data[site] = replace(d, covariates={**d.covariates, "ecg_age": d.age + gap})
    step = {**FIT, "robust": False, "models": [{"name": "age_and_gap", "inputs": ["age", "age_gap"]}]}
    result = Federation(study([step], covariates=["ecg_age"]), data).run()["cox"].result
    # Complete cases over this step's own inputs: a missing BMI takes nobody's last ECG away.
    frame = pd.concat([usable(data[s], "train", s, needs=("age", "ecg_age")) for s in "ab"])
    fit = lifelines_fit(frame.assign(age_gap=frame["ecg_age"] - frame["age"]), ["age", "age_gap"], strata=["site"])
    np.testing.assert_allclose(coefficients(result["models"]["age_and_gap"]), fit.params_, atol=1e-6)
    assert result["sites"]["a"]["missing"] == {"age": None, "age_gap": None}


def test_exact_mode_under_a_sites_limits_finds_the_grid_that_all_can_serve():
    data = {"a": followed(1, 3000, rate=0.3), "b": followed(2, 2500, shift=1.0, rate=0.4)}
    step = {**FIT, "mode": "exact", "robust": False, "follow_up_years": 3, "grid_years": 0.25, "max_rounds": 8}
    step["models"] = [{"name": "both", "inputs": list(NAMES)}]
    federation = Federation(study([step], zero_shot=()), data, DisclosureLimits())
    result = federation.run()["cox"].result
    assert 2 <= len(result["grid"]) < 12
    assert result["grid"][-1] == 3
    frame = pooled(data)
    for site in "ab":
        mine = frame[frame["site"] == site]
        left = np.bincount(np.searchsorted(result["grid"], mine["years"]), minlength=len(result["grid"]))
        assert (left[: len(result["grid"])] >= 5).all()
    # Who is followed beyond the last time is censored there, event or not.
    frame["years"], frame["event"] = coarsen(frame["years"], frame["event"], np.array(result["grid"]))
    fit = lifelines_fit(frame, NAMES)
    np.testing.assert_allclose(coefficients(result["models"]["both"]), fit.params_, atol=1e-8)
    assert not any(np.isnan(np.asarray(sums.leaving_w)).any() for _, phase, sums in federation.sent if phase == "risk")
