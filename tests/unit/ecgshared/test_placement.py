"""The pooled AUC from one sum a site: exact inside its bounds, its error that of DeLong, no curve that singles out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ecgshared.errors import StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.control_bins import ControlBins, control_bins
from ecgshared.stats.influence import clustered_auc
from ecgshared.stats.placement import AucTotals, ControlCurve, isolates, place, pooled_curve
from ecgshared.stats.roc import auc
from ecgshared.stats.score_scale import HIGHEST, LOWEST

UNGATED = DisclosureLimits(min_patients=1, min_events=0)


def hospitals(seed, sites, n, *, spread=1.0, centre=-2.0, rate=0.3, ecgs=1):
    rng = np.random.default_rng(seed)
    found = []
    for s in range(sites):
        patient = np.repeat(np.arange(n), rng.integers(1, ecgs + 1, n))
        y = (rng.random(n) < rate)[patient].astype(int)
        score = centre + spread * np.round(rng.normal(size=n)[patient] + rng.normal(size=len(patient)) + y + 0.2 * s, 3)
        found.append((score, y, patient))
    return found


def placed(data, limits):
    bins = [control_bins(x[y == 0], p[y == 0], limits) for x, y, p in data]
    curve = pooled_curve(bins)
    cases = np.sort(np.concatenate([x[y == 1] for x, y, _ in data]))
    return [place(x, y, p, b, curve, cases, np.ones(len(cases))) for (x, y, p), b in zip(data, bins, strict=True)]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 4),
    st.integers(40, 250),
    st.integers(1, 12),
    st.sampled_from([0.002, 1, 5]),
)
@settings(max_examples=100, deadline=None)
def test_bounds_always_hold_the_exact_pooled_auc(seed, sites, n, least, spread):
    data = hospitals(seed, sites, n, spread=spread, ecgs=2)
    if any(len(np.unique(p[y == 0])) < least or not y.any() for _, y, p in data):
        return
    parts = placed(data, DisclosureLimits(min_patients=least, min_events=1))
    score, y = (np.concatenate([d[i] for d in data]) for i in (0, 1))
    low, high = sum(p.pairs for p in parts) / y.sum() / (y == 0).sum()
    assert low - 1e-12 <= auc(score, y) <= high + 1e-12


@pytest.mark.parametrize(("spread", "centre"), [(0.003, -2.0), (3.0, -16.0), (1.0, 0.0)])
def test_the_width_of_the_bounds_is_that_of_one_bin_whatever_the_scale(spread, centre):
    data = hospitals(3, 3, 2000, spread=spread, centre=centre)
    parts = placed(data, DisclosureLimits())
    score, y = (np.concatenate([d[i] for d in data]) for i in (0, 1))
    low, high = sum(p.pairs for p in parts) / y.sum() / (y == 0).sum()
    assert low <= roc_auc_score(y, score) <= high
    assert high - low < 0.01


@pytest.mark.parametrize("ecgs", [1, 4])
def test_without_limits_value_and_error_are_those_of_the_pooled_data(ecgs):
    data = hospitals(4, 3, 150, ecgs=ecgs)
    parts = placed(data, UNGATED)
    score, y = (np.concatenate([d[i] for d in data]) for i in (0, 1))
    patient = np.concatenate([p + 1000 * i for i, (_, _, p) in enumerate(data)])
    low, high = sum(p.pairs for p in parts) / y.sum() / (y == 0).sum()
    pooled = clustered_auc(score, y, patient)
    assert abs(low - pooled.value) < 1e-12 or low < pooled.value
    assert high - low < 1e-3
    found = AucTotals.total(p.sums for p in parts).variance(pooled.value, y.sum(), (y == 0).sum())
    assert found.variance**0.5 == pytest.approx(pooled.se, rel=2e-3)


def test_a_crafted_step_is_refused_and_the_honest_curve_is_not():
    rng = np.random.default_rng(0)
    people, one = np.arange(12), np.zeros(12, dtype=np.int64)
    refused = 0
    for _ in range(300):
        case, control = np.sort(rng.normal(1.5, 1, 12)), np.sort(rng.normal(0, 1, 500))
        others = np.sort(rng.normal(0.3, 1.2, 2000))
        honest = np.searchsorted(control, case) / 500
        halves = (people >= 6).astype(np.int64)
        refused += isolates(np.searchsorted(others, case) / 2000, honest, people, one, 5)
        refused += isolates(np.searchsorted(others, case) / 2000, honest, people, halves, 5)
    assert refused <= 6
    climbing = np.linspace(0, 1, 12)
    for k in (1, 2, 4):
        for step in (people >= 12 - k, people >= k):
            assert isolates(step.astype(float), climbing, people, one, 5)
            # A second step, at a cut whose count is known, hides nothing.
            known = (people >= 6).astype(np.int64)
            assert isolates(0.5 * step + 0.45 * known, climbing, people, known, 5)
            # Nor do small steps beside a large one: the sum is exact, and has room for several digits.
            assert isolates(0.9 * step + 0.005 * climbing, climbing, people, one, 5)
    # Five on a side are as many as a count above a cut needs.
    assert not isolates((people >= 7).astype(float), climbing, people, one, 5)
    # Several ECGs of one patient are one patient.
    first, who = np.array([1.0] * 6 + [0.0] * 12), np.repeat([0, *range(1, 13)], [6] + [1] * 12)
    assert isolates(first, np.linspace(0, 1, 18), who, np.zeros(18, dtype=np.int64), 5)


def test_a_curve_without_the_sites_own_controls_is_refused():
    (x, y, p), other = hospitals(5, 2, 100)
    own = control_bins(x[y == 0], p[y == 0], DisclosureLimits())
    foreign = pooled_curve([control_bins(other[0][other[1] == 0], other[2][other[1] == 0], DisclosureLimits())])
    with pytest.raises(StatisticsError, match="own controls"):
        place(x, y, p, own, foreign, np.zeros(1), np.ones(1))


@pytest.mark.parametrize(
    ("lower", "by_lower"), [([0.0, 1.0], [2.0, 1.0]), ([1.0, 0.0], [1.0, 2.0]), ([0.0], [1.0, 2.0]), ([0.0], [-1.0])]
)
def test_what_is_no_curve_is_refused(lower, by_lower):
    good = np.array([0.0]), np.array([1.0])
    with pytest.raises(StatisticsError):
        ControlCurve(np.array(lower), np.array(by_lower), *good)


def test_a_score_at_an_edge_is_uncertain_and_one_beyond_is_not():
    bins = ControlBins(np.array([LOWEST, 0.0]), np.array([0.0, HIGHEST]), np.array([10.0, 12.0]), np.zeros(2, np.int64))
    low, high = pooled_curve([bins]).below(np.array([-0.1, 0.0, 5.0]))
    assert low.tolist() == [0.0, 10.0, 10.0]
    assert high.tolist() == [10.0, 22.0, 22.0]
