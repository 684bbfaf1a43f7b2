"""Leads that contradict each other: what twelve leads of one heart cannot be, and the likely cause.

Einthoven's and Goldberger's equations bind the six limb leads: III = II - I, aVR = -(I + II)/2, aVL = I - II/2 and
aVF = II - I/2. Recorders keep them to a few microvolts; of 1,093 public records none broke them by more than 3 uV in
the median. A lead stored upside down, two columns exchanged, a column copied or an order of leads mistaken breaks them
by tenths of a millivolt, and which change restores them tells the cause. An exchange of electrodes does NOT break
them: that is the business of :mod:`ecgshared.ecg.reversals`. Chest leads obey no such law, but two of them are never
the same trace.

Everything rests on the covariance of the leads, (12, 12), so that a record in order costs one matrix product.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.record import Finding

INVERTED, PERMUTED, SAME, BROKEN = "limb-lead-inverted", "leads-permuted", "same-trace", "limb-leads-contradict"

CODES: dict[str, str] = {
    INVERTED: "a limb lead is stored upside down: the other five say so",
    PERMUTED: "leads stand in columns of other names: the limb leads obey Einthoven's law only when put back",
    SAME: "leads that differ in every heart hold the same trace",
    BROKEN: "recorded limb leads contradict each other: they are not of one heart, or not at one gain",
}
"""Each says that the twelve leads, as they stand, cannot be of one heart."""

LAW: Floats = np.array(
    [[1, -1, 1, 0, 0, 0], [0.5, 0.5, 0, 1, 0, 0], [-1, 0.5, 0, 0, 1, 0], [0.5, -1, 0, 0, 0, 1]], dtype=np.float64
)
"""Four equations among I, II, III, aVR, aVL, aVF that come to 0, shape = (4, 6)."""

FLOOR_MV = 0.012
"""No difference below this counts: rounding, and conversion between steps of 5 uV."""

SHARE = 0.05
"""Nor one below this share of the limb leads' own size: recorders filter and compress leads one by one."""

GROSS_MV, GROSS_SHARE = 0.12, 0.25
"""A difference that no change of places and signs explains counts from here on."""

MOST = 98.0
"""Differences are judged by this percentile of their size: shorter ones are spikes, not contradictions."""

RESTORED = 0.06
"""A cause explains a difference if it leaves at most this share of it."""

SAME_CORRELATION = 1 - 2e-5
"""From here on two leads are one trace: they differ by less than a hundredth, where real neighbours differ by 1.6."""


def contradictions(x: NDArray[np.float32], live: Bools, *, step_mv: float = 0.0) -> list[Finding]:
    """Return what the leads contradict each other in; empty where they can be of one heart.

    Parameters
    ----------
    x : array, shape = (12, T), finite, mV, each lead about its own level.
    live : shape = (12,), whether a lead carries a signal throughout; others are left out.
    step_mv : one quantisation step, 0 where not known.
    """
    covariance = _covariance(x)
    copies = _copies(covariance, live)
    findings = []
    if live[:6].all():
        sizes = np.sqrt(np.maximum(((LAW @ covariance[:6, :6]) * LAW).sum(axis=1), 0))
        if sizes.max() > max(FLOOR_MV / 2, step_mv):
            findings = _limbs(x, live, step_mv, [group for group in copies if group[1] < 6])
    if findings and findings[0].code == SAME:
        return findings
    # Limb leads may be alike where one of the three is nothing; with a chest lead none ever is.
    return findings + [_same(group) for group in copies if group[-1] > 5]


def _covariance(x: NDArray[np.float32]) -> Floats:
    mean = (x @ np.ones(x.shape[1], dtype=np.float32)).astype(np.float64) / x.shape[1]
    return np.asarray((x @ x.T).astype(np.float64) / x.shape[1] - mean[:, None] * mean)


def _limbs(x: NDArray[np.float32], live: Bools, step_mv: float, copies: list[list[int]]) -> list[Finding]:
    """Return what is wrong with six limb leads whose equations do not hold; ``copies`` are alike among them."""
    limbs = x[:6].astype(np.float64)
    limbs -= np.median(limbs, axis=1, keepdims=True)
    own = float(np.median(np.percentile(np.abs(limbs), MOST, axis=1)))
    broken = _most(LAW @ limbs)
    allowed = max(FLOOR_MV, 3 * step_mv, SHARE * own)
    if broken <= allowed:
        return []
    enough = max(allowed, RESTORED * broken)
    # Spikes of a pacemaker or of a loose cable are in some leads only, and larger than all that causes explain.
    calm = (np.abs(limbs) <= 4 * own).all(axis=0)
    limbs, x = limbs[:, calm], x[:, calm]
    alone = _one_lead(limbs, enough)
    if alone is not None and alone.code == INVERTED:
        return [alone]
    if copies:
        return [_same(group) for group in copies]
    put_back = _moved(limbs, enough) or _columns(x, live, enough)
    if put_back is not None:
        return [put_back]
    gross = max(GROSS_MV, GROSS_SHARE * own)
    if alone is not None and (alone.value or 0.0) > gross:
        return [alone]
    if broken <= gross:
        return []
    return [Finding(BROKEN, f"the limb leads' equations are missed by {broken:.2f} mV", None, broken)]


def _one_lead(limbs: Floats, enough: float) -> Finding | None:
    """Return what is wrong with the one lead without which the other five agree; None where there is none."""
    left = np.array([_most(law @ limbs) for law in _without()])
    if np.count_nonzero(left <= enough) != 1:
        return None
    lead = int(left.argmin())
    others = [i for i in range(6) if i != lead]
    # What the five foretell of the sixth; they span two dimensions.
    weights = np.linalg.pinv(_span()[others]).T @ _span()[lead]
    foretold = weights @ limbs[others]
    factor = float(limbs[lead] @ foretold / max(float(foretold @ foretold), 1e-12))
    name = LEADS[lead]
    follows = _most((limbs[lead] - factor * foretold)[None]) <= enough
    if follows and -1.1 < factor < -0.9:
        return Finding(INVERTED, f"{name} is the opposite of what the other limb leads give", name, factor)
    off = _most((limbs[lead] - foretold)[None])
    if follows and abs(factor) > 0.05:
        message = f"{name} is {factor:.3g} times what the other limb leads give: another gain, or a wrong sign"
    else:
        message = f"{name} differs by {off:.2f} mV from what the other limb leads give"
    return Finding(BROKEN, message, name, off)


def _moved(limbs: Floats, enough: float) -> Finding | None:
    """Return which limb leads to put back, or to turn, for the equations to hold: the fewest that do it."""
    places, signs, laws, changed = _arrangements()
    covariance = limbs @ limbs.T / limbs.shape[1]
    energy = np.einsum("nij,njk,nik->n", laws, np.broadcast_to(covariance, (len(laws), 6, 6)), laws)
    order = np.lexsort((energy, changed))
    for number in order[energy[order] <= 4 * enough**2][:40]:
        if _most(laws[number] @ limbs) > enough:
            continue
        place, sign = places[number], signs[number]
        turned = [LEADS[place[i]] for i in range(6) if sign[i] < 0]
        put = [f"{LEADS[place[i]]} holds {LEADS[i]}" for i in range(6) if place[i] != i]
        if not put:
            message = f"{', '.join(turned)} are the opposite of what the other limb leads give"
            return Finding(INVERTED, message, None, float(len(turned)))
        message = "; ".join(put) + (f"; {', '.join(turned)} upside down besides" if turned else "")
        return Finding(PERMUTED, message, None, float(len(put)))
    return None


def _columns(x: NDArray[np.float32], live: Bools, enough: float) -> Finding | None:
    """Return in which of all twelve columns the limb leads stand, if six of them obey the law."""
    level = x.astype(np.float64)
    level -= np.median(level, axis=1, keepdims=True)
    covariance = level @ level.T / level.shape[1]
    power = np.diag(covariance)
    best: tuple[int, tuple[int, ...]] | None = None
    for one, two in permutations(np.flatnonzero(live).tolist(), 2):
        places = [one, two]
        for a, b in _span()[2:]:
            gap = power + a * a * power[one] + b * b * power[two] + 2 * a * b * covariance[one, two]
            gap -= 2 * (a * covariance[one] + b * covariance[two])
            gap[[*places, *np.flatnonzero(~live)]] = np.inf
            place = int(gap.argmin())
            if gap[place] > enough**2:
                break
            places.append(place)
        if len(places) == 6 and _most(LAW @ level[places]) <= enough:
            kept = sum(place == i for i, place in enumerate(places))
            if best is None or kept > best[0]:
                best = kept, tuple(places)
    if best is None:
        return None
    put = [f"{LEADS[place]} holds {LEADS[i]}" for i, place in enumerate(best[1]) if place != i]
    message = "; ".join(put) + "; the columns' order is another than the file says"
    return Finding(PERMUTED, message, None, float(len(put)))


def _copies(covariance: Floats, live: Bools) -> list[list[int]]:
    """Return groups of leads that hold one trace, scaled or turned perhaps."""
    sd = np.sqrt(np.maximum(covariance.diagonal(), 0))
    known = live & (sd > 0)
    alike = (np.abs(covariance) >= SAME_CORRELATION * sd[:, None] * sd) & known & known[:, None]
    if np.count_nonzero(alike) <= np.count_nonzero(live):
        return []
    groups: list[list[int]] = []
    for lead in range(12):
        group = [int(i) for i in np.flatnonzero(alike[lead])]
        if len(group) > 1 and not any(lead in earlier for earlier in groups):
            groups.append(group)
    return groups


def _same(group: list[int]) -> Finding:
    message = f"{', '.join(LEADS[i] for i in group)} hold the same trace"
    return Finding(SAME, message, LEADS[group[-1]] if len(group) == 2 else None, float(len(group)))


def _most(differences: Floats) -> float:
    """Return the largest difference of any row, but for the spikes in it."""
    level = differences - np.median(differences, axis=1, keepdims=True)
    return float(np.percentile(np.abs(level), MOST, axis=1).max())


@cache
def _span() -> Floats:
    """Return the six limb leads as combinations of I and II, shape = (6, 2)."""
    return np.concatenate([np.eye(2), -LAW[:, :2]])


@cache
def _without() -> list[Floats]:
    """Return, for each limb lead, the three equations among the other five, each shape = (3, 6)."""
    out = []
    for lead in range(6):
        others = [i for i in range(6) if i != lead]
        equations = np.zeros((3, 6))
        equations[:, others] = np.linalg.svd(_span()[others].T)[2][2:]
        out.append(equations)
    return out


@cache
def _arrangements() -> tuple[list[tuple[int, ...]], Floats, Floats, Floats]:
    """Return ways in which six limb leads may be stored: rows, signs, the law as seen through them, leads changed.

    All orders, each with no lead or one upside down; and two or three upside down in the right order.
    """
    right = tuple(range(6))
    ways = [(order, turned) for order in permutations(range(6)) for turned in ((), *((i,) for i in range(6)))]
    ways += [(right, turned) for count in (2, 3) for turned in combinations(range(6), count)]
    places, signs = [order for order, _ in ways], np.ones((len(ways), 6))
    laws = np.zeros((len(ways), 4, 6))
    for number, (order, turned) in enumerate(ways):
        signs[number, list(turned)] = -1
        laws[number][:, list(order)] = LAW * signs[number]
    changed = (np.array(places) != np.arange(6)).sum(axis=1) + (signs < 0).sum(axis=1)
    return places, signs, laws, changed.astype(np.float64)
