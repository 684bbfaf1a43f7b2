"""Estimates of several sites put together: fixed and random effects, and how far the sites differ.

Fixed effect: inverse-variance weights. Random effects: variance between sites by restricted maximum likelihood
(Viechtbauer 2005, doi 10.3102/10769986030003261), interval by Student's t of Hartung & Knapp 2001 (doi
10.1002/sim.1009), never narrower than the normal one of the same weights: where a few sites agree by chance it would
all but vanish. Prediction interval for a site that is not among these, from three sites on: the variance between sites
is drawn from what the data leave open (the pivot of Viechtbauer 2007, doi 10.1002/sim.2514, as a generalised one), as
plugging in one value covers 0.86 to 0.93. I2 of Higgins & Thompson 2002 (doi 10.1002/sim.1186).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import chi2, norm, t

from ecgshared.arrays import Bools, Floats
from ecgshared.stats.influence import CONFIDENCE, UNDEFINED, Estimate, estimate

FEWEST_TO_PREDICT = 3
"""Sites below which nothing is said of a further one."""


@dataclass(frozen=True)
class MetaAnalysis:
    """K estimates put together.

    Attributes
    ----------
    fixed, random : pooled estimates; the random one allows for true differences between sites.
    random_p : two-sided chance of so large a random-effects estimate were there no effect; goes with its interval.
    prediction : (low, high): 95% interval for the true value at another site; NaN below ``FEWEST_TO_PREDICT`` sites.
    q : Cochran's Q; p its chance were all sites alike, NaN for one site. i2 : share of the spread that is not chance.
    tau2 : variance of the true effects between sites.
    used : bool array, shape of the estimates given: False for a site without an estimate or without an error. An error
        of 0 is none: a constant score has it, and it would outweigh every other site.
    """

    fixed: Estimate
    random: Estimate
    random_p: float
    prediction: tuple[float, float]
    q: float
    p: float
    i2: float
    tau2: float
    used: Bools

    @property
    def sites(self) -> int:
        """K: the sites that are in it."""
        return int(self.used.sum())


def meta_analysis(values: NDArray[Any], errors: NDArray[Any]) -> MetaAnalysis:
    """Combine estimates and their standard errors, shape = (K,); a site without either is left out (see ``used``)."""
    values, errors = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    used = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    values, errors = values[used], errors[used]
    nobody = (np.nan, np.nan)
    if not len(values):
        return MetaAnalysis(UNDEFINED, UNDEFINED, np.nan, nobody, np.nan, np.nan, np.nan, np.nan, used)
    weight = errors**-2.0
    total = float(weight.sum())
    centre = float(weight @ values) / total
    fixed = estimate(centre, 1 / total, "identity")
    if len(values) == 1:
        p = 2 * float(norm.sf(abs(fixed.value) / fixed.se))
        return MetaAnalysis(fixed, fixed, p, nobody, 0.0, np.nan, np.nan, np.nan, used)
    q, freedom = float(weight @ (values - centre) ** 2), len(values) - 1
    tau2 = _reml(values, errors**2)
    (random, random_p), prediction = _hartung_knapp(values, errors**2, tau2), _prediction(values, errors**2)
    i2 = max(0.0, (q - freedom) / q) if q > 0 else 0.0
    return MetaAnalysis(fixed, random, random_p, prediction, q, float(chi2.sf(q, freedom)), i2, tau2, used)


def _hartung_knapp(values: Floats, variances: Floats, tau2: float) -> tuple[Estimate, float]:
    """Return the estimate and its p-value."""
    weight = 1 / (variances + tau2)
    total, freedom = float(weight.sum()), len(values) - 1
    centre = float(weight @ values) / total
    se = float(np.sqrt(weight @ (values - centre) ** 2 / freedom / total))
    upper = 0.5 + CONFIDENCE / 2
    half = max(float(t.ppf(upper, freedom)) * se, float(norm.ppf(upper)) / np.sqrt(total))
    size = abs(centre)
    p = max(2 * float(t.sf(size / se, freedom)) if se > 0 else 0.0, 2 * float(norm.sf(size * np.sqrt(total))))
    return Estimate(centre, se, centre - half, centre + half), p


def _prediction(values: Floats, variances: Floats, draws: int = 200) -> tuple[float, float]:
    """Return the 95% interval for the true value at another site."""
    if len(values) < FEWEST_TO_PREDICT:
        return np.nan, np.nan
    unit = float(variances.mean())
    grid = unit * np.append(0.0, np.exp(np.linspace(-8, np.log1p(float(np.ptp(values)) ** 2 / unit) + 9, 200)))
    weight = 1 / (variances + grid[:, None])
    centre = weight @ values / weight.sum(axis=1)
    spread = (weight * (values - centre[:, None]) ** 2).sum(axis=1)
    # At the true variance this falling function is chi-squared: its quantiles give those of the variance.
    share = (np.arange(draws) + 0.5) / draws
    tau2 = np.interp(chi2.ppf(share, len(values) - 1), spread[::-1], grid[::-1])
    weight = 1 / (variances + tau2[:, None])
    centre, sd = weight @ values / weight.sum(axis=1), np.sqrt(tau2 + 1 / weight.sum(axis=1))
    far = float(np.abs(centre).max() + 40 * sd.max())
    low, high = (
        brentq(lambda x, p=p: float(norm.cdf((x - centre) / sd).mean()) - p, -far, far)
        for p in (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
    )
    return float(low), float(high)


def _reml(values: Floats, variances: Floats) -> float:
    """Return the variance between sites at which the restricted likelihood is highest; 0 where that is 0."""
    unit = float(variances.mean())
    # The likelihood may have two tops: the best of a grid, 0 among it, is where the search begins.
    top = np.log1p(float(np.ptp(values)) ** 2 / unit) + 3.0
    grid = unit * np.concatenate([[0.0], np.exp(np.linspace(-14.0, top, 80))])
    best = int(np.argmin(_restricted(values, variances, grid)))
    if best == 0:
        return 0.0
    bounds = (float(grid[best - 1]), float(grid[min(best + 1, len(grid) - 1)]))
    found = minimize_scalar(
        lambda tau2: float(_restricted(values, variances, np.array([tau2]))[0]),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-10 * unit},
    )
    return float(found.x)


def _restricted(values: Floats, variances: Floats, tau2: Floats) -> Floats:
    """Minus twice the restricted log-likelihood at each of ``tau2``, shape = (m,), without its constant."""
    weight = 1 / (variances + tau2[:, None])
    total = weight.sum(axis=1)
    centre = weight @ values / total
    spread = (weight * (values - centre[:, None]) ** 2).sum(axis=1)
    return np.asarray(np.log(total) - np.log(weight).sum(axis=1) + spread, dtype=np.float64)
