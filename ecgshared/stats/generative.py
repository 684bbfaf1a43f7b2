"""How alike made and real samples are: maximum mean discrepancy, precision and recall, nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from ecgshared.errors import StatisticsError

F64 = NDArray[np.float64]


def principal_axes(x: F64, axes: int) -> tuple[F64, F64]:
    """Return mean, shape (d,), and the first principal axes, shape (d, k), k at most ``axes``, of x (n, d)."""
    mean = x.mean(axis=0)
    _, _, rows = np.linalg.svd(x - mean, full_matrices=False)
    return mean, rows[:axes].T


def mmd2(a: F64, b: F64, bandwidth: float) -> float:
    """Return the unbiased squared maximum mean discrepancy of samples a (n, d) and b (m, d) (Gretton 2012, eq. 3).

    The kernel is exp(-|x - y|^2 / (2 bandwidth^2)). Two samples of one distribution give 0 on average, so that a
    negative value is no fault.

    Raises
    ------
    StatisticsError : a sample of fewer than two, or no bandwidth.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2 or not bandwidth > 0:
        raise StatisticsError("the discrepancy needs two of each and a bandwidth", value=(n, m, bandwidth))
    scale = -1 / (2 * bandwidth**2)
    within_a = 2 * np.exp(scale * pdist(a, "sqeuclidean")).sum() / (n * (n - 1))
    within_b = 2 * np.exp(scale * pdist(b, "sqeuclidean")).sum() / (m * (m - 1))
    return float(within_a + within_b - 2 * np.exp(scale * cdist(a, b, "sqeuclidean")).mean())


def median_distance(x: F64) -> float:
    """Return the median distance between two of x (n, d): the usual bandwidth."""
    return float(np.median(pdist(x)))


def precision_recall(real: F64, made: F64, neighbours: int = 5) -> tuple[float, float]:
    """Return the share of made samples inside the real manifold, and of real ones inside the made one.

    A manifold is the union of balls about its samples, each reaching to its k-th neighbour (Kynkaanniemi 2019,
    arXiv:1904.06991).

    Raises
    ------
    StatisticsError : a sample of ``neighbours`` or fewer.
    """
    if min(len(real), len(made)) <= neighbours:
        raise StatisticsError("too few samples for their neighbours", value=(len(real), len(made)))
    between = cdist(real, made)

    def reach(x: F64) -> F64:
        # The nearest of all is the sample itself.
        return np.asarray(np.partition(cdist(x, x), neighbours, axis=1)[:, neighbours])

    inside_real = (between <= reach(real)[:, None]).any(axis=0)
    inside_made = (between <= reach(made)[None, :]).any(axis=1)
    return float(inside_real.mean()), float(inside_made.mean())


def nearest(x: F64, among: F64) -> F64:
    """Return the distance of each of x (n, d) to its nearest of ``among`` (m, d), shape = (n,)."""
    out = np.empty(len(x))
    for start in range(0, len(x), 256):
        out[start : start + 256] = cdist(x[start : start + 256], among).min(axis=1)
    return out


def adjusted_r2(x: F64, y: F64) -> float:
    """Return the adjusted R^2 of the least-squares fit of y (n,) on x (n, p) with an intercept; NaN where n <= p + 1
    or y is constant."""
    n, p = x.shape
    spread = float(y.var(ddof=1)) if n > 1 else 0.0
    if n <= p + 1 or not spread > 0:
        return float("nan")
    design = np.column_stack([np.ones(n), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - residual @ residual / (n - p - 1) / spread)


def standardised_slopes(x: F64, y: F64) -> F64:
    """Return the slopes of the ridge-free least-squares fit of each column of y (n, F) on x (n, C), shape = (F, C).

    Rows of y that are not finite in a column are left out of that column's fit; NaN where too few are left.
    """
    slopes = np.full((y.shape[1], x.shape[1]), np.nan)
    for f in range(y.shape[1]):
        known = np.isfinite(y[:, f])
        if known.sum() > x.shape[1] + 1:
            design = np.column_stack([np.ones(int(known.sum())), x[known]])
            slopes[f] = np.linalg.lstsq(design, y[known, f], rcond=None)[0][1:]
    return slopes
