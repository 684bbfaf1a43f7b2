"""The pooled AUC of small hospitals, in little: bias, bounds and coverage; the whole table is a benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from pooled_designs import LIMITS, Design, draws, evaluated, scored, table_row

from server.pooling.evaluation import pooled_json


@pytest.mark.parametrize("design", [Design(0.02, 10, 500), Design(0.006, 3, 2000)], ids=str)
def test_bias_bounds_and_coverage_where_there_is_a_pooled_value(design):
    n = 30
    pooled, within = table_row(design, n)
    assert pooled.shown > 0.9
    assert abs(pooled.bias) < 0.005
    assert pooled.width < 0.02
    # Thirty draws of 95% fall below 24 once in ten thousand times.
    assert pooled.coverage >= 0.8
    assert within.coverage >= 0.8


def test_hospitals_too_small_for_a_pooled_value_have_the_auc_within_sites():
    n = 80
    pooled, within = table_row(Design(0.5, 3, 45), n)
    assert pooled.shown == 0
    assert within.shown == 1
    assert abs(within.bias) < 0.005
    assert 0.87 <= within.coverage <= 1


def test_a_site_with_too_few_events_takes_no_part_and_a_constant_score_is_one_half():
    rng = np.random.default_rng(0)
    good = Design(0.1, 2, 400).draw(rng)
    y = np.array([1] * 4 + [0] * 300)
    found = evaluated([*good, scored(rng.normal(size=304), y)])
    assert found is not None
    assert set(found.head.sites) == {"0", "1"}
    flat = [scored(np.zeros(len(h.y)), h.y) for h in good]
    constant = evaluated(flat)
    assert constant is not None
    assert constant.within.value == 0.5
    assert constant.bounds.low <= 0.5 <= constant.bounds.high
    # Ties of other sites may lie either side, as far as their bins tell.
    assert np.isnan(constant.auc.value)


def test_one_site_alone_shows_its_own():
    for found in draws(Design(0.3, 1, 60), 5):
        assert found is not None
        assert found.bounds.low == found.bounds.high == found.auc.value == pytest.approx(found.exact, abs=1e-12)
        assert found.placements == {}


def test_no_site_may_release_anything():
    assert evaluated(Design(0.5, 3, 12).draw(np.random.default_rng(0)), LIMITS) is None


def test_a_group_in_which_one_withholds_its_sum_of_risks_is_pooled_without_a_ratio() -> None:
    """A few high risks carry a small hospital's sum: it leaves no such sum, and the others' AUC is pooled all the
    same."""
    rng, without = np.random.default_rng(5), 0
    for _ in range(40):
        logits = -3.4 + 1.5 * rng.normal(size=(3, 45))
        found = evaluated([scored(x, (rng.random(45) < 1 / (1 + np.exp(-x))).astype(np.int64)) for x in logits])
        if found is None or len(found.head.sites) < 2 or np.isfinite(found.head.expected_over_observed):
            continue
        without += 1
        told = pooled_json(found.head, found.placements, ())
        assert told["expected_over_observed"].value is None
        assert told["auc"]["bound_low"] is not None
    assert without > 0
