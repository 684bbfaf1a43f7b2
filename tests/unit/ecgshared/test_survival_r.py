"""Models of the tables against R: numbers of tests/oracles/survival.json, whose script stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cox_oracle import slow_zph
from survival_tables import SITES, patients, start_stop

from ecgshared.stats.cox_proportional import GLOBAL, transformed
from ecgshared.tables.fit import Fitted, Options, fit_sites
from ecgshared.tables.tables import SiteTable

R = json.loads((Path(__file__).parents[2] / "oracles" / "survival.json").read_text(encoding="utf-8"))
NAMES = ("age", "bmi", "sex[M]", "stage[2]", "stage[3]")
TERMS = {"age": [0], "bmi": [1], "sex": [2], "stage": [3, 4]}


def design(frame: pd.DataFrame) -> np.ndarray:
    columns = [frame["age"], frame["bmi"], frame["sex"] == "M", frame["stage"] == 2, frame["stage"] == 3]
    return np.column_stack(columns).astype(np.float64)


def tables(cause: int = 1, *, entry: bool = False, weight: bool = False) -> list[SiteTable]:
    """The patients dealt to their sites."""
    frame, found = patients(), []
    for site in SITES:
        mine = frame[frame["site"] == site]
        status = mine["status"].to_numpy()
        found.append(
            SiteTable(
                site,
                design(mine),
                mine["time"].to_numpy(float),
                status == cause,
                None,
                np.full(len(mine), ""),
                0,
                entry=mine["entry"].to_numpy(float) if entry else None,
                weight=mine["weight"].to_numpy(float) if weight else None,
                cause=np.where(status == 0, 0, np.where(status == cause, 1, 2)),
            )
        )
    return found


def moves(*, shared: bool = True) -> list[SiteTable]:
    """Rows between changes of a marker, dealt to their sites; a few patients are at two of them."""
    frame, found = start_stop(), []
    for site in SITES:
        mine = frame[frame["site"] == site]
        found.append(
            SiteTable(
                site,
                mine[["age", "marker"]].to_numpy(float),
                mine["stop"].to_numpy(float),
                mine["death"].to_numpy() == 1,
                mine["id"].to_numpy(np.int64),
                np.full(len(mine), ""),
                0,
                entry=mine["start"].to_numpy(float),
                patients_shared=shared,
            )
        )
    return found


def fit(kind: str, **options) -> Fitted:
    """The fit of that name in the R script."""
    if kind == "start_stop":
        return fit_sites(moves(), ("age", "marker"), "exact", Options(**options))
    mode = "stratified" if "stratified" in kind or kind == "breslow" else "exact"
    sites = tables(2 if kind == "cause2" else 1, entry="truncated" in kind, weight=kind == "weighted")
    ties = "breslow" if kind == "breslow" else "efron"
    return fit_sites(sites, NAMES, mode, Options(ties=ties, terms=TERMS, **options))


KINDS = ["exact", "stratified", "breslow", "truncated", "truncated_stratified", "weighted", "cause2", "start_stop"]


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_errors_and_likelihood_equal_r(kind):
    found = fit(kind).fit
    np.testing.assert_allclose(found.beta, R[f"{kind}.coef"], rtol=1e-6)
    np.testing.assert_allclose(found.standard_errors, R[f"{kind}.se"], rtol=1e-6)
    np.testing.assert_allclose([found.log_likelihood_null, found.log_likelihood], R[f"{kind}.loglik"], rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transform", ["km", "rank", "identity", "log"])
def test_proportional_hazards_equal_cox_zph(kind, transform):
    found = fit(kind, transform=transform).proportional
    np.testing.assert_allclose(found.statistic, R[f"{kind}.zph.{transform}"], rtol=1e-6)
    assert found.names[-1] == GLOBAL
    assert found.degrees[-1] == (2 if kind == "start_stop" else 5)


@pytest.mark.parametrize("kind", ["exact", "stratified"])
def test_the_slow_definition_is_cox_zph_too(kind):
    frame = patients()
    time, event = frame["time"].to_numpy(float), frame["status"].to_numpy() == 1
    strata = frame["site"].to_numpy() if kind == "stratified" else None
    beta = np.array(R[f"{kind}.coef"])
    each, together = slow_zph(design(frame), time, event, transformed(time, event, "identity"), beta, strata)
    np.testing.assert_allclose(each[:3], R[f"{kind}.zph.identity"][:3], rtol=1e-6)
    assert together == pytest.approx(R[f"{kind}.zph.identity"][-1], rel=1e-6)


def test_patients_at_two_sites_are_one_cluster():
    exact = fit_sites(moves(), ("age", "marker"), "exact", Options(robust=True)).fit
    np.testing.assert_allclose(exact.standard_errors, R["clustered.se"], rtol=1e-6)
    stratified = fit_sites(moves(), ("age", "marker"), "stratified", Options(robust=True)).fit
    np.testing.assert_allclose(stratified.beta, R["clustered_stratified.coef"], rtol=1e-6)
    np.testing.assert_allclose(stratified.standard_errors, R["clustered_stratified.se"], rtol=1e-6)
    apart = fit_sites(moves(shared=False), ("age", "marker"), "exact", Options(robust=True)).fit
    assert np.abs(apart.standard_errors / exact.standard_errors - 1).max() > 1e-4
