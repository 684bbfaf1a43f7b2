"""Gray's test: without competing events it is the log-rank test, and where groups are alike it rejects as it says."""

from __future__ import annotations

import numpy as np
import pytest

from ecgshared.errors import StatisticsError
from ecgshared.stats.gray import gray_test
from ecgshared.stats.kaplan_meier import LogRank, log_rank


def follow(rng: np.random.Generator, n: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    own, other, end = rng.exponential(8, n), rng.exponential(10, n), rng.uniform(1, 8, n)
    first = np.minimum(np.minimum(own, other), end)
    cause = np.where(end == first, 0, np.where(own == first, 1, 2))
    return np.ceil(6 * first) / 6, cause, rng.integers(0, groups, n)


def test_without_competing_events_its_score_is_the_log_ranks() -> None:
    time, cause, group = follow(np.random.default_rng(1), 300, 3)
    cause = np.where(cause == 2, 0, cause)
    found, plain = gray_test(time, cause, group, 3), log_rank(time, cause == 1, group, 3)
    np.testing.assert_allclose(found.expected, plain.expected, rtol=1e-12)
    assert found.statistic == pytest.approx(plain.statistic, rel=0.05)


def test_sums_of_sites_add_and_the_order_of_groups_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    parts = [follow(rng, 80, 3) for _ in range(3)]
    together = LogRank.total(gray_test(*part, 3) for part in parts)
    turned = LogRank.total(gray_test(time, cause, 2 - group, 3) for time, cause, group in parts)
    assert together.degrees == 2
    assert together.statistic == pytest.approx(turned.statistic, rel=1e-9)
    np.testing.assert_allclose(together.covariance.sum(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize(("sites", "patients"), [(3, 45), (1, 300)])
def test_where_groups_are_alike_it_rejects_one_in_twenty(sites: int, patients: int) -> None:
    rng, draws = np.random.default_rng(3), 300
    rejected = 0
    for _ in range(draws):
        rejected += LogRank.total(gray_test(*follow(rng, patients, 2), 2) for _ in range(sites)).p < 0.05
    assert 0.02 * draws <= rejected <= 0.085 * draws


def test_nobody_and_unknown_causes_are_refused() -> None:
    with pytest.raises(StatisticsError, match="nobody"):
        gray_test(np.zeros(0), np.zeros(0, dtype=int), np.zeros(0, dtype=int), 2)
    with pytest.raises(StatisticsError, match="0, 1 or 2"):
        gray_test(np.array([1.0]), np.array([3]), np.array([0]), 2)
