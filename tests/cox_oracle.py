"""lifelines, converged as far as numbers go, as the oracle of the federated Cox model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter

from ecgshared.stats.cox_fit import CoxFit
from ecgshared.tables.tables import SiteTable

# lifelines stops at 1e-7 by default; this leaves only rounding.
CONVERGED = {"precision": 1e-22, "r_precision": 1e-300, "step_size": 1.0}


def sites_of(
    x: np.ndarray, time: np.ndarray, event: np.ndarray, site: np.ndarray, cluster: np.ndarray | None = None
) -> list[SiteTable]:
    """Rows dealt to sites; ``site`` shape = (n,)."""
    tables = []
    for name in np.unique(site):
        mine = site == name
        tables.append(
            SiteTable(
                str(name),
                x[mine],
                np.asarray(time[mine], dtype=float),
                np.asarray(event[mine], dtype=bool),
                None if cluster is None else cluster[mine],
                np.full(int(mine.sum()), ""),
                0,
            )
        )
    return tables


def lifelines_fit(
    sites: Sequence[SiteTable],
    *,
    stratified: bool = False,
    penalizer: float = 0.0,
    l1_ratio: float = 0.0,
    options: dict[str, float] | None = None,
    **more: object,
) -> CoxPHFitter:
    """Fit the sites' rows put together."""
    fitter = CoxPHFitter(penalizer=penalizer, l1_ratio=l1_ratio)
    strata = {"strata": ["site"]} if stratified else {}
    return fitter.fit(pooled_frame(sites, stratified), "T", "E", fit_options=options or CONVERGED, **strata, **more)


def pooled_frame(sites: Sequence[SiteTable], stratified: bool = False) -> pd.DataFrame:
    x = np.concatenate([s.x for s in sites])
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(x.shape[1])])
    frame["T"] = np.concatenate([s.time for s in sites])
    frame["E"] = np.concatenate([s.event for s in sites])
    if sites[0].cluster is not None:
        frame["cluster"] = [f"{s.name}-{c}" for s in sites for c in s.cluster]
    if stratified:
        frame["site"] = np.repeat([s.name for s in sites], [len(s.time) for s in sites])
    return frame


def differences(fit: CoxFit, oracle: CoxPHFitter) -> tuple[float, float, float]:
    """Largest differences of coefficients and standard errors, and that of the penalised log-likelihood."""
    return (
        float(np.abs(fit.beta - oracle.params_.to_numpy()).max()),
        float(np.abs(fit.standard_errors - oracle.standard_errors_.to_numpy()).max()),
        abs(fit.log_likelihood - fit.penalty - oracle.log_likelihood_),
    )


def heavy_ties(seed: int = 0, n: int = 1200, sites: int = 5) -> list[SiteTable]:
    """Synthetic rows at twelve distinct times, half censored, sites of unequal size and case mix."""
    rng = np.random.default_rng(seed)
    site = rng.choice(sites, n, p=np.arange(1, sites + 1) / np.arange(1, sites + 1).sum())
    x = np.column_stack([rng.normal(60, 12, n) + 3 * site, rng.random(n) < 0.4, rng.normal(size=n), rng.poisson(2, n)])
    risk = (x - x.mean(axis=0)) / x.std(axis=0) @ [0.6, -0.3, 0.2, 0.0]
    time = np.minimum(np.ceil(rng.exponential(8 / np.exp(risk))), 12)
    return sites_of(x, time, rng.random(n) < 0.5, site)


def untied(seed: int = 1, n: int = 700, sites: int = 3) -> list[SiteTable]:
    """Synthetic rows at distinct times; every patient has one to four of them."""
    rng = np.random.default_rng(seed)
    cluster = np.sort(rng.integers(0, n // 2, n))
    shared = rng.normal(size=n // 2)[cluster]
    x = np.column_stack([rng.normal(size=n) + shared, rng.random(n) < 0.3])
    time = rng.permutation(rng.exponential(1.0, n)) / np.exp(0.5 * x[:, 0] + 0.5 * shared)
    return sites_of(x, time, rng.random(n) < 0.6, cluster % sites, cluster.astype(np.int64))


def slow_zph(
    x: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    g: np.ndarray,
    beta: np.ndarray,
    strata: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The score test of x g(t) by its definition, one death after the other (Efron): chi-squared of each, of all.

    ``g``: shape = (n,), the transformed time of each row. Equal to R's cox.zph, see test_survival_r.py.
    """
    n, p = x.shape
    strata = np.zeros(n) if strata is None else strata
    score, information = np.zeros(2 * p), np.zeros((2 * p, 2 * p))
    centre = g[event].mean()
    for level in np.unique(strata):
        mine = strata == level
        for t in np.unique(time[mine & event]):
            risk, dead = np.flatnonzero(mine & (time >= t)), np.flatnonzero(mine & event & (time == t))
            at = g[dead[0]] - centre
            both = np.concatenate([np.eye(p), at * np.eye(p)])
            for i, death in enumerate(dead):
                weight = np.exp(x[risk] @ beta) * np.where(np.isin(risk, dead), 1 - i / len(dead), 1.0)
                mean = weight @ x[risk] / weight.sum()
                spread = (x[risk] - mean).T @ ((x[risk] - mean) * weight[:, None]) / weight.sum()
                score += both @ (x[death] - mean)
                information += both @ spread @ both.T
    score[:p] = 0

    def test(columns: list[int]) -> float:
        kept = [*range(p), *(p + j for j in columns)]
        u = score[kept]
        return float(u @ np.linalg.solve(information[np.ix_(kept, kept)], u))

    return np.array([test([j]) for j in range(p)]), test(list(range(p)))
