"""Estimates of several sites put together: fixed and random effects, and how far the sites differ.

Inverse-variance weights; between-site variance of DerSimonian & Laird 1986 (doi 10.1016/0197-2456(86)90046-2); I2 of
Higgins & Thompson 2002 (doi 10.1002/sim.1186).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ecgshared.errors import StatisticsError
from ecgshared.stats.influence import UNDEFINED, Estimate, estimate


@dataclass(frozen=True)
class MetaAnalysis:
    """K estimates put together.

    Attributes
    ----------
    fixed, random : pooled estimates; the random one allows for true differences between sites.
    q : Cochran's Q; p its chance were all sites alike, NaN for one site. i2 : share of the spread that is not chance.
    tau2 : variance of the true effects between sites.
    sites : K.
    """

    fixed: Estimate
    random: Estimate
    q: float
    p: float
    i2: float
    tau2: float
    sites: int


def meta_analysis(values: NDArray[Any], errors: NDArray[Any]) -> MetaAnalysis:
    """Combine estimates and their standard errors, shape = (K,); a site without either is left out.

    Raises
    ------
    StatisticsError : a standard error is not positive.
    """
    values, errors = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    known = np.isfinite(values) & np.isfinite(errors)
    values, errors = values[known], errors[known]
    if not len(values):
        return MetaAnalysis(UNDEFINED, UNDEFINED, np.nan, np.nan, np.nan, np.nan, 0)
    if (errors <= 0).any():
        raise StatisticsError("a standard error must be positive", value=float(errors.min()))
    weight = errors**-2.0
    total = float(weight.sum())
    centre = float(weight @ values) / total
    fixed = estimate(centre, 1 / total, "identity")
    if len(values) == 1:
        return MetaAnalysis(fixed, fixed, 0.0, np.nan, np.nan, np.nan, 1)
    q, freedom = float(weight @ (values - centre) ** 2), len(values) - 1
    tau2 = max(0.0, (q - freedom) / (total - float(weight @ weight) / total))
    wide = 1 / (errors**2 + tau2)
    random = estimate(float(wide @ values) / float(wide.sum()), 1 / float(wide.sum()), "identity")
    i2 = max(0.0, (q - freedom) / q) if q > 0 else 0.0
    return MetaAnalysis(fixed, random, q, float(chi2.sf(q, freedom)), i2, tau2, len(values))
