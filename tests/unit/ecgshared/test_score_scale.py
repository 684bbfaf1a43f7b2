"""Scores of any width are told apart; a sketch names nobody; cuts lie near the quantile they are meant for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import StatisticsError
from ecgshared.stats.score_scale import (
    FINEST_LEVEL,
    cells,
    distinct_groups,
    grid_level,
    pooled_sketch,
    quantile_cut,
    risk_of,
    score_of,
    sketch,
)


def test_scores_are_logits_and_back_without_loss_where_floats_have_it():
    risk = np.array([1e-200, 1e-9, 0.01, 0.5, 0.99, 1 - 1e-12])
    np.testing.assert_allclose(risk_of(score_of(risk)), risk, rtol=1e-9)
    assert np.isfinite(score_of(np.array([0.0, 1.0]))).all()
    with pytest.raises(StatisticsError, match="outside"):
        score_of(np.array([1.2]))


@pytest.mark.parametrize(("centre", "spread"), [(-2.0, 0.003), (-16.0, 3.0), (0.0, 1.0), (-5.0, 1e-5)])
def test_the_grid_is_as_coarse_as_the_scores_allow(centre, spread):
    score = centre + spread * np.random.default_rng(0).normal(size=2000)
    level = grid_level(score, 10)
    _, counts = np.unique(cells(score, level), return_counts=True)
    blur = (counts * (counts - 1)).sum() / len(score) ** 2
    _, coarser = np.unique(cells(score, level - 1), return_counts=True)
    assert blur <= 0.1 * 10 / len(score)
    assert (coarser * (coarser - 1)).sum() / len(score) ** 2 > 0.1 * 10 / len(score)


def test_ties_are_no_reason_for_a_finer_grid():
    score = np.repeat([-1.0, 0.5], 500)
    assert grid_level(score, 10) < 3
    assert grid_level(np.array([0.3]), 10) == 0
    assert grid_level(0.1 + np.arange(100) * 1e-12, 10) <= FINEST_LEVEL


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 12), st.integers(1, 100))
@settings(max_examples=150, deadline=None)
def test_neighbouring_groups_hold_enough_distinct_members_and_lose_none(seed, n, least, people):
    rng = np.random.default_rng(seed)
    who, ends = rng.integers(0, people, n), rng.random(n) < 0.6
    ends[-1] = True
    starts, members = distinct_groups(who, least, ends)
    if len(starts) == 1:
        # A plain walk finds no group either.
        assert not any(len(set(who[: i + 1])) >= least for i in np.flatnonzero(ends))
        return
    assert (starts[0], starts[-1]) == (0, n)
    assert ends[starts[1:] - 1].all()
    for low, high, count in zip(starts[:-1], starts[1:], members, strict=True):
        assert len(set(who[low:high])) == count >= least


def test_a_sketch_is_of_ten_patients_or_more_and_pools_to_the_mean():
    rng = np.random.default_rng(1)
    patient = rng.integers(0, 700, 2000)
    score = rng.normal(size=2000)
    for growing in (True, False):
        found = sketch(score, patient, 10, growing=growing)
        assert (found.patients >= 10).all()
        assert found.ecgs.sum() == 2000
        assert abs(found.mean @ found.ecgs / 2000 - score.mean()) < 1e-12
        assert (np.diff(found.mean) < 0).all()
    assert len(sketch(score, patient, 10, growing=True).mean) < 45
    assert len(sketch(score[:9], np.arange(9), 10, growing=True).mean) == 0


@pytest.mark.parametrize("spread", [1.0, 1e-4])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.9])
def test_a_cut_leaves_about_the_share_above_it_and_is_a_grid_value(share, spread):
    rng = np.random.default_rng(2)
    sites = [spread * (rng.normal(size=4000) + shift) - 3 for shift in (0.0, 0.5)]
    cut = quantile_cut(*pooled_sketch([sketch(s, np.arange(4000), 10, growing=True) for s in sites]), share)
    above = np.mean(np.concatenate(sites) >= cut)
    assert share / 1.25 < above < share * 1.25
    assert cut * 2.0**FINEST_LEVEL == np.round(cut * 2.0**FINEST_LEVEL)
