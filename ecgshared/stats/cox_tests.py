"""Likelihood-ratio, score and Wald tests of a Cox model's coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from ecgshared.stats.cox_fit import CoxFit


@dataclass(frozen=True)
class Test:
    """A chi-squared test; nan where it is not defined."""

    __test__ = False  # no test of pytest's

    statistic: float
    degrees: int

    @property
    def p(self) -> float:
        """Its p-value."""
        return float(chi2.sf(self.statistic, self.degrees)) if self.degrees else np.nan


def overall_tests(fit: CoxFit) -> dict[str, Test]:
    """Return the tests that all coefficients are 0: likelihood ratio and score of a fit without a penalty, and Wald."""
    p = len(fit.beta)
    likelihood = np.nan if fit.penalty else 2 * (fit.log_likelihood - fit.log_likelihood_null)
    return {
        "likelihood_ratio": Test(likelihood, p),
        "score": Test(fit.score_test, p),
        "wald": wald(fit, [*range(p)]),
    }


def wald(fit: CoxFit, columns: Sequence[int]) -> Test:
    """Test that these coefficients are 0, with the fit's covariance (the robust one, where it has it)."""
    kept = [j for j in columns if np.isfinite(fit.covariance[j, j])]
    if not kept:
        return Test(np.nan, 0)
    beta = fit.beta[kept]
    return Test(float(beta @ np.linalg.solve(fit.covariance[np.ix_(kept, kept)], beta)), len(kept))
