"""Chest leads that look inverted, or look out of order: what the likeness of neighbouring leads betrays.

No law binds the chest leads, but hearts do: each lead is nearly what its neighbours and the limb leads foretell. The
score is that of :mod:`ecgshared.ecg.reversals`, linear in first and second moments of P, QRS and T over the eight
independent leads, with weights learnt for these questions (:func:`ecgshared.ecg.reversal_fit.fit_against`): is one
lead upside down, and are three leads or more in another order? Two exchanged electrodes are the business of
:mod:`ecgshared.ecg.reversals`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import permutations

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.leads import CHEST_LEADS
from ecgshared.ecg.moments import moved
from ecgshared.ecg.record import Finding

INVERTED, DISORDERED = "chest-lead-inverted", "chest-leads-disordered"

ORDERS: tuple[tuple[int, ...], ...] = tuple(permutations(range(6)))
"""Every order of the six chest leads, the right one first."""

_MOVED = np.array([sum(i != place for place, i in enumerate(order)) for order in ORDERS])
_FAR, _NEAR = np.flatnonzero(_MOVED > 2), np.flatnonzero(_MOVED <= 2)


@dataclass(frozen=True)
class ChestWeights:
    """What the scores weigh, each shape = (132,), and the log odds from which one is told."""

    inverted: Floats
    order: Floats
    inverted_limit: float
    order_limit: float


def chest_finding(moments: Floats) -> tuple[Finding, Floats] | None:
    """Return what is odd about the chest leads, and what undoes it to the eight leads, (8, 8); None where nothing is.

    Parameters
    ----------
    moments : of the median beat, from :func:`ecgshared.ecg.moments.moments`, shape = (132,).
    """
    weights = committed_chest_weights()
    odds = inversion_odds(moments, weights.inverted)
    lead = int(odds.argmax())
    if odds[lead] > weights.inverted_limit:
        message = f"{CHEST_LEADS[lead]} fits the other leads better upside down (log odds {odds[lead]:.1f})"
        return Finding(INVERTED, message, CHEST_LEADS[lead], float(odds[lead])), inversions()[1 + lead]
    value, number = order_odds(moments, weights.order)
    if value > weights.order_limit:
        names = " ".join(CHEST_LEADS[i] for i in ORDERS[number])
        message = f"more like an ECG with the chest leads in the order {names} (log odds {value:.1f})"
        return Finding(DISORDERED, message, None, value), orders()[number]
    return None


def inversion_odds(moments: Floats, theta: Floats) -> Floats:
    """Return for V1..V6 the log odds that the lead is upside down, against none; shape = (..., 6)."""
    scores = moments @ _inverting(theta.tobytes())
    return np.asarray(scores[..., 1:] - scores[..., :1])


def order_odds(moments: Floats, theta: Floats) -> tuple[float, int]:
    """Return the log odds of the best order that moves three leads or more against the best of all others, and its
    place in :data:`ORDERS`.
    """
    scores = moments @ _ordering(theta.tobytes())
    best = int(_FAR[scores[_FAR].argmax()])
    return float(scores[best] - scores[_NEAR].max()), best


def inversions() -> Floats:
    """Return what nothing and the inversion of each chest lead does to the eight leads, shape = (7, 8, 8)."""
    out = np.repeat(np.eye(8)[None], 7, axis=0)
    place = np.arange(6)
    out[place + 1, place + 2, place + 2] = -1
    return out


@cache
def orders() -> Floats:
    """Return what each of :data:`ORDERS` does to the eight leads, shape = (720, 8, 8)."""
    out = np.zeros((len(ORDERS), 8, 8))
    out[:, [0, 1], [0, 1]] = 1
    for number, order in enumerate(ORDERS):
        out[number, np.arange(2, 8), np.asarray(order) + 2] = 1
    return out


@cache
def committed_chest_weights() -> ChestWeights:
    """Return the weights that come with this version; their file says how they were made."""
    stored = json.loads((files("ecgshared") / "chest_leads.json").read_text(encoding="utf-8"))
    inverted, order = (np.asarray(stored[kind]["theta"], dtype=np.float64) for kind in ("inverted", "order"))
    return ChestWeights(inverted, order, stored["inverted"]["limit"], stored["order"]["limit"])


@cache
def _inverting(theta: bytes) -> Floats:
    every = np.stack([moved(np.eye(132), matrix) for matrix in inversions()])
    return np.asarray((every @ np.frombuffer(theta, dtype=np.float64)).T)


@cache
def _ordering(theta: bytes) -> Floats:
    """Return the weights as seen through each order, shape = (132, 720). An order only moves the moments about."""
    upper = np.triu_indices(8)
    place = np.empty((8, 8), dtype=np.int64)
    place[upper] = place[upper[1], upper[0]] = np.arange(36)
    weights = np.frombuffer(theta, dtype=np.float64).reshape(3, 44)
    out = np.empty((3, 44, len(ORDERS)))
    for number, order in enumerate(ORDERS):
        leads = np.array([0, 1, *(i + 2 for i in order)])
        come_from = np.concatenate([place[leads[upper[0]], leads[upper[1]]], 36 + leads])
        out[:, come_from, number] = weights
    return out.reshape(132, len(ORDERS))
