"""Learning the weights of :mod:`ecgshared.ecg.reversals` from recordings whose electrodes sat right.

Every recording gives ten cases: as it is, and with each exchange applied. A conditional logit (McFadden 1974) then
asks that undoing the right exchange score highest. It is convex: one answer, whatever the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from ecgshared.ecg.moments import moved
from ecgshared.ecg.reversals import EXCHANGES, log_odds, matrices

F64 = NDArray[np.float64]

PENALTY = 0.003
"""Of the squared weights, in units of each moment's standard deviation."""

PENALTY_AGAINST = 0.0003
"""The same in :func:`fit_against`, whose records have many more alternatives."""

STEPS = tuple(np.concatenate([np.arange(0, 8, 0.25), [9, 10, 12, 15, 99]]).tolist())


def fit(moments: F64, *, penalty: float = PENALTY) -> F64:
    """Return the weights, shape = (132,).

    Parameters
    ----------
    moments : of recordings without any exchange, shape = (n, 132).
    """
    sd = moments.std(axis=0) + 1e-6
    undo = matrices()
    cases = np.concatenate([_candidates(moved(moments, applied), undo) for applied in undo]) / sd  # (10 n, 10, 132)
    right = np.repeat(np.arange(len(undo)), len(moments))
    rows = np.arange(len(right))

    def loss(theta: F64) -> tuple[float, F64]:
        scores = cases @ theta
        total = logsumexp(scores, axis=1)
        share = np.exp(scores - total[:, None])
        gradient = np.tensordot(share, cases, axes=([0, 1], [0, 1])) - cases[rows, right].sum(axis=0)
        value = (total - scores[rows, right]).mean() + penalty * (theta @ theta) / 2
        return float(value), np.asarray(gradient / len(right) + penalty * theta)

    found = minimize(loss, np.zeros(moments.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x / sd)


def odds_out_of_fold(moments: F64, fold: NDArray[np.int64], *, penalty: float = PENALTY) -> F64:
    """Return log odds of each recording by weights that never saw its fold, shape = (10, n, 9).

    The first axis is what was applied: nothing, then each exchange.
    """
    out = np.empty((1 + len(EXCHANGES), len(moments), len(EXCHANGES)))
    for number in np.unique(fold):
        inside = fold == number
        theta = fit(moments[~inside], penalty=penalty)
        for applied, matrix in enumerate(matrices()):
            out[applied, inside] = log_odds(moved(moments[inside], matrix), theta)
    return out


def told(odds: F64, limits: Mapping[str, float]) -> NDArray[np.int64]:
    """Return which exchange is told, 0 for none, else 1 + its place in EXCHANGES; shape = (n,)."""
    over = np.where(odds > np.asarray([limits[kind] for kind in EXCHANGES]), odds, -np.inf)
    return np.where(np.isfinite(over).any(axis=-1), 1 + over.argmax(axis=-1), 0)


def choose_limits(odds: F64, worth: Mapping[str, float], *, most_false: float) -> dict[str, float]:
    """Return the limits of best sensitivity, weighed by ``worth``, at a share of false alarms up to ``most_false``.

    The price of a false alarm is raised until the share is met; each limit in turn takes its best step.
    """
    limits = dict.fromkeys(EXCHANGES, 3.0)
    for price in np.geomspace(20, 1000, 24).tolist():
        for _ in range(3):
            for kind in EXCHANGES:
                gains = [_gain(odds, {**limits, kind: step}, worth, price) for step in STEPS]
                limits[kind] = float(STEPS[int(np.argmax(gains))])
        if (told(odds[0], limits) > 0).mean() <= most_false:
            break
    return limits


def _gain(odds: F64, limits: Mapping[str, float], worth: Mapping[str, float], price: float) -> float:
    hits = sum(worth[kind] * (told(odds[i], limits) == i).mean() for i, kind in enumerate(EXCHANGES, start=1))
    return float(hits - price * (told(odds[0], limits) > 0).mean())


def _candidates(moments: F64, undo: F64) -> F64:
    return np.stack([moved(moments, matrix) for matrix in undo], axis=1)


def fit_against(
    moments: F64, others: F64, *, each: int | None = None, penalty: float = PENALTY_AGAINST, seed: int = 0
) -> F64:
    """Return the weights by which recordings as they are score above other arrangements of them, shape = (132,).

    Parameters
    ----------
    moments : of recordings in order, shape = (n, 132).
    others : what the other arrangements do to the eight leads, shape = (k, 8, 8).
    each : how many of them each recording is set against, drawn with ``seed``; None takes all.
    """
    rng = np.random.default_rng(seed)
    sd = moments.std(axis=0) + 1e-6
    every = np.stack([moved(np.eye(moments.shape[1]), matrix) for matrix in others])
    count = len(others) if each is None else each
    cases = np.empty((len(moments), 1 + count, moments.shape[1]), dtype=np.float32)
    for row, own in enumerate(moments):
        drawn = np.arange(count) if each is None else rng.choice(len(others), count, replace=False)
        cases[row, 0] = own / sd
        cases[row, 1:] = np.einsum("i,kij->kj", own, every[drawn]) / sd

    def loss(theta: F64) -> tuple[float, F64]:
        scores = cases @ theta.astype(np.float32)
        total = logsumexp(scores, axis=1)
        share = np.exp(scores - total[:, None]).astype(np.float32)
        gradient = np.tensordot(share, cases, axes=([0, 1], [0, 1])) - cases[:, 0].sum(axis=0)
        value = (total - scores[:, 0]).mean() + penalty * (theta @ theta) / 2
        return float(value), np.asarray(gradient / len(moments) + penalty * theta, dtype=np.float64)

    found = minimize(loss, np.zeros(moments.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x / sd)
