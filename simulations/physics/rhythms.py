"""When hearts beat: sinus rhythm and its variability, early beats, fibrillation, flutter, AV block, pacing.

P waves and QRS complexes are two lists of times: which belongs to which is the AV node's doing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RhythmName = Literal["sinus", "fibrillation", "flutter", "wenckebach", "two_to_one", "complete_block", "paced"]
RHYTHMS: tuple[RhythmName, ...] = (
    "sinus", "fibrillation", "flutter", "wenckebach", "two_to_one", "complete_block", "paced",
)  # fmt: skip
OWN, FOCUS = 0, 1
"""Whence a QRS comes: the heart's own way, or its ectopic focus."""
SINUS_P, ATRIAL_P = 0, 1


@dataclass(frozen=True)
class Rhythm:
    """The beats of one recording.

    Attributes
    ----------
    qrs_s : array, shape = (B,): when each QRS begins. source : int array, shape = (B,): OWN or FOCUS.
    rr_s : array, shape = (B,): the interval to which each beat's repolarisation has adapted.
    p_s, p_kind : arrays, shape = (P,): when each P begins, SINUS_P or ATRIAL_P.
    flutter_s : cycle of flutter, s; 0 where there is none.
    """

    qrs_s: F64
    source: NDArray[np.int64]
    rr_s: F64
    p_s: F64
    p_kind: NDArray[np.int64]
    flutter_s: float = 0.0


@dataclass(frozen=True)
class Pace:
    """How one heart beats: rate per minute, SD of its intervals as a share, breaths per second and their phase, PR in s
    (at an RR of 1 s), chance that a sinus beat is followed by an early ventricular or atrial one, and how early."""

    rate_per_min: float
    variability: float
    breath_hz: float
    breath_phase: float
    pr_s: float
    ventricular: float = 0.0
    atrial: float = 0.0
    coupling: float = 0.62


def draw_rhythm(rng: np.random.Generator, name: RhythmName, pace: Pace, seconds: float) -> Rhythm:
    """Draw the beats of one recording, from a second before it to its end."""
    if name in ("fibrillation", "flutter"):
        return _without_sinus(rng, name, pace, seconds)
    p_s, rr = _sinus(rng, pace, seconds)
    pr = pace.pr_s + 0.04 * (rr - 1)
    if name == "complete_block":
        return _complete_block(rng, p_s, seconds)
    if name in ("wenckebach", "two_to_one"):
        turn = 2 if name == "two_to_one" else int(rng.integers(3, 6))
        place = (np.arange(len(p_s)) + rng.integers(0, turn)) % turn
        conducted = place < turn - 1
        # Each P finds the node more tired than the last, until one finds it closed.
        longer = 0.0 if turn == 2 else 0.09 * (1 - 0.6**place) / 0.4
        qrs = (p_s + pr + longer)[conducted]
        return Rhythm(qrs, np.zeros(len(qrs), np.int64), _adapted(qrs, rr[0]), p_s, np.zeros(len(p_s), np.int64))
    if name == "paced":
        pr = np.full(len(p_s), 0.15)
    return _with_early_beats(rng, p_s, rr, pr, pace, early=name == "sinus")


def _sinus(rng: np.random.Generator, pace: Pace, seconds: float) -> tuple[F64, F64]:
    """Return when P waves begin and the interval before each: breathing's part, and one whose power falls as 1/f."""
    rr0 = 60.0 / pace.rate_per_min
    n = int((seconds + 4.5) / (0.62 * rr0)) + 2
    spectrum = rng.standard_normal(n // 2 + 1) + 1j * rng.standard_normal(n // 2 + 1)
    spectrum /= np.sqrt(np.maximum(np.arange(n // 2 + 1), 1.0))
    spectrum[0] = 0
    slow = np.fft.irfft(spectrum, n)
    slow /= max(float(slow.std()), 1e-9)
    vagal = np.sin(2 * np.pi * pace.breath_hz * rr0 * np.arange(n) + pace.breath_phase) * np.sqrt(2)
    share = float(rng.beta(3, 3))
    change = pace.variability * (np.sqrt(share) * vagal + np.sqrt(1 - share) * slow)
    rr = np.clip(rr0 * np.exp(change + 0.004 * rng.standard_normal(n)), 0.3, 2.4)
    at = -1.4 - rr0 * float(rng.random()) + np.cumsum(rr)
    shown = at < seconds + 0.3
    return at[shown], rr[shown]


def _with_early_beats(rng: np.random.Generator, p_s: F64, rr: F64, pr: F64, pace: Pace, *, early: bool) -> Rhythm:
    """Return sinus beats and those that come before their time."""
    if not early or pace.ventricular + pace.atrial == 0:
        qrs = p_s + pr
        none = np.zeros(len(qrs), np.int64)
        return Rhythm(qrs, none, _adapted(qrs, rr[0]), p_s, none)
    ps: list[float] = []
    kinds: list[int] = []
    beats: list[float] = []
    source: list[int] = []
    shift, blocked, last_early = 0.0, False, True
    for at, interval, delay in zip(p_s, rr, pr, strict=True):
        start = at + shift
        ps.append(start)
        kinds.append(SINUS_P)
        if blocked:  # the node is still tired from a ventricular beat: the pause compensates
            blocked = False
            continue
        beats.append(start + delay)
        source.append(OWN)
        chance = float(rng.random())
        if last_early or chance > pace.ventricular + pace.atrial:
            last_early = False
            continue
        last_early = True
        after = pace.coupling * interval * (1 + 0.03 * float(rng.standard_normal()))
        if chance < pace.ventricular:
            beats.append(start + delay + after)
            source.append(FOCUS)
            blocked = True
        else:
            # It resets the sinus node: the next P comes an interval after it.
            ps.append(start + after)
            kinds.append(ATRIAL_P)
            beats.append(start + after + delay + 0.01)
            source.append(OWN)
            shift += after + 0.05 * interval
    when = np.array(beats)
    return Rhythm(when, np.array(source), _adapted(when, rr[0]), np.array(ps), np.array(kinds))


def _complete_block(rng: np.random.Generator, p_s: F64, seconds: float) -> Rhythm:
    """Return P waves that lead to nothing, and a slow escape rhythm from a focus."""
    rr = 60.0 / float(rng.uniform(32, 46))
    qrs = np.arange(-1.5 - rr * float(rng.random()), seconds + 1.0, rr)
    qrs = qrs + 0.012 * rng.standard_normal(len(qrs))
    source = np.full(len(qrs), FOCUS if rng.random() < 0.6 else OWN)
    return Rhythm(qrs, source, np.full(len(qrs), rr), p_s, np.zeros(len(p_s), np.int64))


def _without_sinus(rng: np.random.Generator, name: str, pace: Pace, seconds: float) -> Rhythm:
    rr0 = 60.0 / pace.rate_per_min
    n = int((seconds + 3.5) / (0.4 * rr0)) + 4
    none, cycle = np.empty(0), 0.0
    if name == "flutter":
        cycle = float(rng.uniform(0.18, 0.24))
        ways = np.array([2, 3, 4, 6])
        usual = ways[int(np.abs(ways * cycle - rr0).argmin())]
        steady = rng.random() < 0.6
        each = np.full(n, usual) if steady else rng.choice(np.unique([2, usual, min(usual + 2, 6)]), n)
        rr = each * cycle
    else:
        rr = np.clip(rr0 * rng.gamma(22.0, 1 / 22.0, n), 0.33, 2.0)
    qrs = -1.5 - rr0 * float(rng.random()) + np.cumsum(rr)
    qrs = qrs[qrs < seconds + 1.0]
    source = np.where(rng.random(len(qrs)) < pace.ventricular, FOCUS, OWN)
    return Rhythm(qrs, source, _adapted(qrs, rr0), none, none.astype(np.int64), cycle)


def _adapted(qrs_s: F64, before: float) -> F64:
    """Return the interval each beat's repolarisation has adapted to: it follows the last ones with a lag."""
    rr = np.diff(qrs_s, prepend=qrs_s[0] - before)
    out, level = np.empty(len(rr)), before
    for b, interval in enumerate(rr):
        level = 0.75 * level + 0.25 * min(max(float(interval), 0.33), 1.9)
        out[b] = level
    return out
