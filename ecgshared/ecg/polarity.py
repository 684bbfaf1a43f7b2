"""A whole recording upside down: a gain of the wrong sign, or a trace drawn downwards.

No law forbids it, as all equations among the leads hold with every sign changed. But P and R point up in most leads of
most hearts, and T after them; the score weighs the means of QRS, P and T over the eight independent leads, and changes
its sign with theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.record import Finding

INVERTED = "record-inverted"


@dataclass(frozen=True)
class PolarityWeights:
    """What the score weighs, shape = (24,), and the log odds from which a recording is told to be upside down."""

    theta: Floats
    limit: float


def polarity_finding(moments: Floats) -> Finding | None:
    """Return a finding where all leads look upside down.

    Parameters
    ----------
    moments : of the median beat, from :func:`ecgshared.ecg.moments.moments`, shape = (132,).
    """
    weights = committed_polarity_weights()
    odds = -float(upright_odds(moments, weights.theta))
    if odds <= weights.limit:
        return None
    return Finding(INVERTED, f"more like an ECG with the sign of every lead changed (log odds {odds:.1f})", value=odds)


def upright_odds(moments: Floats, theta: Floats) -> Floats:
    """Return the log odds that a recording stands upright, against upside down, shape = moments.shape[:-1]."""
    means = moments.reshape(*moments.shape[:-1], 3, 44)[..., 36:]
    return np.asarray(means.reshape(*moments.shape[:-1], 24) @ theta)


@cache
def committed_polarity_weights() -> PolarityWeights:
    """Return the weights that come with this version; their file says how they were made."""
    stored = json.loads((files("ecgshared") / "polarity.json").read_text(encoding="utf-8"))
    return PolarityWeights(np.asarray(stored["theta"], dtype=np.float64), stored["limit"])
