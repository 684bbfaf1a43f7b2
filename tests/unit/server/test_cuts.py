"""Counts of several sites at shared cuts: bounds hold, exact where all answered, oracles for precision and benefit."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_curve

from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.control_bins import answered_cuts, control_bins
from ecgshared.stats.performance import rates_at_cuts
from ecgshared.stats.score_scale import LOWEST, Sketch, risk_of, score_of, sketch
from server.pooling.cuts import PooledCuts, SiteCuts, average_precision_bounds, evaluation_cuts, padded, site_cuts
from server.pooling.points import SiteRates, calibration_groups, points, roc


def released(score, y, limits, cuts):
    """What one site releases of its scores, and its exact rates; every ECG another patient's."""
    people, control = np.arange(len(y)), y == 0
    bins = control_bins(score[control], people[control], limits, cuts=cuts)
    known = answered_cuts(score, y, people, limits, bins=bins, cuts=cuts)
    above, rate, group = rates_at_cuts(score, risk_of(score), y, people, known)
    counts = site_cuts(bins.lower, bins.upper, bins.controls, known, above[:, 0])
    return counts, SiteRates(above[:, 1], rate, group)


def hospitals(seed, sites, n, rate=0.3):
    rng = np.random.default_rng(seed)
    ys = [(rng.random(n) < rate).astype(int) for _ in range(sites)]
    return [(np.round(rng.normal(size=n) + y - 1, 2), y) for y in ys]


def pooled(data, limits, shares=(0.1, 0.3)):
    sketches = [
        tuple(sketch(x[y == c], np.arange((y == c).sum()), 10, growing=c == 0) for c in (0, 1)) for x, y in data
    ]
    cuts = evaluation_cuts(sketches, shares)
    found = [released(x, y, limits, cuts) for x, y in data]
    counts = {str(i): c for i, (c, _) in enumerate(found) if c is not None}
    rates = {str(i): r for i, (c, r) in enumerate(found) if c is not None}
    asked = np.array(sorted({*cuts, LOWEST}, reverse=True))
    kept = [data[int(s)] for s in counts]
    return (PooledCuts(counts, asked) if counts else None), rates, kept


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(30, 400), st.sampled_from([0.08, 0.3, 0.6]))
@settings(max_examples=80, deadline=None)
def test_every_bound_holds_the_exact_value(seed, sites, n, rate):
    at, rates, kept = pooled(hospitals(seed, sites, n, rate), DisclosureLimits())
    if at is None:
        return
    score, y = (np.concatenate([d[i] for d in kept]) for i in (0, 1))
    likely, least, most = at.rate()
    for i, cut in enumerate(at.cuts):
        above = score >= cut
        assert at.cases[0][i] <= y[above].sum() <= at.cases[1][i]
        assert at.controls[0][i] <= (1 - y[above]).sum() <= at.controls[1][i]
        if above.any() and np.isfinite(likely[i]):
            assert np.nan_to_num(least[i]) - 1e-12 <= y[above].mean() <= np.nan_to_num(most[i], nan=1.0) + 1e-12
    exact = PooledCuts(at.sites, at.everywhere())
    assert exact.cuts[-1] == LOWEST
    np.testing.assert_array_equal(*exact.cases)
    np.testing.assert_array_equal(*exact.controls)
    if y.sum() > 0:
        low, high = average_precision_bounds(exact.cases[0], exact.controls)
        assert low - 1e-12 <= average_precision_score(y, score) <= high + 1e-12
    groups = calibration_groups(at, rates)
    assert sum(g["ecgs"] for g in groups) == len(y)
    assert sum(g["ecgs"] * g["observed"] for g in groups) == pytest.approx(y.sum())


def test_points_of_a_large_site_lie_on_its_roc_curve():
    ((score, y),) = data = hospitals(1, 1, 3000)
    at, _, _ = pooled(data, DisclosureLimits())
    found = roc(at)
    fpr, tpr, _ = roc_curve(y, score, drop_intermediate=False)
    assert len(found["fpr"]) > 8
    on_curve = {(round(a, 9), round(b, 9)) for a, b in zip(fpr, tpr, strict=True)}
    assert all((round(a, 9), round(b, 9)) in on_curve for a, b in zip(found["fpr"], found["tpr"], strict=True))
    assert found["fpr"] == found["fpr_low"] == found["fpr_high"]


def test_net_benefit_is_that_of_dcurves():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dcurves import dca
    data = hospitals(2, 3, 1500)
    at, rates, _ = pooled(data, DisclosureLimits(min_patients=1, min_events=0))
    score, y = (np.concatenate([d[i] for d in data]) for i in (0, 1))
    rows = [r for r in points(at, rates, {}) if 0 < r["cutoff"] < 1]
    assert len(rows) > 8
    table = pd.DataFrame({"event": y, "risk": risk_of(score)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = dca(table, "event", ["risk"], thresholds=[r["cutoff"] for r in rows])
    theirs = found[found.model == "risk"].sort_values("threshold").net_benefit.to_numpy()
    ours = [r["net_benefit"] for r in sorted(rows, key=lambda r: r["cutoff"])]
    # dcurves flags risks above the threshold, we those at it too: scores of two decimals meet no such tie here.
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_points_where_too_many_cases_may_lie_on_either_side_are_left_out():
    small = hospitals(3, 4, 45, rate=0.3)
    at, rates, _ = pooled(small, DisclosureLimits())
    known = points(at, rates, {})
    assert known[-1]["share"] == 1
    assert all(r["captured_high"] - r["captured_low"] <= 0.1 for r in known)
    assert len(known) < len(at.cuts)


def test_the_cut_that_halves_the_cases_comes_first_and_padding_asks_for_nothing():
    cases = Sketch(np.array([2.0, 1.0]), np.array([10.0, 10.0]), np.array([10, 10]))
    controls = Sketch(np.array([0.5, -1.0]), np.array([50.0, 50.0]), np.array([50, 50]))
    cuts = evaluation_cuts([(controls, cases)], (0.1,))
    assert 1.0 < cuts[0] < 2.0
    assert len(set(cuts)) == len(cuts)
    assert evaluation_cuts([], (0.1,)) == ()
    assert padded([(1.0, 2.0), ()]).tolist() == [[1.0, 2.0], [1024.0, 1024.0]]


def test_what_is_no_histogram_is_refused_and_what_was_withheld_is_none():
    (score, y), *_ = hospitals(4, 1, 300)
    good, _ = released(score, y, DisclosureLimits(), (-1.0,))
    assert len(good.cuts) == 2
    arrays = [good.bins.lower, good.bins.upper, good.bins.controls, good.cuts, good.cases]
    for i in range(5):
        withheld = [a.copy() for a in arrays]
        withheld[i][0] = np.nan
        assert site_cuts(*withheld) is None
    with pytest.raises(StatisticsError, match="everybody"):
        SiteCuts(good.bins, good.cuts[:-1], good.cases[:-1])
    with pytest.raises(StatisticsError, match="add up"):
        SiteCuts(good.bins, good.cuts, good.cases[::-1])
    inside = (good.bins.lower[-1] + good.bins.upper[-2]) / 2 - 1e-3
    with pytest.raises(StatisticsError, match="inside its bins"):
        SiteCuts(good.bins, np.array([inside, LOWEST]), np.array([1.0, good.n_cases]))
    with pytest.raises(StatisticsError, match="hold no counts"):
        SiteCuts(good.bins, good.cuts, good.cases + np.linspace(0.5, 0.5, len(good.cases)))
    assert score_of(risk_of(np.array([0.3])))[0] == pytest.approx(0.3)
