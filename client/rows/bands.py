"""Cuts of one score at which this site tells how many have each of several outcomes, one of them death-censored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.privacy.disclosure import DisclosureLimits, group_size
from ecgshared.stats.score_scale import HIGHEST, LOWEST


def fits(outcomes: Mapping[str, Floats], patient: Ints, limits: DisclosureLimits, inside: Bools) -> bool:
    """Say whether counts of several outcomes may be told of one group.

    Each by itself meets the limits. Of two, who has one and not the other is nobody or ``min_events`` patients, and of
    whom one is known and not the other nobody or ``min_patients``: their counts, subtracted, tell of those.

    Parameters
    ----------
    outcomes : by name, shape = (n,): 1, 0, NaN where not known. patient : shape = (n,). inside : bool, shape = (n,).
    """

    def few(marked: Bools, least: int) -> bool:
        return 0 < len(np.unique(patient[inside & marked])) < least

    for y in outcomes.values():
        size = group_size(patient, y, np.asarray(inside & np.isfinite(y), dtype=np.bool_))
        if not limits.allow(size.patients, size.events):
            return False
    return not any(
        few(np.isfinite(a) & np.isnan(b), limits.min_patients) or few(a > b, limits.min_events)
        for a, b in permutations(outcomes.values(), 2)
    )


def open_outcomes(outcomes: Mapping[str, Floats], patient: Ints, limits: DisclosureLimits) -> dict[str, Floats]:
    """Return the outcomes that may be told beside each other of the whole, the earlier ones first."""
    found: dict[str, Floats] = {}
    everybody = np.ones(len(patient), dtype=np.bool_)
    for name, y in outcomes.items():
        if len(y) and fits({**found, name: y}, patient, limits, everybody):
            found[name] = y
    return found


def told_cuts(
    score: Floats, outcomes: Mapping[str, Floats], patient: Ints, limits: DisclosureLimits, cuts: Sequence[float]
) -> Floats:
    """Return the cuts that may be told, descending, the whole (LOWEST) last: every group between two of them fits.

    Parameters
    ----------
    cuts : the most wanted first.
    """
    if not outcomes:
        return np.zeros(0)
    known = [LOWEST, HIGHEST]
    for cut in cuts:
        if cut in known or not LOWEST < cut < HIGHEST:
            continue
        below, above = max(k for k in known if k < cut), min(k for k in known if k > cut)
        sides = ((score >= low) & (score < high) for low, high in ((below, cut), (cut, above)))
        if all(fits(outcomes, patient, limits, np.asarray(side, dtype=np.bool_)) for side in sides):
            known.append(cut)
    return np.array(sorted(known, reverse=True)[1:])
