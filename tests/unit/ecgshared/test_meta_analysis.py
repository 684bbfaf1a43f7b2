"""Several sites' estimates put together: against metafor and statsmodels, and what the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from ecgshared.stats.meta_analysis import meta_analysis

# tau2, estimate, Hartung and Knapp's error, their interval: tests/oracles/meta_analysis.R
METAFOR = [
    (
        [0.42, 0.10, 0.71],
        [0.12, 0.20, 0.15],
        [0.0554418579, 0.4297777684, 0.1689630516, -0.2972115666, 1.1567671035],
    ),
    (
        [-0.31, 0.05, 0.22, 0.40, 0.18],
        [0.10, 0.30, 0.08, 0.25, 0.15],
        [0.0597532689, 0.0827999459, 0.1234379657, -0.2599187898, 0.4255186815],
    ),
]


@pytest.mark.parametrize(("values", "errors", "expected"), METAFOR)
def test_random_effects_equal_metafor(values, errors, expected):
    found = meta_analysis(values, errors)
    random = found.random
    np.testing.assert_allclose([found.tau2, random.value, random.se, random.low, random.high], expected, atol=1e-6)


def test_fixed_effect_and_heterogeneity_equal_statsmodels():
    values, errors = (np.array(part) for part in METAFOR[1][:2])
    found, expected = meta_analysis(values, errors), combine_effects(values, errors**2, method_re="chi2")
    assert found.fixed.value == pytest.approx(expected.mean_effect_fe, rel=1e-12)
    assert found.fixed.se == pytest.approx(expected.sd_eff_w_fe, rel=1e-12)
    assert found.q == pytest.approx(expected.q, rel=1e-12)
    assert found.i2 == pytest.approx(max(expected.i2, 0), abs=1e-12)


def test_sites_that_agree_by_chance_have_the_normal_interval():
    """metafor's own interval here is 0.189 to 0.222, from errors of 0.10 to 0.20."""
    found = meta_analysis([0.20, 0.21, 0.19, 0.22], [0.10, 0.12, 0.20, 0.15])
    assert found.tau2 == 0
    assert found.random.value == pytest.approx(0.2055813953, abs=1e-9)
    assert found.random.se == pytest.approx(0.0052536183, abs=1e-9)
    assert (found.random.low, found.random.high) == pytest.approx((found.fixed.low, found.fixed.high))


def test_one_site_has_no_heterogeneity_and_silent_or_certain_sites_are_left_out():
    one = meta_analysis([0.4, np.nan, 0.5, 0.6], [0.1, 0.2, 0.0, np.nan])
    assert one.used.tolist() == [True, False, False, False]
    assert (one.sites, one.fixed.value, one.fixed.se) == (1, pytest.approx(0.4), pytest.approx(0.1))
    assert np.isnan([one.p, one.tau2, *one.prediction]).all()
    assert meta_analysis([np.nan, 0.5], [0.1, 0.0]).sites == 0


@pytest.mark.parametrize(("sites", "sd"), [(3, 0.4), (6, 0.15)])
def test_intervals_hold_the_truth(sites, sd):
    """A small draw of benchmarks/test_meta_coverage.py; DerSimonian and Laird's hold it in 0.79 to 0.98."""
    mean, another = coverage(sites, sd, draws=250)
    assert 0.90 <= mean <= 1.0
    assert 0.90 <= another <= 1.0


def coverage(sites: int, sd: float, draws: int, seed: int = 1) -> tuple[float, float]:
    """How often the intervals of the mean and of another site's value hold them; errors from 0.1 to 0.4."""
    rng = np.random.default_rng(seed)
    held = np.zeros((draws, 2))
    for i in range(draws):
        errors = np.exp(rng.uniform(np.log(0.1), np.log(0.4), sites))
        found = meta_analysis(sd * rng.normal(size=sites) + errors * rng.normal(size=sites), errors)
        held[i, 0] = found.random.low < 0 < found.random.high
        held[i, 1] = found.prediction[0] < sd * rng.normal() < found.prediction[1]
    mean, another = held.mean(axis=0)
    return float(mean), float(another)
