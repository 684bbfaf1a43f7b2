"""How often intervals of a regression hold the truth, at hospitals of any size: pytest -m benchmark -s.

Measured (cohorts of three hospitals; share of intervals that hold the truth; "change" counts an unbounded interval as
holding it, and beside it the share that are bounded):

    patients each   high-risk   device   product   change
    45              0.972       0.974    0.978     0.930 (0.49)
    300             0.971       0.954    0.945     0.919 (0.94)
    3000            0.970       0.945    0.960     0.960 (0.98)
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from ecgshared.stats.regression import (
    cr1,
    decided_estimate,
    deciding_patients,
    group_rates,
    linear_residual,
    linear_sums,
    patient_scores,
    solve,
)

pytestmark = pytest.mark.benchmark
NAMES = ("age", "male", "high", "device", "high:device")
TRUTH = np.array([0.05 - 0.03, 0.0005, 0.01, 0.10, 0.03, -0.09])


def cohort(rng, patients, high, device):
    """Terms, outcome and patient of one hospital; a patient's ECGs share most of what decides the outcome."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n = len(patient)
    age, male = rng.normal(60, 10, patients)[patient], (rng.random(patients) < 0.5)[patient].astype(float)
    often = (rng.random(patients) < high)[patient]
    risky = np.where(rng.random(n) < 0.8, often, rng.random(n) < high).astype(float)
    has = (rng.random(patients) < device)[patient].astype(float)
    x = np.column_stack([age, male, risky, has, risky * has])
    chance = TRUTH[0] + x @ TRUTH[1:]
    latent = np.sqrt(0.6) * rng.normal(size=patients)[patient] + np.sqrt(0.4) * rng.normal(size=n)
    return x, (norm.cdf(latent) < chance).astype(float), patient


@pytest.mark.parametrize(
    ("patients", "high", "device", "cohorts"), [(45, 0.3, 0.3, 2000), (300, 0.15, 0.15, 1000), (3000, 0.05, 0.08, 200)]
)
def test_intervals_hold_the_truth(patients, high, device, cohorts):
    rng = np.random.default_rng(0)
    held, change, bounded = [], [], 0
    for _ in range(cohorts):
        sites = [cohort(rng, patients, high, device) for _ in range(3)]
        x, y = (np.concatenate([site[i] for site in sites]) for i in (0, 1))
        patient = np.concatenate([site[2] + 100_000 * i for i, site in enumerate(sites)])
        fit = solve([linear_sums(a, b[:, None], [])[0] for a, b, _ in sites], NAMES)
        influence = patient_scores(x, linear_residual(x, y, fit.coef, absorbed=False), patient) @ fit.bread.T
        covariance = influence.T @ influence * cr1(len(influence), len(y), fit.parameters)
        deciding = deciding_patients((influence**2).sum(axis=0), (influence**4).sum(axis=0))
        found = [decided_estimate(*of) for of in zip(fit.coef, np.sqrt(np.diag(covariance)), deciding, strict=True)]
        held.append([not (e.high < truth or e.low > truth) for e, truth in zip(found, TRUTH, strict=True)][3:])
        at = np.array([1.0, 60.0, 0.5, 1.0, 1.0, 0.0])
        without = np.array([1.0, 60.0, 0.5, 1.0, 0.0, 0.0])
        rates = group_rates(
            fit.coef, covariance, deciding[5], without=without, expected=at, product=5, logistic=False
        ).change
        change.append(not (rates.high < TRUTH[5] / (at @ TRUTH) or rates.low > TRUTH[5] / (at @ TRUTH)))
        bounded += bool(np.isfinite(rates.low))
    risky, has, product = np.mean(held, axis=0)
    print(f"\n{patients:5d} {risky:.3f} {has:.3f} {product:.3f} {np.mean(change):.3f} ({bounded / cohorts:.2f})")
    assert 0.93 <= product <= 0.985
    assert min(risky, has) >= 0.92
    assert np.mean(change) >= 0.90
