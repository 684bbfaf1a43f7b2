"""Noise in shares: that the sum has it, what is left where sites collude, and epsilon against the integral it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from ecgshared.errors import PrivacyError
from ecgshared.privacy.accounting import Spent, epsilon_spent
from ecgshared.privacy.distributed_noise import NoiseShares, gaussian_delta, gaussian_epsilon, noised
from ecgshared.privacy.fixed_point import EXACT, SHORT


def divergence(sigma: float, epsilon: float) -> float:
    """The hockey-stick divergence of N(1, sigma^2) from N(0, sigma^2), by quadrature: delta at epsilon."""
    one, none = stats.norm(1, sigma), stats.norm(0, sigma)
    crossing = sigma**2 * epsilon + 0.5
    found, _ = quad(lambda x: one.pdf(x) - np.exp(epsilon) * none.pdf(x), crossing, crossing + 40 * sigma, epsabs=1e-14)
    return float(found)


class TestEpsilon:
    @pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 20.0])
    @pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 3.0, 8.0])
    def test_delta_is_the_divergence(self, sigma, epsilon):
        assert gaussian_delta(sigma, epsilon) == pytest.approx(divergence(sigma, epsilon), rel=1e-6, abs=1e-13)

    @settings(max_examples=40, deadline=None)
    @given(st.floats(0.3, 50), st.floats(-9, -2))
    def test_epsilon_is_where_delta_is_met(self, sigma, log_delta):
        delta = 10.0**log_delta
        epsilon = gaussian_epsilon(sigma, delta)
        assert gaussian_delta(sigma, epsilon) <= delta * (1 + 1e-6)
        if epsilon > 0:
            assert gaussian_delta(sigma, 0.99 * epsilon) > delta

    def test_the_ledgers_accountant_never_says_less_for_the_same_release(self):
        for sigma in (0.7, 1.0, 4.0):
            told = epsilon_spent([Spent(sigma, 1.0, 1)], delta=1e-5)
            assert gaussian_epsilon(sigma, 1e-5) <= told <= 1.5 * gaussian_epsilon(sigma, 1e-5)


class TestShares:
    def test_the_sum_of_the_counted_sites_has_the_noise_asked_for(self):
        shares = NoiseShares.of(1.3, 2.0, threshold=6, colluding=2)
        assert shares.counted == 4
        words = [EXACT.encode(noised(np.zeros(20_000), shares, sites=10), 10) for _ in range(4)]
        total = EXACT.decode(np.sum(words, axis=0, dtype=np.uint64))
        assert total.std() == pytest.approx(2.6, rel=0.03)
        assert stats.kstest(total / 2.6, "norm").pvalue > 1e-3
        assert shares.left(4, 0, 1) == pytest.approx(1.3, rel=1e-5)

    def test_no_less_than_was_asked_for_however_many_numbers_are_rounded(self):
        for size in (1, 50, 10_000, 1_000_000):
            shares = NoiseShares.of(1.3, 2.0, threshold=6, colluding=2, size=size)
            assert 1.3 <= shares.left(6, 2, size) <= 1.32

    def test_what_holds_where_sites_are_lost_or_collude(self):
        shares = NoiseShares.of(1.0, 1.0, threshold=6, colluding=2)
        whole = shares.epsilon(10, 0, 50, 1e-5)
        assert whole < shares.epsilon(10, 2, 50, 1e-5) < shares.epsilon(6, 2, 50, 1e-5)
        # What was promised, at the fewest sites and the most that collude: one Gaussian of sigma 1.
        assert shares.epsilon(6, 2, 50, 1e-5) == pytest.approx(gaussian_epsilon(1.0, 1e-5), rel=1e-4)
        assert shares.epsilon(6, 3, 50, 1e-5) > gaussian_epsilon(1.0, 1e-5)
        assert np.isinf(shares.epsilon(6, 6, 50, 1e-5))
        assert shares.spent(10, 2, 50, sample_rate=0.1, steps=3) == Spent(shares.left(10, 2, 50), 0.1, 3)

    def test_the_noise_less_what_colluders_tell_is_that_of_the_others(self):
        shares = NoiseShares.of(1.0, 1.0, threshold=5, colluding=2, form=SHORT)
        own = [noised(np.zeros(30_000), shares, sites=5) for _ in range(5)]
        rest = sum(own) - own[0] - own[1]
        assert rest.std() == pytest.approx(shares.left(5, 2, 1), rel=0.03)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.floats(0.01, 100), st.sampled_from([EXACT, SHORT])
    )
    def test_numbers_and_noise_lie_on_one_grid_that_the_sum_holds(self, values, sigma, form):
        shares = NoiseShares(sigma, 1.0, 3, form)
        found = noised(np.array(values), shares, sites=3)
        assert np.array_equal(np.rint(found / shares.unit) * shares.unit, found)
        assert np.array_equal(form.decode(form.encode(found, 3)), found)
        assert shares.unit >= form.unit

    def test_a_patient_moves_a_sum_by_no_more_than_is_accounted_for(self):
        draw = np.random.default_rng(4)
        shares = NoiseShares(1.0, 0.5, 3, SHORT)
        base, patient = draw.normal(size=5000), draw.normal(size=5000)
        patient *= 0.5 / np.linalg.norm(patient)
        moved = np.linalg.norm(np.rint((base + patient) / shares.unit) - np.rint(base / shares.unit)) * shares.unit
        assert moved <= 0.5 + shares.unit * np.sqrt(5000)

    @pytest.mark.parametrize(
        ("values", "what"), [([np.nan], "grid"), ([np.inf], "grid"), ([1e300], "grid"), ([3e18], "grid")]
    )
    def test_what_does_not_fit_is_refused(self, values, what):
        with pytest.raises(PrivacyError, match=what):
            noised(np.array(values), NoiseShares(1.0, 1.0, 3), sites=3)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"noise_multiplier": 0.0},
            {"noise_multiplier": np.nan},
            {"max_norm": -1.0},
            {"max_norm": 1e-12, "form": SHORT},
            {"threshold": 2},
            {"colluding": 5},
            {"colluding": -1},
        ],
    )
    def test_shares_that_promise_nothing_are_refused(self, arguments):
        given = {"noise_multiplier": 1.0, "max_norm": 1.0, "threshold": 5, "colluding": 0} | arguments
        with pytest.raises(PrivacyError):
            NoiseShares.of(**given)

    def test_delta_must_be_one(self):
        with pytest.raises(PrivacyError):
            gaussian_epsilon(1.0, 0.0)
