"""The federated Cox model against lifelines on pooled rows, and its sums against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from cox_oracle import differences, heavy_ties, lifelines_fit, pooled_frame, sites_of, untied
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.exceptions import StatisticalWarning

from ecgshared.errors import StatisticsError
from ecgshared.stats.cox import (
    CoxSums,
    RiskSums,
    coarsen,
    curvature,
    event_times,
    exact_sums,
    pooled_hazard,
    pooled_sums,
    prepare,
    risk_sums,
    stratified_sums,
)
from ecgshared.stats.cox_fit import CoxFit, Moments, Penalty, newton_fit
from ecgshared.stats.cox_proportional import transformed, trend_curvatures
from ecgshared.stats.cox_residuals import (
    baseline_cumulative_hazard,
    residual_terms,
    score_residuals,
)
from ecgshared.tables.fit import Options, fit_local, fit_sites

NAMES = ["x0", "x1", "x2", "x3"]


def by_definition(x, time, event, beta, ties):
    """Log-likelihood, gradient and Hessian of one stratum, death by death."""
    p = x.shape[1]
    value, gradient, hessian = 0.0, np.zeros(p), np.zeros((p, p))
    w = np.exp(x @ beta)
    for t in np.unique(time[event]):
        risk, dead = time >= t, (time == t) & event
        d = int(dead.sum())
        value += float((x[dead] @ beta).sum())
        gradient += x[dead].sum(axis=0)
        for j in range(d):
            f = j / d if ties == "efron" else 0.0
            weight = w * (risk - f * dead)
            mean = weight @ x / weight.sum()
            value -= np.log(weight.sum())
            gradient -= mean
            hessian += (x * weight[:, None]).T @ x / weight.sum() - np.outer(mean, mean)
    return value, gradient, hessian


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@given(
    seed=st.integers(0, 10_000), n=st.integers(3, 40), times=st.integers(1, 8), far=st.sampled_from([0.0, 1.0, 30.0])
)
@settings(max_examples=40, deadline=None)
def test_sums_equal_the_definition(ties, seed, n, times, far):
    rng = np.random.default_rng(seed)
    x, time = rng.normal(size=(n, 3)), rng.integers(0, times, n).astype(float)
    event, beta = rng.random(n) < 0.6, far * rng.normal(size=3)
    event[0] = True
    site = rng.integers(0, 3, n)
    value, gradient, hessian = by_definition(x, time, event, beta, ties)
    grid = event_times(time, event)
    parts = [prepare(x[site == s], time[site == s], event[site == s], grid=grid) for s in range(3)]
    for sums in (pooled_sums(parts, beta, ties), stratified_sums(prepare(x, time, event), beta, ties)):
        assert sums.log_likelihood == pytest.approx(value, rel=1e-10, abs=1e-10)
        np.testing.assert_allclose(sums.gradient, gradient, atol=1e-9)
        np.testing.assert_allclose(sums.hessian, hessian, atol=1e-9)
        assert sums.events == event.sum()


@pytest.mark.parametrize("mode", ["exact", "stratified"])
@pytest.mark.parametrize("penalizer", [0.0, 0.05])
def test_heavy_ties_equal_lifelines_on_pooled_rows(mode, penalizer):
    sites = heavy_ties()
    fitted = fit_sites(sites, NAMES, mode, Options(penalty=Penalty(penalizer)))
    oracle = lifelines_fit(sites, stratified=mode == "stratified", penalizer=penalizer)
    beta, errors, log_likelihood = differences(fitted.fit, oracle)
    assert beta < 1e-8
    assert errors < 1e-6
    assert log_likelihood < 1e-8
    if not penalizer:
        assert fitted.fit.log_likelihood_null == pytest.approx(oracle._ll_null_, abs=1e-8)


def test_one_pooled_baseline_is_not_one_a_site():
    """The two modes differ where the sites' hazards do, or the tests above could not tell them apart."""
    sites = heavy_ties()
    late = [
        sites[0],
        *(sites_of(s.x, s.time + 3 * i, s.event, np.full(len(s.time), i))[0] for i, s in enumerate(sites)),
    ]
    exact, stratified = (fit_sites(late[1:], NAMES, mode, Options()).fit.beta for mode in ("exact", "stratified"))
    assert np.abs(exact - stratified).max() > 0.01


@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_elastic_net_is_where_lifelines_smooth_one_tends(l1_ratio):
    """lifelines replaces |b| by a curve that sharpens by 1.3 at each of its rounds; given many rounds it arrives."""
    sites, penalizer = heavy_ties(), 0.06
    fitted = fit_sites(sites, NAMES, "exact", Options(penalty=Penalty(penalizer, l1_ratio)))
    oracle = lifelines_fit(
        sites, penalizer=penalizer, l1_ratio=l1_ratio, options={"precision": 1e-14, "r_precision": 1e-16}
    )
    np.testing.assert_allclose(fitted.fit.beta, oracle.params_, atol=1e-8)
    assert fitted.fit.log_likelihood - fitted.fit.penalty == pytest.approx(oracle.log_likelihood_, abs=1e-6)
    assert (fitted.fit.beta == 0).any()
    assert np.isnan(fitted.fit.standard_errors[fitted.fit.beta == 0]).all()


@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
def test_elastic_net_satisfies_its_optimality_conditions(l1_ratio):
    """Exact where lifelines is not: the gradient equals the penalty's subgradient."""
    sites, penalty = heavy_ties(), Penalty(0.08, l1_ratio)
    moments = Moments.total(Moments.of(s.x) for s in sites)
    rows = stacked(sites, moments)
    fit = newton_fit(lambda b: stratified_sums(rows, b), NAMES, moments.count, penalty=penalty)
    slope = stratified_sums(rows, fit.beta).gradient - penalty.ridge(moments.count) * fit.beta
    lasso = penalty.lasso(moments.count)
    moving = fit.beta != 0
    assert 0 < moving.sum() < 4
    np.testing.assert_allclose(slope[moving], lasso * np.sign(fit.beta[moving]), atol=1e-6)
    assert (np.abs(slope[~moving]) <= lasso).all()


def timed(site):
    return site.time, site.event


def stacked(sites, moments=None, x=None):
    columns = [np.concatenate([getattr(s, name) for s in sites]) for name in ("x", "time", "event")]
    if moments is not None:
        columns[0] = moments.standardise(columns[0])
    return prepare(*columns)


@pytest.mark.parametrize("mode", ["exact", "stratified"])
@pytest.mark.parametrize("clustered", [False, True])
def test_robust_errors_equal_lifelines_on_untied_times(mode, clustered):
    sites = (
        untied() if clustered else [sites_of(s.x, s.time, s.event, np.full(len(s.time), s.name))[0] for s in untied()]
    )
    fitted = fit_sites(sites, NAMES[:2], mode, Options(robust=True))
    more = {"cluster_col": "cluster"} if clustered else {"robust": True}
    oracle = lifelines_fit(sites, stratified=mode == "stratified", **more)
    beta, errors, _ = differences(fitted.fit, oracle)
    assert beta < 1e-8
    assert errors < 1e-6
    plain = fit_sites(sites, NAMES[:2], mode, Options()).fit.standard_errors
    assert np.abs(plain / fitted.fit.standard_errors - 1).max() > 0.01


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_score_residuals_with_ties_are_the_derivative_by_a_rows_weight(ties):
    """lifelines ignores ties here. Oracle: the residuals add up to the gradient, and under Breslow each is the
    derivative of the score's value by the weight of the row (Efron's fractions move with a weight, so there the sum and
    the definition by thinned risk sets)."""
    rng = np.random.default_rng(5)
    n = 60
    x, time, event = rng.normal(size=(n, 2)), rng.integers(1, 6, n).astype(float), rng.random(n) < 0.7
    beta = np.array([0.4, -0.2])
    rows = prepare(x, time, event)
    total = risk_sums(rows, beta, ties)
    residuals = np.zeros((n, 2))
    residuals[rows.row] = score_residuals(rows, beta, residual_terms(total, ties))
    np.testing.assert_allclose(residuals.sum(axis=0), stratified_sums(rows, beta, ties).gradient, atol=1e-12)
    expected = np.zeros((n, 2))
    w = np.exp(x @ beta)
    for t in np.unique(time[event]):
        dead = (time == t) & event
        d = int(dead.sum())
        for j in range(d):
            thinned = (time >= t) - (j / d if ties == "efron" else 0.0) * dead
            mean = (thinned * w) @ x / (thinned @ w)
            expected += dead[:, None] * (x - mean) / d - (thinned * w / (thinned @ w))[:, None] * (x - mean)
    np.testing.assert_allclose(residuals, expected, atol=1e-12)


def test_coefficients_that_the_lasso_drops_leave_the_others_errors_alone():
    """Robust errors and the test of proportional hazards of what is kept; nan for what is not."""
    sites = heavy_ties()
    fitted = fit_sites(sites, NAMES, "exact", Options(penalty=Penalty(0.06, 1.0), robust=True))
    kept = fitted.fit.beta != 0
    assert 0 < kept.sum() < 4
    for values in (fitted.fit.standard_errors, fitted.proportional.p_value[:-1]):
        assert (np.isfinite(values) == kept).all()
    only = [sites_of(s.x[:, kept], s.time, s.event, np.full(len(s.time), s.name))[0] for s in sites]
    alone = fit_sites(only, ["kept"] * int(kept.sum()), "exact", Options(penalty=Penalty(0.06, 1.0), robust=True))
    np.testing.assert_allclose(fitted.fit.standard_errors[kept], alone.fit.standard_errors, rtol=1e-8)
    np.testing.assert_allclose(fitted.proportional.p_value[:-1][kept], alone.proportional.p_value[:-1], rtol=1e-6)
    assert fitted.proportional.p_value[-1] == pytest.approx(alone.proportional.p_value[-1], rel=1e-6)


def test_weighted_rows_equal_lifelines():
    sites = heavy_ties(3, n=400)
    x, time, event = (np.concatenate([getattr(s, name) for s in sites]) for name in ("x", "time", "event"))
    weight = np.random.default_rng(0).uniform(0.5, 3.0, len(time))
    moments = Moments.of(x)
    rows = prepare(moments.standardise(x), time, event, weights=weight)
    fit = newton_fit(lambda b: stratified_sums(rows, b), NAMES, len(time)).unstandardised(moments)
    frame = pooled_frame(sites).assign(weight=weight)
    with pytest.warns(StatisticalWarning, match="weights are not integers"):
        oracle = CoxPHFitter().fit(frame, "T", "E", weights_col="weight", fit_options={"precision": 1e-22})
    assert np.abs(fit.beta - oracle.params_.to_numpy()).max() < 1e-8
    assert abs(fit.log_likelihood - oracle.log_likelihood_) < 1e-8


def test_crossing_hazards_are_found():
    rng = np.random.default_rng(0)
    n = 2000
    x = (rng.random(n) < 0.5).astype(float)
    time = np.where(x > 0, rng.weibull(3.0, n), rng.weibull(0.7, n))
    sites = sites_of(x[:, None], time, np.ones(n, dtype=bool), rng.integers(0, 3, n))
    assert fit_sites(sites, ["x"], "exact", Options()).proportional.p_value[0] < 1e-10


def test_baseline_hazard_equals_lifelines():
    sites = heavy_ties()
    fitted = fit_sites(sites, NAMES, "exact", Options())
    rows = stacked(sites, fitted.moments)
    total = risk_sums(rows, fitted.fit.beta * fitted.moments.sd)
    oracle = lifelines_fit(sites).baseline_cumulative_hazard_
    at_deaths = oracle.loc[rows.grid].to_numpy().ravel()
    np.testing.assert_allclose(baseline_cumulative_hazard(total, "breslow"), at_deaths, rtol=1e-8)
    assert (baseline_cumulative_hazard(total, "efron") > at_deaths).all()


def test_coarse_times_equal_lifelines_on_coarsened_times():
    sites = untied()
    edges = np.array([0.2, 0.5, 1.0, 2.0])
    fitted = fit_sites(sites, NAMES[:2], "exact", Options(grid=edges))
    coarse = [sites_of(s.x, *coarsen(s.time, s.event, edges), np.full(len(s.time), s.name))[0] for s in sites]
    beta, errors, log_likelihood = differences(fitted.fit, lifelines_fit(coarse))
    assert max(beta, errors, log_likelihood) < 1e-8


def test_coarsening_moves_up_and_censors_beyond_the_end():
    time, event = coarsen([0.0, 1.0, 1.1, 2.0, 2.5], [1, 1, 1, 1, 1], [1.0, 2.0])
    assert time.tolist() == [1, 1, 2, 2, 2]
    assert event.tolist() == [True, True, True, True, False]
    for edges in ([], [2.0, 1.0], [1.0, np.inf]):
        with pytest.raises(StatisticsError, match="grid"):
            coarsen([1.0], [1], edges)


def test_a_large_linear_predictor_stays_finite_and_tells_little():
    rng = np.random.default_rng(0)
    x, time, event = rng.normal(size=(50, 1)), rng.integers(1, 5, 50), rng.random(50) < 0.5
    grid = event_times(time, event)
    sums = [
        pooled_sums(
            [prepare(x[:25], time[:25], event[:25], grid=grid), prepare(x[25:], time[25:], event[25:], grid=grid)], b
        )
        for b in (np.array([900.0]), np.array([-900.0]))
    ]
    assert all(np.isfinite(s.log_likelihood) and np.isfinite(s.hessian).all() for s in sums)
    shifts = {risk_sums(prepare(x, time, event), np.array([b])).shift for b in (0.0, 1.0, 5.0, 15.0)}
    assert shifts == {0.0}


def test_site_sums_add_in_any_order():
    sites = heavy_ties(2, n=300)
    grid = event_times(*(np.concatenate([getattr(s, c) for s in sites]) for c in ("time", "event")))
    moments = Moments.total(Moments.of(s.x) for s in sites)
    parts = [risk_sums(prepare(moments.standardise(s.x), s.time, s.event, grid=grid), np.ones(4)) for s in sites]
    forth, back = RiskSums.total(parts), RiskSums.total(parts[::-1])
    np.testing.assert_allclose(forth.risk_wx, back.risk_wx, rtol=1e-12, atol=1e-12)
    assert (forth.at_risk == back.at_risk).all()
    assert forth.deaths.sum() == sum(s.event.sum() for s in sites)
    with pytest.raises(StatisticsError, match="different grids"):
        RiskSums.total([parts[0], risk_sums(prepare(sites[0].x[:, :2], *timed(sites[0]), grid=grid), np.zeros(2))])


def test_the_two_messages_of_a_round_give_the_one_process_sums():
    sites = heavy_ties(4, n=200)
    grid = event_times(*(np.concatenate([getattr(s, c) for s in sites]) for c in ("time", "event")))
    rows = [prepare((s.x - 60) / 20, s.time, s.event, grid=grid) for s in sites]
    beta = np.array([0.3, 0.1, -0.4, 0.2])
    total = RiskSums.total(risk_sums(r, beta) for r in rows)
    hazard = pooled_hazard(total, "efron")
    sums = exact_sums(total, sum(curvature(r, beta, hazard) for r in rows), beta, "efron")
    whole = pooled_sums(rows, beta)
    assert sums.log_likelihood == whole.log_likelihood
    np.testing.assert_array_equal(sums.hessian, whole.hessian)


def test_moments_combine_as_if_pooled():
    sites = heavy_ties()
    x = np.concatenate([s.x for s in sites])
    pooled, combined = Moments.of(x), Moments.total(Moments.of(s.x) for s in sites)
    np.testing.assert_allclose(combined.mean, pooled.mean, rtol=1e-13)
    np.testing.assert_allclose(combined.sd, x.std(axis=0, ddof=1), rtol=1e-12)
    constant = [Moments.of(np.full((n, 1), 0.1)) for n in (3, 7, 1)]
    assert Moments.total(constant).sd[0] == 0


@pytest.mark.parametrize("mode", ["exact", "stratified"])
def test_collinear_covariates_are_named(mode):
    sites = [
        sites_of(np.column_stack([s.x, 2 * s.x[:, 0] - 3 * s.x[:, 2]]), s.time, s.event, np.full(len(s.time), s.name))[
            0
        ]
        for s in heavy_ties()
    ]
    with pytest.raises(StatisticsError, match="collinear") as error:
        fit_sites(sites, [*NAMES, "sum"], mode, Options())
    assert error.value.value == "x0, x2, sum"
    assert fit_sites(sites, [*NAMES, "sum"], mode, Options(penalty=Penalty(0.01))).fit.converged


def separated(n: int, crossing: int) -> list:
    """Exposed people all die before the rest, but for so many ``crossing`` ones."""
    rng = np.random.default_rng(0)
    x = np.column_stack([np.arange(n) < n // 4, rng.normal(size=n)]).astype(float)
    time = np.where(x[:, 0] > 0, rng.uniform(0, 1, n), rng.uniform(2, 3, n))
    time[:crossing] = rng.uniform(4, 5, crossing)
    return sites_of(x, time, x[:, 0] + (rng.random(n) < 0.5) > 0, rng.integers(0, 3, n))


@pytest.mark.parametrize("mode", ["exact", "stratified"])
def test_separation_is_said_and_names_the_covariate(mode):
    with pytest.raises(StatisticsError, match="no finite coefficients fit best: exposed tell"):
        fit_sites(separated(200, 0), ["exposed", "age"], mode, Options())
    fitted = fit_sites(separated(200, 0), ["exposed", "age"], mode, Options(penalty=Penalty(0.1)))
    assert fitted.fit.converged


@pytest.mark.parametrize("crossing", [1, 2])
def test_nearly_separated_covariates_converge_to_lifelines(crossing):
    sites = separated(200, crossing)
    fitted = fit_sites(sites, ["exposed", "age"], "exact", Options())
    assert fitted.fit.beta[0] > 2
    beta, errors, log_likelihood = differences(fitted.fit, lifelines_fit(sites))
    assert max(beta, errors, log_likelihood) < 1e-8


def test_a_cap_on_rounds_is_kept_and_said():
    asked = []
    rows = stacked(heavy_ties(), Moments.total(Moments.of(s.x) for s in heavy_ties()))

    def ask(beta):
        asked.append(beta)
        return stratified_sums(rows, beta)

    fit = newton_fit(ask, NAMES, 1200, max_rounds=2)
    assert not fit.converged
    assert "did not converge in 2 rounds" in fit.message
    assert len(asked) == fit.rounds == 2
    with pytest.raises(StatisticsError, match="did not converge"):
        fit.require_converged()


def test_steps_are_halved_until_the_likelihood_rises():
    """One heavy-tailed covariate throws plain Newton over the top."""
    rng = np.random.default_rng(0)
    n = 400
    x = rng.standard_cauchy((n, 1))
    time, event = rng.exponential(np.exp(-0.05 * x[:, 0].clip(-40, 40))), np.ones(n, dtype=bool)
    rows = prepare((x - x.mean()) / x.std(), time, event)
    seen = []

    def ask(beta):
        seen.append(stratified_sums(rows, beta))
        return seen[-1]

    fit = newton_fit(ask, ["x"], n)
    assert fit.converged
    assert (np.diff([s.log_likelihood for s in seen]) < 0).any(), "no step went too far: the test tests nothing"
    assert abs(stratified_sums(rows, fit.beta).gradient[0]) < 1e-6


def test_bad_input_is_refused():
    good = {"x": np.ones((3, 1)), "time": np.arange(3.0), "event": np.array([1, 0, 1])}
    for change, match in (
        ({"time": np.arange(4.0)}, "differ in length"),
        ({"x": np.full((3, 1), np.nan)}, "missing, infinite"),
        ({"grid": np.array([0.5, 2.0])}, "between the common grid times"),
        ({"grid": np.zeros(0)}, "between the common grid times"),
        ({"weights": np.array([1.0, 0.0, 1.0])}, "not above 0"),
    ):
        arguments = good | change
        with pytest.raises(StatisticsError, match=match):
            prepare(arguments.pop("x"), arguments.pop("time"), arguments.pop("event"), **arguments)
    for penalizer, l1_ratio in ((-1.0, 0.0), (np.nan, 0.0), (1.0, 1.5)):
        with pytest.raises(StatisticsError, match="not valid"):
            Penalty(penalizer, l1_ratio)
    for empty in (CoxSums, RiskSums, Moments):
        with pytest.raises(StatisticsError, match="no site"):
            empty.total([])
    nobody = prepare(np.random.default_rng(0).normal(size=(5, 1)), np.arange(5.0), np.zeros(5))
    with pytest.raises(StatisticsError, match="nobody has the event"):
        newton_fit(lambda b: stratified_sums(nobody, b), ["x"], 5)


def test_no_covariates_give_the_null_model():
    fit = newton_fit(lambda b: stratified_sums(prepare(np.zeros((4, 0)), np.arange(4.0), np.ones(4)), b), [], 4)
    assert isinstance(fit, CoxFit)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(-np.log(24))


def test_local_fits_are_lifelines_own():
    site = heavy_ties()[-1]
    fit, said = fit_local(site, NAMES, Options())
    beta, errors, _ = differences(fit, lifelines_fit([site]))
    assert max(beta, errors) < 1e-6
    assert not said


def test_transformed_times_are_those_of_r():
    time, event = np.array([1.0, 1, 2, 3, 3]), np.array([1, 1, 1, 0, 1])
    assert transformed(time, event, "rank").tolist() == [1.5, 1.5, 3, 4.5, 4.5]
    np.testing.assert_allclose(transformed(time, event, "km"), [0, 0, 0.4, 0.6, 0.6])
    assert transformed(time, event, "identity").tolist() == time.tolist()
    np.testing.assert_allclose(transformed(time, event, "log"), np.log(time))
    with pytest.raises(StatisticsError, match="no logarithm"):
        transformed(time - 1, event, "log")


def test_schoenfeld_sums_of_a_fit_add_to_nothing():
    """At the fit, residuals sum to the gradient, which is 0."""
    sites = heavy_ties()
    moments = Moments.total(Moments.of(s.x) for s in sites)
    rows = stacked(sites, moments)
    fit = newton_fit(lambda b: stratified_sums(rows, b), NAMES, moments.count)
    terms = residual_terms(risk_sums(rows, fit.beta), "efron")
    sums = trend_curvatures(rows, fit.beta, terms.mean, terms.hazard, rows.grid)
    np.testing.assert_allclose(sums.score, 0, atol=1e-8)
    assert sums.deaths == fit.events
