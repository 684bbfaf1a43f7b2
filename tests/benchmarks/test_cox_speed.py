"""Time and memory of the exact federated Cox fit beside lifelines on pooled rows: 10 sites, 32 covariates."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np
import pytest

SITES, COVARIATES, ROWS_PER_SITE = 10, 32, 50_000


def rows(per_site: int, days: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ten years of follow-up, 20% with the event, times in whole days or all distinct."""
    rng = np.random.default_rng(0)
    n = SITES * per_site
    x = rng.normal(size=(n, COVARIATES))
    hazard = 0.025 * np.exp(x @ np.linspace(-0.2, 0.2, COVARIATES))
    follow_up = rng.uniform(0.5, 10.0, n)
    onset = rng.exponential(1 / hazard)
    years, event = np.minimum(onset, follow_up), onset <= follow_up
    return x, np.ceil(years * 365.25) if days else years, event, np.arange(n) % SITES


def ours(per_site: int, days: bool) -> tuple[float, np.ndarray]:
    from ecgshared.tables.fit import Options, fit_sites
    from ecgshared.tables.tables import SiteTable

    x, at, event, site = rows(per_site, days)
    sites = [
        SiteTable(str(s), x[site == s], at[site == s], event[site == s], None, np.full(per_site, ""), 0)
        for s in range(SITES)
    ]
    start = time.perf_counter()
    fitted = fit_sites(sites, [f"x{j}" for j in range(COVARIATES)], "exact", Options())
    return time.perf_counter() - start, fitted.fit.beta


def lifelines(per_site: int, days: bool) -> tuple[float, np.ndarray]:
    import pandas as pd
    from lifelines import CoxPHFitter

    x, at, event, _ = rows(per_site, days)
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(COVARIATES)]).assign(T=at, E=event)
    start = time.perf_counter()
    fitter = CoxPHFitter().fit(frame, "T", "E")
    return time.perf_counter() - start, fitter.params_.to_numpy()


def alone(
    work: Callable[[int, bool], tuple[float, np.ndarray]], per_site: int, days: bool
) -> tuple[float, float, np.ndarray]:
    """Seconds, peak memory above that of the rows in GiB, and coefficients, from a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before = pool.apply(_peak_of_rows, (per_site, days))
        seconds, beta = pool.apply(work, (per_site, days))
        return seconds, pool.apply(_peak) - before, beta


def _peak_of_rows(per_site: int, days: bool) -> float:
    rows(per_site, days)
    return _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_exact_fit_of_ten_sites_beside_lifelines_pooled():
    print(f"\nexact Cox fit, {SITES} sites, {COVARIATES} covariates, 20% events; seconds, peak GiB above the rows")
    for days in (True, False):
        for per_site in (ROWS_PER_SITE // 4, ROWS_PER_SITE // 2, ROWS_PER_SITE):
            seconds, memory, beta = alone(ours, per_site, days)
            theirs, their_memory, expected = alone(lifelines, per_site, days)
            print(
                f"  {SITES} x {per_site:6d} rows, {'whole days' if days else 'distinct  '}: {seconds:6.2f} s "
                f"({1e6 * seconds / (SITES * per_site):.1f} us a row), {memory:.2f} GiB; lifelines {theirs:6.2f} s, "
                f"{their_memory:.2f} GiB; ours takes {seconds / theirs:.2f} x"
            )
            # lifelines at its own tolerance.
            np.testing.assert_allclose(beta, expected, atol=1e-6)
