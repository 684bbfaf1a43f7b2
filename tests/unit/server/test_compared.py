"""Paired differences of AUC over hospitals: intervals that hold where one of them carries the error, and their P."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import Compared
from ecgshared.stats.discrimination import auc_difference
from ecgshared.stats.roc import auc
from server.pooling.compared import pooled_difference, site_difference

FIRST, SECOND = 1.5, 1.0
TRUTH = float(norm.cdf(FIRST / np.sqrt(2)) - norm.cdf(SECOND / np.sqrt(2)))


def reply(rng: np.random.Generator, patients: int, events: int) -> Compared:
    """One hospital's answer on two binormal scores that share half of their noise."""
    y = np.arange(patients) < events
    shared, own, other = rng.normal(size=(3, patients))
    scores = [(shared + noise) / np.sqrt(2) + d * y for noise, d in ((own, FIRST), (other, SECOND))]
    difference = auc_difference(*scores, y, np.arange(patients)).as_array()
    counts: Floats = np.array([patients, patients, events, events], dtype=np.float64)
    return Compared(counts[None, None], np.array([[[auc(s, y) for s in scores]]]), np.asarray(difference)[None, None])


@pytest.mark.parametrize(
    "sizes", [[(45, 5), (45, 5), (45, 5)], [(2000, 10), (30, 5), (30, 5)]], ids=["three of 45", "one carries it all"]
)
def test_the_pooled_interval_holds_though_hospitals_weigh_unequally(sizes):
    rng, n, held = np.random.default_rng(3), 300, 0
    for _ in range(n):
        found = pooled_difference([reply(rng, *size) for size in sizes], 0, 0)["difference"]
        held += found.low <= TRUTH <= found.high
    # Of 300 draws of 95%, fewer than 273 hold once in a thousand times.
    assert held >= 273


def test_a_hospital_that_carries_the_error_carries_its_degrees_of_freedom():
    """Ten events of the one that matters, not the twenty of all: that interval held 907 times in 1000."""
    counts = [[100_000, 100_000, 10, 10], [30, 30, 5, 5], [30, 30, 5, 5]]
    replies = [
        Compared(np.array([[c]], float), np.array([[[0.8, 0.7]]]), np.array([[[0.1, 0.05, np.nan, np.nan]]]))
        for c in counts
    ]
    difference = pooled_difference(replies, 0, 0)["difference"]
    assert (difference.high - difference.value) / difference.se == pytest.approx(t.ppf(0.975, 9), rel=1e-3)


def test_p_and_interval_say_the_same():
    rng = np.random.default_rng(4)
    near = 0
    for _ in range(200):
        replies = [reply(rng, 200, 12), reply(rng, 60, 10)]
        for told in (pooled_difference(replies, 0, 0), site_difference(replies[1], 0, 0)):
            difference = told["difference"]
            assert (told["p"] < 0.05) == (difference.low > 0 or difference.high < 0)
            near += 0.04 < told["p"] < 0.06
    assert near > 2
