"""Fine and Gray's sums: those of sites add, scores sum to the gradient, censoring weights move as a bootstrap does."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.stats.cox import pooled_sums, prepare
from ecgshared.stats.fine_gray import (
    CensoringCurve,
    censoring_residuals,
    fine_gray_residuals,
    fine_gray_sums,
    subdistribution_rows,
    terms_of,
)
from ecgshared.tables.fit import Options
from ecgshared.tables.subdistribution import fit_subdistribution
from ecgshared.tables.tables import SiteTable


def follow(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    own, other = rng.exponential(5 / np.exp(0.6 * x[:, 0])), rng.exponential(6 / np.exp(0.4 * x[:, 1]))
    end = rng.uniform(1, 8, n)
    time = np.ceil(4 * np.minimum(np.minimum(own, other), end)) / 4
    return x, time, np.where(end <= np.minimum(own, other), 0, np.where(own < other, 1, 2))


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_sums_of_sites_are_those_of_the_pooled_rows(ties):
    x, time, cause = follow(1)
    curve, grid = CensoringCurve.of(time, cause), np.unique(time[cause == 1])
    site, beta = np.arange(200) % 3, np.array([0.4, -0.2])
    parts = [subdistribution_rows(x[site == s], time[site == s], cause[site == s], curve, grid) for s in range(3)]
    apart, whole = (
        fine_gray_sums(parts, beta, ties),
        fine_gray_sums([subdistribution_rows(x, time, cause, curve, grid)], beta, ties),
    )
    for name in ("log_likelihood", "gradient", "hessian", "events"):
        np.testing.assert_allclose(getattr(apart, name), getattr(whole, name), rtol=1e-10)


def test_without_competing_events_it_is_coxs_model():
    x, time, cause = follow(2)
    cause = np.where(cause == 2, 0, cause)
    grid, beta = np.unique(time[cause == 1]), np.array([0.3, 0.1])
    found = fine_gray_sums([subdistribution_rows(x, time, cause, CensoringCurve.of(time, cause), grid)], beta, "efron")
    expected = pooled_sums([prepare(x, time, cause == 1, grid=grid)], beta)
    np.testing.assert_allclose(found.hessian, expected.hessian, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-10)


def test_the_weights_are_those_of_the_definition():
    x, time, cause = follow(3, 60)
    curve, grid, beta = CensoringCurve.of(time, cause), np.unique(time[cause == 1]), np.array([0.5, -0.3])
    found = fine_gray_sums([subdistribution_rows(x, time, cause, curve, grid)], beta, "breslow")
    likelihood = 0.0
    for t in grid:
        reach, past = curve.before(np.array([t]))[0], curve.before(time)
        weight = np.where(time >= t, 1.0, np.where(cause == 2, reach / past, 0.0))
        dead = (time == t) & (cause == 1)
        likelihood += (x[dead] @ beta).sum() - dead.sum() * np.log(weight @ np.exp(x @ beta))
    assert found.log_likelihood == pytest.approx(likelihood, rel=1e-12)


def test_scores_of_all_rows_sum_to_the_gradient_and_the_censorings_share_to_nothing():
    x, time, cause = follow(4)
    curve, grid, beta = CensoringCurve.of(time, cause), np.unique(time[cause == 1]), np.array([0.5, -0.3])
    part = subdistribution_rows(x, time, cause, curve, grid)
    terms = terms_of([part], beta, "efron")
    score = fine_gray_residuals(part, beta, terms, len(time))
    np.testing.assert_allclose(score.sum(axis=0), fine_gray_sums([part], beta, "efron").gradient, atol=1e-9)
    moved = censoring_residuals([part], [time], [cause], curve, beta, [terms])[0]
    np.testing.assert_allclose(moved.sum(axis=0), 0, atol=1e-9)


def test_errors_are_those_of_a_bootstrap():
    x, time, cause = follow(5, 400)

    def fit(rows: np.ndarray):
        t = time[rows]
        table = SiteTable("a", x[rows], t, cause[rows] == 1, None, np.full(len(t), ""), 0, cause=cause[rows])
        return fit_subdistribution([table], ("a", "b"), "exact", Options(ties="breslow"), "pooled").fit

    rng = np.random.default_rng(0)
    draws = [fit(rng.integers(0, 400, 400)).beta for _ in range(150)]
    np.testing.assert_allclose(fit(np.arange(400)).standard_errors, np.std(draws, axis=0, ddof=1), rtol=0.15)
