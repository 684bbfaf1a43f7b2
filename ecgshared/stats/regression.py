"""Linear regression from summed products, with errors clustered by patient; exact over sites.

X'X, X'y and y'y of sites add, and so does the middle of the sandwich, the sum over patients of the outer product of a
patient's summed scores, as no patient is at two sites (Liang & Zeger 1986, doi 10.1093/biomet/73.1.13). The factor for
small samples is CR1, (G / (G - 1)) ((N - 1) / (N - K)), as statsmodels' ``cov_type="cluster"`` has it.

Fixed effects are absorbed where the ECGs are (Frisch & Waugh 1933, doi 10.2307/1907330): a site subtracts from every
column what the site's own levels explain, so that a level is one of THAT site and no count by level leaves. The
intercept is then that of the average ECG, which is the same linear combination of the dummies' coefficients.

Intervals: of a coefficient that few patients decide, CR1's error is too small, and is itself known to few degrees of
freedom. With psi a patient's influence, (sum of psi^2)^2 / sum of psi^4 patients decide it (Kish 1965); with k of them
the error is widened by sqrt(k / (k - 1)) and the quantile is Student's t with k - 1 degrees, as in
:mod:`ecgshared.stats.few_events`. With very many it is the normal interval of the CR1 error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import t

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import StatisticsError
from ecgshared.stats.influence import CONFIDENCE, UNDEFINED, Estimate, by_patient

FEWEST_PATIENTS = 2.0
"""Patients who decide a coefficient below which it stands without an interval. A higher bound would show intervals
where chance brought many events, and those miss the truth: the number follows from the outcome."""


@dataclass(frozen=True)
class LinearSums:
    """Sums of one site over its ECGs, of columns x, shape = (n, p), and one outcome.

    ``xx`` (p, p), ``xy`` (p,) and ``yy`` are of columns from which levels were subtracted, where there are any;
    ``total`` (p,) and ``y_total`` are of those as they are. ``absorbed``: levels' parameters, 0 without fixed effects.
    """

    ecgs: float
    total: Floats
    xx: Floats
    y_total: float
    xy: Floats
    yy: float
    absorbed: float = 0.0


@dataclass(frozen=True)
class LinearFit:
    """Least squares.

    Attributes
    ----------
    coef : float array, shape = (p + 1,), intercept first.
    bread : float array, shape = (p + 1, p + 1): from a patient's scores (:func:`patient_scores`) to its influence on
        ``coef``.
    r2 : share of the outcome's variance explained, by levels too.
    parameters : K of the small-sample factor.
    """

    coef: Floats
    bread: Floats
    r2: float
    ecgs: float
    parameters: float


def absorb(values: Floats, levels: Sequence[Ints]) -> tuple[Floats, int]:
    """Subtract what levels explain.

    Parameters
    ----------
    values : float array, shape = (n, k). levels : int array each, shape = (n,); none: nothing is subtracted.

    Returns
    -------
    What is left, shape = (n, k), and the parameters it took.
    """
    if not levels:
        return values, 0
    dummies = np.concatenate([(level[:, None] == np.unique(level)).astype(np.float64) for level in levels], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(dummies, values, rcond=None)
    return np.asarray(values - dummies @ solution, dtype=np.float64), int(rank)


def linear_sums(x: Floats, y: Floats, levels: Sequence[Ints]) -> list[LinearSums]:
    """Return the sums of one site, one for each outcome; x of shape (n, p), y of shape (n, O), levels as absorbed."""
    p = x.shape[1]
    within, absorbed = absorb(np.column_stack([x, y]), levels)
    inner, outcomes = within[:, :p], within[:, p:]
    xx, total = inner.T @ inner, x.sum(axis=0)
    return [
        LinearSums(
            ecgs=float(len(x)),
            total=total,
            xx=xx,
            y_total=float(y[:, o].sum()),
            xy=inner.T @ outcomes[:, o],
            yy=float(outcomes[:, o] @ outcomes[:, o]),
            absorbed=float(absorbed),
        )
        for o in range(y.shape[1])
    ]


def to_terms(mean: Floats, scale: Floats) -> Floats:
    """Return the matrix from coefficients of (x - mean) / scale to those of x, the intercept first; shape = (p + 1,
    p + 1)."""
    turn = np.diag(np.concatenate([[1.0], 1.0 / scale]))
    turn[0, 1:] = -mean / scale
    return turn


def solve(sites: Sequence[LinearSums], names: Sequence[str]) -> LinearFit:
    """Fit over sites, all of them with fixed effects or none; ``names`` of the columns, to say which is at fault.

    Raises
    ------
    StatisticsError : a column does not vary or is collinear with others, the columns give the outcome exactly, or there
        are no more ECGs than parameters.
    """
    n, y = sum(s.ecgs for s in sites), sum(s.y_total for s in sites)
    total, xx, xy = (np.sum([getattr(s, name) for s in sites], axis=0) for name in ("total", "xx", "xy"))
    absorbed, p = sum(s.absorbed for s in sites), len(names)
    mean = total / n
    # With levels, x less its levels' part has mean 0: the grand mean is added back.
    inner, product = (xx + n * np.outer(mean, mean), xy + mean * y) if absorbed else (xx, xy)
    _require_full_rank(inner - n * np.outer(mean, mean), np.diag(inner), names)
    normal = np.block([[np.array([[n]]), total[None]], [total[:, None], inner]])
    coef = np.linalg.solve(normal, np.concatenate([[y], product]))
    shift = np.eye(p + 1)
    if absorbed:
        shift[1:, 0] = mean
    parameters = p + (absorbed or 1.0)
    if n <= parameters:
        raise StatisticsError("there are no more ECGs than parameters", value=f"{n:g} and {parameters:g}")
    yy, b = sum(s.yy for s in sites), coef[1:]
    centred, cross = (xx, xy) if absorbed else (xx - n * np.outer(mean, mean), xy - mean * y)
    within = yy if absorbed else yy - y * y / n
    # Of a 0/1 outcome the sum of squares is its sum.
    around = y - y * y / n
    left = within - 2 * b @ cross + b @ centred @ b
    if left <= 1e-12 * around:
        raise StatisticsError("the terms give the outcome exactly")
    return LinearFit(coef, np.linalg.inv(normal) @ shift, 1 - left / around if around > 0 else np.nan, n, parameters)


def _require_full_rank(centred: Floats, size: Floats, names: Sequence[str]) -> None:
    spread = np.diag(centred)
    flat = spread <= 1e-12 * np.maximum(size, 1e-300)
    if flat.any():
        raise StatisticsError("a term does not vary among these ECGs", value=names[int(np.argmax(flat))])
    scale = np.sqrt(spread)
    values, vectors = np.linalg.eigh(centred / np.outer(scale, scale))
    if values[0] < 1e-11:
        involved = [names[int(i)] for i in np.flatnonzero(np.abs(vectors[:, 0]) > 0.1)]
        raise StatisticsError("terms are collinear among these ECGs", value=", ".join(involved))


def patient_scores(x: Floats, residual: Floats, patient: Ints) -> Floats:
    """Return each patient's sum of (1, x) times residual, shape = (patients, p + 1); x of shape = (n, p)."""
    return by_patient(np.column_stack([np.ones(len(x)), x]) * residual[:, None], patient)


def linear_residual(x: Floats, y: Floats, coef: Floats, *, absorbed: bool) -> Floats:
    """Return y - x b, shape = (n,); with levels subtracted from both there is no intercept."""
    return np.asarray(y - x @ coef[1:] - (0.0 if absorbed else coef[0]), dtype=np.float64)


def cr1(patients: float, ecgs: float, parameters: float) -> float:
    """Return the small-sample factor of a clustered covariance; NaN for one patient or no ECG to spare."""
    if patients < 2 or ecgs <= parameters:
        return np.nan
    return patients / (patients - 1) * (ecgs - 1) / (ecgs - parameters)


def deciding_patients(square: Floats, fourth: Floats) -> Floats:
    """Return how many patients decide each coefficient, from its influences' sums of squares and fourth powers."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(fourth > 0, np.asarray(square) ** 2 / np.asarray(fourth), 0.0)


def decided_estimate(value: float, se: float, patients: float, confidence: float = CONFIDENCE) -> Estimate:
    """Return the interval of a value that so many patients decide; without one below :data:`FEWEST_PATIENTS`."""
    if not np.isfinite(value):
        return UNDEFINED
    if not se > 0:
        return Estimate(float(value), np.nan, np.nan, np.nan)
    half = decided_quantile(patients, confidence) * se
    return Estimate(float(value), float(se), float(value - half), float(value + half))


def decided_quantile(patients: float, confidence: float = CONFIDENCE) -> float:
    """Return by how many (CR1) errors an interval reaches to either side; NaN below :data:`FEWEST_PATIENTS`."""
    if not patients >= FEWEST_PATIENTS:
        return np.nan
    return float(t.ppf(0.5 + confidence / 2, patients - 1) * np.sqrt(patients / (patients - 1)))


def decided_p(value: float, se: float, patients: float) -> float:
    """Return the two-sided P of no effect that goes with :func:`decided_estimate`; NaN where it has no interval."""
    if not (se > 0 and patients >= FEWEST_PATIENTS):
        return np.nan
    return float(2 * t.sf(abs(value) / (se * np.sqrt(patients / (patients - 1))), patients - 1))


@dataclass(frozen=True)
class Rates:
    """Of a group: its rate without the treatment, the rate to be expected with it were the two effects to add up, and
    by what share of the latter the product moves it. Errors are by the delta method, means of x taken as given; the
    interval of the share is Fieller's (1954) of a ratio, or symmetric on the log scale where the model is logistic.
    Fieller's may be unbounded, where the expected rate is not told from 0: then there is none."""

    without: Estimate
    expected: Estimate
    change: Estimate


def group_rates(
    coef: Floats,
    covariance: Floats,
    deciding: float,
    *,
    without: Floats,
    expected: Floats,
    product: int,
    logistic: bool,
) -> Rates:
    """Return what a product of group and treatment says in rates.

    Parameters
    ----------
    coef : shape = (k,). covariance : shape = (k, k).
    deciding : patients who decide the product's coefficient.
    without, expected : shape = (k,): the average person of the group without the treatment; and with its indicator, but
        without the product's.
    product : number of the product's coefficient.
    """
    with_product = expected.copy()
    with_product[product] = 1.0
    points = np.stack([without, expected, with_product])
    eta = points @ coef
    rate = np.asarray(expit(eta)) if logistic else eta
    gradient = points * (rate * (1 - rate))[:, None] if logistic else points
    spread = gradient @ covariance @ gradient.T
    se = np.sqrt(np.maximum(np.diag(spread), 0.0))
    plain = [decided_estimate(float(rate[i]), float(se[i]), deciding) for i in (0, 1)]
    if not rate[1] > 0:
        return Rates(plain[0], plain[1], UNDEFINED)
    slope = gradient[2] / rate[1] - rate[2] * gradient[1] / rate[1] ** 2
    change, error = float(rate[2] / rate[1] - 1), float(np.sqrt(max(float(slope @ covariance @ slope), 0.0)))
    reach = decided_quantile(deciding)
    if logistic:
        half = reach * error / float(rate[2] / rate[1]) if rate[2] > 0 else np.nan
        low, high = (change + 1) * np.exp(-half) - 1, (change + 1) * np.exp(half) - 1
    else:
        low, high = _fieller(float(rate[2]), float(rate[1]), spread[1:, 1:][::-1, ::-1] * reach**2)
        low, high = low - 1, high - 1
    return Rates(plain[0], plain[1], Estimate(change, error, float(low), float(high)))


def _fieller(above: float, below: float, spread: Floats) -> tuple[float, float]:
    """Return the interval of above / below; ``spread``, shape = (2, 2), their covariance times the squared quantile."""
    a = below**2 - spread[1, 1]
    b = above * below - spread[0, 1]
    c = above**2 - spread[0, 0]
    if not (np.isfinite(spread).all() and a > 0):
        return np.nan, np.nan
    root = float(np.sqrt(max(b**2 - a * c, 0.0)))
    return (b - root) / a, (b + root) / a
