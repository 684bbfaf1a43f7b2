"""regress over sites, through the gate, against statsmodels on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from federated_stages import UNGATED, Federation, site_data, study

from ecgshared.privacy.disclosure import DisclosureLimits

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
