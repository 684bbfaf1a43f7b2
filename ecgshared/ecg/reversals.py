"""Exchanged electrodes: which arrangement of the leads looks most like an ECG, and undoing an exchange.

After an exchange Einthoven's law still holds: only what hearts usually look like can show it. Each candidate
arrangement is undone and the result scored; the score is linear in the first and second moments of the median
beat's P, QRS and T windows over the eight independent leads. In it are the polarity of lead I and of P, the
frontal axes, lead I against V6, and R-wave progression, with weights learnt from public records by a conditional
logit (McFadden 1974) over each record's true arrangement and all exchanges of it (:mod:`ecgshared.ecg.reversal_fit`).
That redundancy among leads betrays an exchange: Kors and van Herpen 2001 (doi 10.1016/s0022-0736(01)90013-9).

An arm electrode exchanged with the right leg's is another matter: both legs are at nearly one potential, so one
limb lead goes nearly flat and the true ones are lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.chest_leads import chest_finding
from ecgshared.ecg.dipole import INDEPENDENT
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.moments import moments, moved
from ecgshared.ecg.polarity import polarity_finding
from ecgshared.ecg.record import Finding

F64 = NDArray[np.float64]

_LIMB: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "ra-la": ((-1, 0), (-1, 1)),
    "ra-ll": ((1, -1), (0, -1)),
    "la-ll": ((0, 1), (1, 0)),
}
"""What lead I and II become when two limb electrodes are exchanged, as combinations of I and II; each is its own
inverse."""

_CHEST: dict[str, tuple[int, int]] = {
    "v1-v2": (0, 1),
    "v2-v3": (1, 2),
    "v3-v4": (2, 3),
    "v4-v5": (3, 4),
    "v5-v6": (4, 5),
    "v1-v3": (0, 2),
}

EXCHANGES: tuple[str, ...] = (*_LIMB, *_CHEST)
"""Every exchange that is looked for by score, by its electrodes."""

REPAIRABLE: dict[str, str] = {f"reversed-{kind}": kind for kind in _LIMB}
"""Finding codes that a site's policy may answer with `repair`, and the exchange that is undone."""

ARM_LEG = "reversed-arm-leg"

_LEAD_SWAPS: dict[str, tuple[tuple[str, str], ...]] = {
    "ra-la": (("II", "III"), ("aVR", "aVL")),
    "ra-ll": (("I", "III"), ("aVR", "aVF")),
    "la-ll": (("I", "II"), ("aVL", "aVF")),
}
_LEADS_TURNED: dict[str, tuple[str, ...]] = {"ra-la": ("I",), "ra-ll": ("I", "II", "III"), "la-ll": ("III",)}

_P = 44
"""Where the P window begins in :func:`moments`: products of leads, 36 of them, then the leads' means."""

FLAT_SHARE, FLAT_MV = 0.12, 0.12
"""A limb lead is nearly flat if its swing is at most this share of the other two's, and at most this many mV."""


@dataclass(frozen=True)
class Weights:
    """What the score weighs: ``theta``, shape = (132,); ``limits``: log odds from which an exchange is told."""

    theta: F64
    limits: dict[str, float]


def reversals(beat: MedianBeat) -> list[Finding]:
    """Return the exchange of electrodes, or the misplaced chest leads, that the median beat betrays: one at most."""
    arm_leg = _arm_leg(beat)
    if arm_leg is not None:
        return [arm_leg]
    x = beat.signal[list(INDEPENDENT)]
    if not (x.max(axis=1) - x.min(axis=1) > 0.02).all():
        return []  # an absent or dead lead: nothing to compare the others with
    weights, seen = committed_weights(), moments(beat)
    odds = log_odds(seen, weights.theta)
    over = [kind for i, kind in enumerate(EXCHANGES) if odds[i] > weights.limits[kind]]
    # A chest lead upside down, or several in other places, look like an exchange of limb electrodes; but where the
    # limb leads still look exchanged once that is undone, or P is negative where they would turn it, it was theirs.
    chest = chest_finding(seen)
    if chest is not None:
        told, undo = chest
        left = log_odds(moved(seen, undo), weights.theta)
        still = [left[i] > weights.limits[kind] or _turns_p(seen, kind) for i, kind in enumerate(_LIMB)]
        # And where two chest electrodes put back leave nothing wrong, they were exchanged, and none upside down.
        swapped = [kind for kind in _CHEST if kind in over and chest_finding(moved(seen, _matrix(kind))) is None]
        over = [kind for kind, so in zip(_LIMB, still, strict=True) if so and kind in over] or swapped
        if not over:
            return [told]
    if not over:
        inverted = polarity_finding(seen)
        return [] if inverted is None else [inverted]
    best = max(over, key=lambda kind: odds[EXCHANGES.index(kind)])
    value = float(odds[EXCHANGES.index(best)])
    one, other = best.upper().split("-")
    said = f"more like an ECG with {one} and {other} exchanged back (log odds {value:.1f})"
    if best in _LIMB:
        return [Finding(f"reversed-{best}", f"{said}; {_polarity(beat)}", value=value)]
    return [Finding(f"swapped-{best}", said, f"V{_CHEST[best][0] + 1}", value)]


def exchange(p_signal: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Return the record as it is with two electrodes exchanged; done twice it is the record again, exactly.

    Parameters
    ----------
    p_signal : array, shape = (12, T). kind : one of :data:`EXCHANGES`.
    """
    out = p_signal.copy()
    pairs = _LEAD_SWAPS[kind] if kind in _LIMB else (tuple(f"V{i + 1}" for i in _CHEST[kind]),)
    for one, other in pairs:
        i, j = LEADS.index(one), LEADS.index(other)
        out[[i, j]] = out[[j, i]]
    for lead in _LEADS_TURNED.get(kind, ()):
        out[LEADS.index(lead)] *= -1
    return out


def log_odds(moments: F64, theta: F64) -> F64:
    """Return for each of :data:`EXCHANGES` the log odds that it happened, against none; shape = (..., 9)."""
    scores = moments @ _turned(theta.tobytes())
    return np.asarray(scores[..., 1:] - scores[..., :1])


def matrices() -> F64:
    """Return what no exchange and each of :data:`EXCHANGES` does to the eight leads, shape = (10, 8, 8)."""
    out = np.repeat(np.eye(8)[None], 1 + len(EXCHANGES), axis=0)
    for number, kind in enumerate(EXCHANGES, start=1):
        if kind in _LIMB:
            out[number, :2, :2] = _LIMB[kind]
        else:
            i, j = (place + 2 for place in _CHEST[kind])
            out[number, [i, j]] = out[number, [j, i]]
    return out


def _turns_p(seen: F64, kind: str) -> bool:
    """Tell whether P is negative in the lead that an exchange turns: I with the arms, II with arm and leg."""
    lead = {"ra-la": 0, "ra-ll": 1}.get(kind)
    return lead is not None and bool(seen[_P + 36 + lead] < 0)


@cache
def _matrix(kind: str) -> F64:
    return np.asarray(matrices()[1 + EXCHANGES.index(kind)])


@cache
def committed_weights() -> Weights:
    """Return the weights that come with this version; their file says how they were made."""
    stored = json.loads((files("ecgshared") / "reversals.json").read_text(encoding="utf-8"))
    return Weights(np.asarray(stored["theta"], dtype=np.float64), stored["limits"])


@cache
def _turned(theta: bytes) -> F64:
    """Return the weights as seen through each exchange, shape = (132, 10): one product scores them all."""
    every = np.stack([moved(np.eye(132), matrix) for matrix in matrices()])  # (10, 132, 132)
    return np.asarray((every @ np.frombuffer(theta, dtype=np.float64)).T)


def _arm_leg(beat: MedianBeat) -> Finding | None:
    first, last = (max(0, beat.centre + round(s * beat.fs)) for s in (-0.25, 0.4))
    limbs = beat.signal[:3, first:last]
    swing = limbs.max(axis=1) - limbs.min(axis=1)
    lead = int(swing.argmin())
    rest = min(float(swing[i]) for i in range(3) if i != lead)
    if rest < 0.2 or swing[lead] > min(FLAT_MV, FLAT_SHARE * rest) or not swing[lead] > 0:
        return None
    which = {0: "both arms with the legs", 1: "RA with RL", 2: "LA with RL"}[lead]
    message = f"nearly flat ({swing[lead]:.3f} mV), the other two alike: as with {which} exchanged"
    return Finding(ARM_LEG, message, LEADS[lead], float(swing[lead]))


def _polarity(beat: MedianBeat) -> str:
    """Say what a person would look at first."""
    half = round(0.05 * beat.fs)
    qrs = beat.signal[:, max(0, beat.centre - half) : beat.centre + half + 1]
    tallest = qrs[np.arange(12), np.abs(qrs).argmax(axis=1)]
    one, six = qrs[0] - qrs[0].mean(), qrs[11] - qrs[11].mean()
    alike = float((one * six).sum() / max(1e-9, np.sqrt((one**2).sum() * (six**2).sum())))
    signs = ", ".join(f"{lead} {tallest[LEADS.index(lead)]:+.2f} mV" for lead in ("I", "II", "aVR"))
    return f"QRS {signs}, I against V6 {alike:+.2f}"
