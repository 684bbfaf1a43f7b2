"""regress over sites, through the gate, against statsmodels on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from federated_stages import UNGATED, Federation, site_data, study, typed

from ecgshared.errors import ConfigError, Refused, RunError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.regression import (
    cr1,
    decided_estimate,
    deciding_patients,
    linear_residual,
    linear_sums,
    patient_scores,
    solve,
)
from ecgshared.study.registry import room
from ecgshared.wire.protocol import Request
from server.report.forest import Forest
from server.report.labels import NO_LABELS
from server.report.sections import Table
from server.rounds.step_context import Artefact
from server.stages.regress import report

TERMS = ("age", "male", "lvef<=0.35", "bmi", "lvef<=0.35:male")
STEP = {"id": "r", "stage": "regress", "outcome": "event"}
PLAIN = {**STEP, "models": [{"name": "one", "terms": list(TERMS)}]}


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def hospital(seed, patients, **keys):
    """A site where a quarter of the patients have a defibrillator, with dates of its own; no covariate is unknown."""
    data = site_data(seed, patients, split="lockbox", **keys)
    rng = np.random.default_rng(500 + seed)
    n = len(data.patient)
    device = (rng.random(patients) < 0.25)[data.patient].astype(float)
    return replace(
        data,
        columns={
            "defibrillator": device,
            "month": rng.integers(1, 13, n).astype(float),
            "hour": rng.integers(0, 24, n).astype(float),
            "year": rng.integers(2010, 2015, n).astype(float),
        },
    )


def hospitals(sizes=(300, 200, 250)):
    return {site: hospital(i, size, shift=0.3 * i) for i, (site, size) in enumerate(zip("abc", sizes, strict=True), 1)}


def stacked(data, terms=TERMS, sites="abc"):
    """Columns, outcome, patient, site and rows' months and hours, pooled by hand; nothing of ecgfed is called."""
    xs, ys, ps, ss, months, hours, years = [], [], [], [], [], [], []
    for i, site in enumerate(sites):
        d = data[site]
        named = {"age": d.age, "male": d.male, **d.covariates, **d.columns}
        named = {k: np.asarray(v, dtype=np.float64) for k, v in named.items()}
        named["lvef<=0.35"] = np.where(d.covariates["lvef"] <= np.float32(0.35), 1.0, 0.0)
        x = np.column_stack([np.prod([named[f] for f in t.split(":")], axis=0) for t in terms])
        y = d.labels[:, 0].astype(np.float64)
        keep = np.isfinite(x).all(axis=1) & np.isfinite(y)
        xs.append(x[keep])
        ys.append(y[keep])
        ps.append(d.patient[keep] + 10_000 * i)
        ss.append(np.full(keep.sum(), i))
        months.append(d.columns["month"][keep])
        hours.append(d.columns["hour"][keep])
        years.append(d.columns["year"][keep])
    return tuple(np.concatenate(part) for part in (xs, ys, ps, ss, months, hours, years))


def dummies(*levels):
    """One column for every level but the first of each, as no two of ``levels`` may span the same."""
    columns = []
    for i, level in enumerate(levels):
        found = np.unique(level, axis=0)
        columns += [np.all(level == one, axis=-1).astype(float) for one in found[(1 if i else 0) :]]
    return np.column_stack(columns)


def fitted(design, y, patient, model=sm.OLS):
    options = {"disp": 0, "tol": 1e-14, "maxiter": 200} if model is sm.Logit else {}
    return model(y, design).fit(cov_type="cluster", cov_kwds={"groups": patient}, **options)


def run(step, data=None, limits=UNGATED, **keys):
    return Federation(study([step], **keys), data or hospitals(), limits).run()["r"].result


def numbers(fit, what="value"):
    return {name: c[what] for name, c in fit["coefficients"].items()}


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_least_squares_equal_statsmodels_on_the_pooled_rows(limits):
    data = hospitals()
    result = run(PLAIN, data, limits)
    x, y, patient, *_ = stacked(data)
    want = fitted(sm.add_constant(x), y, patient)
    got = result["models"][0]["pooled"]
    assert list(got["coefficients"]) == ["intercept", *TERMS]
    np.testing.assert_allclose(list(numbers(got).values()), want.params, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(list(numbers(got, "se").values()), want.bse, rtol=1e-8)
    assert got["r2"] == pytest.approx(want.rsquared, rel=1e-8)
    assert (got["ecgs"], got["events"]) == (len(y), y.sum())
    assert got["patients"] == len(np.unique(patient))


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_logistic_equals_statsmodels_on_the_pooled_rows(limits):
    data = hospitals()
    got = run({**PLAIN, "methods": ["logistic"]}, data, limits)["models"][0]["pooled"]
    x, y, patient, *_ = stacked(data)
    want = fitted(sm.add_constant(x), y, patient, sm.Logit)
    np.testing.assert_allclose(list(numbers(got).values()), want.params, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(list(numbers(got, "se").values()), want.bse, rtol=1e-7)
    assert got["r2"] == pytest.approx(want.prsquared, rel=1e-8)


@pytest.mark.parametrize("method", ["ols", "logistic"])
def test_each_site_by_itself_equals_statsmodels(method):
    data = hospitals()
    sites = run({**PLAIN, "methods": [method]}, data)["models"][0]["sites"]
    for site in "abc":
        x, y, patient, *_ = stacked(data, sites=site)
        want = fitted(sm.add_constant(x), y, patient, sm.OLS if method == "ols" else sm.Logit)
        np.testing.assert_allclose(list(numbers(sites[site]).values()), want.params, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(list(numbers(sites[site], "se").values()), want.bse, rtol=1e-6)
        assert sites[site]["ecgs"] == len(y)


@pytest.mark.parametrize("effects", [("site",), ("month",), ("site", "month", "hour"), ("year",)])
def test_fixed_effects_absorbed_at_the_sites_equal_their_dummies(effects):
    """Site by month (and hour) dummies in one pooled regression, and the average of their coefficients."""
    data = hospitals()
    model = {"name": "one", "terms": list(TERMS), "fixed_effects": list(effects)}
    got = run({**STEP, "models": [model]}, data)["models"][0]["pooled"]
    x, y, patient, site, month, hour, year = stacked(data)
    by = {"month": month, "hour": hour, "year": year}
    calendar = [np.column_stack([site, by[e]]) for e in effects if e != "site"] or [site[:, None]]
    # The second calendar unit leaves out one level at each site.
    blocks = [dummies(calendar[0])]
    for level in calendar[1:]:
        first = np.array([level[level[:, 0] == s, 1].min() for s in range(3)])
        every = np.unique(level, axis=0)
        blocks.append(np.column_stack([np.all(level == one, axis=1) for one in every if one[1] != first[int(one[0])]]))
    design = np.column_stack([x, *blocks]).astype(float)
    want = fitted(design, y, patient)
    q = len(TERMS)
    slopes = list(numbers(got).values())[1:]
    np.testing.assert_allclose(slopes, want.params[:q], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(list(numbers(got, "se").values())[1:], want.bse[:q], rtol=1e-8)
    assert got["r2"] == pytest.approx(1 - want.ssr / ((y - y.mean()) ** 2).sum(), rel=1e-8)
    at_average = np.concatenate([np.zeros(q), design[:, q:].mean(axis=0)])
    intercept = got["coefficients"]["intercept"]
    assert intercept["value"] == pytest.approx(at_average @ want.params, rel=1e-8)
    assert intercept["se"] == pytest.approx(np.sqrt(at_average @ want.cov_params() @ at_average), rel=1e-8)


def test_a_logistic_intercept_a_site_equals_site_dummies():
    data = hospitals()
    model = {"name": "one", "terms": list(TERMS), "fixed_effects": ["site"]}
    got = run({**STEP, "models": [model], "methods": ["logistic"]}, data)["models"][0]["pooled"]
    x, y, patient, site, *_ = stacked(data)
    want = fitted(np.column_stack([x, dummies(site[:, None])]), y, patient, sm.Logit)
    q = len(TERMS)
    np.testing.assert_allclose(list(numbers(got).values())[1:], want.params[:q], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(list(numbers(got, "se").values())[1:], want.bse[:q], rtol=1e-7)


TREATED = {
    **STEP,
    "treatment": "defibrillator",
    "models": [
        {"name": "low", "terms": ["age", "male", "lvef<=0.35", "defibrillator", "lvef<=0.35:defibrillator"]},
    ],
}


@pytest.mark.parametrize("method", ["ols", "logistic"])
def test_rates_and_change_equal_a_delta_method_by_differences(method):
    data = hospitals()
    got = run({**TREATED, "methods": [method]}, data)["models"][0]["pooled"]
    terms = TREATED["models"][0]["terms"]
    x, y, patient, *_ = stacked(data, terms)
    want = fitted(sm.add_constant(x), y, patient, sm.OLS if method == "ols" else sm.Logit)
    age, male = x[:, :2].mean(axis=0)
    link = (lambda v: v) if method == "ols" else (lambda v: 1 / (1 + np.exp(-v)))

    def without(b):
        return link(b[0] + b[1] * age + b[2] * male + b[3])

    def expected(b):
        return link(b[0] + b[1] * age + b[2] * male + b[3] + b[4])

    def change(b):
        return link(b[0] + b[1] * age + b[2] * male + b[3] + b[4] + b[5]) / expected(b) - 1

    (rate,) = got["rates"]
    assert (rate["group"], rate["treatment"]) == ("lvef<=0.35", "defibrillator")
    for name, figure in (("without", without), ("expected", expected), ("change", change)):
        b = want.params
        steps = np.diag(1e-5 * np.maximum(np.abs(b), 1e-3))
        gradient = np.array([(figure(b + h) - figure(b - h)) / (2 * h.sum()) for h in steps])
        assert rate[name]["value"] == pytest.approx(figure(b), rel=1e-7)
        assert rate[name]["se"] == pytest.approx(np.sqrt(gradient @ want.cov_params() @ gradient), rel=1e-5)
    if method == "ols":
        assert rate["change"]["value"] == pytest.approx(want.params[5] / expected(want.params), rel=1e-7)


def test_all_models_and_outcomes_of_a_step_are_of_the_same_ecgs():
    data = hospitals()
    step = {
        **STEP,
        "outcome": ["event", "sex"],
        "models": [{"name": "one", "terms": ["age"]}, {"name": "two", "terms": ["age", "bmi"]}],
    }
    result = run(step, data)
    *_, patient, _, _, _, _ = stacked(data, ("age", "bmi"))
    assert {m["pooled"]["ecgs"] for m in result["models"]} == {len(patient)}
    assert [(m["name"], m["outcome"]) for m in result["models"]] == [
        ("one", "event"),
        ("two", "event"),
        ("one", "sex"),
        ("two", "sex"),
    ]
    left = sum(len(d.patient) for d in data.values()) - len(patient)
    assert sum(s["left_out"] for s in result["sites"].values()) == left


def test_lockboxes_at_sites_that_train_and_everybody_elsewhere():
    data = {s: site_data(i, 200, split="lockbox" if s == "c" else None) for i, s in enumerate("abc")}
    result = run({**STEP, "models": [{"name": "one", "terms": ["age"]}]}, data)
    for site, d in data.items():
        rows = d.rows("lockbox")
        assert result["sites"][site]["ecgs"] == np.isfinite(d.labels[rows, 0]).sum()


def test_not_known_is_no_only_where_the_study_says_so_and_the_hospital_knows_any():
    data = hospitals()
    rng = np.random.default_rng(4)
    for site in "ab":
        lvef = data[site].covariates["lvef"].copy()
        lvef[rng.random(len(lvef)) < 0.5] = np.nan
        data[site] = replace(data[site], covariates=data[site].covariates | {"lvef": lvef})
    nowhere = np.full(len(data["c"].patient), np.nan, dtype=np.float32)
    data["c"] = replace(data["c"], covariates=data["c"].covariates | {"lvef": nowhere})
    step = {**STEP, "models": [{"name": "who", "terms": ["age"]}, {"name": "low", "terms": ["age", "lvef<=0.35"]}]}
    strict, lenient = run(step, data), run({**step, "unknown_as_no": ["lvef"]}, data)
    for result in (strict, lenient):
        assert result["sites"]["c"]["closed"] == {"lvef<=0.35": "not known of anybody here"}
        assert result["models"][0]["pooled"]["sites"] == ["a", "b", "c"]
        assert result["models"][1]["pooled"]["sites"] == ["a", "b"]
    x, y, patient, *_ = stacked({**data, "c": data["a"]}, ("age", "lvef<=0.35"), sites="ab")
    want = fitted(sm.add_constant(x), y, patient)
    got = lenient["models"][1]["pooled"]
    np.testing.assert_allclose(list(numbers(got, "se").values()), want.bse, rtol=1e-8)
    assert strict["models"][1]["pooled"]["ecgs"] < got["ecgs"] == len(y)


def test_a_group_of_few_closes_the_models_with_it_and_nothing_of_it_leaves():
    data = hospitals((400, 400, 400))
    few = np.where(data["b"].patient < 3, 1.0, 0.0)
    data["b"] = replace(data["b"], columns=data["b"].columns | {"defibrillator": few})
    models = [{"name": "who", "terms": ["age", "male"]}, *TREATED["models"]]
    federation = Federation(study([{**TREATED, "models": models}]), data, DisclosureLimits())
    result = federation.run()["r"].result
    assert result["sites"]["b"]["closed"] == {
        "defibrillator": "too few patients in a group it forms",
        "lvef<=0.35:defibrillator": "too few patients in a group it forms",
    }
    assert [m["pooled"]["sites"] for m in result["models"]] == [["a", "b", "c"], ["a", "c"]]
    assert set(result["models"][1]["sites"]) == {"a", "c"}
    for site, phase, sent in federation.sent:
        if site == "b" and phase == "cohort":
            assert np.isnan(sent.total[[3, 4]]).all()
        if site == "b" and phase == "sums":
            assert np.isnan(sent.xx[3:]).all()
            assert np.isnan(sent.xx[:, 3:]).all()
            assert np.isnan(sent.xy[:, 3:]).all()
            assert np.isfinite(sent.xx[:3, :3]).all()


def test_fewer_patients_than_twice_the_numbers_take_no_part_and_no_count_tells_of_them():
    data = hospitals((300, 60, 300))
    result = run(PLAIN, data, DisclosureLimits())
    assert result["sites"]["b"]["reason"] == "too few patients for so many sums"
    assert result["sites"]["b"]["ecgs"] is None
    assert result["models"][0]["pooled"]["sites"] == ["a", "c"]
    with pytest.raises(RunError, match="fewer terms, models or outcomes"):
        run(PLAIN, hospitals((45, 45, 45)), DisclosureLimits())


def test_a_site_without_patient_ids_takes_no_part():
    data = hospitals()
    data["b"] = replace(data["b"], patients_known=False)
    result = run(PLAIN, data)
    assert result["sites"]["b"]["reason"] == "no patient ids, so that errors cannot be clustered"
    assert result["models"][0]["pooled"]["sites"] == ["a", "c"]


@pytest.mark.parametrize(("phase", "at"), [("errors", 0), ("newton", 2)])
def test_a_site_lost_on_the_way_is_left_out_of_all_of_the_fit(phase, at):
    data = hospitals()
    step = {**PLAIN, "methods": ["logistic"]}
    chosen = study([step], federation={"quorum": 1})
    result = Federation(chosen, data, gone={("b", phase, at)}).run()["r"].result
    got = result["models"][0]["pooled"]
    x, y, patient, *_ = stacked(data, sites="ac")
    want = fitted(sm.add_constant(x), y, patient, sm.Logit)
    assert got["sites"] == ["a", "c"]
    np.testing.assert_allclose(list(numbers(got).values()), want.params, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(list(numbers(got, "se").values()), want.bse, rtol=1e-6)
    assert result["absent"]["b"][phase] == "deadline"


def asked(federation, phase, site="a", **arrays):
    members = ("a", "b", "c")
    step = federation.study.step("r")
    q = len(step.terms)
    given = {
        "model": np.zeros(1),
        "outcome": np.zeros(1),
        "method": np.zeros(1),
        "effects": np.zeros(1),
        "mean": np.zeros(q),
        "scale": np.ones(q),
        "coef": np.zeros(q),
        "intercepts": np.zeros(len(members)),
        "bread": np.zeros((len(members), q + 1, q + 1)),
    }
    request = Request(federation.study.sha256, "run", "r", phase, 0, given | arrays)
    return room("client", "regress").PHASES[phase](federation.context("r", site), request)


def test_coefficients_that_single_one_patient_out_close_the_gate():
    data = hospitals()
    age = data["a"].age.copy()
    step = {**STEP, "models": [{"name": "one", "terms": ["age"]}]}
    federation = Federation(study([step]), data, DisclosureLimits())
    assert asked(federation, "errors").evidence["meat"].patients > 10
    one = float(np.sort(age)[0])
    # A residual that is a huge number for the youngest alone is not to be had with a line; a steep logit's is.
    logistic = Federation(study([{**step, "methods": ["logistic"]}]), data, DisclosureLimits())
    steep = {"coef": np.array([-4000.0]), "intercepts": np.full(3, 4000.0 * (one + 0.01))}
    assert asked(logistic, "newton", **steep).evidence["hessian"].patients < 10


def test_errors_are_told_at_few_coefficients_only():
    federation = Federation(study([{**STEP, "models": [{"name": "one", "terms": ["age"]}]}]), hospitals())
    for i in range(3):
        asked(federation, "errors", coef=np.array([0.01 * i]))
    asked(federation, "errors", coef=np.array([0.01]))
    with pytest.raises(Refused, match="spent"):
        asked(federation, "errors", coef=np.array([0.5]))


def test_a_second_cut_and_a_second_score_are_refused():
    steps = [
        {"id": "score", "stage": "calibrate", "target": "event", "inputs": ["age"]},
        {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": None, "top_share": 0.3},
        {**STEP, "uses": ["cut"], "models": [{"name": "one", "terms": ["age", "high_risk"]}]},
    ]
    federation = Federation(study(steps), hospitals())

    def ask(cutoff, slope=0.05):
        return asked(
            federation,
            "cohort",
            **{"score.coef": np.array([-4.0, slope]), "cut.cutoff": np.array([cutoff]), "cut.cut": np.array([cutoff])},
        )

    ask(0.2)
    ask(0.2)
    with pytest.raises(Refused, match="spent"):
        ask(0.21)
    with pytest.raises(Refused, match="spent"):
        ask(0.2, slope=0.051)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": "nothing"}, "outcome names nothing; allowed: event, sex"),
        (
            {"models": [{"name": "m", "terms": ["agee"]}]},
            "'agee' of term 'agee' is no column of the study; did you mean age",
        ),
        ({"models": [{"name": "m", "terms": ["a b"]}]}, "no column"),
        ({"models": [{"name": "m", "terms": ["age:"]}]}, "is no term"),
        ({"models": [{"name": "m", "terms": ["age:male:bmi"]}]}, "is no term"),
        ({"models": [{"name": "m", "terms": ["age", "age:male"]}]}, "'age:male' needs male as terms beside it"),
        ({"models": [{"name": "m", "terms": ["age", "male", "age:male", "male:age"]}]}, "twice"),
        ({"models": []}, "needs models, or defibrillator_study"),
        ({"models": [{"name": "m", "terms": ["high_risk"]}]}, "high_risk needs a threshold step"),
        ({"models": [{"name": "m", "terms": ["risk"]}]}, "must use a calibrate step"),
        ({"unknown_as_no": ["lvef"], "models": [{"name": "m", "terms": ["age"]}]}, "of no term"),
        ({"treatment": "defibrillator"}, "is in no product"),
        ({"defibrillator_study": True}, "brings its own models"),
        (
            {"methods": ["logistic"], "models": [{"name": "m", "terms": ["age"], "fixed_effects": ["month"]}]},
            r"methods: \[ols\]; logistic takes `site`",
        ),
    ],
)
def test_a_step_that_does_not_fit_is_refused_in_words(change, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        study([{**PLAIN, **change}])


def test_a_term_that_does_not_vary_or_follows_from_others_is_named():
    data = hospitals()
    models = [
        {"name": "flat", "terms": ["age", "bmi>=500"]},
        {"name": "double", "terms": ["lvef<=0.35", "lvef>0.35"]},
    ]
    result = run({**STEP, "models": models}, data)
    flat, double = (m["pooled"] for m in result["models"])
    assert flat["reason"] == "a term does not vary among these ECGs: bmi>=500"
    assert "collinear" in double["reason"]
    assert flat["coefficients"] == {}
    assert [s["reason"] for s in result["models"][0]["sites"].values()] == ["no finite coefficients fit best here"] * 3


def defibrillator_study(limits=UNGATED):
    """The preset on a score made beforehand, as calibrate and threshold leave it."""
    steps = [
        {"id": "score", "stage": "calibrate", "target": "event", "inputs": ["age", "bmi"]},
        {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": None, "top_share": 0.3},
        {**STEP, "uses": ["cut"], "outcome": ["event"], "defibrillator_study": True},
    ]
    coef, cutoff = np.array([-8.0, 0.05, 0.12]), np.array([0.2])
    artefacts = {
        "score": Artefact("score", "calibrate", None, {"coef": coef}),
        "cut": Artefact("cut", "threshold", None, {"cut_bin": np.zeros(1), "cutoff": cutoff}),
    }
    data = hospitals((600, 500, 550))
    result = Federation(study(steps), data, limits, artefacts=artefacts).run()["r"]
    for site, d in data.items():
        eta = coef[0] + coef[1] * d.age.astype(float) + coef[2] * d.covariates["bmi"].astype(float)
        high = np.where(1 / (1 + np.exp(-eta)) >= 0.2, 1.0, 0.0)
        high[np.isnan(eta)] = np.nan
        data[site] = replace(d, columns=d.columns | {"high_risk": high})
    return result, data


def test_the_defibrillator_study_is_the_published_table():
    made, data = defibrillator_study(DisclosureLimits())
    result = made.result
    low, device = "lvef<=0.35", "defibrillator"
    columns = {
        "ecg": ["age", "male", "high_risk", device, f"high_risk:{device}"],
        "lvef": ["age", "male", low, device, f"{low}:{device}"],
        "both": ["age", "male", "high_risk", device, f"high_risk:{device}", low, f"{low}:{device}"],
    }
    every = stacked(data, columns["both"])
    assert [m["name"] for m in result["models"]] == list(columns)
    for model in result["models"]:
        terms = columns[model["name"]]
        x = every[0][:, [columns["both"].index(t) for t in terms]]
        want = fitted(sm.add_constant(x), every[1], every[2])
        assert list(model["pooled"]["coefficients"]) == ["intercept", *terms]
        np.testing.assert_allclose(list(numbers(model["pooled"]).values()), want.params, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(list(numbers(model["pooled"], "se").values()), want.bse, rtol=1e-8)
        # As the paper has it: age and sex at their means, the other group's flag 0, both indicators added.
        for rate in model["pooled"]["rates"]:
            b = dict(zip(["intercept", *terms], want.params, strict=True))
            base = b["intercept"] + b["age"] * x[:, 0].mean() + b["male"] * x[:, 1].mean() + b[rate["group"]]
            assert rate["without"]["value"] == pytest.approx(base, rel=1e-8)
            assert rate["expected"]["value"] == pytest.approx(base + b[device], rel=1e-8)
            share = b[f"{rate['group']}:{device}"] / (base + b[device])
            assert rate["change"]["value"] == pytest.approx(share, rel=1e-8)
    assert [[r["group"] for r in m["pooled"]["rates"]] for m in result["models"]] == [
        ["high_risk"],
        [low],
        ["high_risk", low],
    ]
    assert result["cutoff"] == 0.2


def test_the_report_has_models_as_columns_in_words():
    made, _ = defibrillator_study()
    (section,) = report(typed(made), NO_LABELS)
    table = next(b for b in section.blocks if isinstance(b, Table) and "regression" in b.title)
    assert table.columns == ["", "(1) high-risk ECG", "(2) ejection fraction of 35% or less", "(3) both"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert {"Age, years", "Male", "High-risk ECG", "Defibrillator", "High-risk ECG × defibrillator"} <= set(rows)
    assert rows["Ejection fraction at most 35%"][0] == "-"
    assert " to " in rows["High-risk ECG × defibrillator"][0]
    assert "High-risk ECG: change by defibrillator" in rows
    assert any(isinstance(b, Forest) for b in section.blocks)
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_two_years_of_fixed_effects_would_tell_of_each_and_are_closed():
    data = hospitals((400, 400, 400))
    rng = np.random.default_rng(2)
    for site in "ab":
        few = np.where(rng.random(len(data[site].patient)) < 0.01, 2011.0, 2010.0)
        data[site] = replace(data[site], columns=data[site].columns | {"year": few})
    models = [
        {"name": "plain", "terms": ["age"]},
        {"name": "years", "terms": ["age"], "fixed_effects": ["year"]},
    ]
    federation = Federation(study([{**STEP, "models": models}]), data, DisclosureLimits())
    result = federation.run()["r"].result
    assert result["sites"]["a"]["closed"] == {"year": "too few periods with enough patients"}
    assert [m["pooled"]["sites"] for m in result["models"]] == [["a", "b", "c"], ["c"]]
    withheld = [(site, np.isnan(sent.xx).all()) for site, phase, sent in federation.sent if phase == "sums"]
    assert withheld[3:] == [("a", True), ("b", True), ("c", False)]


def test_sites_that_agree_are_put_together_and_their_spread_is_told():
    result = run(PLAIN)
    together = result["models"][0]["together"]["male"]
    assert together["random"]["low"] < together["random"]["value"] < together["random"]["high"]
    assert 0 <= together["heterogeneity"]["i2"] <= 1


def test_planted_interaction_is_covered_in_93_to_97_percent_of_cohorts():
    """400 cohorts of three hospitals of 900 patients, at the level of statistics."""
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(400):
        parts, whole = [], []
        for site in range(3):
            n = rng.integers(1, 4, 900)
            patient = np.repeat(np.arange(900), n)
            # Some patients are sicker than their columns tell, at all of their ECGs.
            high, device = ((rng.random(900) < p)[patient].astype(float) for p in (0.2, 0.2))
            age = rng.normal(size=900)[patient]
            p = 0.10 + 0.02 * age + 0.10 * high + 0.05 * device - 0.08 * high * device
            common = rng.random(900)[patient]
            y = (np.where(rng.random(len(p)) < 0.5, common, rng.random(len(p))) < p).astype(float)
            x = np.column_stack([age, high, device, high * device])
            parts += linear_sums(x, y[:, None], [])
            whole.append((x, y, patient + 10_000 * site))
        fit = solve(parts, ("age", "high", "device", "high:device"))
        x, y, patient = (np.concatenate(part) for part in zip(*whole, strict=True))
        residual = linear_residual(x, y, fit.coef, absorbed=False)
        influence = patient_scores(x, residual, patient) @ fit.bread.T
        square = (influence**2).sum(axis=0)
        se = np.sqrt(square * cr1(len(influence), len(y), fit.parameters))
        found = decided_estimate(fit.coef[4], se[4], deciding_patients(square, (influence**4).sum(axis=0))[4])
        covered.append(found.low <= -0.08 <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.97
